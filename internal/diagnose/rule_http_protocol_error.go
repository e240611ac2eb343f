package diagnose

import (
	"fmt"

	"fathom/probe"
	"fathom/sample"
)

var ruleProtocolError = Rule{
	ID: "http.protocol_error", Layer: LayerApplication,
	Title:       "The server breaks off or does not speak HTTP",
	Explanation: "The connection opens and the request goes out, but instead of a proper response the server resets or closes the connection, or answers something that is not HTTP.",
	TellApart:   "TCP (and TLS) succeed, then a reset, an early end or garbage. A refusal before that is tcp.refused.",
	Remedy:      []string{"Is this the right port and scheme (http against https)?", "Look at the server's log: worker crashes and time-outs look like this", "A middlebox that inspects traffic can do it too: try from another place"},
	Validate:    []string{"curl -sv <url> prints a status line"},
	Sceptic:     "curl -sv -o /dev/null <url>",
	References:  []string{"RFC 9112 section 8 (incomplete messages)"},
	Check: func(e *Evidence) (a Answer) {
		for _, q := range e.requests() {
			rtt, ok := e.connected(q)
			if q.result.HTTP.Loop || len(q.result.HTTP.Redirects) > 0 || q.result.Outcome != probe.Failed && q.result.Outcome != probe.Reset || !ok {
				continue
			}
			if q.target.Scheme == "https" && !tlsDone(q.result) {
				continue
			}
			f := e.requestFinding(q)
			f.Severity = sample.Critical
			f.Summary = fmt.Sprintf("%s accepts the connection but gives no proper HTTP answer: %s.", q.target.Raw, orWord(q.result.Detail, string(q.result.Outcome)))
			f.Evidence = []Proof{proof(q.want.Key(), "connected to %s in %s, then: %s%s", q.addr, rtt, q.result.Outcome, detailText(q.result))}
			a.Findings = append(a.Findings, f)
		}
		return mergeByTarget(a)
	},
}
