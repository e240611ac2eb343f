package diagnose

import (
	"fmt"

	"fathom/sample"
)

var ruleServerError = Rule{
	ID: "http.server_error", Layer: LayerApplication,
	Title:       "The server answers with an error",
	Explanation: "The network has done its part: the request arrived and an answer came back. The server (or what stands behind it) could not serve it. 502, 503 and 504 come from a proxy whose backend is down, overloaded or slow; 500 from the program itself.",
	TellApart:   "An HTTP status of 500 or above over a sound connection. A status below 500 means that the server works as it is told.",
	Remedy:      []string{"Look at the server's error log at the time of the request", "502, 503, 504: look at the backends behind the proxy", "If only some requests fail, one of several backends is bad"},
	Validate:    []string{"curl -o /dev/null -w '%{http_code}' <url> prints 2xx ten times in a row"},
	Sceptic:     "curl -sv -o /dev/null <url>",
	References:  []string{"RFC 9110 section 15.6"},
	Explains:    []string{"http.server_slow"},
	Check: func(e *Evidence) (a Answer) {
		for _, q := range e.requests() {
			h := q.result.HTTP
			bad, n, status := 0, len(h.Repeats), h.Status
			for _, r := range h.Repeats {
				if r.Status >= 500 {
					bad, status = bad+1, r.Status
				}
			}
			if n == 0 && h.Status >= 500 {
				bad, n = 1, 1
			}
			if bad == 0 {
				if h.Status > 0 && h.Status < 500 {
					a.RuledOut = append(a.RuledOut, RuledOut{"http.server_error", q.target.Raw, fmt.Sprintf("%s answers HTTP %d", q.addr, h.Status)})
				}
				continue
			}
			f := e.requestFinding(q)
			f.Severity = sample.Critical
			f.Summary = fmt.Sprintf("%s answers HTTP %d: the server fails, not the network.", q.target.Raw, status)
			if bad < n {
				f.Severity, f.Confidence = sample.Major, Likely
				f.Summary = fmt.Sprintf("%s fails now and then: %d of %d requests answered with HTTP %d.", q.target.Raw, bad, n, status)
			}
			f.Evidence = []Proof{proof(q.want.Key(), "%d of %d requests to %s: HTTP %d", bad, n, q.addr, status), proof(q.want.Key(), "connected in %s, %s", q.networkRTT(), orWord(h.Proto, "HTTP"))}
			if h.Server != "" {
				f.Evidence = append(f.Evidence, proof(q.want.Key(), "it calls itself %q", h.Server))
			}
			if v := h.Header["Retry-After"]; v != "" {
				f.Evidence = append(f.Evidence, proof(q.want.Key(), "Retry-After: %s", v))
			}
			a.Findings = append(a.Findings, f)
		}
		return mergeByTarget(a)
	},
}

// mergeByTarget keeps one finding per target: the first, with the other
// addresses as evidence.
func mergeByTarget(a Answer) Answer {
	at := map[string]int{}
	var out []Finding
	for _, f := range a.Findings {
		if i, ok := at[f.Subject]; ok {
			out[i].Evidence = append(out[i].Evidence, proof("", "%s: the same", f.Location))
			out[i].Affects = addTags(out[i].Affects, f.Affects...)
			out[i].Depends = addTags(out[i].Depends, f.Depends...)
			continue
		}
		at[f.Subject] = len(out)
		out = append(out, f)
	}
	a.Findings = out
	return a
}
