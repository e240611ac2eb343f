package resolver

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"fathom/internal/facts"
)

// glibc's limits and defaults (resolv/resolv.h, resolv/bits/types/res_state.h).
const (
	maxServers     = 3  // MAXNS
	maxNDots       = 15 // RES_MAXNDOTS
	maxTimeout     = 30 // RES_MAXRETRANS, seconds
	maxAttempts    = 5  // RES_MAXRETRY
	defaultTimeout = 5  // RES_TIMEOUT, seconds
	defaultTries   = 2  // RES_DFLRETRY
	maxSearch      = 256
)

type environment struct{ localDomain, options string }

// parseResolvConf reads resolv.conf as glibc 2.26 and later does
// (resolv/res_init.c, res_vinit_1): a comment has # or ; in the first column, a
// keyword begins in the first column and is followed by a blank, the last
// search or domain line wins, LOCALDOMAIN beats both, RES_OPTIONS comes after
// the file's options, and what is not understood is passed over.
func parseResolvConf(b []byte, env environment, linkExists func(string) bool, r *facts.Resolver) {
	r.NDots, r.TimeoutS, r.Attempts = 1, defaultTimeout, defaultTries
	extra, n := 0, 0
	for raw := range bytes.Lines(b) {
		n++
		line := strings.TrimSuffix(string(raw), "\n")
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if i := strings.IndexByte(line, 0); i >= 0 {
			line = line[:i] // a C string ends there
		}
		key, rest := keyword(line)
		fields := strings.FieldsFunc(rest, isBlank)
		switch key {
		case "nameserver":
			a, why := server(fields, linkExists)
			switch {
			case why != "":
				problem(r, fmt.Sprintf("line %d: %s is ignored: %s", n, quote(line), why))
			case len(r.Servers) == maxServers:
				extra++
			default:
				r.Servers = append(r.Servers, netip.AddrPortFrom(a, 53))
			}
		case "domain", "search":
			setSearch(r, key, fields, n)
		case "options":
			setOptions(r, fields)
		case "sortlist":
		default:
			if strings.TrimFunc(line, isBlank) != "" && !strings.HasPrefix(strings.TrimLeftFunc(line, isBlank), "#") {
				problem(r, fmt.Sprintf("line %d: %s is ignored: %s", n, quote(line), whyIgnored(line)))
			}
		}
	}
	if extra > 0 {
		problem(r, fmt.Sprintf("only the first %d name servers are used, %d more are ignored", maxServers, extra))
	}
	if env.localDomain != "" {
		r.Search = clampSearch(r, strings.FieldsFunc(firstLine(env.localDomain), isBlank))
		problem(r, "LOCALDOMAIN is set in this environment and replaces the search list: other programs may resolve differently")
	}
	if env.options != "" {
		setOptions(r, strings.FieldsFunc(firstLine(env.options), isBlank))
		problem(r, "RES_OPTIONS is set in this environment: other programs may resolve differently")
	}
	if len(r.Servers) == 0 {
		r.Implicit = true
		r.Servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
		problem(r, "no name server is configured: 127.0.0.1 is asked")
	}
	checkValues(r)
}

