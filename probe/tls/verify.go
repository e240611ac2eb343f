package tls

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"fathom/probe"
)

// MaxChain is how many certificates of a chain are looked at. Real chains have
// two to five; a server may send as many as fit into 256 KiB.
const MaxChain = 20

// maxNames is how many names of one certificate are kept.
const maxNames = 100

// The problems a chain can have, in the order in which they are named.
const (
	Expired      = "expired"
	NotYetValid  = "not_yet_valid"
	NameMismatch = "name_mismatch"
	Untrusted    = "untrusted"
)

// Verdict is what Verify thinks of a chain.
type Verdict struct {
	Verified bool
	Problem  string // the first that applies
	Cert     int    // index in the chain Problem is about
	Text     string // all problems, each with its reason
}

// Verify judges a chain as the server sent it, leaf first, for name (host name
// or address literal) at now. Only certificates on the leaf's own path count: an
// expired certificate that was sent but is not needed is no problem. With no
// roots on this host at all, trust cannot be judged: neither Verified nor Untrusted.
// Revocation is not checked.
func Verify(chain []*x509.Certificate, name string, roots *x509.CertPool, now time.Time) Verdict {
	if len(chain) == 0 {
		return Verdict{Problem: Untrusted, Text: "the server sent no certificate"}
	}
	if len(chain) > MaxChain {
		chain = chain[:MaxChain]
	}
	haveRoots := true
	if roots == nil {
		roots, haveRoots = systemRoots()
	}
	j := judge{chain: chain, roots: roots, now: now}
	err := j.verifyAt(0, now)
	if err != nil {
		j.path = j.walk()
		j.times()
	}
	if e := chain[0].VerifyHostname(bracket(name)); e != nil {
		j.add(NameMismatch, 0, nameText(chain[0], name))
	}
	switch {
	case err == nil:
	case haveRoots:
		j.trust(err)
	default:
		j.texts = append(j.texts, "trust not judged: this host has no root certificates (install ca-certificates)")
	}
	return Verdict{Verified: err == nil && j.problem == "", Problem: j.problem, Cert: j.cert, Text: strings.Join(j.texts, "; ")}
}

// systemRoots returns this host's trust store and whether it holds anything.
// crypto/x509 reads it once per process.
var systemRoots = sync.OnceValues(func() (*x509.CertPool, bool) {
	p, err := x509.SystemCertPool()
	if err != nil {
		return x509.NewCertPool(), false
	}
	return p, !p.Equal(x509.NewCertPool())
})

// bracket makes VerifyHostname take s for an address if it is one.
func bracket(s string) string {
	if a, err := netip.ParseAddr(s); err == nil {
		return "[" + a.WithZone("").String() + "]"
	}
	return s
}

// judge collects the problems of one chain.
type judge struct {
	chain   []*x509.Certificate
	roots   *x509.CertPool
	now     time.Time
	path    []int // indices in chain from the leaf towards the root, as far as the sent ones go
	problem string
	cert    int
	texts   []string
}

func (j *judge) add(problem string, cert int, text string) {
	if j.problem == "" {
		j.problem, j.cert = problem, cert
	}
	j.texts = append(j.texts, text)
}

