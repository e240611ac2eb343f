package diagnose

import (
	"fmt"

	"fathom/probe"
	"fathom/sample"
)

var ruleTransferSlow = Rule{
	ID: "http.transfer_slow", Layer: LayerApplication,
	Title:       "The page arrives far too slowly",
	Explanation: "The server answered quickly, but its body trickles in: it did not arrive within the time a user would wait. The server sends slowly (a busy backend, a rate limit), or the path loses so much that TCP crawls.",
	TellApart:   "The response head is there and the body is not complete when the time is up, with less than a few kilobytes per second. If echo on the same path loses packets, it is path.loss.",
	Remedy:      []string{"Look at what produces the body: a streaming backend, a bandwidth limit in the server or proxy", "Measure the path with a long transfer from another server"},
	Validate:    []string{"curl -o /dev/null -w '%{speed_download}' <url> is in the usual range"},
	Sceptic:     "curl -so /dev/null -w 'speed %{speed_download} B/s, total %{time_total} s\\n' <url>",
	References:  []string{"RFC 9110 section 6.4"},
	Check: func(e *Evidence) (a Answer) {
		for _, q := range e.requests() {
			body, ok := q.result.PhaseNamed("body")
			h := q.result.HTTP
			if !ok || h.Status == 0 || h.Status >= 500 || q.result.Outcome != probe.Timeout || body <= 0 {
				continue
			}
			rate := float64(h.Bytes) / body.Seconds()
			if rate > slowBody {
				continue // large, not slow
			}
			f := e.requestFinding(q)
			f.Severity = sample.Major
			f.Summary = fmt.Sprintf("%s answers HTTP %d, but its body comes at %.0f bytes per second and is not complete after %s.", q.target.Raw, h.Status, rate, secs(body.Std()))
			f.Evidence = []Proof{
				proof(q.want.Key(), "%d bytes of the body in %s", h.Bytes, secs(body.Std())),
				proof(q.want.Key(), "connected in %s", q.networkRTT()),
			}
			a.Findings = append(a.Findings, f)
		}
		return mergeByTarget(a)
	},
}

// slowBody is 20 kB/s: a page of usual size then takes a minute and more.
const slowBody = 20e3
