package diagnose

import (
	"fmt"
	"net/netip"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleWrongRoute = Rule{
	ID: "ip.wrong_route", Layer: LayerNetwork,
	Title:       "Traffic leaves by the wrong next hop",
	Explanation: "The routing table sends the destination to a next hop that does not lead there, while another route in the same table would work. Usually a more specific or better-metric route shadows the right one: a leftover static route, a VPN, a second DHCP interface.",
	TellApart:   "Nothing is heard through the next hop the kernel chooses, and the same packet handed to the next hop of another covering route is answered. That test needs CAP_NET_RAW.",
	Remedy:      []string{"Delete or correct the shadowing route", "Find its owner: ip route show <prefix> names the protocol (static, dhcp, kernel, a routing daemon)"},
	Validate:    []string{"ip route get <address> names the working next hop, and the target answers"},
	Sceptic:     "ip route get <address>; ip route show match <address>",
	References:  []string{"RFC 1812 section 5.2.4.3 (longest match)"},
	Needs:       "CAP_NET_RAW",
	Explains:    []string{"ip.no_route", "ip.blackhole_hop", "ip.host_down", "ip.filtered", "ip.routing_loop", "ip.gateway_unreachable", "l2.neighbour_failed", "ip.v6_broken", "tcp.*", "dns.*", "http.*", "tls.*", "path.*"},
	Check:       checkWrongRoute,
}

// maxAlternatives bounds how many other next hops are tried per destination.
const maxAlternatives = 3

func checkWrongRoute(e *Evidence) (a Answer) {
	type subject struct {
		target Target
		addr   netip.Addr
	}
	var subjects []subject
	if e.Question.Link != "" {
		return a // the user chose the way, not the routing table
	}
	for _, p := range e.remotePairs() {
		subjects = append(subjects, subject{p.Target, p.Addr})
	}
	for _, s := range subjects {
		l := e.Lookup(s.addr)
		p := e.Ping(s.addr)
		if l == nil || p == nil || p.Echo == nil || len(l.Alternatives) == 0 {
			continue
		}
		// IPv6 goes on to another route once the next hop has been found dead: what
		// answers after some seconds does not make the first choice right.
		if e.Heard(s.addr) && (p.Echo.Received > 0 || !e.deadNextHop(l)) {
			continue
		}
		tried := 0
		for _, alt := range l.Alternatives {
			via, link := alternativeHop(alt, s.addr)
			if !via.IsValid() || tried >= maxAlternatives || sameHop(l.Route, via, link) || !e.canSend(link) {
				continue
			}
			tried++
			w := WantPingVia(s.addr, via, link)
			m, ok := e.Get(w)
			if !ok {
				a.Wants = append(a.Wants, w)
				continue
			}
			if m.Result == nil || m.Result.Echo == nil || m.Result.Echo.Received == 0 {
				continue
			}
			a.Findings = append(a.Findings, e.wrongRouteFinding(s.target, s.addr, l, alt, via, w, m))
			break
		}
	}
	return a
}

func (e *Evidence) wrongRouteFinding(t Target, addr netip.Addr, l *facts.Lookup, alt facts.Route, via netip.Addr, w Want, m Measured) Finding {
	chosen := l.Route.Dst
	if l.Matched != nil {
		chosen = l.Matched.Dst
	}
	used := l.Route.Gateway.String()
	if !l.Route.Gateway.IsValid() {
		used = "on-link"
	}
	f := Finding{
		Subject: t.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("this host, routing table, route %s via %s", chosen, used),
		Severity: sample.Critical, Confidence: Confirmed,
		Summary: fmt.Sprintf("Traffic to %s leaves via %s on %s, which does not lead there; via %s it works.", sideOf(t, addr), used, l.Route.Link, via),
		Evidence: []Proof{
			proof(WantLookup(addr).Key(), "the kernel chooses the route %s via %s on %s", chosen, used, l.Route.Link),
			proof(WantPing(addr).Key(), "that way: %s", echoText(e.Ping(addr))),
			proof(w.Key(), "the same echo handed to %s (route %s): %s", via, alt.Dst, echoText(m.Result)),
		},
		Remedy:  []string{fmt.Sprintf("Delete or correct the route that shadows it: ip route del %s via %s", chosen, used), "Find its owner first: ip route show " + chosen.String()},
		Sceptic: []string{"ip route get " + addr.String(), "ip route show match " + addr.String()},
		Affects: addTags([]string{TagAddr(addr), TagTarget(t.Raw)}), Depends: e.pairDepends(t, addr),
	}
	if !l.Route.Gateway.IsValid() {
		f.Remedy[0] = fmt.Sprintf("Delete or correct the route that shadows it: ip route del %s dev %s", chosen, l.Route.Link)
	} else if !e.isGateway(l.Route.Gateway.String(), l.Route.Link) {
		// The wrong next hop itself matters to nobody else.
		f.Affects = addTags(f.Affects, TagAddr(l.Route.Gateway))
	}
	return f
}

func alternativeHop(r facts.Route, addr netip.Addr) (netip.Addr, string) {
	leg := legs(r)[0]
	if leg.Gateway.IsValid() {
		return leg.Gateway, leg.Link
	}
	if r.Type != "" && r.Type != "unicast" || leg.Link == "" {
		return netip.Addr{}, ""
	}
	return addr, leg.Link
}

func sameHop(r facts.Route, via netip.Addr, link string) bool {
	return r.Link == link && (r.Gateway == via || !r.Gateway.IsValid() && via == r.Dst.Addr())
}

// canSend: the link is up with carrier and speaks Ethernet.
func (e *Evidence) canSend(link string) bool {
	l, ok := e.Host().LinkByName(link)
	return ok && l.Up && l.Carrier && ethernet(l)
}

// deadNextHop: the gateway of the chosen route answers neither ARP nor neighbour
// discovery, by two independent signs.
func (e *Evidence) deadNextHop(l *facts.Lookup) bool {
	if !l.Route.Gateway.IsValid() {
		return false
	}
	_, dead, _ := e.neighbourSilent(l.Route.Gateway, l.Route.Link)
	return dead
}
