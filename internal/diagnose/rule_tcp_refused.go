package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

var ruleTCPRefused = Rule{
	ID: "tcp.refused", Layer: LayerTransport,
	Title:       "Nothing listens on the port",
	Explanation: "The machine is there and its TCP answers with a reset: no program listens on that port and address. The network has done its part.",
	TellApart:   "A RST from the target itself in answer to the SYN, at once. Silence is tcp.filtered; an ICMP message, or a RST that was made nearer than the target, is ip.filtered.",
	Remedy:      []string{"Start the service, or look at why it stopped", "Check the port number, and the address it listens on (127.0.0.1 only?)"},
	Validate:    []string{"ss -ltn on the target lists the port, and the connect succeeds"},
	Sceptic:     "nc -zv <address> <port>",
	References:  []string{"RFC 9293 section 3.10.7.1 (reset generation)"},
	Explains:    []string{"http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		for _, p := range e.allPairs() {
			if p.Target.Port == 0 || p.Target.Scheme == "udp" || p.Target.Scheme == "dns" {
				continue
			}
			w := WantTCP(netip.AddrPortFrom(p.Addr, p.Target.Port))
			r := e.Result(w)
			if r == nil {
				continue
			}
			if r.Outcome == probe.OK {
				a.RuledOut = append(a.RuledOut, RuledOut{"tcp.refused", p.Target.Raw, fmt.Sprintf("port %d on %s accepts connections", p.Target.Port, p.Addr)})
				continue
			}
			if r.Outcome != probe.Refused || r.ICMP != nil || r.TCP != nil && r.TCP.Connected > 0 {
				continue
			}
			f := Finding{
				Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, TCP port %d", p.Addr, p.Target.Port),
				Severity: sample.Critical, Confidence: Confirmed,
				Summary: fmt.Sprintf("%s answers, but nothing listens on TCP port %d: the connection is refused.", p.Addr, p.Target.Port),
				Sceptic: []string{fmt.Sprintf("nc -zv %s %d", p.Addr, p.Target.Port)},
				Affects: []string{TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
			}
			n := 0
			if r.TCP != nil {
				n = r.TCP.Refused
				if len(r.TCP.Connects) > 0 {
					f.Evidence = append(f.Evidence, proof(w.Key(), "%d of %d SYNs answered with RST, median after %s", n, r.TCP.Attempts, median(r.TCP.Connects)))
				}
			}
			if pr := e.Ping(p.Addr); pr != nil && pr.Echo != nil && pr.Echo.Received > 0 {
				f.Evidence = append(f.Evidence, proof(WantPing(p.Addr).Key(), "the machine is alive: %s", echoText(pr)))
			}
			f.Evidence = append(f.Evidence, e.localListeners(p)...)
			a.Findings = append(a.Findings, f)
		}
		return mergeByTarget(a)
	},
}

// allPairs is every target with every address, this host's own included.
func (e *Evidence) allPairs() []targetPair {
	var out []targetPair
	for _, t := range e.targets() {
		for _, a := range e.TargetAddrs(t) {
			if e.Usable(a) {
				out = append(out, targetPair{t, a})
			}
		}
	}
	return out
}

// localListeners: for this host's own addresses, who listens on that port elsewhere.
func (e *Evidence) localListeners(p targetPair) []Proof {
	s := e.Host().Sockets
	if s == nil || !p.Addr.IsLoopback() && !e.Host().HasAddr(p.Addr) {
		return nil
	}
	i := slices.IndexFunc(s.Listeners, func(l facts.Socket) bool { return l.Local.Port() == p.Target.Port })
	if i < 0 {
		return []Proof{proof("sockets", "no socket of this host listens on port %d at any address", p.Target.Port)}
	}
	return []Proof{proof("sockets", "%s listens on %s only", orWord(s.Listeners[i].Process, "a socket"), s.Listeners[i].Local)}
}
