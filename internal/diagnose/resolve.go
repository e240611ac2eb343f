package diagnose

import (
	"net/netip"
	"slices"
	"strings"

	"fathom/internal/facts"
	"fathom/probe"
)

// Resolution is how a name became addresses, seen from the evidence alone: the
// hosts file first, then every configured server asked itself. Programs ask the
// servers in order; so Addrs are those of the first that answered.
type Resolution struct {
	Name    string         // as asked
	FQDN    string         // the candidate that answered, with its dot
	Addrs   []netip.Addr   // v6 and v4 as the question allows; nil when there are none
	From    string         // literal | hosts | dns
	Server  netip.AddrPort // that gave the answer
	Rcode   string         // of the deciding answer
	Pending bool           // still to be measured
	Answers []ServerAnswer // every server, in configured order, for the deciding candidate
}

// ServerAnswer is what one server said about a name.
type ServerAnswer struct {
	Server netip.AddrPort
	A      *probe.Result
	AAAA   *probe.Result
}

// Rcode is the answer's code, A before AAAA; "" when there was none.
func (s ServerAnswer) Rcode() string {
	for _, r := range []*probe.Result{s.A, s.AAAA} {
		switch {
		case truncatedAway(r):
			return rcodeTruncated
		case r != nil && r.DNS != nil && r.DNS.Rcode != "":
			return r.DNS.Rcode
		}
	}
	return ""
}

// rcodeTruncated stands for an answer that exists but could not be had: truncated
// over UDP, and TCP failed.
const rcodeTruncated = "TRUNCATED"

func truncatedAway(r *probe.Result) bool {
	return r != nil && r.DNS != nil && r.Outcome != probe.OK && slices.Contains(r.DNS.Flags, "tc") && len(AnswerAddrs(r)) == 0
}

// Addrs lists the addresses in both answers.
func (s ServerAnswer) Addrs() []netip.Addr {
	var out []netip.Addr
	for _, r := range []*probe.Result{s.AAAA, s.A} {
		out = append(out, AnswerAddrs(r)...)
	}
	return out
}

