package diagnose

import (
	"fmt"
	"slices"

	"fathom/probe"
	"fathom/sample"
)

var ruleFirstResolverDead = Rule{
	ID: "dns.first_resolver_dead", Layer: LayerName,
	Title:       "The first resolver is dead: every look-up waits for it",
	Explanation: "Programs ask the configured resolvers in order. The first one does not answer, so each look-up waits for its time-out (5 seconds by default) before the next is asked. Everything works, but slowly.",
	TellApart:   "The first server is silent, a later one answers the same question at once. A single dead server, or all of them, is dns.resolver_down.",
	Remedy:      []string{"Remove the dead server from the list, or put it behind the working one", "Repair it", "options timeout:1 attempts:2 rotate shortens the wait until then"},
	Validate:    []string{"time getent hosts <name> takes milliseconds"},
	Sceptic:     "dig @<server> . NS +tries=1 +time=2; time getent hosts <name>",
	References:  []string{"resolv.conf(5) (nameserver order, timeout)"},
	Explains:    []string{"dns.resolver_down", "dns.resolver_slow"},
	Check:       checkFirstResolverDead,
}

func checkFirstResolverDead(e *Evidence) (a Answer) {
	states := e.serverStates()
	if len(states) < 2 {
		return a
	}
	first := states[0]
	i := slices.IndexFunc(states, func(s serverState) bool { return s.Answered > 0 })
	if !first.Dead() || i < 1 {
		if first.Answered > 0 {
			a.RuledOut = append(a.RuledOut, RuledOut{"dns.first_resolver_dead", first.Server.Addr().String(), fmt.Sprintf("the first resolver %s answers", first.Server.Addr())})
		}
		return a
	}
	w := e.patientQuestion(first.Server)
	if first.Last.Outcome == probe.Timeout {
		if _, ok := e.Get(w); !ok {
			a.Wants = append(a.Wants, w)
			return a
		}
	}
	f := e.deadResolver(first)
	good := states[i]
	f.Severity = sample.Major
	timeout := max(e.Host().Resolver.TimeoutS, 1)
	f.Summary = fmt.Sprintf("The first resolver %s is dead: look-ups wait %d s for it before %s answers.", first.Server.Addr(), timeout, good.Server.Addr())
	f.Evidence = append(f.Evidence, proof(good.LastKey, "%s, resolver number %d, answers in %s", good.Server.Addr(), i+1, median(good.Times)))
	if first.Last.Outcome == probe.Refused {
		f.Summary = fmt.Sprintf("The first resolver %s refuses; every look-up tries it before %s answers.", first.Server.Addr(), good.Server.Addr())
	}
	a.Findings = append(a.Findings, f)
	return a
}
