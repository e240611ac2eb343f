package diagnose

import (
	"fmt"
	"net/netip"
	"strings"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

var ruleNoRoute = Rule{
	ID: "ip.no_route", Layer: LayerNetwork,
	Title:       "There is no route to the target",
	Explanation: "The routing table has no entry for the destination, or one that forbids it (unreachable, blackhole, prohibit). The packet is thrown away on the machine that lacks the route: this host, or the router that says \"network unreachable\".",
	TellApart:   "The kernel's own look-up fails, or a router on the way answers ICMP network unreachable. Silence without any message is ip.blackhole_hop.",
	Remedy:      []string{"Add the missing route: ip route add <prefix> via <gateway>, or restore the default route", "Remove the unreachable or blackhole route if it is a leftover", "If a router on the way says it, its owner must add the route there"},
	Validate:    []string{"ip route get <address> names a gateway and an interface"},
	Sceptic:     "ip route get <address>",
	References:  []string{"RFC 1812 section 5.2.7.1", "RFC 792"},
	Explains:    []string{"ip.blackhole_hop", "ip.filtered", "ip.host_down", "tcp.*", "udp.no_port", "dns.*", "http.*", "tls.*", "path.*"},
	Check:       checkNoRoute,
}

func checkNoRoute(e *Evidence) (a Answer) {
	for _, t := range e.targets() {
		for _, addr := range e.TargetAddrs(t) {
			l := e.Lookup(addr)
			if l == nil {
				continue
			}
			if why, bad := routeRefuses(l); bad {
				if e.familyAbsent(addr) && e.otherFamilyWorks(t, addr) {
					a.Notes = append(a.Notes, fmt.Sprintf("%s also has the %s address %s; this host has no %s, so it is not used.", t.Host, family(addr), addr, family(addr)))
					continue
				}
				a.Findings = append(a.Findings, e.noRouteHere(t, addr, l, why))
				continue
			}
			a.RuledOut = append(a.RuledOut, RuledOut{"ip.no_route", t.Raw, routeText(addr, l.Route)})
			if f, ok := e.noRouteThere(t, addr); ok {
				a.Findings = append(a.Findings, f)
			}
		}
	}
	if len(e.Question.Targets) == 0 {
		e.noRouteToResolvers(&a)
	}
	return a
}

// routeRefuses says in words why the kernel has no way to the destination.
func routeRefuses(l *facts.Lookup) (why string, bad bool) {
	switch l.Route.Type {
	case "blackhole", "unreachable", "prohibit":
		return fmt.Sprintf("the routing table has a route of type %s for %s", l.Route.Type, orWord(prefixText(l), "it")), true
	}
	if l.Matched != nil {
		switch l.Matched.Type {
		case "blackhole", "unreachable", "prohibit", "throw":
			return fmt.Sprintf("the routing table has a route of type %s for %s", l.Matched.Type, l.Matched.Dst), true
		}
	}
	switch l.Error {
	case "":
		return "", false
	case "ENETUNREACH":
		return "no entry of the routing table matches it, not even a default route", true
	}
	if !isErrno(l.Error) {
		return "", false // the look-up could not be made: that is not the kernel's answer
	}
	return "the kernel's route look-up fails with " + l.Error, true
}

// isErrno: a name such as EHOSTUNREACH, the kernel's own word.
func isErrno(s string) bool {
	return len(s) > 2 && s[0] == 'E' && strings.ToUpper(s) == s && !strings.Contains(s, " ")
}

func prefixText(l *facts.Lookup) string {
	if l.Matched != nil && l.Matched.Dst.IsValid() {
		return l.Matched.Dst.String()
	}
	if l.Route.Dst.IsValid() {
		return l.Route.Dst.String()
	}
	return ""
}

func routeText(a netip.Addr, r facts.Route) string {
	if r.Gateway.IsValid() {
		return fmt.Sprintf("%s goes via %s on %s", a, r.Gateway, r.Link)
	}
	return fmt.Sprintf("%s is on-link on %s", a, r.Link)
}

func (e *Evidence) noRouteHere(t Target, addr netip.Addr, l *facts.Lookup, why string) Finding {
	f := Finding{
		Subject: t.Raw, SubjectKind: sample.KindTarget, Location: "this host, routing table",
		Severity: sample.Critical, Confidence: Confirmed,
		Summary:  fmt.Sprintf("This host has no route to %s: %s.", sideOf(t, addr), why),
		Evidence: []Proof{proof(WantLookup(addr).Key(), "the kernel's look-up for %s: %s", addr, orWord(l.Error, l.Route.Type))},
		Sceptic:  []string{"ip route get " + addr.String()},
		Affects:  []string{TagAddr(addr), TagTarget(t.Raw)}, Depends: e.pairDepends(t, addr),
	}
	if n := e.countDefaults(addr.Is6()); n == 0 {
		f.Evidence = append(f.Evidence, proof("routes", "there is no %s default route", family(addr)))
	}
	if l.Matched != nil {
		f.Evidence = append(f.Evidence, proof("routes", "the entry that decides: %s %s", orWord(l.Matched.Type, "unicast"), l.Matched.Dst))
	}
	return f
}

func (e *Evidence) countDefaults(is6 bool) int {
	n := 0
	for _, r := range e.Host().Routes {
		if r.IsDefault() && r.Dst.Addr().Is6() == is6 && (r.Type == "" || r.Type == "unicast") {
			n++
		}
	}
	return n
}

// familyAbsent: this host has no usable address of that family, so it is absent by design.
func (e *Evidence) familyAbsent(a netip.Addr) bool {
	for _, ad := range e.Host().Addrs {
		if usableAddr(ad) && ad.Prefix.Addr().Is6() == a.Is6() {
			return false
		}
	}
	return e.countDefaults(a.Is6()) == 0
}

// otherFamilyWorks: the target has an address of the other family with a route.
func (e *Evidence) otherFamilyWorks(t Target, a netip.Addr) bool {
	for _, o := range e.TargetAddrs(t) {
		if o.Is6() != a.Is6() && e.Usable(o) {
			return true
		}
	}
	return false
}

// noRouteThere: a router on the way said network unreachable.
func (e *Evidence) noRouteThere(t Target, addr netip.Addr) (Finding, bool) {
	if e.Heard(addr) {
		return Finding{}, false
	}
	said := e.saidAbout(targetPair{t, addr}, netUnreachable)
	src := WantPing(addr).Key()
	if said == nil || e.Host().HasAddr(said.From) {
		return Finding{}, false
	}
	f := Finding{
		Subject: t.Raw, SubjectKind: sample.KindTarget, Location: e.whereIs(addr, said.From),
		Severity: sample.Critical, Confidence: Confirmed,
		Summary:  fmt.Sprintf("The router %s has no route to %s and says so.", said.From, sideOf(t, addr)),
		Evidence: []Proof{proof(src, "ICMP from %s: %s (type %d code %d)", said.From, said.Text, said.Type, said.Code), proof(WantPing(addr).Key(), "%s: %s", addr, echoText(e.Ping(addr)))},
		Remedy:   []string{fmt.Sprintf("Add the route on %s, or ask its owner to", said.From), "If the traffic should not pass there at all, correct the route before it"},
		Sceptic:  []string{"traceroute -n " + addr.String()},
		Affects:  []string{TagAddr(addr), TagTarget(t.Raw)}, Depends: e.pairDepends(t, addr),
	}
	return f, true
}

// netUnreachable: v4 codes 0 (network) 6, 7, 11, 12; v6 code 0 (no route). RFC 792, RFC 1122, RFC 4443.
func netUnreachable(target netip.Addr, x *probe.ICMPError) bool {
	if x == nil {
		return false
	}
	if target.Is6() {
		return x.Type == 1 && x.Code == 0
	}
	return x.Type == 3 && (x.Code == 0 || x.Code == 6 || x.Code == 7 || x.Code == 11 || x.Code == 12)
}

// whereIs names an address by its place on the way to target.
func (e *Evidence) whereIs(target, who netip.Addr) string {
	if who == target {
		return who.String() + " (the target itself)"
	}
	if tr := e.Trace(target, ""); tr != nil {
		for _, h := range tr.Path.Hops {
			if h.Address == who || h.Unreach != nil && h.Unreach.From == who {
				return fmt.Sprintf("hop %d (%s)", h.TTL, who)
			}
		}
	}
	for _, g := range e.Gateways() {
		if g.Addr == who {
			return fmt.Sprintf("hop 1 (%s), the gateway", who)
		}
	}
	return who.String()
}

// noRouteToResolvers: a host that is configured to ask a resolver it has no
// route to was meant to have one; a host with neither is isolated by design.
func (e *Evidence) noRouteToResolvers(a *Answer) {
	for _, s := range e.Servers() {
		l := e.Lookup(s.Addr())
		if l == nil || e.countDefaults(s.Addr().Is6()) > 0 {
			continue
		}
		if why, bad := routeRefuses(l); bad && e.anotherUsableLink("") {
			a.Findings = append(a.Findings, Finding{
				Subject: s.Addr().String(), SubjectKind: sample.KindResolver, Location: "this host, routing table",
				Severity: sample.Critical, Confidence: Confirmed,
				Summary:  fmt.Sprintf("This host has no default route and none to its own resolver %s: %s.", s.Addr(), why),
				Evidence: []Proof{proof(WantLookup(s.Addr()).Key(), "the kernel's look-up for %s: %s", s.Addr(), orWord(l.Error, l.Route.Type)), proof("routes", "no %s default route in the main table", family(s.Addr()))},
				Sceptic:  []string{"ip route get " + s.Addr().String(), "ip route show default"},
				Affects:  []string{TagAddr(s.Addr()), TagHost},
			})
		}
	}
	if e.countDefaults(false)+e.countDefaults(true) == 0 && e.anotherUsableLink("") {
		a.Notes = append(a.Notes, "This host has no default route: it talks to its own segments only. Fine when that is the intention.")
	}
}
