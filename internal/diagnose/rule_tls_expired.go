package diagnose

import (
	"fmt"

	"fathom/probe"
)

var ruleTLSExpired = Rule{
	ID: "tls.expired", Layer: LayerApplication,
	Title:       "The certificate has expired",
	Explanation: "The server shows a certificate (its own, or one of its chain) whose validity has ended. Every client that checks refuses the connection.",
	TellApart:   "notAfter of a certificate in the chain lies before this host's clock. If the clock of this host is wrong, all sites look expired or not yet valid: compare with another clock.",
	Remedy:      []string{"Renew the certificate and reload the server (a renewed file that was never loaded is the usual case)", "If it is an intermediate: install the issuer's current chain", "Repair the automatic renewal, and alert on the days left"},
	Validate:    []string{"openssl s_client shows the new notAfter, from every address of the name"},
	Sceptic:     "openssl s_client -connect <address>:<port> -servername <name> </dev/null | openssl x509 -noout -dates",
	References:  []string{"RFC 5280 section 4.1.2.5 (validity)"},
	Explains:    []string{"http.*", "tls.untrusted"},
	Check: certCheck("expired", func(e *Evidence, h handshake, c probe.Certificate) (string, []Proof) {
		more := []Proof{{Text: fmt.Sprintf("expired %s before this host's clock (%s)", ago(e.Started.Sub(c.NotAfter)), day(e.Started))}}
		if x := e.clockText(); x != "" {
			more = append(more, Proof{Text: x})
		}
		return fmt.Sprintf("The certificate of %s expired %s ago.", h.target.Raw, ago(e.Started.Sub(c.NotAfter))), more
	}),
}
