package diagnose

import (
	"fmt"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleRcvbufOverflow = Rule{
	ID: "udp.rcvbuf_overflow", Layer: LayerTransport,
	Title:       "A program here reads its datagrams too slowly",
	Explanation: "Datagrams arrive at this host and are thrown away because the receiving socket's buffer is full: the program does not read fast enough, or its buffer is too small for the bursts it gets. To the sender it looks like loss on the network.",
	TellApart:   "Udp RcvbufErrors grows while we watch, and a socket's own drop counter with it; the interface shows no drops.",
	Remedy:      []string{"Make the reader faster (more threads, recvmmsg, SO_REUSEPORT)", "Give the socket a larger buffer: SO_RCVBUF in the program, net.core.rmem_max (and rmem_default) on the host"},
	Validate:    []string{"nstat -az UdpRcvbufErrors stands still under load"},
	Sceptic:     "nstat -az UdpRcvbufErrors; ss -uamn (the d… field of skmem counts drops)",
	References:  []string{"Linux net/ipv4/udp.c (__udp_enqueue_schedule_skb)", "udp(7)"},
	Explains:    []string{"udp.no_port"},
	Check: func(e *Evidence) (a Answer) {
		v4, ok := e.Delta("Udp.RcvbufErrors")
		v6, _ := e.Delta("Udp6.RcvbufErrors")
		if !ok {
			return a
		}
		n := v4 + v6
		in, _ := e.Delta("Udp.InDatagrams")
		if n < 5 || float64(n) < 0.0005*float64(in+n) {
			a.RuledOut = append(a.RuledOut, RuledOut{Cause: "udp.rcvbuf_overflow", Text: fmt.Sprintf("%d datagrams dropped at full sockets, %d delivered %s", n, in, e.windowText())})
			return a
		}
		f := Finding{
			Subject: "UDP sockets", SubjectKind: sample.KindHost, Location: "this host",
			Severity: sample.Major, Confidence: Likely,
			Summary:  fmt.Sprintf("%d datagrams were dropped %s because a program did not read them in time.", n, e.windowText()),
			Evidence: []Proof{proof("counters", "Udp RcvbufErrors +%d beside %d datagrams delivered %s", n, in, e.windowText())},
			Sceptic:  []string{"nstat -az UdpRcvbufErrors", "ss -uamn"},
		}
		if s, drops, ok := e.worstUDP(); ok {
			who := orWord(s.Process, fmt.Sprintf("a program of uid %d", s.UID))
			f.Subject, f.SubjectKind, f.Location, f.Confidence = s.Local.String(), sample.KindSocket, "this host, "+who, Confirmed
			f.Summary = fmt.Sprintf("%s reads too slowly on UDP %s: %d datagrams dropped %s.", who, s.Local, drops, e.windowText())
			f.Evidence = append(f.Evidence,
				proof("sockets", "socket %s of %s dropped %d datagrams %s, %d bytes wait unread in a buffer of %d", s.Local, who, drops, e.windowText(), s.RecvQ, s.RcvBuf))
		}
		a.Findings = append(a.Findings, f)
		return a
	},
}

// worstUDP is the UDP socket that dropped most over the window.
func (e *Evidence) worstUDP() (worst facts.Socket, drops uint64, ok bool) {
	if e.After == nil || e.After.Sockets == nil {
		return worst, 0, false
	}
	old := map[uint64]uint64{}
	if e.Before != nil && e.Before.Sockets != nil {
		for _, s := range e.Before.Sockets.UDP {
			old[s.Inode] = s.Drops
		}
	}
	for _, s := range e.After.Sockets.UDP {
		if d := saturatingSub(s.Drops, old[s.Inode]); d > drops {
			worst, drops, ok = s, d, true
		}
	}
	return worst, drops, ok
}
