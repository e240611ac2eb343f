package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

const day = 24 * time.Hour

// NewCA makes a root and an intermediate, valid from two years ago for ten.
func NewCA() (*CA, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	interKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	root := caTemplate("fathom lab root", now.Add(-730*day), now.Add(3650*day))
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("sign lab root: %w", err)
	}
	c := &CA{RootPEM: pemBlock("CERTIFICATE", rootDER)}
	for _, v := range []struct {
		out  *[]byte
		upTo time.Time
	}{{&c.InterPEM, now.Add(3650 * day)}, {&c.OldInterPEM, now.Add(-10 * day)}} {
		der, err := x509.CreateCertificate(rand.Reader, caTemplate("fathom lab intermediate", now.Add(-730*day), v.upTo), root, interKey.Public(), rootKey)
		if err != nil {
			return nil, fmt.Errorf("sign lab intermediate: %w", err)
		}
		*v.out = pemBlock("CERTIFICATE", der)
	}
	for _, v := range []struct {
		out *[]byte
		key *ecdsa.PrivateKey
	}{{&c.RootKeyPEM, rootKey}, {&c.InterKeyPEM, interKey}} {
		der, err := x509.MarshalECPrivateKey(v.key)
		if err != nil {
			return nil, err
		}
		*v.out = pemBlock("EC PRIVATE KEY", der)
	}
	return c, nil
}

func caTemplate(name string, from, to time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil { // crypto/rand does not fail on Linux
		return big.NewInt(time.Now().UnixNano())
	}
	return n
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Bundle is the root in PEM, for clients to trust.
func (c *CA) Bundle() []byte { return append([]byte(nil), c.RootPEM...) }

// Pool is the Bundle for Go clients.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(c.RootPEM)
	return p
}

var certKinds = []CertKind{
	CertGood, CertExpired, CertNotYetValid, CertWrongName, CertUntrusted, CertExpiring, CertMissingIntermediate, CertExpiredIntermediate,
}

// Certificate makes a server certificate of a kind, with its chain, for names
// (DNS names and addresses). days is for CertExpiring.
func (c *CA) Certificate(kind CertKind, names []string, days int) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := leafTemplate(kind, names, days)
	if kind == CertUntrusted {
		der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
	}
	interPEM := c.InterPEM
	if kind == CertExpiredIntermediate {
		interPEM = c.OldInterPEM
	}
	inter, interKey, err := parsePair(interPEM, c.InterKeyPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, inter, key.Public(), interKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign %s certificate: %w", kind, err)
	}
	chain := [][]byte{der, inter.Raw}
	if kind == CertMissingIntermediate {
		chain = chain[:1]
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key}, nil
}

func leafTemplate(kind CertKind, names []string, days int) *x509.Certificate {
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial(), NotBefore: now.Add(-30 * day), NotAfter: now.Add(335 * day),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	switch kind {
	case CertExpired:
		t.NotBefore, t.NotAfter = now.Add(-100*day), now.Add(-3*day)
	case CertNotYetValid:
		t.NotBefore = now.Add(2 * day)
	case CertExpiring:
		if days <= 0 {
			days = 5
		}
		// An hour more, so that a client rounding down still says "days".
		t.NotAfter = now.Add(time.Duration(days)*day + time.Hour)
	case CertWrongName:
		names = []string{"other.invalid"}
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	if len(names) > 0 {
		t.Subject.CommonName = names[0]
	}
	return t
}

func parsePair(certPEM, keyPEM []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cb, _ := pem.Decode(certPEM)
	kb, _ := pem.Decode(keyPEM)
	if cb == nil || kb == nil {
		return nil, nil, errors.New("read lab CA: no PEM (make it with NewCA)")
	}
	cert, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("read lab CA: %w", err)
	}
	key, err := x509.ParseECPrivateKey(kb.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("read lab CA: %w", err)
	}
	return cert, key, nil
}