// keyword splits a line; the keyword must be followed by a blank (MATCH in res_init.c).
func keyword(line string) (key, rest string) {
	if i := strings.IndexFunc(line, isBlank); i >= 0 {
		return line[:i], line[i:]
	}
	return "", ""
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' }

func whyIgnored(line string) string {
	trimmed := strings.TrimLeftFunc(line, isBlank)
	word, _, _ := strings.Cut(strings.ReplaceAll(trimmed, "\t", " "), " ")
	known := slices.Contains([]string{"nameserver", "search", "domain", "options", "sortlist"}, strings.TrimRight(strings.ToLower(word), ":=\r"))
	switch {
	case known && trimmed != line:
		return "the keyword must begin in the first column"
	case known && word != strings.ToLower(word):
		return "keywords are written in lower case"
	case known:
		return "the keyword must be followed by a blank and a value"
	}
	return "unknown keyword"
}

// server reads the value of a nameserver line; what follows the first word is ignored.
func server(fields []string, linkExists func(string) bool) (a netip.Addr, why string) {
	if len(fields) == 0 {
		return a, "no address"
	}
	s := fields[0]
	if a, ok := inetAton(s); ok {
		return a, ""
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4() {
		if strings.HasSuffix(s, "\r") {
			return netip.Addr{}, "the line ends with a carriage return (a file from Windows)"
		}
		return netip.Addr{}, "not an address (a port or a host name cannot stand here)"
	}
	zone := a.Zone()
	if zone == "" {
		return a, ""
	}
	_, notNumber := strconv.ParseUint(zone, 10, 32)
	if notNumber != nil && linkExists != nil && !linkExists(zone) {
		return netip.Addr{}, "there is no interface " + quote(zone)
	}
	return a, ""
}

// inetAton is inet_aton(3): one to four numbers, decimal, octal (leading 0) or
// hexadecimal (0x), the last one filling the bytes that are left.
func inetAton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 || len(s) > 64 {
		return netip.Addr{}, false
	}
	var v uint32
	for i, p := range parts {
		if p == "" || p[0] < '0' || p[0] > '9' || strings.Contains(p, "_") || strings.HasPrefix(p, "0b") || strings.HasPrefix(p, "0o") || strings.HasPrefix(p, "0B") || strings.HasPrefix(p, "0O") {
			return netip.Addr{}, false
		}
		n, err := strconv.ParseUint(p, 0, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		if i < len(parts)-1 {
			if n > 255 {
				return netip.Addr{}, false
			}
			v |= uint32(n) << (24 - 8*i)
			continue
		}
		if n > math.MaxUint32>>(8*i) {
			return netip.Addr{}, false
		}
		v |= uint32(n)
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

func setSearch(r *facts.Resolver, key string, fields []string, n int) {
	if len(fields) == 0 {
		return
	}
	if key == "domain" {
		if len(fields) > 1 {
			problem(r, fmt.Sprintf("line %d: domain takes one name, the others are ignored", n))
		}
		fields = fields[:1]
	}
	if r.Search != nil {
		problem(r, fmt.Sprintf("line %d: this %s line replaces the one before it (the last search or domain wins)", n, key))
	}
	r.Search = clampSearch(r, fields)
}

func clampSearch(r *facts.Resolver, fields []string) []string {
	if len(fields) > maxSearch {
		problem(r, fmt.Sprintf("the search list has %d domains, the first %d are kept here", len(fields), maxSearch))
		fields = fields[:maxSearch]
	}
	return fields
}

// setOptions reads options (res_setoptions). Words are matched by their
// beginning, as glibc does; numbers are cut to glibc's limits.
func setOptions(r *facts.Resolver, fields []string) {
	for _, o := range fields {
		if len(r.Options) < maxSearch {
			r.Options = append(r.Options, o)
		}
		limited := func(prefix string, limit int, to *int) bool {
			v, ok := strings.CutPrefix(o, prefix)
			if !ok {
				return false
			}
			n := atoi(v)
			if n > limit {
				problem(r, fmt.Sprintf("option %s counts as %d, the largest value allowed", quote(o), limit))
			}
			*to = max(0, min(n, limit))
			return true
		}
		switch {
		case limited("ndots:", maxNDots, &r.NDots), limited("timeout:", maxTimeout, &r.TimeoutS), limited("attempts:", maxAttempts, &r.Attempts):
		case strings.HasPrefix(o, "rotate"):
			r.Rotate = true
		case !slices.ContainsFunc(knownOptions, func(k string) bool { return strings.HasPrefix(o, k) }):
			problem(r, "option "+quote(o)+" is not known to glibc and ignored")
		}
	}
}

// knownOptions of res_setoptions; use-vc and single-request are kept in Options for rules.
var knownOptions = []string{
	"debug", "inet6", "ip6-bytestring", "ip6-dotint", "no-ip6-dotint", "edns0", "single-request", "no_tld_query", "no-tld-query",
	"no-reload", "use-vc", "trust-ad", "no-aaaa", "strict-error",
}

// atoi is atoi(3) for what can stand here: leading digits, else 0.
func atoi(s string) int {
	n := 0
	for i := 0; i < len(s) && '0' <= s[i] && s[i] <= '9' && n < 1e6; i++ {
		n = n*10 + int(s[i]-'0')
	}
	return n
}

func checkValues(r *facts.Resolver) {
	if r.Attempts == 0 {
		problem(r, "attempts:0 means that no name server is ever asked")
	}
	if r.TimeoutS == 0 {
		problem(r, "timeout:0 counts as one second")
		r.TimeoutS = 1
	}
	for i, s := range r.Servers {
		if slices.Index(r.Servers, s) < i {
			problem(r, "name server "+s.Addr().String()+" is listed twice: when it is down, lookups wait for it twice")
		}
		if s.Addr().IsUnspecified() {
			problem(r, "name server "+s.Addr().String()+" means this host itself")
		}
	}
}

// parseNSSwitch reads the hosts line (nss/nss_action_parse.c): services and
// [STATUS=action] in brackets; # begins a comment anywhere. The last hosts line wins.
func parseNSSwitch(b []byte, r *facts.Resolver) {
	found := false
	for raw := range bytes.Lines(b) {
		line, _, _ := strings.Cut(string(raw), "#")
		db, rest, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(db) != "hosts" {
			continue
		}
		found = true
		r.NSSHosts = nssTokens(rest)
	}
	if !found {
		problem(r, "nsswitch.conf has no hosts line: the C library's built-in order applies")
		return
	}
	checkNSS(r)
}

// nssTokens splits services and bracketed actions; an action may hold blanks.
func nssTokens(s string) []string {
	var out []string
	for s = strings.TrimSpace(s); s != "" && len(out) < 64; s = strings.TrimSpace(s) {
		end := strings.IndexAny(s, " \t[")
		if s[0] == '[' {
			end = strings.IndexByte(s, ']') + 1
		}
		if end <= 0 {
			end = len(s)
		}
		out = append(out, strings.Join(strings.Fields(s[:end]), " "))
		s = s[end:]
	}
	return out
}

func checkNSS(r *facts.Resolver) {
	dns := slices.IndexFunc(r.NSSHosts, func(s string) bool { return s == "dns" || s == "resolve" })
	if dns < 0 {
		problem(r, "the hosts line of nsswitch.conf has neither dns nor resolve: programs never ask DNS")
		return
	}
	for i, s := range r.NSSHosts[:dns] {
		// Behind mdns…_minimal the return is meant: it concerns names in .local only.
		if i > 0 && s[0] == '[' && strings.Contains(strings.ToUpper(s), "NOTFOUND=RETURN") && !strings.Contains(s, "!") && !strings.HasPrefix(r.NSSHosts[i-1], "mdns") {
			problem(r, "the hosts line of nsswitch.conf stops at "+quote(s)+" behind "+quote(r.NSSHosts[i-1])+": DNS is not asked for names that it does not have")
		}
	}
}

// parseHosts reads /etc/hosts: an address and its names; # begins a comment anywhere.
func parseHosts(b []byte, r *facts.Resolver) {
	n, bad, badLine, names := 0, 0, 0, 0
	for raw := range bytes.Lines(b) {
		n++
		line, _, _ := strings.Cut(string(raw), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil || a.Zone() != "" || len(f) == 1 {
			if bad++; bad == 1 {
				badLine = n
			}
			continue
		}
		if len(r.Hosts) >= maxHosts || names > 20*maxHosts {
			problem(r, fmt.Sprintf("the hosts file has more than %d lines, the rest is not looked at here", maxHosts))
			break
		}
		names += len(f) - 1
		r.Hosts = append(r.Hosts, facts.HostsEntry{Address: a, Names: f[1:]})
	}
	if bad > 0 {
		problem(r, fmt.Sprintf("%d lines of the hosts file are not an address with names and are ignored, the first is line %d", bad, badLine))
	}
}

// dockerServers reads the comment in which Docker 26 and later names the
// servers behind its own: # ExtServers: [host(127.0.0.53) 192.0.2.1].
func dockerServers(b []byte) []netip.AddrPort {
	for raw := range bytes.Lines(b) {
		list, ok := strings.CutPrefix(strings.TrimSpace(string(raw)), "# ExtServers: [")
		if !ok {
			continue
		}
		var out []netip.AddrPort
		for _, w := range strings.Fields(strings.TrimSuffix(list, "]")) {
			w = strings.TrimSuffix(strings.TrimPrefix(w, "host("), ")")
			if a, err := netip.ParseAddr(w); err == nil && !a.IsLoopback() && len(out) < maxServers {
				out = append(out, netip.AddrPortFrom(a, 53))
			}
		}
		return out
	}
	return nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// quote shows bytes of a file safely and briefly.
func quote(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strconv.Quote(s)
}
