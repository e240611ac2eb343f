package diagnose

import (
	"fmt"

	"fathom/probe"
)

var ruleTLSNotYetValid = Rule{
	ID: "tls.not_yet_valid", Layer: LayerApplication,
	Title:       "The certificate is not valid yet",
	Explanation: "The certificate's validity begins in the future. Either it was issued and installed too early, or this host's clock is behind.",
	TellApart:   "notBefore lies after this host's clock. If other servers' certificates look too new as well, or their Date headers disagree with this host, the clock is wrong.",
	Remedy:      []string{"Check this host's clock first: timedatectl, chronyc tracking", "If the clock is right: install a certificate that is valid now"},
	Validate:    []string{"The handshake verifies"},
	Sceptic:     "date -u; openssl s_client -connect <address>:<port> -servername <name> </dev/null | openssl x509 -noout -dates",
	References:  []string{"RFC 5280 section 4.1.2.5 (validity)"},
	Explains:    []string{"http.*", "tls.untrusted"},
	Check: certCheck("not_yet_valid", func(e *Evidence, h handshake, c probe.Certificate) (string, []Proof) {
		more := []Proof{{Text: fmt.Sprintf("valid only in %s; this host's clock says %s", ago(c.NotBefore.Sub(e.Started)), day(e.Started))}}
		if x := e.clockText(); x != "" {
			more = append(more, Proof{Text: x})
		}
		return fmt.Sprintf("The certificate of %s becomes valid only in %s (or this host's clock is behind).", h.target.Raw, ago(c.NotBefore.Sub(e.Started))), more
	}),
}