// verifyAt verifies certificate i, with all sent ones as intermediates, at t.
func (j *judge) verifyAt(i int, t time.Time) error {
	inter := x509.NewCertPool()
	for _, c := range j.chain[1:] {
		inter.AddCert(c)
	}
	usage := x509.ExtKeyUsageServerAuth
	if i > 0 {
		usage = x509.ExtKeyUsageAny
	}
	_, err := j.chain[i].Verify(x509.VerifyOptions{
		Roots: j.roots, Intermediates: inter, CurrentTime: t, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err
}

// walk follows issuers from the leaf through the sent certificates, whatever
// order they came in, preferring one that is valid now where several would do.
func (j *judge) walk() []int {
	path, used := []int{0}, make([]bool, len(j.chain))
	used[0] = true
	for cur := 0; !selfSigned(j.chain[cur]); {
		next := -1
		for i, c := range j.chain {
			if used[i] || !issued(c, j.chain[cur]) {
				continue
			}
			if next < 0 || (!j.validNow(j.chain[next]) && j.validNow(c)) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		used[next], cur = true, next
		path = append(path, next)
	}
	return path
}

func (j *judge) validNow(c *x509.Certificate) bool {
	return !j.now.After(c.NotAfter) && !j.now.Before(c.NotBefore)
}

// times adds expired and not yet valid certificates of the path, all of the first before all of the second.
func (j *judge) times() {
	for _, i := range j.path {
		if c := j.chain[i]; j.now.After(c.NotAfter) {
			j.add(Expired, i, fmt.Sprintf("%s expired on %s, %s ago", j.which(i), date(c.NotAfter), age(j.now.Sub(c.NotAfter))))
		}
	}
	for _, i := range j.path {
		if c := j.chain[i]; j.now.Before(c.NotBefore) {
			j.add(NotYetValid, i, fmt.Sprintf("%s is not valid before %s, in %s", j.which(i), date(c.NotBefore), age(c.NotBefore.Sub(j.now))))
		}
	}
}

// trust finds out whether, time aside, the chain leads to a root of this host; err is
// the verifier's answer at j.now.
func (j *judge) trust(err error) {
	last := j.path[len(j.path)-1]
	if j.problem == Expired || j.problem == NotYetValid {
		if err = j.timeless(last); err == nil {
			return
		}
	}
	c := j.chain[last]
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case j.weak() >= 0:
		i := j.weak()
		j.add(Untrusted, i, fmt.Sprintf("%s is signed with %s, which is not accepted any more", j.which(i), j.chain[i].SignatureAlgorithm))
	case errors.As(err, &unknown) && selfSigned(c) && last == 0:
		j.add(Untrusted, 0, "the certificate is self-signed and not in this host's trust store")
	case errors.As(err, &unknown) && selfSigned(c):
		j.add(Untrusted, last, fmt.Sprintf("the root %q is not in this host's trust store", subject(c)))
	case errors.As(err, &unknown):
		j.add(Untrusted, last, fmt.Sprintf("the server does not send the intermediate %q, and it is no root of this host's trust store", issuer(c)))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		j.add(Untrusted, last, fmt.Sprintf("the root of this host's trust store that the chain leads to, %q, is outside its validity", subject(invalid.Cert)))
	default:
		j.add(Untrusted, j.indexOf(err), strings.TrimPrefix(err.Error(), "x509: "))
	}
}

// timeless verifies at moments at which the certificates concerned were valid:
// the leaf first (which also checks usage and constraints), then, as there may be no moment
// when all of the path was valid, only the last certificate of the path.
func (j *judge) timeless(last int) error {
	var err error
	for _, i := range []int{0, last} {
		for _, t := range []time.Time{j.now, j.chain[i].NotAfter, j.chain[i].NotBefore} {
			if err = j.verifyAt(i, t); err == nil {
				return nil
			}
		}
	}
	return err
}

// weak returns the index of the first certificate of the path with a signature
// that crypto/x509 refuses to check (SHA-1, MD5), -1 if none. A root's own does not matter.
func (j *judge) weak() int {
	for _, i := range j.path {
		switch j.chain[i].SignatureAlgorithm {
		case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA:
			if !selfSigned(j.chain[i]) {
				return i
			}
		}
	}
	return -1
}

// indexOf finds the certificate a verifier's error is about.
func (j *judge) indexOf(err error) int {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Cert != nil {
		for i, c := range j.chain {
			if c.Equal(invalid.Cert) {
				return i
			}
		}
	}
	return 0
}

func (j *judge) which(i int) string {
	if i == 0 {
		return "the certificate"
	}
	return fmt.Sprintf("certificate %d of the chain, %q,", i, subject(j.chain[i]))
}

// issued tells whether parent signed c. A signature too weak to be checked counts: it is
// reported as weak, not as missing.
func issued(parent, c *x509.Certificate) bool {
	if string(parent.RawSubject) != string(c.RawIssuer) {
		return false
	}
	err := c.CheckSignatureFrom(parent)
	var weak x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &weak)
}

// selfSigned tells whether c names itself as issuer. A leaf's signature is not
// checked with CheckSignatureFrom, which wants a CA.
func selfSigned(c *x509.Certificate) bool {
	if string(c.RawSubject) != string(c.RawIssuer) {
		return false
	}
	err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	var weak x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &weak)
}

func nameText(leaf *x509.Certificate, name string) string {
	names := namesOf(leaf)
	if len(names) == 0 {
		return fmt.Sprintf("the certificate names no host, not %q either", name)
	}
	const show = 5
	more := ""
	if len(names) > show {
		more = fmt.Sprintf(" and %d more", len(names)-show)
		names = names[:show]
	}
	return fmt.Sprintf("the certificate is for %s%s, not for %q", clip(strings.Join(names, ", ")), more, name)
}

func namesOf(c *x509.Certificate) []string {
	var names []string
	for _, n := range c.DNSNames {
		names = append(names, clip(n))
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// describe keeps what is worth knowing of a certificate, bounded.
func describe(c *x509.Certificate) probe.Certificate {
	sum := sha256.Sum256(c.Raw)
	names := namesOf(c)
	return probe.Certificate{
		Subject: clip(c.Subject.String()), Issuer: clip(c.Issuer.String()),
		Names: names[:min(len(names), maxNames)], NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		SHA256: hex.EncodeToString(sum[:]), SelfSigned: selfSigned(c), CA: c.IsCA,
	}
}

func subject(c *x509.Certificate) string {
	if c == nil {
		return "?"
	}
	if c.Subject.CommonName != "" {
		return clip(c.Subject.CommonName)
	}
	return clip(c.Subject.String())
}

func issuer(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return clip(c.Issuer.CommonName)
	}
	return clip(c.Issuer.String())
}

// clip bounds a string from outside to 256 bytes, on a rune boundary.
func clip(s string) string {
	if len(s) <= 256 {
		return s
	}
	return strings.ToValidUTF8(s[:256], "") + "…"
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func age(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	}
	return d.Round(time.Second).String()
}
