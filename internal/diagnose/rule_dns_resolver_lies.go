package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"fathom/probe"
	"fathom/sample"
)

var ruleResolverLies = Rule{
	ID: "dns.resolver_lies", Layer: LayerName,
	Title:       "A resolver gives a false answer",
	Explanation: "Two sources disagree about the same name, or a resolver invents an address for a name that cannot exist. Reasons are a captive portal, an advertising or filtering resolver, stale or poisoned data, or a split view that leaks.",
	TellApart:   "A name under .invalid must not exist: an address for it is invented. For a real name: one resolver's addresses work (or come from the authority itself), another's are different and do not. Different addresses that all work are ordinary load distribution, not a lie.",
	Remedy:      []string{"Take the false resolver out of the configuration", "If it is your own: flush its cache, look at its forwarders, local zones and response policies", "Behind a captive portal: log in first"},
	Validate:    []string{"All resolvers give the same addresses, and a name under .invalid gives NXDOMAIN"},
	Sceptic:     "dig @<server> <name>; dig @<other> <name>; dig @<server> does-not-exist.invalid",
	References:  []string{"RFC 6761 section 6.4 (.invalid)", "RFC 8499"},
	Explains:    []string{"tls.name_mismatch", "tls.untrusted", "ip.blackhole_hop", "ip.host_down", "tcp.refused", "tcp.filtered", "dns.nxdomain", "l2.neighbour_failed", "http.*"},
	Check:       checkResolverLies,
}

// cannotExist is a name that no honest resolver has an address for.
const cannotExist = "fathom-check.invalid."

func checkResolverLies(e *Evidence) (a Answer) {
	for _, s := range e.serverStates() {
		if s.Answered == 0 {
			continue
		}
		w := WantDNS(s.Server, cannotExist, "A", "udp")
		m, ok := e.Get(w)
		if !ok {
			a.Wants = append(a.Wants, w)
			continue
		}
		if as := AnswerAddrs(m.Result); len(as) > 0 {
			f := liar(e, s.Server)
			f.Confidence = Confirmed
			f.Summary = fmt.Sprintf("The resolver %s invents addresses: it answers %s for a name that cannot exist.", s.Server.Addr(), addrList(as))
			f.Evidence = append(f.Evidence, proof(w.Key(), "asked for %s (reserved by RFC 6761) it says %s instead of NXDOMAIN", cannotExist, addrList(as)))
			a.Findings = append(a.Findings, f)
		} else if m.Result != nil && m.Result.DNS != nil && m.Result.DNS.Rcode == "NXDOMAIN" {
			a.RuledOut = append(a.RuledOut, RuledOut{"dns.resolver_lies", s.Server.Addr().String(), fmt.Sprintf("%s says NXDOMAIN for a name that cannot exist", s.Server.Addr())})
		}
	}
	for _, t := range e.nameTargets() {
		e.disagreement(&a, t)
	}
	return a
}

func liar(e *Evidence, s netip.AddrPort) Finding {
	return Finding{
		Subject: s.Addr().String(), SubjectKind: sample.KindResolver, Location: s.Addr().String(),
		Severity: sample.Major, Confidence: Likely,
		Affects: []string{TagAddr(s.Addr())}, Depends: e.DependsOnAddr(s.Addr()),
	}
}

// disagreement compares what the resolvers say about one name.
func (e *Evidence) disagreement(a *Answer, t Target) {
	res := e.Resolve(t.Host)
	var said []ServerAnswer
	for _, sa := range res.Answers {
		if rc := sa.Rcode(); rc == "NOERROR" || rc == "NXDOMAIN" {
			said = append(said, sa)
		}
	}
	if len(said) < 2 || agree(said) {
		return
	}
	works := map[netip.AddrPort]bool{}
	aa := map[netip.AddrPort]bool{}
	pending := false
	for _, sa := range said {
		aa[sa.Server] = hasFlag(sa, "aa")
		for _, addr := range e.allowed(sa.Addrs()) {
			ok, known := e.serves(a, t, addr)
			pending = pending || !known
			works[sa.Server] = works[sa.Server] || ok
		}
	}
	if pending {
		return
	}
	anyAA := slices.ContainsFunc(said, func(s ServerAnswer) bool { return aa[s.Server] })
	anyWorks := slices.ContainsFunc(said, func(s ServerAnswer) bool { return works[s.Server] })
	for _, sa := range said {
		other := truthTeller(said, sa, aa, works, anyAA, anyWorks)
		if other == nil {
			continue
		}
		f := liar(e, sa.Server)
		f.Location = fmt.Sprintf("%s, for %s", sa.Server.Addr(), t.Host)
		f.Affects = addTags(f.Affects, TagName(t.Host), TagTarget(t.Raw))
		for _, x := range sa.Addrs() {
			f.Affects = addTags(f.Affects, TagAddr(x))
		}
		f.Summary = fmt.Sprintf("The resolver %s gives a false answer for %s: %s, where %s says %s.", sa.Server.Addr(), t.Host, answerText(sa), other.Server.Addr(), answerText(*other))
		f.Evidence = append(f.Evidence,
			proof("dns "+sa.Server.String(), "%s: %s (%s)", sa.Server.Addr(), answerText(sa), worksText(works[sa.Server], aa[sa.Server], len(sa.Addrs()))),
			proof("dns "+other.Server.String(), "%s: %s (%s)", other.Server.Addr(), answerText(*other), worksText(works[other.Server], aa[other.Server], len(other.Addrs()))))
		f.Sceptic = []string{fmt.Sprintf("dig @%s %s", sa.Server.Addr(), t.Host), fmt.Sprintf("dig @%s %s", other.Server.Addr(), t.Host)}
		a.Findings = append(a.Findings, f)
		return
	}
	a.Notes = append(a.Notes, fmt.Sprintf("The resolvers give different addresses for %s, and all of them serve it: ordinary load distribution.", t.Host))
}

