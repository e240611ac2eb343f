package diagnose

import (
	"fmt"
	"net/netip"
	"time"

	"fathom/probe"
	"fathom/sample"
)

// handshake is one TLS handshake that was made for a target.
type handshake struct {
	target Target
	addr   netip.Addr
	key    string
	result *probe.Result
	tls    *probe.TLS
}

// handshakes lists the TLS handshakes of all targets, from tls and http probes.
func (e *Evidence) handshakes() []handshake {
	var out []handshake
	for _, p := range e.allPairs() {
		if p.Target.Port == 0 {
			continue
		}
		ap := netip.AddrPortFrom(p.Addr, p.Target.Port)
		for _, w := range []Want{WantTLS(ap, p.Target.Host), WantHTTP(p.Target.URL, ap)} {
			if r := e.Result(w); r != nil && r.TLS != nil {
				out = append(out, handshake{p.Target, p.Addr, w.Key(), r, r.TLS})
				break
			}
		}
	}
	return out
}

// certCheck is the shape that all certificate rules share: one finding per
// target, with every address that shows the problem.
func certCheck(problem string, describe func(e *Evidence, h handshake, c probe.Certificate) (summary string, more []Proof)) func(*Evidence) Answer {
	return func(e *Evidence) (a Answer) {
		at := map[string]int{}
		for _, h := range e.handshakes() {
			if h.target.Insecure {
				continue
			}
			if h.tls.Verified {
				a.RuledOut = append(a.RuledOut, RuledOut{"tls." + problem, h.target.Raw, verifiedText(e, h)})
				continue
			}
			if h.tls.Problem != problem {
				continue
			}
			if i, ok := at[h.target.Raw]; ok {
				a.Findings[i].Evidence = append(a.Findings[i].Evidence, proof(h.key, "%s shows the same", h.addr))
				continue
			}
			c := problemCert(h.tls)
			f := Finding{
				Subject: h.target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, %s", h.addr, certPlace(h.tls)),
				Severity: sample.Critical, Confidence: Confirmed,
				Sceptic: []string{fmt.Sprintf("openssl s_client -connect %s -servername %s </dev/null | openssl x509 -noout -subject -issuer -dates -ext subjectAltName", netip.AddrPortFrom(h.addr, h.target.Port), h.target.Host)},
				Affects: []string{TagTarget(h.target.Raw)}, Depends: e.pairDepends(h.target, h.addr),
			}
			var more []Proof
			f.Summary, more = describe(e, h, c)
			f.Evidence = append(f.Evidence, proof(h.key, "certificate %q, issued by %q, valid %s to %s", c.Subject, c.Issuer, day(c.NotBefore), day(c.NotAfter)))
			for _, p := range more {
				p.Measurement = h.key
				f.Evidence = append(f.Evidence, p)
			}
			if h.tls.ProblemText != "" {
				f.Evidence = append(f.Evidence, proof(h.key, "verifier: %s", h.tls.ProblemText))
			}
			at[h.target.Raw] = len(a.Findings)
			a.Findings = append(a.Findings, f)
		}
		return a
	}
}

func verifiedText(e *Evidence, h handshake) string {
	if len(h.tls.Chain) == 0 {
		return fmt.Sprintf("%s: certificate verified", h.addr)
	}
	left := h.tls.Chain[0].NotAfter.Sub(e.Started)
	return fmt.Sprintf("%s: certificate verified, %.0f days left", h.addr, left.Hours()/24)
}

func problemCert(t *probe.TLS) probe.Certificate {
	if t.ProblemCert >= 0 && t.ProblemCert < len(t.Chain) {
		return t.Chain[t.ProblemCert]
	}
	return probe.Certificate{}
}

func certPlace(t *probe.TLS) string {
	if t.ProblemCert == 0 {
		return "server certificate"
	}
	return fmt.Sprintf("certificate %d of the chain", t.ProblemCert+1)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// ago says how long before or after now a time lies, in the unit a person would use.
func ago(d time.Duration) string {
	if d < 0 {
		d = -d
	}
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%.0f hours", d.Hours())
	}
	return fmt.Sprintf("%.0f minutes", d.Minutes())
}

// clockText compares this host's clock with what servers said in their Date headers.
func (e *Evidence) clockText() string {
	for i := range e.Measured {
		r := e.Measured[i].Result
		if r == nil || r.HTTP == nil || r.HTTP.Date.IsZero() {
			continue
		}
		off := r.HTTP.Date.Sub(r.Start)
		if off > 5*time.Minute || off < -5*time.Minute {
			return fmt.Sprintf("%s says in its Date header that it is %s: this host's clock differs by %s", r.Target, day(r.HTTP.Date), ago(off))
		}
		return fmt.Sprintf("this host's clock agrees with the Date header of %s", r.Target)
	}
	return ""
}

// tlsDone: the handshake went far enough to show a certificate, and no alert ended it.
func tlsDone(r *probe.Result) bool {
	return r.TLS != nil && len(r.TLS.Chain) > 0 && r.TLS.Alert == ""
}
