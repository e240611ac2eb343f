package diagnose

import (
	"fmt"
	"time"

	"fathom/sample"
)

var ruleTLSExpiringSoon = Rule{
	ID: "tls.expiring_soon", Layer: LayerApplication,
	Title:       "The certificate expires soon",
	Explanation: "All is well now, but the certificate ends within days. Automatic renewal happens earlier than that, so it has probably failed.",
	TellApart:   "Fewer than 14 days are left, and less than a third of the certificate's whole life: certificates that live for a week by design are fine until then.",
	Remedy:      []string{"Renew now, and reload the server", "Look at why automatic renewal did not do it (certbot renew --dry-run, the ACME client's log)"},
	Validate:    []string{"openssl s_client shows a notAfter that is weeks away"},
	Sceptic:     "openssl s_client -connect <address>:<port> -servername <name> </dev/null | openssl x509 -noout -enddate",
	References:  []string{"RFC 5280 section 4.1.2.5"},
	Check: func(e *Evidence) (a Answer) {
		seen := map[string]bool{}
		for _, h := range e.handshakes() {
			if !h.tls.Verified || seen[h.target.Raw] {
				continue
			}
			for i, c := range h.tls.Chain {
				left, life := c.NotAfter.Sub(e.Started), c.NotAfter.Sub(c.NotBefore)
				if left > expiryWarning || left > life/3 || left < 0 {
					continue
				}
				seen[h.target.Raw] = true
				a.Findings = append(a.Findings, Finding{
					Subject: h.target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, certificate %d of the chain", h.addr, i+1),
					Severity: sample.Minor, Confidence: Confirmed,
					Summary:  fmt.Sprintf("The certificate of %s expires in %s.", h.target.Raw, ago(left)),
					Evidence: []Proof{proof(h.key, "%q is valid until %s, %s of its %s of life are left", c.Subject, day(c.NotAfter), ago(left), ago(life))},
					Affects:  []string{TagTarget(h.target.Raw)}, Depends: e.pairDepends(h.target, h.addr),
				})
				break
			}
		}
		return a
	},
}

// expiryWarning is two weeks: ACME clients renew 30 days ahead, so two failed
// weeks of daily attempts lie behind it.
const expiryWarning = 14 * 24 * time.Hour