// AnswerAddrs lists the addresses of a DNS answer, sorted.
func AnswerAddrs(r *probe.Result) []netip.Addr {
	if r == nil || r.DNS == nil {
		return nil
	}
	var out []netip.Addr
	for _, rr := range r.DNS.Answers {
		if rr.Type != "A" && rr.Type != "AAAA" {
			continue
		}
		if a, err := netip.ParseAddr(rr.Data); err == nil {
			out = append(out, a.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// queryTypes are the address types the question's families allow.
func (e *Evidence) queryTypes() []string {
	switch {
	case e.Question.V4Only:
		return []string{"A"}
	case e.Question.V6Only:
		return []string{"AAAA"}
	}
	return []string{"A", "AAAA"}
}

// Resolve works out a name from the evidence so far.
func (e *Evidence) Resolve(name string) Resolution {
	r := Resolution{Name: name}
	if a, err := netip.ParseAddr(name); err == nil {
		r.From, r.Addrs = "literal", []netip.Addr{a.Unmap()}
		return r
	}
	rv := e.Host().Resolver
	if rv == nil {
		r.Pending = e.Before == nil
		return r
	}
	if as := e.allowed(rv.HostsLookup(strings.TrimSuffix(name, "."))); len(as) > 0 {
		r.From, r.Addrs = "hosts", as
		return r
	}
	r.From = "dns"
	var asIs *Resolution   // the name without any search domain
	var noData *Resolution // a candidate that exists without an address: glibc's last word
	for _, fqdn := range facts.Candidates(rv, name) {
		r.FQDN = fqdn
		r.Answers = r.Answers[:0]
		pending := false
		for _, s := range e.servers() {
			sa := ServerAnswer{Server: s}
			for _, t := range e.queryTypes() {
				m, ok := e.Get(WantDNS(s, fqdn, t, "udp"))
				if !ok {
					pending = true
				}
				if t == "A" {
					sa.A = m.Result
				} else {
					sa.AAAA = m.Result
				}
			}
			r.Answers = append(r.Answers, sa)
		}
		for _, sa := range r.Answers {
			rc := sa.Rcode()
			if rc == "" || (rc != "NOERROR" && rc != "NXDOMAIN" && r.Rcode != "") {
				continue
			}
			if as := e.allowed(sa.Addrs()); len(as) > 0 {
				r.Addrs, r.Server, r.Rcode, r.Pending = as, sa.Server, rc, false
				return r
			}
			if r.Rcode == "" || r.Rcode == "SERVFAIL" || r.Rcode == "REFUSED" {
				r.Rcode, r.Server = rc, sa.Server
			}
		}
		if pending {
			r.Pending = true
			return r
		}
		if !slices.ContainsFunc(r.Answers, func(sa ServerAnswer) bool { rc := sa.Rcode(); return rc == "NXDOMAIN" || rc == "NOERROR" }) {
			return r // nobody answered properly: further candidates would fare no better
		}
		r.Rcode = firstRcode(r.Answers)
		if r.Rcode == "NXDOMAIN" && fqdn == strings.TrimSuffix(name, ".")+"." {
			c := r
			c.Answers = slices.Clone(r.Answers)
			asIs = &c
		}
		if r.Rcode == "NOERROR" && noData == nil {
			c := r
			c.Answers = slices.Clone(r.Answers)
			noData = &c
		}
	}
	if noData != nil && r.Rcode == "NXDOMAIN" {
		return *noData
	}
	if asIs != nil && r.Rcode == "NXDOMAIN" {
		return *asIs // the name as the user wrote it is what does not exist
	}
	return r
}

func firstRcode(as []ServerAnswer) string {
	worst := ""
	for _, sa := range as {
		switch rc := sa.Rcode(); rc {
		case "":
		case "NOERROR", "NXDOMAIN":
			return rc
		default:
			if worst == "" {
				worst = rc
			}
		}
	}
	return worst
}

// servers are the resolvers to ask: the real ones behind a local stub as well.
func (e *Evidence) servers() []netip.AddrPort {
	rv := e.Host().Resolver
	if rv == nil || (rv.Implicit || rv.Foreign) && !e.needsNames() {
		return nil // nothing is configured here, and nobody asked for a name
	}
	return rv.Servers
}

// needsNames: a target is a name that the hosts file does not know.
func (e *Evidence) needsNames() bool {
	for _, t := range e.Question.Targets {
		if _, lit := t.Literal(); !lit && len(e.Host().Resolver.HostsLookup(t.Host)) == 0 {
			return true
		}
	}
	return false
}

// Servers lists the configured resolvers, in order.
func (e *Evidence) Servers() []netip.AddrPort { return e.servers() }

// allowed keeps the addresses of the families the question allows, IPv6 first
// within equal kind as RFC 6724 has it, duplicates removed.
func (e *Evidence) allowed(in []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range in {
		a = a.Unmap()
		if e.Question.V4Only && !a.Is4() || e.Question.V6Only && !a.Is6() {
			continue
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// maxAddrs bounds how many addresses of one name are measured.
const maxAddrs = 8

// TargetAddrs are the addresses of a target known so far.
func (e *Evidence) TargetAddrs(t Target) []netip.Addr {
	if a, ok := t.Literal(); ok {
		return e.allowed([]netip.Addr{a})
	}
	as := e.Resolve(t.Host).Addrs
	if len(as) > maxAddrs {
		as = as[:maxAddrs]
	}
	return as
}

// NextHop is the gateway (zero for on-link) and interface the kernel uses for a.
// ok is false when the kernel has no usable route or was not asked.
func (e *Evidence) NextHop(a netip.Addr) (gateway netip.Addr, link string, ok bool) {
	l := e.Lookup(a)
	if l == nil || l.Error != "" {
		return netip.Addr{}, "", false
	}
	switch l.Route.Type {
	case "", "unicast", "local":
		return l.Route.Gateway, l.Route.Link, true
	}
	return netip.Addr{}, "", false
}

// Usable reports whether the kernel has a route to a that leaves the host.
func (e *Evidence) Usable(a netip.Addr) bool {
	_, _, ok := e.NextHop(a)
	return ok
}

// DependsOnAddr tags all that reaching a relies on: itself, the interface, the next hop.
func (e *Evidence) DependsOnAddr(a netip.Addr) []string {
	tags := []string{TagHost, TagAddr(a)}
	if gw, link, ok := e.NextHop(a); ok {
		tags = append(tags, TagLink(link))
		if gw.IsValid() {
			tags = append(tags, TagAddr(gw))
		}
	}
	// The interface that holds the address's own segment: while it is down the
	// kernel has no route to it, or sends it astray by the default route.
	for _, ad := range e.Host().Addrs {
		if ad.Prefix.Masked().Contains(a) {
			tags = append(tags, TagLink(ad.Link))
		}
	}
	return tags
}

// DependsOnTarget tags all that a target relies on.
func (e *Evidence) DependsOnTarget(t Target) []string {
	tags := []string{TagHost, TagTarget(t.Raw)}
	if _, lit := t.Literal(); !lit {
		tags = append(tags, TagName(t.Host))
		if e.Resolve(t.Host).From == "dns" {
			for _, s := range e.servers() {
				tags = append(tags, TagAddr(s.Addr()))
			}
		}
	}
	for _, a := range e.TargetAddrs(t) {
		tags = append(tags, e.DependsOnAddr(a)...)
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}
