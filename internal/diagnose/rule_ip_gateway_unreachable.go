package diagnose

import (
	"fmt"
	"slices"

	"fathom/sample"
)

var ruleGatewayUnreachable = Rule{
	ID: "ip.gateway_unreachable", Layer: LayerNetwork,
	Title:       "The default gateway does not answer",
	Explanation: "Everything outside this host's own segments goes through the default gateway, and it is not there: no answer to ARP or neighbour discovery, none to echo. The gateway is off, the address is wrong, or this host is on the wrong VLAN.",
	TellApart:   "The link is up, the gateway's neighbour entry fails and our own ARP goes unanswered. A gateway that answers ARP but not ping, and forwards, is healthy.",
	Remedy:      []string{"Is the router up, and is its interface on this segment?", "Compare the configured gateway address with what the network says (DHCP lease, neighbours)", "Check the VLAN of the switch port"},
	Validate:    []string{"ip neigh show <gateway> is REACHABLE and ping <gateway> is answered"},
	Sceptic:     "ip neigh show <gateway>; arping -I <iface> -c 3 <gateway>",
	References:  []string{"RFC 1122 section 3.3.1 (gateway selection, dead gateways)"},
	Explains:    []string{"l2.neighbour_failed", "ip.no_route", "ip.blackhole_hop", "ip.filtered", "ip.host_down", "ip.v6_broken", "path.*", "tcp.*", "udp.no_port", "dns.*", "http.*", "tls.*"},
	Check:       checkGatewayUnreachable,
}

func checkGatewayUnreachable(e *Evidence) (a Answer) {
	gws := e.Gateways()
	for _, g := range gws {
		if !e.canSend(g.Link) {
			continue
		}
		addr := zoned(g.Addr, g.Link)
		p := e.Ping(addr)
		if p == nil {
			continue
		}
		if p.Echo != nil && p.Echo.Received > 0 {
			a.RuledOut = append(a.RuledOut, RuledOut{"ip.gateway_unreachable", g.Addr.String(), fmt.Sprintf("gateway %s: %s", g.Addr, echoText(p))})
			continue
		}
		proofs, dead, sure := e.neighbourSilent(addr, g.Link)
		// With several legs of a default route, what answers may have gone by the
		// other one: two votes against a gateway outweigh that.
		if !sure && e.heardThrough(g) {
			a.RuledOut = append(a.RuledOut, RuledOut{"ip.gateway_unreachable", g.Addr.String(), fmt.Sprintf("gateway %s ignores ping but forwards: something behind it answers", g.Addr)})
			continue
		}
		if !dead {
			continue
		}
		f := Finding{
			Subject: g.Addr.String(), SubjectKind: sample.KindGateway, Location: fmt.Sprintf("segment of %s, first hop", g.Link),
			Severity: sample.Critical, Confidence: Likely,
			Summary:  fmt.Sprintf("The default gateway %s on %s does not answer: nothing outside this segment can be reached.", g.Addr, g.Link),
			Evidence: append(proofs, proof(WantPingLocal(addr).Key(), "gateway %s: %s", g.Addr, echoText(p))),
			Sceptic:  []string{"ip neigh show " + g.Addr.String(), fmt.Sprintf("arping -I %s -c 3 %s", g.Link, g.Addr)},
			Affects:  []string{TagAddr(g.Addr)}, Depends: []string{TagAddr(g.Addr), TagLink(g.Link)},
		}
		if sure {
			f.Confidence = Confirmed
		}
		if others := e.otherNeighbours(g); len(others) > 0 {
			f.Evidence = append(f.Evidence, proof("neighbours", "other machines on %s are there: %s", g.Link, joinMax(others, 3)))
		}
		if slices.ContainsFunc(gws, func(o Gateway) bool { return o.Addr.Is6() != g.Addr.Is6() || o != g }) {
			f.Summary = fmt.Sprintf("The %s default gateway %s on %s does not answer.", family(g.Addr), g.Addr, g.Link)
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

// heardThrough: an address behind the gateway answered something.
func (e *Evidence) heardThrough(g Gateway) bool {
	for i := range e.Lookups {
		l := &e.Lookups[i]
		if l.Route.Gateway == g.Addr && e.Heard(l.Destination) {
			return true
		}
	}
	return false
}

// otherNeighbours are stations on the gateway's link that are reachable.
func (e *Evidence) otherNeighbours(g Gateway) []string {
	var out []string
	for _, n := range e.Host().Neighbours {
		if n.Link == g.Link && n.Address != g.Addr && n.MAC != "" && (n.State == "reachable" || e.Heard(n.Address)) {
			out = append(out, n.Address.String())
		}
	}
	return out
}
