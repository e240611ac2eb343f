package diagnose

import (
	"net/netip"
	"time"

	"fathom/probe"
	"fathom/sample"
)

// serverState is what is known of one configured resolver.
type serverState struct {
	Server   netip.AddrPort
	Index    int
	Asked    int           // questions measured
	Answered int           // questions with any DNS answer
	Last     *probe.Result // an unanswered one when there is one, else any
	LastKey  string
	Times    []sample.Duration
	Tries    int // datagrams sent
	Lost     int // of them, never answered in time
	Patchy   int // questions of which one try was answered at once and another never
}

// Dead: asked, and never answered.
func (s serverState) Dead() bool { return s.Asked > 0 && s.Answered == 0 }

// serverStates sums up all questions to each configured resolver.
func (e *Evidence) serverStates() []serverState {
	var out []serverState
	for i, s := range e.Servers() {
		st := serverState{Server: s, Index: i}
		for j := range e.Measured {
			m := &e.Measured[j]
			// By UDP, as programs ask: a server that answers by TCP alone is of no use to them.
			if m.Want.Kind != probe.KindDNS || m.Want.Target != s.String() || m.Result == nil || m.Want.Protocol == "tcp" {
				continue
			}
			st.Asked++
			if m.Result.DNS != nil {
				st.Tries += m.Result.DNS.Tries
				st.Lost += m.Result.DNS.Lost
				// Both tries lost may be a question this server never answers; one
				// lost and the other answered at once is chance.
				if d := m.Result.DNS; d.Lost > 0 && d.Lost < d.Tries && len(d.Times) > 0 && maxOf(d.Times) < slowAnswer {
					st.Patchy++
				}
			}
			if m.Result.DNS != nil && m.Result.DNS.Rcode != "" {
				st.Answered++
				st.Times = append(st.Times, m.Result.DNS.Times...)
				if st.Last == nil {
					st.Last, st.LastKey = m.Result, m.Want.Key()
				}
			} else {
				st.Last, st.LastKey = m.Result, m.Want.Key()
			}
		}
		out = append(out, st)
	}
	return out
}

// probeQuestion is the question used to examine a resolver further: the first
// name the user asked about, else the root.
func (e *Evidence) probeQuestion() (name, qtype string) {
	for _, t := range e.Question.Targets {
		if r := e.Resolve(t.Host); r.From == "dns" && r.FQDN != "" {
			return r.FQDN, e.queryTypes()[0]
		}
	}
	return rootName, "NS"
}

// patientQuestion waits as long as a program would (glibc: 5 s), to tell slow from dead.
func (e *Evidence) patientQuestion(s netip.AddrPort) Want {
	name, ty := e.probeQuestion()
	w := WantDNS(s, name, ty, "udp")
	w.Count, w.Timeout, w.Round = 1, sample.D(4500*time.Millisecond), 2
	return w
}

// againQuestion repeats a question, so that the second answer comes from the cache.
func (e *Evidence) againQuestion(s netip.AddrPort, round int) Want {
	name, ty := e.probeQuestion()
	w := WantDNS(s, name, ty, "udp")
	w.Count, w.Timeout, w.Round = 1, sample.D(4500*time.Millisecond), round
	return w
}

// nameTargets are the targets that need DNS.
func (e *Evidence) nameTargets() []Target {
	var out []Target
	for _, t := range e.Question.Targets {
		if _, lit := t.Literal(); !lit && e.Resolve(t.Host).From == "dns" {
			out = append(out, t)
		}
	}
	return out
}
