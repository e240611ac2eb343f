package diagnose

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"fathom/sample"
)

var ruleTLSHandshakeSlow = Rule{
	ID: "tls.handshake_slow", Layer: LayerApplication,
	Title:       "The TLS handshake takes far longer than the network needs",
	Explanation: "A handshake needs one round trip (TLS 1.3) or two (1.2) and some arithmetic. What it takes beyond that is the server: overloaded CPU, a slow look-up of certificates or OCSP, or a proxy that waits for something.",
	TellApart:   "Handshake time minus the round trips it needs, with the TCP connect of the same connection as the measure of one round trip.",
	Remedy:      []string{"Look at the TLS terminator's CPU and its entropy and key store", "Use ECDSA keys and session resumption; staple OCSP"},
	Validate:    []string{"curl -w '%{time_appconnect} %{time_connect}' shows a difference of one or two round trips"},
	Sceptic:     "curl -so /dev/null -w 'tcp %{time_connect} tls %{time_appconnect}\\n' <url>",
	References:  []string{"RFC 8446 section 2", "RFC 5246 section 7.3"},
	Explains:    []string{"http.server_slow"},
	Check: func(e *Evidence) (a Answer) {
		seen := map[string]bool{}
		for _, h := range e.handshakes() {
			if h.tls.Handshake == 0 || h.tls.ConnectRTT == 0 || len(h.tls.Chain) == 0 || seen[h.target.Raw] {
				continue
			}
			trips := sample.Duration(1)
			if !strings.Contains(h.tls.Version, "1.3") {
				trips = 2
			}
			extra := h.tls.Handshake - trips*h.tls.ConnectRTT
			if extra < slowHandshake || h.tls.Handshake < 4*trips*h.tls.ConnectRTT {
				a.RuledOut = append(a.RuledOut, RuledOut{"tls.handshake_slow", h.target.Raw, fmt.Sprintf("%s: handshake %s, round trip %s", h.addr, h.tls.Handshake, h.tls.ConnectRTT)})
				continue
			}
			again := WantTLS(netip.AddrPortFrom(h.addr, h.target.Port), h.target.Host)
			if again.Key() == h.key {
				again.Round = 2
			}
			second, ok := e.Get(again)
			if !ok {
				a.Wants = append(a.Wants, again) // once may be chance
				continue
			}
			if second.Result != nil && second.Result.TLS != nil && second.Result.TLS.Handshake-trips*second.Result.TLS.ConnectRTT < slowHandshake {
				continue
			}
			seen[h.target.Raw] = true
			a.Findings = append(a.Findings, Finding{
				Subject: h.target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, TLS", h.addr),
				Severity: sample.Major, Confidence: Likely,
				Summary: fmt.Sprintf("The TLS handshake with %s takes %s, of which the network needs %s.", h.target.Raw, h.tls.Handshake, trips*h.tls.ConnectRTT),
				Evidence: []Proof{
					proof(h.key, "TCP connect (one round trip): %s; TLS handshake: %s (%s needs %d)", h.tls.ConnectRTT, h.tls.Handshake, orWord(h.tls.Version, "TLS"), trips),
					proof(h.key, "%s are spent in the server", extra),
				},
				Affects: []string{TagTarget(h.target.Raw)}, Depends: e.pairDepends(h.target, h.addr),
			})
		}
		return a
	},
}

// slowHandshake is far more than any key operation on a healthy server needs.
const slowHandshake = sample.Duration(300 * time.Millisecond)
