package diagnose

import (
	"fmt"

	"fathom/probe"
	"fathom/sample"
)

var ruleRedirectBroken = Rule{
	ID: "http.redirect_broken", Layer: LayerApplication,
	Title:       "The redirect leads nowhere",
	Explanation: "The server answers, but sends the client on to an address that does not work: a port where nothing listens, a name that does not resolve, a host that stays silent.",
	TellApart:   "The first answer is a redirect, and the connection to its target fails. If the redirects come back to where they began it is http.redirect_loop.",
	Remedy:      []string{"Correct the Location the server sends (a port or host from behind the proxy that leaked out is the usual reason)", "Or start what should be there"},
	Validate:    []string{"curl -sIL <url> ends with 200"},
	Sceptic:     "curl -sIL <url>",
	References:  []string{"RFC 9110 section 10.2.2 (Location)"},
	Check: func(e *Evidence) (a Answer) {
		for _, q := range e.requests() {
			h := q.result.HTTP
			if len(h.Redirects) == 0 || h.Loop {
				continue
			}
			switch q.result.Outcome {
			case probe.OK, probe.BadAnswer:
				continue
			}
			last := h.Redirects[len(h.Redirects)-1]
			f := e.requestFinding(q)
			f.Severity, f.Location = sample.Critical, last.To
			f.Summary = fmt.Sprintf("%s redirects to %s, which does not work: %s.", q.target.Raw, last.To, q.result.Outcome)
			f.Evidence = []Proof{
				proof(q.want.Key(), "%s answers HTTP %d with Location %s", last.From, last.Status, last.To),
				proof(q.want.Key(), "going there: %s%s", q.result.Outcome, detailText(q.result)),
			}
			a.Findings = append(a.Findings, f)
		}
		return mergeByTarget(a)
	},
}
