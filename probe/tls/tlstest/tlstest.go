// Package tlstest makes certificates for the tests of probes that speak TLS.
// Only tests import it.
package tlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Pair is a certificate with its key.
type Pair struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Want describes a certificate to make; the zero times mean valid now.
type Want struct {
	CN                  string
	DNS                 []string
	IPs                 []net.IP
	CA                  bool
	NotBefore, NotAfter time.Time
	Usage               []x509.ExtKeyUsage // of a leaf; nil: server
	Constraint          []string           // permitted DNS names, of a CA
	Key                 *ecdsa.PrivateKey  // nil: a new one
}

// Issue makes a certificate signed by parent; nil: by itself.
func Issue(t testing.TB, w Want, parent *Pair) *Pair {
	t.Helper()
	key := w.Key
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	if w.NotBefore.IsZero() {
		w.NotBefore = time.Now().Add(-time.Hour)
	}
	if w.NotAfter.IsZero() {
		w.NotAfter = time.Now().Add(24 * time.Hour)
	}
	if w.Usage == nil && !w.CA {
		w.Usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: w.CN}, NotBefore: w.NotBefore, NotAfter: w.NotAfter,
		DNSNames: w.DNS, IPAddresses: w.IPs, ExtKeyUsage: w.Usage,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: w.CA, PermittedDNSDomains: w.Constraint,
	}
	if w.CA {
		tmpl.KeyUsage |= x509.KeyUsageCertSign
	}
	signer, signKey := tmpl, key
	if parent != nil {
		signer, signKey = parent.Cert, parent.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, signer, &key.PublicKey, signKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Pair{cert, key}
}

// Server returns what a server needs to send p followed by chain.
func (p *Pair) Server(chain ...*Pair) tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{p.Cert.Raw}, PrivateKey: p.Key}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.Cert.Raw)
	}
	return c
}

// Pool returns a trust store of pairs.
func Pool(pairs ...*Pair) *x509.CertPool {
	p := x509.NewCertPool()
	for _, x := range pairs {
		p.AddCert(x.Cert)
	}
	return p
}

// Files writes the chain and p's key as PEM and returns their paths.
func (p *Pair) Files(t testing.TB, chain ...*Pair) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	var b []byte
	for _, x := range append([]*Pair{p}, chain...) {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.Cert.Raw})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(cert, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, key
}
