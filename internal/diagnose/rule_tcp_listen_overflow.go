package diagnose

import (
	"fmt"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleListenOverflow = Rule{
	ID: "tcp.listen_overflow", Layer: LayerTransport,
	Title:       "A program here does not accept its connections",
	Explanation: "The accept queue of a listening socket is full: clients complete their handshake faster than the program calls accept(). Further SYNs are dropped, so clients wait for retransmissions and see time-outs although the machine is healthy.",
	TellApart:   "The listener's Recv-Q has reached its backlog (Send-Q in ss), and TcpExt ListenOverflows grows while we watch. Many half-open connections with SYN cookies would be a SYN flood instead.",
	Remedy:      []string{"Find out why the program does not accept: it is stuck, out of file descriptors, or its workers are busy", "Raise its listen() backlog together with net.core.somaxconn", "Restart it if it hangs"},
	Validate:    []string{"ss -ltn: Recv-Q of the listener stays well below Send-Q; nstat TcpExtListenOverflows stands still"},
	Sceptic:     "ss -ltnp; nstat -az TcpExtListenOverflows TcpExtListenDrops",
	References:  []string{"Linux net/ipv4/tcp_ipv4.c (tcp_v4_syn_recv_sock)", "listen(2)"},
	Explains:    []string{"tcp.filtered", "tcp.syn_loss", "http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		s := e.Host().Sockets
		if s == nil {
			return a
		}
		over, known := e.Delta("TcpExt.ListenOverflows")
		drops, _ := e.Delta("TcpExt.ListenDrops")
		full := 0
		for _, l := range s.Listeners {
			// Linux accepts one more than the backlog (sk_acceptq_is_full: strictly greater).
			if l.Proto == "udp" || l.RecvQ < l.SendQ || l.RecvQ == 0 || l.RecvQ == l.SendQ && over == 0 {
				continue
			}
			full++
			if over == 0 {
				a.Wants = append(a.Wants, WantWindow(flapWindow)) // blocked clients retry after 1, 2 and 4 s
			}
			a.Findings = append(a.Findings, e.overflowFinding(l, over, drops))
		}
		if full == 0 && known {
			a.RuledOut = append(a.RuledOut, RuledOut{Cause: "tcp.listen_overflow", Text: fmt.Sprintf("%s, none with a full accept queue", plural(len(s.Listeners), "listener", "listeners"))})
		}
		return a
	},
}

func (e *Evidence) overflowFinding(l facts.Socket, over, drops uint64) Finding {
	who := orWord(l.Process, fmt.Sprintf("a program of uid %d", l.UID))
	f := Finding{
		Subject: l.Local.String(), SubjectKind: sample.KindSocket, Location: "this host, " + who,
		Severity: sample.Critical, Confidence: Likely,
		Summary: fmt.Sprintf("%s does not accept its connections on %s: %d wait in a queue for %d.", who, l.Local, l.RecvQ, l.SendQ),
		Evidence: []Proof{
			proof("sockets", "listener %s: %d connections waiting for accept(), backlog %d, %d half open", l.Local, l.RecvQ, l.SendQ, l.SynRecv),
			proof("sockets", "owner: %s", who),
		},
		Sceptic: []string{fmt.Sprintf("ss -ltnp 'sport = :%d'", l.Local.Port()), "nstat -az TcpExtListenOverflows"},
	}
	if over > 0 {
		f.Confidence = Confirmed
		f.Evidence = append(f.Evidence, proof("counters", "TcpExt ListenOverflows +%d, ListenDrops +%d %s", over, drops, e.windowText()))
	} else {
		f.Severity = sample.Major
	}
	// It breaks every target that is this socket.
	for _, t := range e.Question.Targets {
		for _, addr := range e.TargetAddrs(t) {
			if t.Port == l.Local.Port() && (addr == l.Local.Addr() || l.Local.Addr().IsUnspecified() && (addr.IsLoopback() || e.Host().HasAddr(addr))) {
				f.Affects = addTags(f.Affects, TagTarget(t.Raw))
			}
		}
	}
	f.Affects = addTags(f.Affects, "socket:"+l.Local.String())
	return f
}
