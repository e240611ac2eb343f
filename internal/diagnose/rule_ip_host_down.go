package diagnose

import (
	"fmt"
	"net/netip"

	"fathom/probe"
	"fathom/sample"
)

var ruleHostDown = Rule{
	ID: "ip.host_down", Layer: LayerNetwork,
	Title:       "The target itself is not there",
	Explanation: "The way to the target's network works. The router that is directly attached to it looked for the target and got no answer: the machine is off, unplugged, or has another address.",
	TellApart:   "The last router answers ICMP host unreachable (or address unreachable for IPv6): its own ARP for the target failed. Silence without that message is ip.blackhole_hop.",
	Remedy:      []string{"Is the machine switched on and on that segment with that address?", "Look at its console, hypervisor or switch port"},
	Validate:    []string{"ping <address> is answered"},
	Sceptic:     "ping -c 3 <address>",
	References:  []string{"RFC 792 (type 3 code 1)", "RFC 4443 section 3.1 (code 3)", "RFC 1812 section 4.3.3.1"},
	Explains:    []string{"ip.blackhole_hop", "ip.filtered", "tcp.*", "udp.no_port", "path.*", "dns.*", "http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		for _, p := range e.remotePairs() {
			if e.Heard(p.Addr) {
				continue
			}
			said := e.saidAbout(p, hostUnreachable)
			if p, tr := e.Ping(p.Addr), e.Trace(p.Addr, "icmp"); said == nil && p != nil && tr != nil && p.ICMP == nil {
				a.Wants = append(a.Wants, WantTraceLong(p.Address)) // give the last router the time it needs
			}
			if said == nil || e.Host().HasAddr(said.From) || said.From == p.Addr {
				continue
			}
			a.Findings = append(a.Findings, Finding{
				Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, behind %s", p.Addr, e.whereIs(p.Addr, said.From)),
				Severity: sample.Critical, Confidence: Confirmed,
				Summary: fmt.Sprintf("%s is not there: the router in front of it, %s, says that it cannot reach it.", sideOf(p.Target, p.Addr), said.From),
				Evidence: []Proof{
					proof(WantPing(p.Addr).Key(), "ICMP from %s: %s (type %d code %d)", said.From, said.Text, said.Type, said.Code),
					proof(WantPing(p.Addr).Key(), "%s: %s", p.Addr, echoText(e.Ping(p.Addr))),
				},
				Sceptic: []string{"ping -c 3 " + p.Addr.String()},
				Affects: []string{TagAddr(p.Addr), TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
			})
		}
		return a
	},
}

// hostUnreachable: RFC 792 type 3 code 1, RFC 4443 type 1 code 3.
func hostUnreachable(a netip.Addr, x *probe.ICMPError) bool {
	if x == nil {
		return false
	}
	if a.Is6() {
		return x.Type == 1 && x.Code == 3
	}
	return x.Type == 3 && x.Code == 1
}

// saidAbout finds an ICMP error of the given sort about anything sent to the pair.
func (e *Evidence) saidAbout(p targetPair, is func(netip.Addr, *probe.ICMPError) bool) *probe.ICMPError {
	for i := range e.Measured {
		r := e.Measured[i].Result
		if r == nil || r.Address != p.Addr || e.Measured[i].Want.Via.IsValid() {
			continue
		}
		if is(p.Addr, r.ICMP) {
			return r.ICMP
		}
		if r.Path != nil {
			for _, h := range r.Path.Hops {
				if is(p.Addr, h.Unreach) {
					return h.Unreach
				}
			}
		}
	}
	return nil
}
