package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"fathom/probe"
	"fathom/sample"
)

var ruleNeighbourFailed = Rule{
	ID: "l2.neighbour_failed", Layer: LayerLink,
	Title:       "The next machine on the segment does not answer ARP",
	Explanation: "To hand a packet over on a segment this host must learn the neighbour's MAC address. Nobody answers for it: the machine is off, on another VLAN, plugged into the wrong port, or the address is wrong.",
	TellApart:   "The link is up, the kernel's neighbour entry is FAILED or INCOMPLETE, and our own ARP or neighbour discovery gets no answer. When it is the default gateway the finding is ip.gateway_unreachable.",
	Remedy:      []string{"Is the neighbour switched on and on the same VLAN and subnet?", "Check the address and the prefix length on both sides", "Look for the neighbour's MAC in the switch's table"},
	Validate:    []string{"ip neigh show <address> shows REACHABLE with a MAC"},
	Sceptic:     "ip neigh show <address>; arping -I <iface> -c 3 <address>",
	References:  []string{"RFC 826", "RFC 4861 section 7.3"},
	Explains:    []string{"ip.host_down", "ip.blackhole_hop", "ip.filtered", "path.*", "tcp.*", "udp.no_port", "dns.*", "http.*", "tls.*"},
	Check:       checkNeighbourFailed,
}

func checkNeighbourFailed(e *Evidence) (a Answer) {
	var done []netip.Addr
	for _, p := range e.remotePairs() {
		gw, link, _ := e.NextHop(p.Addr)
		next := p.Addr
		if gw.IsValid() {
			next = gw
		}
		if slices.Contains(done, next) || e.isGateway(next.WithZone("").String(), link) || e.Heard(p.Addr) {
			continue
		}
		if l, ok := e.Host().LinkByName(link); !ok || !l.Up || !l.Carrier || !ethernet(l) {
			continue
		}
		if e.heardFrom(next) || e.heardThrough(Gateway{Addr: next, Link: link}) {
			continue // it sent us something, or forwards for another target
		}
		proofs, dead, sure := e.neighbourSilent(next, link)
		if !dead {
			continue
		}
		done = append(done, next)
		f := Finding{
			Subject: next.String(), SubjectKind: sample.KindNeighbour, Location: "segment of " + link,
			Severity: sample.Critical, Confidence: Likely, Evidence: proofs,
			Summary: fmt.Sprintf("%s does not answer %s on %s: it is off, or not on this segment.", next, resolutionProtocol(next), link),
			Sceptic: []string{"ip neigh show " + next.String(), fmt.Sprintf("arping -I %s -c 3 %s", link, next)},
			Affects: []string{TagAddr(next)}, Depends: e.DependsOnAddr(next),
		}
		if next != p.Addr {
			f.Summary = fmt.Sprintf("The next hop %s towards %s does not answer %s on %s.", next, p.Target.Raw, resolutionProtocol(next), link)
		} else {
			f.Affects = addTags(f.Affects, TagTarget(p.Target.Raw))
		}
		if sure {
			f.Confidence = Confirmed
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

func resolutionProtocol(a netip.Addr) string {
	if a.Is4() {
		return "ARP"
	}
	return "neighbour discovery"
}

// neighbourSilent weighs what is known about an on-link address: our own
// question, the kernel's cache, and what the kernel said when we sent to it.
// sure means that two of them agree.
func (e *Evidence) neighbourSilent(n netip.Addr, link string) (p []Proof, dead, sure bool) {
	votes := 0
	if m, ok := e.Get(WantARP(n.WithZone(""), link)); ok && m.Result != nil && m.Result.ARP != nil {
		if len(m.Result.ARP.MACs) > 0 {
			return nil, false, false
		}
		votes++
		p = append(p, proof(m.Want.Key(), "%d %s requests for %s on %s: no answer", m.Result.ARP.Sent, resolutionProtocol(n), n.WithZone(""), link))
	}
	if s := e.neighbourState(n, link); s == "failed" || s == "incomplete" {
		votes++
		p = append(p, proof("neighbours", "the kernel's neighbour entry for %s is %s", n.WithZone(""), s))
	} else if s == "reachable" || s == "permanent" {
		if s == "reachable" && votes == 0 {
			return nil, false, false
		}
	}
	if r := e.Ping(n); r != nil && r.Outcome == probe.Unreachable && (r.ICMP == nil || e.Host().HasAddr(r.ICMP.From)) {
		votes++
		p = append(p, proof(WantPingLocal(n).Key(), "sending to %s fails with \"host unreachable\" from this host's own kernel", n.WithZone("")))
	}
	if l, ok := e.Host().LinkByName(link); ok && votes > 0 {
		p = append(p, proof("links", "%s itself is up with carrier, %d frames received so far", l.Name, l.Stats.RxPackets))
	}
	return p, votes > 0, votes > 1
}

func (e *Evidence) neighbourState(n netip.Addr, link string) string {
	for _, x := range e.Host().Neighbours {
		if x.Address.WithZone("") == n.WithZone("") && x.Link == link {
			return x.State
		}
	}
	return ""
}