// truthTeller returns a server that contradicts sa and is to be believed more:
// it is authoritative, or its addresses work where sa's do not.
func truthTeller(said []ServerAnswer, sa ServerAnswer, aa, works map[netip.AddrPort]bool, anyAA, anyWorks bool) *ServerAnswer {
	for i := range said {
		o := &said[i]
		if o.Server == sa.Server || !contradicts(sa, *o) {
			continue
		}
		if anyWorks {
			if works[o.Server] && !works[sa.Server] {
				return o
			}
			continue
		}
		if anyAA && aa[o.Server] && !aa[sa.Server] || !anyAA && i == 0 {
			return o
		}
	}
	return nil
}

func agree(said []ServerAnswer) bool {
	for i := range said {
		for j := range i {
			if contradicts(said[i], said[j]) {
				return false
			}
		}
	}
	return true
}

// contradicts: one knows an address where the other denies the name, or the
// addresses of the same type have nothing in common.
func contradicts(x, y ServerAnswer) bool {
	for _, p := range [][2]*probe.Result{{x.A, y.A}, {x.AAAA, y.AAAA}} {
		a, b := AnswerAddrs(p[0]), AnswerAddrs(p[1])
		if p[0] == nil || p[1] == nil || p[0].DNS == nil || p[1].DNS == nil {
			continue
		}
		if len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(v netip.Addr) bool { return slices.Contains(b, v) }) {
			return true
		}
		if len(a) > 0 && p[1].DNS.Rcode == "NXDOMAIN" || len(b) > 0 && p[0].DNS.Rcode == "NXDOMAIN" {
			return true
		}
	}
	return false
}

func hasFlag(sa ServerAnswer, flag string) bool {
	for _, r := range []*probe.Result{sa.A, sa.AAAA} {
		if r != nil && r.DNS != nil && slices.Contains(r.DNS.Flags, flag) {
			return true
		}
	}
	return false
}

// serves reports whether what the user asked works at addr; it asks for the measurement.
func (e *Evidence) serves(a *Answer, t Target, addr netip.Addr) (ok, known bool) {
	if e.Lookup(addr) == nil {
		a.Wants = append(a.Wants, WantLookup(addr))
		return false, false
	}
	if !e.Usable(addr) {
		return false, true
	}
	port := t.Port
	if port == 0 {
		w := WantPing(addr)
		if m, have := e.Get(w); have {
			return m.Result != nil && m.Result.Outcome == probe.OK, true
		}
		a.Wants = append(a.Wants, w)
		return false, false
	}
	ap := netip.AddrPortFrom(addr, port)
	w := WantTCP(ap)
	if t.URL != "" {
		w = WantHTTP(t.URL, ap)
	}
	m, have := e.Get(w)
	if !have {
		a.Wants = append(a.Wants, w)
		return false, false
	}
	return m.Result != nil && m.Result.Outcome == probe.OK, true
}

func answerText(sa ServerAnswer) string {
	if as := sa.Addrs(); len(as) > 0 {
		return addrList(as)
	}
	return orWord(sa.Rcode(), "no answer")
}

func worksText(works, aa bool, n int) string {
	s := "nothing answers there as asked"
	if works {
		s = "the service answers there"
	}
	if n == 0 {
		s = "no address to try"
	}
	if aa {
		s += ", authoritative"
	}
	return s
}
