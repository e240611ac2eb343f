package diagnose

import (
	"fmt"
	"strings"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

var ruleResolverDown = Rule{
	ID: "dns.resolver_down", Layer: LayerName,
	Title:       "A configured resolver does not answer",
	Explanation: "This host is told to ask a name server that gives no answer. If it is the only one, no name can be resolved and nearly every program fails, although the network itself may be fine.",
	TellApart:   "Each configured server is asked itself, by UDP and then by TCP, and given as long as a program would wait. When only the first of several is dead it is dns.first_resolver_dead; one that answers late is dns.resolver_slow.",
	Remedy:      []string{"Start or repair the name server, or open UDP and TCP port 53 to it", "Replace it in the resolver configuration (through its owner: systemd-resolved, NetworkManager, DHCP), not by overwriting /etc/resolv.conf"},
	Validate:    []string{"dig @<server> . NS answers"},
	Sceptic:     "dig @<server> . NS +tries=2 +time=2",
	References:  []string{"resolv.conf(5)", "RFC 1035 section 4.2"},
	Explains:    []string{"dns.resolver_servfail", "dns.nxdomain", "dns.no_data", "http.*", "tls.*"},
	Check:       checkResolverDown,
}

func checkResolverDown(e *Evidence) (a Answer) {
	if rv := e.Host().Resolver; rv != nil && rv.Foreign && !e.needsNames() {
		a.Gaps = append(a.Gaps, facts.Gap{
			What: "the resolvers of " + orWord(rv.Path, "resolv.conf"), Why: "this network namespace has no resolver configuration of its own; the file is the host's",
			Unlock: "name a target that needs DNS, or bind a resolv.conf for this namespace (/etc/netns/NAME/resolv.conf)",
		})
	}
	states := e.serverStates()
	var dead, alive []serverState
	for _, s := range states {
		switch {
		case s.Dead():
			if w := e.patientQuestion(s.Server); s.Last != nil && s.Last.Outcome == probe.Timeout {
				tcp := WantDNS(s.Server, w.Name, w.Type, "tcp")
				a.Wants = append(a.Wants, w, tcp)
				if _, ok := e.Get(w); !ok {
					continue
				}
			}
			dead = append(dead, s)
		case s.Answered > 0:
			alive = append(alive, s)
			if f, ok := e.patchyResolver(s); ok {
				a.Findings = append(a.Findings, f)
				continue
			}
			a.RuledOut = append(a.RuledOut, RuledOut{"dns.resolver_down", s.Server.Addr().String(), fmt.Sprintf("resolver %s answers, median %s", s.Server.Addr(), median(s.Times))})
		}
	}
	if len(dead) == 0 || len(dead) > 0 && dead[0].Index == 0 && len(alive) > 0 && len(dead) == 1 {
		return a // none, or the first only: dns.first_resolver_dead
	}
	all := len(alive) == 0
	for _, s := range dead {
		if s.Index == 0 && !all {
			continue
		}
		f := e.deadResolver(s)
		if all {
			f.Severity = sample.Critical
			if len(dead) > 1 {
				f.Summary = fmt.Sprintf("None of this host's %d resolvers answers (%s): no name can be resolved.", len(dead), serverList(dead))
				for _, o := range dead[1:] {
					f.Evidence = append(f.Evidence, e.deadProof(o))
					f.Affects = addTags(f.Affects, TagAddr(o.Server.Addr()))
				}
			} else {
				f.Summary = fmt.Sprintf("This host's only resolver %s does not answer: no name can be resolved.", s.Server.Addr())
			}
			if e.Host().Resolver.Implicit {
				f.Summary = "No resolver is configured on this host, and none runs on it: no name can be resolved."
				f.Evidence = append(f.Evidence, proof("resolver", "%s names no server; programs then ask 127.0.0.1", orWord(e.Host().Resolver.Path, "resolv.conf")))
			}
			for _, t := range e.nameTargets() {
				f.Affects = addTags(f.Affects, TagName(t.Host), TagTarget(t.Raw))
			}
			a.Findings = append(a.Findings, f)
			break
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

func serverList(ss []serverState) string {
	var out []string
	for _, s := range ss {
		out = append(out, s.Server.Addr().String())
	}
	return strings.Join(out, ", ")
}

func (e *Evidence) deadResolver(s serverState) Finding {
	addr := s.Server.Addr()
	f := Finding{
		Subject: addr.String(), SubjectKind: sample.KindResolver, Location: fmt.Sprintf("%s, port %d", addr, s.Server.Port()),
		Severity: sample.Minor, Confidence: Confirmed,
		Summary:  fmt.Sprintf("The configured resolver %s does not answer; another one does.", addr),
		Evidence: []Proof{e.deadProof(s)},
		Sceptic:  []string{fmt.Sprintf("dig @%s . NS +tries=2 +time=2", addr)},
		Affects:  []string{TagAddr(addr)}, Depends: e.DependsOnAddr(addr),
	}
	if r := e.Ping(addr); r != nil && r.Echo != nil {
		f.Evidence = append(f.Evidence, proof(WantPingLocal(addr).Key(), "the machine itself: %s", echoText(r)))
	}
	name, ty := e.probeQuestion()
	if r := e.Result(WantDNS(s.Server, name, ty, "tcp")); r != nil {
		f.Evidence = append(f.Evidence, proof(WantDNS(s.Server, name, ty, "tcp").Key(), "by TCP: %s %s", r.Outcome, r.Detail))
	}
	return f
}

func (e *Evidence) deadProof(s serverState) Proof {
	why := string(s.Last.Outcome)
	if s.Last.Outcome == probe.Failed {
		why = "what comes back is no DNS answer" + detailText(s.Last)
	}
	if s.Last.ICMP != nil {
		why += fmt.Sprintf(" (ICMP from %s: %s)", s.Last.ICMP.From, s.Last.ICMP.Text)
	}
	return proof(s.LastKey, "%s: 0 of %s answered: %s", s.Server.Addr(), plural(s.Asked, "question", "questions"), why)
}

// patchyResolver: it answers some questions at once and others never, although
// its machine loses no echo: each lost question costs a program its time-out.
func (e *Evidence) patchyResolver(s serverState) (Finding, bool) {
	addr := s.Server.Addr()
	p := e.Ping(addr)
	if s.Tries < 6 || s.Patchy < 2 || float64(s.Lost) < 0.15*float64(s.Tries) || median(s.Times) >= slowAnswer {
		return Finding{}, false
	}
	if p == nil || p.Echo == nil || p.Echo.Received == 0 || p.Echo.Loss() > 0 {
		return Finding{}, false // the path may lose them
	}
	return Finding{
		Subject: addr.String(), SubjectKind: sample.KindResolver, Location: fmt.Sprintf("%s, port %d", addr, s.Server.Port()),
		Severity: sample.Major, Confidence: Likely,
		Summary: fmt.Sprintf("The resolver %s leaves %d of %d questions unanswered: look-ups wait for a second try.", addr, s.Lost, s.Tries),
		Evidence: []Proof{
			proof("dns "+s.Server.String(), "%d of %d questions never answered, the others in %s (median)", s.Lost, s.Tries, median(s.Times)),
			proof(WantPingLocal(addr).Key(), "its machine loses no echo: %s", echoText(p)),
		},
		Sceptic: []string{fmt.Sprintf("for i in $(seq 20); do dig @%s . NS +tries=1 +time=1 +noall +comments | grep -c status; done", addr)},
		Affects: []string{TagAddr(addr)}, Depends: e.DependsOnAddr(addr),
	}, true
}
