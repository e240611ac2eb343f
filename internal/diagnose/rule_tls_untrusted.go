package diagnose

import (
	"fmt"

	"fathom/probe"
)

var ruleTLSUntrusted = Rule{
	ID: "tls.untrusted", Layer: LayerApplication,
	Title:       "The certificate chain is not trusted",
	Explanation: "The chain the server sends does not end at a certificate authority that this host trusts: it is self-signed, made by a private authority that is not installed here, or the server forgets to send an intermediate certificate.",
	TellApart:   "Verification fails for the chain, while time and name are right. A missing intermediate shows as a single certificate whose issuer is not self-signed; browsers often hide that, programs fail.",
	Remedy:      []string{"Send the complete chain (server certificate and all intermediates)", "Install the private authority in this host's trust store, if it is meant to be trusted", "A proxy that re-signs traffic (or an attack) looks the same: check who issued it"},
	Validate:    []string{"openssl s_client … prints Verify return code: 0 (ok)"},
	Sceptic:     "openssl s_client -connect <address>:<port> -servername <name> -showcerts </dev/null",
	References:  []string{"RFC 5280 section 6 (path validation)", "RFC 8446 section 4.4.2 (certificate list)"},
	Explains:    []string{"http.*"},
	Check: certCheck("untrusted", func(e *Evidence, h handshake, c probe.Certificate) (string, []Proof) {
		why := fmt.Sprintf("its issuer %q is not known here", c.Issuer)
		if c.SelfSigned {
			why = "it is self-signed"
		}
		return fmt.Sprintf("The certificate of %s is not trusted by this host: %s.", h.target.Raw, why),
			[]Proof{{Text: fmt.Sprintf("the server sends %s", plural(len(h.tls.Chain), "certificate", "certificates"))}}
	}),
}
