package diagnose

import (
	"slices"
	"testing"
	"time"

	"fathom/probe"
)

func days(n float64) time.Time { return t0.Add(time.Duration(n * 24 * float64(time.Hour))) }

func TestTLSRules(t *testing.T) {
	insecure := httpTarget(webURLTLS)
	insecure.Insecure = true
	bad := map[string]option{
		"expired":       badCertificate("expired", func(c *probe.Certificate) { c.NotAfter = days(-3) }),
		"not_yet_valid": badCertificate("not_yet_valid", func(c *probe.Certificate) { c.NotBefore = days(2) }),
		"name_mismatch": badCertificate("name_mismatch", func(c *probe.Certificate) { c.Names = []string{"other.lab.test"} }),
		"untrusted":     badCertificate("untrusted", func(c *probe.Certificate) { c.SelfSigned = true }),
	}
	cases := []verdictOf{
		{
			name: "expired, over the bare tls probe", opts: opts(asking(Target{Raw: "tls://web.lab.test:853", Scheme: "tls", Host: webName, Port: 853}), bad["expired"]),
			cause: "tls.expired", subject: "tls://web.lab.test:853", location: "10.0.9.9, server certificate", severity: critical, proof: "expired 3 days before",
		},
		{
			name: "expired intermediate", opts: opts(askURL(webURLTLS), certificate(func(t *probe.TLS) {
				t.Verified, t.Problem, t.ProblemCert = false, "expired", 1
				t.Chain = append(t.Chain, probe.Certificate{Subject: "CN=Old", Issuer: "CN=Root", NotBefore: days(-900), NotAfter: days(-1)})
			})),
			cause: "tls.expired", subject: webURLTLS, location: "certificate 2 of the chain", severity: critical, proof: "CN=Old",
		},
		{
			name: "expires in five days", opts: opts(askURL(webURLTLS), certificate(func(t *probe.TLS) { t.Chain[0].NotAfter = days(5) })),
			cause: "tls.expiring_soon", subject: webURLTLS, location: "certificate 1", severity: minor, conf: Confirmed, proof: "5 days",
		},
		{name: "expires in twenty days", opts: opts(askURL(webURLTLS), certificate(func(t *probe.TLS) { t.Chain[0].NotAfter = days(20) }))},
		{name: "lives for a week by design, three days left", opts: opts(askURL(webURLTLS), certificate(func(t *probe.TLS) { t.Chain[0].NotBefore, t.Chain[0].NotAfter = days(-4), days(3) }))},

		{
			name: "handshake fails with an alert", opts: opts(askURL(webURLTLS), web(func(r *probe.Result) {
				r.Outcome, r.Detail, r.Phases, r.TLS = probe.Failed, "handshake failure", r.Phases[:1], &probe.TLS{Alert: "handshake_failure"}
				r.HTTP = &probe.HTTP{URL: r.Target}
			})),
			cause: "tls.handshake_failed", subject: webURLTLS, location: "10.0.9.9:443, TLS", severity: critical, proof: "handshake_failure",
		},
		{
			name: "handshake hangs", opts: opts(askURL(webURLTLS), web(func(r *probe.Result) {
				r.Outcome, r.Detail, r.Phases, r.TLS = probe.Timeout, "no answer to ClientHello", r.Phases[:1], nil
				r.HTTP = &probe.HTTP{URL: r.Target}
			})),
			cause: "tls.handshake_failed", subject: webURLTLS, location: "TLS", severity: critical,
		},
		{name: "handshake: a bare port that speaks something else", opts: opts(askTCP(webAddr, 8443), change(kind("tls"), func(r *probe.Result) {
			r.Outcome, r.Phases, r.TLS, r.Detail = probe.Failed, r.Phases[:1], nil, "first record does not look like TLS"
		}))},
		{
			name: "handshake slow", opts: opts(askURL(webURLTLS), certificate(func(t *probe.TLS) { t.Handshake = ms(1500) })),
			cause: "tls.handshake_slow", subject: webURLTLS, location: "10.0.9.9, TLS", severity: major, conf: Likely,
		},
		{name: "handshake: two round trips over a satellite", info: []string{"path.latency_step"}, opts: opts(askURL(webURLTLS), roundTrip(hop2, ms(600)), roundTrip(hop3, ms(600)), roundTrip(webAddr, ms(600)),
			certificate(func(t *probe.TLS) { t.Version, t.Handshake = "TLS 1.2", ms(1300) }))},
		{name: "handshake: 200 ms of arithmetic", opts: opts(askURL(webURLTLS), certificate(func(t *probe.TLS) { t.Handshake = ms(210) }))},
	}
	for problem, o := range bad {
		cases = append(cases,
			verdictOf{
				name: problem, opts: opts(askURL(webURLTLS), o), cause: "tls." + problem, subject: webURLTLS,
				location: "10.0.9.9, server certificate", severity: critical, conf: Confirmed, proof: "verifier: x509",
			},
			verdictOf{name: problem + ", and the user said not to mind", opts: opts(asking(insecure), o)})
	}
	slices.SortFunc(cases, func(a, b verdictOf) int { return len(a.name) - len(b.name) })
	judge(t, cases)
}

