package diagnose

import (
	"fmt"
	"net/netip"

	"fathom/probe"
	"fathom/sample"
)

var ruleTLSHandshakeFailed = Rule{
	ID: "tls.handshake_failed", Layer: LayerApplication,
	Title:       "The TLS handshake fails",
	Explanation: "The connection opens, but the two sides do not agree on TLS: the port speaks something else, no common version or cipher, a client certificate is demanded, or the server gives up.",
	TellApart:   "TCP connects; then an alert, an answer that is not TLS, a reset or silence. A certificate that is merely wrong has a rule of its own.",
	Remedy:      []string{"Does this port speak TLS at all? (plain HTTP on 443 is common after a change)", "Compare versions and ciphers of both sides", "Look at the server's TLS error log"},
	Validate:    []string{"openssl s_client completes the handshake"},
	Sceptic:     "openssl s_client -connect <address>:<port> -servername <name>",
	References:  []string{"RFC 8446 section 6 (alerts)"},
	Explains:    []string{"http.*"},
	Check: func(e *Evidence) (a Answer) {
		seen := map[string]bool{}
		for _, p := range e.allPairs() {
			// Without a scheme TLS is our own guess: its failure is no fault.
			if p.Target.Port == 0 || p.Target.Scheme == "" || seen[p.Target.Raw] {
				continue
			}
			ap := netip.AddrPortFrom(p.Addr, p.Target.Port)
			for _, w := range []Want{WantTLS(ap, p.Target.Host), WantHTTP(p.Target.URL, ap)} {
				r := e.Result(w)
				if r == nil || w.Kind == probe.KindHTTP && (p.Target.Scheme != "https" || r.HTTP != nil && len(r.HTTP.Redirects) > 0) {
					continue
				}
				if tlsDone(r) {
					if f, ok := e.outdatedTLS(p, r, w); ok {
						seen[p.Target.Raw] = true
						a.Findings = append(a.Findings, f)
					}
					continue
				}
				if _, connected := r.PhaseNamed("connect"); !connected {
					continue
				}
				switch r.Outcome {
				case probe.Failed, probe.Reset, probe.Timeout:
				default:
					continue
				}
				seen[p.Target.Raw] = true
				f := Finding{
					Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, TLS", ap),
					Severity: sample.Critical, Confidence: Confirmed,
					Summary:  fmt.Sprintf("The TLS handshake with %s fails: %s.", sideOf(p.Target, p.Addr), orWord(r.Detail, string(r.Outcome))),
					Evidence: []Proof{proof(w.Key(), "TCP connects, then, %s later: %s (%s)", r.Elapsed, orWord(r.Detail, "no word"), r.Outcome)},
					Affects:  []string{TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
				}
				if r.TLS != nil && r.TLS.Alert != "" {
					f.Evidence = append(f.Evidence, proof(w.Key(), "alert from the server: %s", r.TLS.Alert))
				}
				a.Findings = append(a.Findings, f)
			}
		}
		return a
	},
}

// outdatedTLS: we still shake hands with TLS 1.0 and 1.1 to see what is there,
// today's browsers and libraries refuse (RFC 8996).
func (e *Evidence) outdatedTLS(p targetPair, r *probe.Result, w Want) (Finding, bool) {
	if r.TLS.Version != "TLS 1.0" && r.TLS.Version != "TLS 1.1" {
		return Finding{}, false
	}
	return Finding{
		Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, TLS", netip.AddrPortFrom(p.Addr, p.Target.Port)),
		Severity: sample.Major, Confidence: Confirmed,
		Summary:  fmt.Sprintf("%s speaks nothing newer than %s: today's clients refuse the handshake.", sideOf(p.Target, p.Addr), r.TLS.Version),
		Evidence: []Proof{proof(w.Key(), "offered TLS 1.0 to 1.3, the server chose %s with %s", r.TLS.Version, orWord(r.TLS.CipherSuite, "no stated cipher"))},
		Remedy:   []string{"Enable TLS 1.2 and 1.3 on the server (RFC 8996 retires 1.0 and 1.1)"},
		Affects:  []string{TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
	}, true
}
