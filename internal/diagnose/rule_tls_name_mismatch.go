package diagnose

import (
	"fmt"

	"fathom/probe"
)

var ruleTLSNameMismatch = Rule{
	ID: "tls.name_mismatch", Layer: LayerApplication,
	Title:       "The certificate is for another name",
	Explanation: "The server shows a valid certificate, but not for the name that was asked for: a wrong virtual host, a missing name in the certificate, or an address that belongs to somebody else.",
	TellApart:   "None of the certificate's subject alternative names covers the requested name. If another address of the same name shows the right one, that one server is misconfigured; if DNS sources disagree it is dns.resolver_lies.",
	Remedy:      []string{"Add the name to the certificate, or select the right certificate for this SNI name", "Check that the name points to the right server"},
	Validate:    []string{"openssl s_client -servername <name> … -ext subjectAltName lists the name"},
	Sceptic:     "openssl s_client -connect <address>:<port> -servername <name> </dev/null | openssl x509 -noout -ext subjectAltName",
	References:  []string{"RFC 9525 (service identity)", "RFC 6066 section 3 (SNI)"},
	Explains:    []string{"http.*"},
	Check: certCheck("name_mismatch", func(e *Evidence, h handshake, c probe.Certificate) (string, []Proof) {
		return fmt.Sprintf("The certificate of %s is not for %s but for %s.", h.target.Raw, h.target.Host, joinMax(c.Names, 3)),
			[]Proof{{Text: fmt.Sprintf("names in the certificate: %s; asked for (SNI): %s", joinMax(c.Names, 6), h.target.Host)}}
	}),
}
