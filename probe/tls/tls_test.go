package tls

import (
	"context"
	ctls "crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fathom/internal/testkit"
	"fathom/probe"
	"fathom/probe/tls/tlstest"
)

// listen starts a server on loopback that hands each connection to serve.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// untilClosed waits for the client to go away.
func untilClosed(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

type pki struct {
	root, inter, leaf *tlstest.Pair
	pool              *x509.CertPool
}

func newPKI(t *testing.T) pki {
	root := tlstest.Issue(t, tlstest.Want{CN: "root", CA: true}, nil)
	inter := tlstest.Issue(t, tlstest.Want{CN: "inter", CA: true}, root)
	leaf := tlstest.Issue(t, tlstest.Want{CN: "leaf", DNS: []string{host}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, inter)
	return pki{root, inter, leaf, tlstest.Pool(root)}
}

func tlsServer(t *testing.T, cfg *ctls.Config) string {
	return listen(t, func(c net.Conn) {
		s := ctls.Server(c, cfg)
		if s.Handshake() == nil {
			untilClosed(s)
		}
	})
}

func run(t *testing.T, cfg Config, target string) probe.Result {
	t.Helper()
	r, err := New(cfg).Probe(context.Background(), target)
	if err != nil {
		t.Fatal(err)
	}
	if r.Kind != probe.KindTLS || r.Target != target || r.Elapsed <= 0 || r.Start.IsZero() {
		t.Errorf("incomplete result %+v", r)
	}
	return r
}

func TestGoodServer(t *testing.T) {
	p := newPKI(t)
	var sni string
	cert := p.leaf.Server(p.inter)
	cert.OCSPStaple = []byte("staple")
	addr := tlsServer(t, &ctls.Config{NextProtos: []string{"h2", "http/1.1"}, GetCertificate: func(h *ctls.ClientHelloInfo) (*ctls.Certificate, error) {
		sni = h.ServerName
		return &cert, nil
	}})
	r := run(t, Config{ServerName: "WWW.example.net.", ALPN: []string{"h2"}, Roots: p.pool}, addr)
	if r.Outcome != probe.OK || !r.TLS.Verified || r.Detail != "" {
		t.Fatalf("%+v %+v", r, r.TLS)
	}
	if sni != host || r.TLS.ServerName != host {
		t.Errorf("sni %q, reported %q", sni, r.TLS.ServerName)
	}
	if r.TLS.Version != "TLS 1.3" || r.TLS.ALPN != "h2" || r.TLS.CipherSuite == "" || !r.TLS.OCSPStapled {
		t.Errorf("%+v", r.TLS)
	}
	if len(r.TLS.Chain) != 2 || r.TLS.Chain[0].Subject != "CN=leaf" || !r.TLS.Chain[1].CA {
		t.Errorf("chain %+v", r.TLS.Chain)
	}
	c, ok1 := r.PhaseNamed("connect")
	h, ok2 := r.PhaseNamed("tls")
	if !ok1 || !ok2 || c <= 0 || h <= 0 || c+h > r.Elapsed || r.TLS.Handshake != h {
		t.Errorf("phases %+v of %v", r.Phases, r.Elapsed)
	}
	if r.RTT == nil || r.RTT.Value <= 0 || r.RTT.Error < 0 || r.RTT.Error > r.RTT.Value || !r.Source.IsLoopback() {
		t.Errorf("rtt %+v source %v", r.RTT, r.Source)
	}
}

func TestAddressAsNameSendsNoSNI(t *testing.T) {
	p := newPKI(t)
	cert, sni := p.leaf.Server(p.inter), "unset"
	addr := tlsServer(t, &ctls.Config{GetCertificate: func(h *ctls.ClientHelloInfo) (*ctls.Certificate, error) {
		sni = h.ServerName
		return &cert, nil
	}})
	r := run(t, Config{Roots: p.pool}, addr)
	if r.Outcome != probe.OK || sni != "" || r.TLS.ServerName != "" {
		t.Fatalf("%v %q, sni %q, reported %q", r.Outcome, r.Detail, sni, r.TLS.ServerName)
	}
}

func TestBadCertificateIsAResult(t *testing.T) {
	p := newPKI(t)
	r := run(t, Config{ServerName: host, Roots: p.pool}, tlsServer(t, &ctls.Config{Certificates: []ctls.Certificate{p.leaf.Server()}}))
	if r.Outcome != probe.BadAnswer || r.TLS.Problem != Untrusted || r.TLS.Verified || !strings.Contains(r.Detail, `"inter"`) {
		t.Fatalf("%+v %+v", r, r.TLS)
	}
	// The clock decides: the same server seen in a week.
	r = run(t, Config{ServerName: host, Roots: p.pool, Now: func() time.Time { return time.Now().Add(168 * time.Hour) }},
		tlsServer(t, &ctls.Config{Certificates: []ctls.Certificate{p.leaf.Server(p.inter)}}))
	if r.Outcome != probe.BadAnswer || r.TLS.Problem != Expired {
		t.Fatalf("%+v %+v", r, r.TLS)
	}
}

func TestOldVersions(t *testing.T) {
	p := newPKI(t)
	for v, name := range map[uint16]string{ctls.VersionTLS10: "TLS 1.0", ctls.VersionTLS11: "TLS 1.1", ctls.VersionTLS12: "TLS 1.2"} {
		addr := tlsServer(t, &ctls.Config{MinVersion: v, MaxVersion: v, Certificates: []ctls.Certificate{p.leaf.Server(p.inter)}})
		r := run(t, Config{ServerName: host, Roots: p.pool}, addr)
		if r.Outcome != probe.OK || r.TLS.Version != name {
			t.Errorf("%s: %v %q %+v", name, r.Outcome, r.Detail, r.TLS)
		}
	}
}

func TestClientCertificateRequired(t *testing.T) {
	p := newPKI(t)
	for v, alert := range map[uint16]string{ctls.VersionTLS12: "", ctls.VersionTLS13: "certificate required"} {
		addr := tlsServer(t, &ctls.Config{MinVersion: v, MaxVersion: v, ClientAuth: ctls.RequireAnyClientCert, Certificates: []ctls.Certificate{p.leaf.Server(p.inter)}})
		r := run(t, Config{ServerName: host, Roots: p.pool}, addr)
		if r.Outcome != probe.Failed || r.TLS.Alert == "" || !strings.Contains(r.Detail, "client certificate") {
			t.Errorf("%x: %v %q %+v", v, r.Outcome, r.Detail, r.TLS)
		}
		if alert != "" && r.TLS.Alert != alert {
			t.Errorf("%x: alert %q", v, r.TLS.Alert)
		}
		if len(r.TLS.Chain) != 2 || !r.TLS.Verified {
			t.Errorf("%x: chain not recorded: %+v", v, r.TLS)
		}
	}
}

func TestClientCertificateOptional(t *testing.T) {
	p := newPKI(t)
	addr := tlsServer(t, &ctls.Config{ClientAuth: ctls.RequestClientCert, Certificates: []ctls.Certificate{p.leaf.Server(p.inter)}})
	if r := run(t, Config{ServerName: host, Roots: p.pool}, addr); r.Outcome != probe.OK {
		t.Fatalf("%v %q", r.Outcome, r.Detail)
	}
}

func TestServersThatDoNotDoTLS(t *testing.T) {
	hello := func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }
	for _, c := range []struct {
		situation string
		serve     func(net.Conn)
		outcome   probe.Outcome
		detail    string
		alert     string
	}{
		{"plain http", func(c net.Conn) { hello(c); io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, probe.Failed, `does not speak TLS: it answered "HTTP/1.1 400 Bad Request"`, ""},
		{"banner", func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n"); hello(c); untilClosed(c) }, probe.Failed, `it answered "SSH-2.0-OpenSSH_9.2"`, ""},
		{"closes", func(c net.Conn) { hello(c) }, probe.Failed, "closed the connection during", ""},
		{"resets", func(c net.Conn) { hello(c); c.(*net.TCPConn).SetLinger(0) }, probe.Reset, "connection reset by peer", ""},
		{"alert", func(c net.Conn) { hello(c); c.Write([]byte{21, 3, 3, 0, 2, 2, 112}) }, probe.Failed, "unrecognized name", "unrecognized name"},
		{"unknown alert", func(c net.Conn) { hello(c); c.Write([]byte{21, 3, 3, 0, 2, 2, 200}) }, probe.Failed, "alert(200)", "alert(200)"},
		{"garbage record", func(c net.Conn) { hello(c); c.Write([]byte("\x16\x03\x03\x00\x05hello")); untilClosed(c) }, probe.Failed, "tls handshake: ", ""},
	} {
		t.Run(c.situation, func(t *testing.T) {
			r := run(t, Config{ServerName: host, Roots: x509.NewCertPool()}, listen(t, c.serve))
			if r.Outcome != c.outcome || !strings.Contains(r.Detail, c.detail) || r.TLS.Alert != c.alert {
				t.Fatalf("%v %q alert %q", r.Outcome, r.Detail, r.TLS.Alert)
			}
			if _, ok := r.PhaseNamed("connect"); !ok {
				t.Error("no connect phase")
			}
		})
	}
}

func TestSilentServer(t *testing.T) {
	r := run(t, Config{ServerName: host, Timeout: 200 * time.Millisecond}, listen(t, untilClosed))
	if r.Outcome != probe.Timeout || !strings.HasPrefix(r.Detail, "connected, no answer to the tls handshake in ") {
		t.Fatalf("%v %q", r.Outcome, r.Detail)
	}
	half := func(c net.Conn) { c.Write([]byte{22, 3, 3}); untilClosed(c) }
	r = run(t, Config{ServerName: host, Timeout: 200 * time.Millisecond}, listen(t, half))
	if r.Outcome != probe.Timeout || !strings.Contains(r.Detail, "(3 bytes received)") {
		t.Fatalf("%v %q", r.Outcome, r.Detail)
	}
}

func TestRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	r := run(t, Config{}, ln.Addr().String())
	if r.Outcome != probe.Refused || r.Errno != "ECONNREFUSED" || r.Detail != "connect: connection refused" {
		t.Fatalf("%v %q %q", r.Outcome, r.Errno, r.Detail)
	}
}

func TestErrorsWhenNothingCanBeMeasured(t *testing.T) {
	for _, c := range []struct {
		cfg    Config
		target string
		want   string
	}{
		{Config{}, "example.net:443", "want address:port"},
		{Config{}, "127.0.0.1:0", "want address:port"},
		{Config{ServerName: "bücher.example"}, "127.0.0.1:1", "xn--"},
		{Config{ServerName: "a b"}, "127.0.0.1:1", "cannot be in a host name"},
		{Config{ALPN: []string{""}}, "127.0.0.1:1", "alpn"},
		{Config{Source: netip.MustParseAddr("192.0.2.77")}, "127.0.0.1:1", "address of this host"},
		{Config{Source: netip.MustParseAddr("::1")}, "127.0.0.1:1", "family"},
		{Config{Interface: "nosuch0"}, "127.0.0.1:1", "no such interface"},
	} {
		if _, err := New(c.cfg).Probe(context.Background(), c.target); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v %s: error %v, want %q", c.cfg, c.target, err, c.want)
		}
	}
}

func TestCancelEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	addr := listen(t, func(c net.Conn) { cancel(); untilClosed(c) })
	if _, err := New(Config{Timeout: time.Hour}).Probe(ctx, addr); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestBoundToInterface(t *testing.T) {
	p := newPKI(t)
	addr := tlsServer(t, &ctls.Config{Certificates: []ctls.Certificate{p.leaf.Server(p.inter)}})
	r := run(t, Config{Roots: p.pool, Interface: "lo", Source: netip.MustParseAddr("127.0.0.9")}, addr)
	if r.Outcome != probe.OK || r.Source != netip.MustParseAddr("127.0.0.9") {
		t.Fatalf("%v %q from %v", r.Outcome, r.Detail, r.Source)
	}
}

// TestSHA1Leaf: such a certificate cannot be made with crypto/x509 any more, so openssl makes it.
func TestSHA1Leaf(t *testing.T) {
	tool, dir, p := testkit.NeedTool(t, "openssl"), t.TempDir(), newPKI(t)
	caCert, caKey := p.inter.Files(t)
	leaf, key, csr := filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "csr.pem")
	ext := filepath.Join(dir, "ext")
	if err := os.WriteFile(ext, []byte("subjectAltName=DNS:"+host), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=leaf", "-keyout", key, "-out", csr},
		{"x509", "-req", "-sha1", "-in", csr, "-CA", caCert, "-CAkey", caKey, "-set_serial", "7", "-extfile", ext, "-out", leaf},
	} {
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	cert, err := ctls.LoadX509KeyPair(leaf, key)
	if err != nil {
		t.Fatal(err)
	}
	cert.Certificate = append(cert.Certificate, p.inter.Cert.Raw)
	r := run(t, Config{ServerName: host, Roots: p.pool}, tlsServer(t, &ctls.Config{Certificates: []ctls.Certificate{cert}}))
	if r.Outcome != probe.BadAnswer || r.TLS.Problem != Untrusted || !strings.Contains(r.Detail, "SHA1") {
		t.Fatalf("%v %q %+v", r.Outcome, r.Detail, r.TLS)
	}
}
