package diagnose

import (
	"fmt"
	"strings"

	"fathom/sample"
)

var ruleRedirectLoop = Rule{
	ID: "http.redirect_loop", Layer: LayerApplication,
	Title:       "The redirects go round in circles",
	Explanation: "The server sends the client from one address to another and back again. Usually a proxy and the server behind it disagree about http and https, or about www.",
	TellApart:   "The same URL comes twice in one chain of redirects although cookies were kept. A long chain that ends is no loop.",
	Remedy:      []string{"Tell the backend that the outer connection is https (X-Forwarded-Proto), or redirect at one place only", "Check rewrite rules for www and trailing slashes"},
	Validate:    []string{"curl -sIL <url> ends with 200"},
	Sceptic:     "curl -sIL --max-redirs 10 <url> | grep -iE '^(HTTP|location)'",
	References:  []string{"RFC 9110 section 15.4"},
	Explains:    []string{"http.server_error", "http.server_slow", "http.protocol_error"},
	Check: func(e *Evidence) (a Answer) {
		for _, q := range e.requests() {
			h := q.result.HTTP
			if !h.Loop {
				continue
			}
			f := e.requestFinding(q)
			f.Severity = sample.Critical
			var hops []string
			for i, r := range h.Redirects {
				if i == 4 {
					break
				}
				hops = append(hops, fmt.Sprintf("%d %s → %s", r.Status, r.From, r.To))
			}
			f.Summary = fmt.Sprintf("%s redirects in a circle and never delivers a page.", q.target.Raw)
			f.Evidence = []Proof{proof(q.want.Key(), "%s: %s", plural(len(h.Redirects), "redirect", "redirects"), strings.Join(hops, "; "))}
			a.Findings = append(a.Findings, f)
		}
		return mergeByTarget(a)
	},
}
