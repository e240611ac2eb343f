package diagnose

import (
	"fmt"
	"net/netip"

	"fathom/probe"
	"fathom/sample"
)

var ruleTCPFiltered = Rule{
	ID: "tcp.filtered", Layer: LayerTransport,
	Title:       "SYNs to this port vanish at the target",
	Explanation: "The machine answers other traffic, but connection attempts to this port get no answer at all: a firewall on the target (or right in front of it) drops them, or the program's accept queue is full and the kernel drops SYNs.",
	TellApart:   "The SYN and its retransmissions are unanswered while ping or another port on the same address answers. A refusal would mean that nothing listens; silence at an earlier hop is ip.filtered.",
	Remedy:      []string{"Allow the port in the target's firewall or security group", "On the target look at the accept queue: ss -ltn 'sport = :<port>' (Recv-Q at its limit means the program does not accept)"},
	Validate:    []string{"The connect succeeds, or is refused at once"},
	Sceptic:     "nc -zv -w 5 <address> <port>; ping -c 3 <address>",
	References:  []string{"RFC 9293 section 3.5"},
	Explains:    []string{"http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		for _, p := range e.allPairs() {
			if p.Target.Port == 0 || p.Target.Scheme == "udp" || p.Target.Scheme == "dns" {
				continue
			}
			w := WantTCP(netip.AddrPortFrom(p.Addr, p.Target.Port))
			r := e.Result(w)
			if r == nil || r.Outcome != probe.Timeout || !e.Heard(p.Addr) {
				continue
			}
			f := Finding{
				Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, TCP port %d", p.Addr, p.Target.Port),
				Severity: sample.Critical, Confidence: Likely,
				Summary: fmt.Sprintf("%s is alive, but TCP port %d does not answer at all: a filter at the target or just before it drops it, or its accept queue is full.", p.Addr, p.Target.Port),
				Sceptic: []string{fmt.Sprintf("nc -zv -w 5 %s %d", p.Addr, p.Target.Port), "ping -c 3 " + p.Addr.String()},
				Affects: []string{TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
			}
			if r.TCP != nil {
				f.Evidence = append(f.Evidence, proof(w.Key(), "%d connects, %d SYN retransmissions, no answer in %s", r.TCP.Attempts, r.TCP.SYNRetrans, secs(connectTimeout)))
			}
			f.Evidence = append(f.Evidence, e.passes(p)...)
			if tr := e.Trace(p.Addr, "tcp"); tr != nil {
				if last, ok := lastAnswering(tr.Path); ok {
					f.Evidence = append(f.Evidence, proof(WantTrace(p.Addr, "tcp", p.Target.Port).Key(), "a TCP trace to that port is answered up to hop %d (%s), the last before the target", last.TTL, last.Address))
					f.Confidence = Confirmed
					f.Location += fmt.Sprintf(", at the target or just before it (last answer: hop %d, %s)", last.TTL, last.Address)
				}
			}
			a.Findings = append(a.Findings, f)
		}
		return mergeByTarget(a)
	},
}
