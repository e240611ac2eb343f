package diagnose

import (
	"fmt"
	"time"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

var ruleResolverSlow = Rule{
	ID: "dns.resolver_slow", Layer: LayerName,
	Title:       "The resolver answers slowly",
	Explanation: "Name look-ups take hundreds of milliseconds or more although the resolver's machine is near. Every new connection waits for that first. The resolver is overloaded, or what it asks itself (its forwarders) is slow.",
	TellApart:   "The answer time against the round trip to the resolver's machine, for a first and a repeated question: slow both times is the resolver itself, slow only the first time is its upstream. A slow path to it would show in echo as well.",
	Remedy:      []string{"Look at the resolver's load and its forwarders", "Use a nearer resolver, or a local cache"},
	Validate:    []string{"dig @<server> <name> twice: both below 100 ms"},
	Sceptic:     "dig @<server> <name> | grep 'Query time'",
	References:  []string{"RFC 1035", "resolv.conf(5)"},
	Explains:    []string{"http.server_slow"},
	Check:       checkResolverSlow,
}

// slowAnswer is what a cached answer from a near resolver never needs.
const slowAnswer = sample.Duration(250 * time.Millisecond)

func checkResolverSlow(e *Evidence) (a Answer) {
	for _, s := range e.serverStates() {
		if s.Answered == 0 || len(s.Times) == 0 {
			continue
		}
		rtt, rttText := sample.Duration(0), "its machine does not answer ping"
		if r := e.Ping(s.Server.Addr()); r != nil && r.Echo != nil && r.Echo.Received > 0 {
			rtt = median(r.Echo.RTTs)
			rttText = fmt.Sprintf("the round trip to its machine is %s", rtt)
		}
		first := maxOf(s.Times)
		if rtt == 0 && first >= slowAnswer {
			// No echo: a connect, or its refusal, takes one round trip as well.
			w := WantTCP(s.Server)
			m, ok := e.Get(w)
			if !ok {
				a.Wants = append(a.Wants, w)
				continue
			}
			if m.Result == nil || m.Result.TCP == nil || len(m.Result.TCP.Connects) == 0 {
				a.Gaps = append(a.Gaps, facts.Gap{What: "whether the resolver " + s.Server.Addr().String() + " is slow or far", Why: "its machine answers neither ping nor TCP"})
				continue
			}
			rtt = minOf(m.Result.TCP.Connects)
			rttText = fmt.Sprintf("the round trip to its machine is %s (TCP)", rtt)
		}
		if first-rtt < slowAnswer {
			a.RuledOut = append(a.RuledOut, RuledOut{"dns.resolver_slow", s.Server.Addr().String(), fmt.Sprintf("%s answers in %s at most", s.Server.Addr(), first)})
			continue
		}
		w2, w3 := e.againQuestion(s.Server, 3), e.againQuestion(s.Server, 4)
		r2, ok2 := e.Get(w2)
		if !ok2 {
			a.Wants = append(a.Wants, w2)
			continue
		}
		r3, ok3 := e.Get(w3)
		if !ok3 {
			a.Wants = append(a.Wants, w3)
			continue
		}
		again := bestTime(r2.Result, r3.Result)
		slowAgain := again-rtt >= slowAnswer
		if !slowAgain && first-rtt < 3*slowAnswer {
			continue // a cold cache
		}
		f := Finding{
			Subject: s.Server.Addr().String(), SubjectKind: sample.KindResolver, Location: s.Server.Addr().String(),
			Severity: sample.Major, Confidence: Confirmed,
			Summary: fmt.Sprintf("The resolver %s needs %s for an answer; %s.", s.Server.Addr(), median(s.Times), rttText),
			Evidence: []Proof{
				proof(s.LastKey, "%s, median %s, slowest %s", plural(len(s.Times), "answer", "answers"), median(s.Times), first),
				proof(w2.Key(), "the same question again, twice: %s at best", again),
				proof(WantPingLocal(s.Server.Addr()).Key(), "%s: %s", s.Server.Addr(), rttText),
			},
			Sceptic: []string{fmt.Sprintf("dig @%s . NS | grep 'Query time'", s.Server.Addr())},
			Affects: []string{TagAddr(s.Server.Addr())}, Depends: e.DependsOnAddr(s.Server.Addr()),
		}
		if !slowAgain {
			f.Severity, f.Confidence = sample.Minor, Likely
			f.Summary = fmt.Sprintf("The resolver %s answers from its cache at once, but needs %s to find out something new: what it asks is slow.", s.Server.Addr(), first)
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

func bestTime(rs ...*probe.Result) sample.Duration {
	best := sample.Duration(0)
	for _, r := range rs {
		if r == nil || r.DNS == nil {
			continue
		}
		for _, d := range r.DNS.Times {
			if best == 0 || d < best {
				best = d
			}
		}
	}
	return best
}
