package diagnose

import (
	"fmt"
	"net/netip"

	"fathom/probe"
	"fathom/sample"
)

var ruleNoPort = Rule{
	ID: "udp.no_port", Layer: LayerTransport,
	Title:       "Nothing listens on the UDP port",
	Explanation: "The machine is there and says so: its kernel answers the datagram with \"port unreachable\", because no program has that port open.",
	TellApart:   "ICMP port unreachable from the target itself. From a router it would be a filter (ip.filtered); silence tells nothing about UDP.",
	Remedy:      []string{"Start the service, or look at why it stopped", "Check the port and the address it is bound to"},
	Validate:    []string{"ss -lun on the target lists the port"},
	Sceptic:     "nc -uzv <address> <port>",
	References:  []string{"RFC 1122 section 4.1.3.1"},
	Check: func(e *Evidence) (a Answer) {
		for _, p := range e.allPairs() {
			if p.Target.Scheme != "udp" && p.Target.Scheme != "dns" {
				continue
			}
			r, w := e.asked(p)
			if r == nil || r.Outcome != probe.Refused || r.ICMP != nil && r.ICMP.From != p.Addr {
				continue
			}
			f := Finding{
				Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: netip.AddrPortFrom(p.Addr, p.Target.Port).String() + ", UDP",
				Severity: sample.Critical, Confidence: Confirmed,
				Summary:  fmt.Sprintf("%s is alive, but nothing listens on UDP port %d.", p.Addr, p.Target.Port),
				Evidence: []Proof{proof(w.Key(), "datagrams to port %d are answered with ICMP port unreachable by %s itself", p.Target.Port, p.Addr)},
				Affects:  []string{TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
			}
			a.Findings = append(a.Findings, f)
		}
		return a
	},
}
