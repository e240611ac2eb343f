package tls

import (
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"fathom/probe/tls/tlstest"
)

var (
	longAgo = time.Now().Add(-1000 * time.Hour)
	past    = time.Now().Add(-100 * time.Hour)
	future  = time.Now().Add(100 * time.Hour)
)

const host = "www.example.net"

func TestVerify(t *testing.T) {
	issue := func(w tlstest.Want, p *tlstest.Pair) *tlstest.Pair { return tlstest.Issue(t, w, p) }
	root := issue(tlstest.Want{CN: "root", CA: true, NotBefore: longAgo}, nil)
	other := issue(tlstest.Want{CN: "other root", CA: true}, nil)
	inter := issue(tlstest.Want{CN: "inter", CA: true, NotBefore: longAgo}, root)
	leaf := func(w tlstest.Want, p *tlstest.Pair) *tlstest.Pair {
		if w.DNS == nil {
			w.DNS = []string{host}
		}
		w.CN, w.IPs = "leaf", []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")}
		return issue(w, p)
	}
	good := leaf(tlstest.Want{}, inter)
	old := leaf(tlstest.Want{NotBefore: longAgo, NotAfter: past}, inter)
	oldInter := issue(tlstest.Want{CN: "old inter", CA: true, NotBefore: longAgo, NotAfter: past}, root)
	// The same key under a certificate that is still valid: a renewed intermediate.
	renewed := issue(tlstest.Want{CN: "old inter", CA: true, Key: oldInter.Key}, root)
	underOld := leaf(tlstest.Want{}, oldInter)
	early := leaf(tlstest.Want{NotBefore: future, NotAfter: future.Add(time.Hour)}, inter)
	self := leaf(tlstest.Want{}, nil)
	oldRoot := issue(tlstest.Want{CN: "old root", CA: true, NotBefore: longAgo, NotAfter: past}, nil)
	notCA := issue(tlstest.Want{CN: "not a ca", DNS: []string{host}}, inter)
	limited := issue(tlstest.Want{CN: "limited", CA: true, Constraint: []string{"example.org"}}, root)

	for _, c := range []struct {
		situation string
		chain     []*tlstest.Pair
		name      string
		problem   string
		cert      int
		texts     []string
	}{
		{situation: "all is right", chain: []*tlstest.Pair{good, inter}},
		{situation: "address in the certificate", chain: []*tlstest.Pair{good, inter}, name: "192.0.2.1"},
		{situation: "IPv6 address in the certificate", chain: []*tlstest.Pair{good, inter}, name: "2001:db8::1"},
		{situation: "root sent as well, wrong order", chain: []*tlstest.Pair{good, root, inter}},
		{situation: "an expired certificate that is not needed", chain: []*tlstest.Pair{good, inter, oldRoot}},
		{situation: "expired and renewed intermediate sent", chain: []*tlstest.Pair{underOld, oldInter, renewed}},
		{situation: "expired leaf", chain: []*tlstest.Pair{old, inter}, problem: Expired, texts: []string{"the certificate expired on", "4 days ago"}},
		{situation: "expired intermediate", chain: []*tlstest.Pair{underOld, oldInter}, problem: Expired, cert: 1, texts: []string{`"old inter", expired`}},
		{situation: "not yet valid", chain: []*tlstest.Pair{early, inter}, problem: NotYetValid, texts: []string{"not valid before"}},
		{situation: "another name", chain: []*tlstest.Pair{good, inter}, name: "www.example.org", problem: NameMismatch, texts: []string{host, `not for "www.example.org"`}},
		{situation: "another address", chain: []*tlstest.Pair{good, inter}, name: "192.0.2.2", problem: NameMismatch, texts: []string{`not for "192.0.2.2"`}},
		{situation: "self-signed", chain: []*tlstest.Pair{self}, problem: Untrusted, texts: []string{"self-signed"}},
		{situation: "foreign root sent", chain: []*tlstest.Pair{leaf(tlstest.Want{}, other), other}, problem: Untrusted, cert: 1, texts: []string{`the root "other root" is not`}},
		{situation: "intermediate missing", chain: []*tlstest.Pair{good}, problem: Untrusted, texts: []string{`the server does not send the intermediate "inter"`}},
		{situation: "wrong intermediate sent", chain: []*tlstest.Pair{good, limited}, problem: Untrusted, texts: []string{`the server does not send the intermediate "inter"`}},
		{situation: "expired, wrong name and untrusted", chain: []*tlstest.Pair{old}, name: "x.example", problem: Expired, texts: []string{"expired", "not for", `intermediate "inter"`}},
		{situation: "expired intermediate of a foreign root", chain: []*tlstest.Pair{
			leaf(tlstest.Want{}, issueOld(t, other)), issueOld(t, other),
		}, problem: Untrusted},
		{situation: "signed by a leaf", chain: []*tlstest.Pair{leaf(tlstest.Want{}, notCA), notCA, inter}, problem: Untrusted},
		{situation: "name constraint", chain: []*tlstest.Pair{leaf(tlstest.Want{}, limited), limited}, problem: Untrusted},
		{situation: "client certificate used by a server", chain: []*tlstest.Pair{leaf(tlstest.Want{Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, inter), inter}, problem: Untrusted, texts: []string{"usage"}},
		{situation: "trusted root expired", chain: []*tlstest.Pair{leaf(tlstest.Want{}, oldRoot)}, problem: Untrusted, texts: []string{`"old root", is outside its validity`}},
	} {
		t.Run(c.situation, func(t *testing.T) {
			if c.name == "" {
				c.name = host
			}
			var chain []*x509.Certificate
			for _, p := range c.chain {
				chain = append(chain, p.Cert)
			}
			v := Verify(chain, c.name, tlstest.Pool(root, oldRoot), time.Now())
			if v.Problem != c.problem || v.Cert != c.cert || v.Verified != (c.problem == "") {
				t.Fatalf("got %+v, want problem %q at %d", v, c.problem, c.cert)
			}
			if v.Verified && v.Text != "" || !v.Verified && v.Text == "" {
				t.Errorf("text %q", v.Text)
			}
			for _, want := range c.texts {
				if !strings.Contains(v.Text, want) {
					t.Errorf("text %q lacks %q", v.Text, want)
				}
			}
		})
	}
}

// issueOld makes an intermediate that no earlier one has signed for.
func issueOld(t *testing.T, root *tlstest.Pair) *tlstest.Pair {
	return tlstest.Issue(t, tlstest.Want{CN: "foreign old inter", CA: true, NotBefore: longAgo, NotAfter: past}, root)
}

func TestVerifyNothingSent(t *testing.T) {
	if v := Verify(nil, host, x509.NewCertPool(), time.Now()); v.Verified || v.Problem != Untrusted {
		t.Fatalf("%+v", v)
	}
}

// TestNoTrustStore runs in a child process, as crypto/x509 reads the store once: a host
// without roots cannot tell whether a server is trusted, and must not blame the server.
func TestNoTrustStore(t *testing.T) {
	if os.Getenv("FATHOM_TEST_NO_ROOTS") != "1" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestNoTrustStore$")
		cmd.Env = append(os.Environ(), "FATHOM_TEST_NO_ROOTS=1", "SSL_CERT_FILE=/nonexistent", "SSL_CERT_DIR=/nonexistent")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	self := tlstest.Issue(t, tlstest.Want{CN: "x", DNS: []string{host}}, nil)
	v := Verify([]*x509.Certificate{self.Cert}, host, nil, time.Now())
	if v.Verified || v.Problem != "" || !strings.Contains(v.Text, "no root certificates") {
		t.Errorf("%+v", v)
	}
	if v = Verify([]*x509.Certificate{self.Cert}, "other.example", nil, time.Now()); v.Problem != NameMismatch {
		t.Errorf("%+v", v)
	}
}

func TestVerifyBoundsTheChain(t *testing.T) {
	self := tlstest.Issue(t, tlstest.Want{CN: "x", DNS: []string{host}}, nil)
	chain := make([]*x509.Certificate, 500)
	for i := range chain {
		chain[i] = self.Cert
	}
	if v := Verify(chain, host, x509.NewCertPool(), time.Now()); v.Problem != Untrusted {
		t.Fatalf("%+v", v)
	}
}

func TestExcerpt(t *testing.T) {
	for in, want := range map[string]string{
		"SSH-2.0-x\r\nmore":      `"SSH-2.0-x"`,
		"\x00\x1b[31mred":        `"..[31mred"`,
		strings.Repeat("a", 200): `"` + strings.Repeat("a", 64) + `…"`,
		"":                       `""`,
	} {
		if got := Excerpt([]byte(in)); got != want {
			t.Errorf("Excerpt(%q) = %s, want %s", in, got, want)
		}
	}
}
