package diagnose

import (
	"net/netip"

	"fathom/probe"
	"fathom/sample"
)

// request is one HTTP measurement of a target at one address.
type request struct {
	target Target
	addr   netip.Addr
	want   Want
	result *probe.Result
}

func (e *Evidence) requests() []request {
	var out []request
	for _, p := range e.allPairs() {
		if p.Target.URL == "" {
			continue
		}
		w := WantHTTP(p.Target.URL, netip.AddrPortFrom(p.Addr, p.Target.Port))
		if r := e.Result(w); r != nil && r.HTTP != nil {
			out = append(out, request{p.Target, p.Addr, w, r})
		}
	}
	return out
}

// networkRTT is the round trip of the request's own connection.
func (q request) networkRTT() sample.Duration {
	if d, ok := q.result.PhaseNamed("connect"); ok {
		return d
	}
	if q.result.RTT != nil {
		return q.result.RTT.Value
	}
	return 0
}

// connected says how quickly the port accepts connections, by the request itself
// or by the connects beside it (a reset may come before the request is noted).
func (e *Evidence) connected(q request) (sample.Duration, bool) {
	if d := q.networkRTT(); d > 0 {
		return d, true
	}
	r := e.Result(WantTCP(netip.AddrPortFrom(q.addr, q.target.Port)))
	if r == nil || r.Outcome != probe.OK && r.Outcome != probe.Reset || r.TCP == nil || r.TCP.Connected == 0 {
		return 0, false
	}
	return median(r.TCP.Connects), true
}

func (e *Evidence) requestFinding(q request) Finding {
	return Finding{
		Subject: q.target.Raw, SubjectKind: sample.KindTarget, Location: q.addr.String() + ", HTTP server",
		Severity: sample.Major, Confidence: Confirmed,
		Sceptic: []string{"curl -sv -o /dev/null --connect-to ::" + q.addr.String() + ": " + q.target.URL},
		Affects: []string{TagTarget(q.target.Raw)}, Depends: e.pairDepends(q.target, q.addr),
	}
}
