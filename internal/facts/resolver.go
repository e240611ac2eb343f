package facts

import (
	"net/netip"
	"slices"
	"strings"
)

// maxName is the longest domain name in its text form without the last dot (RFC 1035 §2.3.4).
const maxName = 253

// Candidates returns the fully qualified names, each with its last dot, that
// glibc asks DNS for when a program looks up name, in order: it goes on to the
// next while the answer is that there is no such name or no such record
// (resolv/res_query.c, __res_context_search). An address, an empty name and
// names that do not fit a DNS message give none; whether DNS is asked at all,
// or /etc/hosts has the name, is another matter (HostsLookup, NSSHosts).
func Candidates(r *Resolver, name string) []string {
	if r == nil {
		r = &Resolver{NDots: 1}
	}
	if _, err := netip.ParseAddr(name); err == nil || name == "" {
		return nil
	}
	var out []string
	add := func(n string) {
		n = strings.TrimSuffix(n, ".")
		if validName(n) && !slices.Contains(out, n+".") {
			out = append(out, n+".")
		}
	}
	dots := strings.Count(name, ".")
	if strings.HasSuffix(name, ".") {
		add(name) // absolute: asked as it is, and nothing else
		return out
	}
	asIs := dots >= r.NDots
	if asIs {
		add(name)
	}
	for _, domain := range r.Search {
		// "." or "" on the list stands for the root: the name itself.
		domain = strings.TrimPrefix(domain, ".")
		if domain == "" {
			asIs = true
			add(name)
			continue
		}
		add(name + "." + domain)
	}
	// Not tried yet: the name itself comes last, unless the user said that a
	// bare word must never go to the root and the list has been searched.
	if !asIs && (dots > 0 || len(r.Search) == 0 || !r.noTLDQuery()) {
		add(name)
	}
	return out
}

func (r *Resolver) noTLDQuery() bool {
	return slices.Contains(r.Options, "no-tld-query") || slices.Contains(r.Options, "no_tld_query")
}

// validName reports whether a name without its last dot can be put in a query.
func validName(n string) bool {
	if n == "" || len(n) > maxName {
		return false
	}
	for label := range strings.SplitSeq(n, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return true
}

// HostsLookup returns the addresses that /etc/hosts has for a name, in the
// order of the file. All lines count, case does not, and the name must stand
// there as it is asked: no search list applies, and "host." is not "host"
// (nss/nss_files/files-hosts.c).
func (r *Resolver) HostsLookup(name string) []netip.Addr {
	if r == nil || name == "" {
		return nil
	}
	var out []netip.Addr
	for _, e := range r.Hosts {
		for _, n := range e.Names {
			if equalFoldASCII(n, name) {
				if !slices.Contains(out, e.Address) {
					out = append(out, e.Address)
				}
				break
			}
		}
	}
	return out
}

// equalFoldASCII compares as strcasecmp does in the C locale.
func equalFoldASCII(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
