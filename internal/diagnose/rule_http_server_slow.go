package diagnose

import (
	"fmt"
	"time"

	"fathom/probe"
	"fathom/sample"
)

var ruleServerSlow = Rule{
	ID: "http.server_slow", Layer: LayerApplication,
	Title:       "The server takes long to answer",
	Explanation: "The connection is quick, the request is out, and then the server thinks. The time goes into the program, its database or the backend behind a proxy, not into the network.",
	TellApart:   "Time to the first byte after the request, against the round trip of the same connection, over several requests. If the round trip itself is long it is the path.",
	Remedy:      []string{"Look at what the server does in that time: its slow log, traces, database", "Check for a backend or DNS look-up that it waits for"},
	Validate:    []string{"curl -w '%{time_starttransfer}' falls to a few round trips"},
	Sceptic:     "curl -so /dev/null -w 'connect %{time_connect} first byte %{time_starttransfer}\\n' <url>",
	References:  []string{"RFC 9110"},
	Check:       checkServerSlow,
}

// slowFirstByte is what users notice as waiting (and far beyond scheduling noise).
const slowFirstByte = sample.Duration(500 * time.Millisecond)

func checkServerSlow(e *Evidence) (a Answer) {
	for _, q := range e.requests() {
		rtt := q.networkRTT()
		if q.result.Outcome == probe.Timeout && len(q.result.HTTP.Redirects) == 0 && q.result.HTTP.Status == 0 && rtt > 0 {
			if q.target.Scheme == "https" && !tlsDone(q.result) {
				continue // it hangs in the handshake: tls.handshake_failed
			}
			f := e.requestFinding(q)
			f.Severity = sample.Critical
			f.Summary = fmt.Sprintf("%s accepts the connection and the request, and then says nothing for %s.", q.target.Raw, secs(httpTimeout))
			f.Evidence = []Proof{proof(q.want.Key(), "connected to %s in %s; %s", q.addr, rtt, orWord(q.result.Detail, "no response"))}
			a.Findings = append(a.Findings, f)
			continue
		}
		var firsts []sample.Duration
		for _, r := range q.result.HTTP.Repeats {
			if r.FirstByte > 0 {
				firsts = append(firsts, r.FirstByte)
			}
		}
		if fb, ok := q.result.PhaseNamed("first_byte"); ok && len(firsts) == 0 {
			firsts = append(firsts, fb)
		}
		if len(firsts) == 0 {
			continue
		}
		m := median(firsts)
		if m-rtt < slowFirstByte || m < 4*rtt {
			a.RuledOut = append(a.RuledOut, RuledOut{"http.server_slow", q.target.Raw, fmt.Sprintf("%s: first byte after %s, round trip %s", q.addr, m, rtt)})
			continue
		}
		f := e.requestFinding(q)
		if len(firsts) < 2 {
			f.Confidence = Likely
		}
		f.Summary = fmt.Sprintf("%s needs %s for the first byte; the network takes %s of that.", q.target.Raw, m, rtt)
		f.Evidence = []Proof{
			proof(q.want.Key(), "first byte after %s (median of %s, slowest %s)", m, plural(len(firsts), "request", "requests"), maxOf(firsts)),
			proof(q.want.Key(), "TCP connect to %s: %s", q.addr, rtt),
		}
		if p := e.Ping(q.addr); p != nil && p.Echo != nil && p.Echo.Received > 0 {
			f.Evidence = append(f.Evidence, proof(WantPing(q.addr).Key(), "%s: %s", q.addr, echoText(p)))
		}
		a.Findings = append(a.Findings, f)
	}
	return mergeByTarget(a)
}