func TestHTTPRules(t *testing.T) {
	status := func(all ...int) option {
		return web(func(r *probe.Result) {
			r.HTTP.Status = all[0]
			for i := range r.HTTP.Repeats {
				r.HTTP.Repeats[i].Status = all[i%len(all)]
			}
			if all[0] >= 500 {
				r.Outcome = probe.BadAnswer
			}
		})
	}
	firstByte := func(all ...float64) option {
		return web(func(r *probe.Result) {
			for i := range r.HTTP.Repeats {
				r.HTTP.Repeats[i].FirstByte = ms(all[i%len(all)])
			}
		})
	}
	broken := func(o probe.Outcome, detail string) option {
		return web(func(r *probe.Result) {
			r.Outcome, r.Detail = o, detail
			r.Phases = slices.DeleteFunc(r.Phases, func(p probe.Phase) bool { return p.Name == "first_byte" || p.Name == "body" })
			r.HTTP = &probe.HTTP{URL: r.Target}
		})
	}
	redirects := []probe.Redirect{{From: webURL, Status: 302, To: "http://web.lab.test/a"}, {From: "http://web.lab.test/a", Status: 302, To: webURL}}
	h3 := func(authority string) option { return web(func(r *probe.Result) { r.HTTP.AltSvcH3 = authority }) }
	noQUIC := silent(kind("http3"))
	judge(t, []verdictOf{
		{
			name: "redirect loop", opts: opts(askURL(webURL), web(func(r *probe.Result) {
				r.Outcome, r.HTTP.Loop, r.HTTP.Status, r.HTTP.Redirects = probe.BadAnswer, true, 302, redirects
			})),
			cause: "http.redirect_loop", subject: webURL, location: "10.0.9.9", severity: critical, conf: Confirmed, proof: "2 redirects",
		},
		{
			name: "a body that trickles", opts: opts(askURL(webURL), web(func(r *probe.Result) {
				r.Outcome, r.HTTP.Bytes, r.HTTP.Repeats = probe.Timeout, 600, nil
				r.Phases = []probe.Phase{{Name: "connect", Duration: ms(10)}, {Name: "first_byte", Duration: ms(11)}, {Name: "body", Duration: ms(5900)}}
			})),
			cause: "http.transfer_slow", subject: webURL, location: "10.0.9.9", severity: major, conf: Confirmed, proof: "600 bytes",
		},
		{
			name: "redirect to a port where nothing listens", opts: opts(askURL(webURL), web(func(r *probe.Result) {
				r.Outcome, r.Detail, r.HTTP.Status, r.HTTP.Redirects = probe.Refused, "connection refused", 0, []probe.Redirect{{From: webURL, Status: 302, To: "http://web.lab.test:8888/"}}
			})),
			cause: "http.redirect_broken", subject: webURL, location: "8888", severity: critical, conf: Confirmed, proof: "HTTP 302",
		},
		{name: "redirects that end", opts: opts(askURL(webURL), web(func(r *probe.Result) { r.HTTP.Redirects = redirects[:1] }))},
		{
			name: "503 each time", opts: opts(askURL(webURL), status(503), web(func(r *probe.Result) { r.HTTP.Header = map[string]string{"Retry-After": "30"} })),
			cause: "http.server_error", subject: webURL, location: "10.0.9.9", severity: critical, conf: Confirmed, proof: "Retry-After: 30",
		},
		{
			name: "one of three backends", opts: opts(askURL(webURLTLS), status(200, 502, 200)),
			cause: "http.server_error", subject: webURLTLS, location: webAddr, severity: major, conf: Likely, proof: "1 of 3",
		},
		{name: "404", opts: opts(askURL(webURL), status(404))},
		{name: "401, 403, 429", opts: opts(askURL(webURL), status(401, 403, 429))},
		{
			name: "slow first byte", opts: opts(askURL(webURL), firstByte(1800, 1900, 2000)),
			cause: "http.server_slow", subject: webURL, location: webAddr, severity: major, conf: Confirmed, proof: "median of 3 requests",
		},
		{
			name: "takes the request and says nothing", opts: opts(askURL(webURLTLS), broken(probe.Timeout, "no response header")),
			cause: "http.server_slow", subject: webURLTLS, location: webAddr, severity: critical,
		},
		{name: "slow only while it warms up", opts: opts(askURL(webURL), firstByte(1800, 15, 15))},
		{name: "slow because the path is long", opts: opts(askURL(webURL), firstByte(1250), roundTrip(webAddr, ms(600)), roundTrip(hop3, ms(600)), roundTrip(hop2, ms(600))), info: []string{"path.latency_step"}},
		{
			name: "reset after the request", opts: opts(askURL(webURL), broken(probe.Reset, "connection reset by peer")),
			cause: "http.protocol_error", subject: webURL, location: webAddr, severity: critical, conf: Confirmed,
		},
		{
			name: "not HTTP", opts: opts(askURL(webURLTLS), broken(probe.Failed, "malformed HTTP response")),
			cause: "http.protocol_error", subject: webURLTLS, location: webAddr, severity: critical,
		},
		{
			name: "HTTP/3 announced and silent", opts: opts(askURL(webURLTLS), h3(":443"), noQUIC),
			cause: "http.h3_blocked", subject: webURLTLS, location: "UDP port 443", severity: minor, conf: Confirmed,
		},
		{name: "HTTP/3 announced and served", opts: opts(askURL(webURLTLS), h3(":443"))},
		{name: "HTTP/3 announced for another host", opts: opts(askURL(webURLTLS), h3("other.lab.test:443"), noQUIC)},
		{name: "HTTP/3 announced at no sensible port", opts: opts(askURL(webURLTLS), h3("x"), noQUIC)},
		{name: "UDP 443 filtered and nothing announced", opts: opts(askURL(webURLTLS), noQUIC)},
	})
}
