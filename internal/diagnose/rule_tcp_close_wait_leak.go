package diagnose

import (
	"fmt"
	"time"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleCloseWaitLeak = Rule{
	ID: "tcp.close_wait_leak", Layer: LayerTransport,
	Title:       "A program here never closes its connections",
	Explanation: "The other side has closed, and the program on this host has not called close(). Such sockets stay in CLOSE_WAIT for ever and use up file descriptors, memory and ports until the program fails. It is a bug in that program, not in the network.",
	TellApart:   "Many CLOSE_WAIT sockets of one process whose peer's last segment lies seconds or hours back, and often a growing number. A few young ones are the normal end of a connection.",
	Remedy:      []string{"Fix the program: close the socket when read() returns 0 (a missing close in an error path, a pool that keeps dead connections)", "Restart it as first aid, before it runs out of file descriptors"},
	Validate:    []string{"ss -tan state close-wait shows no old sockets of that process"},
	Sceptic:     "ss -tanpo state close-wait",
	References:  []string{"RFC 9293 section 3.3.2 (CLOSE-WAIT)"},
	Check: func(e *Evidence) (a Answer) {
		s := e.Host().Sockets
		if s == nil {
			return a
		}
		for _, g := range s.CloseWait {
			grown := g.Count - e.closeWaitBefore(g)
			if !leaking(g, grown) {
				continue
			}
			f := Finding{
				Subject: g.Process, SubjectKind: sample.KindProcess, Location: "this host, " + g.Process,
				Severity: sample.Major, Confidence: Likely,
				Summary: fmt.Sprintf("%s leaks connections: %d sockets whose peer has closed are still open.", g.Process, g.Count),
				Evidence: []Proof{
					proof("sockets", "%d sockets of %s in CLOSE_WAIT; the peers closed %s ago in the median, at most %s ago", g.Count, g.Process, g.MedianAge, g.OldestAge),
				},
				Sceptic: []string{"ss -tanpo state close-wait"},
			}
			if g.Remote != "" {
				f.Evidence = append(f.Evidence, proof("sockets", "most frequent peer: %s", g.Remote))
			}
			if g.LocalPort != 0 {
				f.Evidence = append(f.Evidence, proof("sockets", "all on local port %d", g.LocalPort))
			}
			if grown > 0 && e.After != nil {
				f.Confidence = Confirmed
				f.Evidence = append(f.Evidence, proof("sockets", "%d more than at the start, %s", grown, e.windowText()))
			} else if g.MedianAge > sample.Duration(time.Minute) {
				f.Confidence = Confirmed
			}
			a.Findings = append(a.Findings, f)
		}
		if len(a.Findings) == 0 {
			a.RuledOut = append(a.RuledOut, RuledOut{Cause: "tcp.close_wait_leak", Text: fmt.Sprintf("%s in CLOSE_WAIT", plural(s.States["CLOSE_WAIT"], "socket", "sockets"))})
		}
		return a
	},
}

// leaking: many that are a little old, or fewer that are very old. What closes
// within two seconds is a program at work.
func leaking(g facts.SocketGroup, grown int) bool {
	switch {
	case g.Count >= 50 && g.MedianAge >= sample.Duration(2*time.Second):
		return true
	case g.Count >= 50 && grown >= 10 && g.OldestAge >= sample.Duration(2*time.Second):
		return true
	case g.Count >= 10 && g.MedianAge >= sample.Duration(time.Minute):
		return true
	}
	return false
}

func (e *Evidence) closeWaitBefore(g facts.SocketGroup) int {
	if e.Before == nil || e.Before.Sockets == nil || e.After == nil {
		return g.Count
	}
	for _, o := range e.Before.Sockets.CloseWait {
		if o.Process == g.Process {
			return o.Count
		}
	}
	return 0
}
