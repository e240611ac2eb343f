package service

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sys/unix"

	"fathom/internal/lab/emulator/unit"
	"fathom/internal/testkit"
)

func web(h HTTP) Spec { h.Listen = []string{"127.0.0.1:0"}; return Spec{HTTP: &h} }

func client(conf *tls.Config) *http.Client {
	return &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, ForceAttemptHTTP2: conf != nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func get(t testing.TB, c *http.Client, url string) (*http.Response, string, error) {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r, string(b), err
}

func TestPages(t *testing.T) {
	svc := start(t, web(HTTP{
		Page:     Page{Body: "home", Headers: map[string]string{"Server": "labweb"}},
		DateSkew: 3 * time.Hour, AltSvc: `h3=":9"`,
		Paths: map[string]Page{
			"/missing": {Status: 404}, "/move": {Redirect: "/there"}, "/big": {Size: 100_000},
			"/slow":  {Delay: 40 * time.Millisecond, Body: "x", Headers: map[string]string{"Cache-Control": "no-store"}},
			"/rate":  {Size: 10_000, Rate: 1_600_000},
			"/close": {Size: 1000, Abort: "close", AbortAfter: 400}, "/reset": {Size: 1000, Abort: "reset", AbortAfter: 400},
		},
	}))
	base, c := "http://"+svc.Addrs()[0], client(nil)
	r, body, err := get(t, c, base+"/")
	if err != nil || r.StatusCode != 200 || body != "home" || r.Header.Get("Server") != "labweb" || r.Header.Get("Alt-Svc") != `h3=":9"` {
		t.Errorf("%v %q %v", r, body, err)
	}
	if d, err := http.ParseTime(r.Header.Get("Date")); err != nil || time.Until(d) < 179*time.Minute {
		t.Errorf("date %v %v", d, err)
	}
	if r, _, err := get(t, c, base+"/missing"); err != nil || r.StatusCode != 404 || r.Header.Get("Server") != "labweb" {
		t.Errorf("%v %v", r, err)
	}
	if r, _, err := get(t, c, base+"/move"); err != nil || r.StatusCode != 302 || r.Header.Get("Location") != "/there" {
		t.Errorf("%v %v", r, err)
	}
	if _, body, err := get(t, c, base+"/big"); err != nil || len(body) != 100_000 {
		t.Errorf("%d %v", len(body), err)
	}
	began := time.Now()
	if r, _, err := get(t, c, base+"/slow"); err != nil || time.Since(began) < 40*time.Millisecond || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %v after %s", r, err, time.Since(began))
	}
	began = time.Now()
	if _, body, err := get(t, c, base+"/rate"); err != nil || len(body) != 10_000 || time.Since(began) < 40*time.Millisecond {
		t.Errorf("%d bytes %v after %s", len(body), err, time.Since(began))
	}
	if _, body, err := get(t, c, base+"/close"); !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 400 {
		t.Errorf("close: %d %v", len(body), err)
	}
	if _, _, err := get(t, c, base+"/reset"); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("reset: %v", err)
	}
}

func TestOneBadBackendOfFour(t *testing.T) {
	svc := start(t, web(HTTP{Page: Page{Backends: 4, Fail: 0.25}}))
	bad := map[string]int{}
	for range 20 {
		r, _, err := get(t, client(nil), "http://"+svc.Addrs()[0]+"/")
		if err != nil {
			t.Fatal(err)
		}
		if r.StatusCode == 503 {
			bad[r.Header.Get("X-Backend")]++
		}
	}
	if len(bad) != 1 || bad["4"] != 5 {
		t.Errorf("failures by backend: %v", bad)
	}
}

func TestCacheMarks(t *testing.T) {
	none := unit.Share(0)
	svc := start(t, web(HTTP{Page: Page{Hit: &none}}))
	if r, _, err := get(t, client(nil), "http://"+svc.Addrs()[0]+"/"); err != nil || r.Header.Get("X-Cache") != "MISS" {
		t.Error(r, err)
	}
}

func TestCertificateKinds(t *testing.T) {
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range certKinds {
		s := web(HTTP{Cert: kind, Names: []string{"web.lab.test"}, ExpiringDays: 6})
		s.CA = ca
		svc := start(t, s)
		r, _, err := get(t, client(&tls.Config{RootCAs: ca.Pool(), ServerName: "web.lab.test"}), "https://"+svc.Addrs()[0]+"/")
		var invalid x509.CertificateInvalidError
		var name x509.HostnameError
		var unknown x509.UnknownAuthorityError
		ok := false
		switch kind {
		case CertGood:
			ok = err == nil && r.Proto == "HTTP/2.0"
		case CertExpiring:
			left := time.Duration(0)
			if err == nil {
				left = time.Until(r.TLS.PeerCertificates[0].NotAfter)
			}
			ok = left > 6*day && left < 7*day
		case CertExpired, CertNotYetValid:
			ok = errors.As(err, &invalid) && invalid.Reason == x509.Expired && len(invalid.Cert.DNSNames) > 0
		case CertExpiredIntermediate:
			// Go tells of the chain it could not build; the leaf itself is good.
			ok = errors.As(err, &unknown) || errors.As(err, &invalid) && invalid.Cert.IsCA
		case CertWrongName:
			ok = errors.As(err, &name)
		case CertUntrusted, CertMissingIntermediate:
			ok = errors.As(err, &unknown)
		}
		if !ok {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestHandshakeDelayAndHTTP1(t *testing.T) {
	svc := start(t, web(HTTP{Cert: CertGood, HandshakeDelay: 40 * time.Millisecond, NoHTTP2: true}))
	began := time.Now()
	r, _, err := get(t, client(&tls.Config{InsecureSkipVerify: true}), "https://"+svc.Addrs()[0]+"/")
	if err != nil || r.Proto != "HTTP/1.1" || time.Since(began) < 40*time.Millisecond {
		t.Errorf("%v %v after %s", r, err, time.Since(began))
	}
}

func TestHTTP3(t *testing.T) {
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	s := web(HTTP{Cert: CertGood, HTTP3: true, Page: Page{Body: "over quic"}})
	s.CA = ca
	svc := start(t, s)
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}}
	defer tr.Close()
	url := "https://" + svc.Addrs()[0] + "/"
	r, body, err := get(t, &http.Client{Transport: tr, Timeout: 10 * time.Second}, url)
	if err != nil || r.Proto != "HTTP/3.0" || body != "over quic" {
		t.Errorf("%v %q %v", r, body, err)
	}
	_, port, _ := net.SplitHostPort(svc.Addrs()[0])
	if r, _, err := get(t, client(&tls.Config{RootCAs: ca.Pool()}), url); err != nil || r.Header.Get("Alt-Svc") != `h3=":`+port+`"; ma=3600` {
		t.Errorf("advertisement over tcp: %v %v", r, err)
	}
	if err := svc.Stop(); err != nil {
		t.Error(err)
	}
}

func TestCurl(t *testing.T) {
	curl := testkit.NeedTool(t, "curl")
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, ca.Bundle(), 0o600); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[CertKind]string{
		CertGood: "", CertExpired: "certificate has expired", CertNotYetValid: "certificate is not yet valid", CertWrongName: "no alternative certificate subject name",
		CertUntrusted: "self-signed certificate", CertMissingIntermediate: "unable to get local issuer certificate", CertExpiredIntermediate: "certificate has expired",
	} {
		s := web(HTTP{Cert: kind, Names: []string{"web.lab.test"}, Page: Page{Body: "fine"}})
		s.CA = ca
		svc := start(t, s)
		_, port, _ := net.SplitHostPort(svc.Addrs()[0])
		out, err := exec.CommandContext(t.Context(), curl, "-sS", "--noproxy", "*", "--cacert", bundle, "--resolve", "web.lab.test:"+port+":127.0.0.1", "https://web.lab.test:"+port+"/").CombinedOutput()
		if want == "" && (err != nil || string(out) != "fine") || want != "" && (err == nil || !strings.Contains(string(out), want)) {
			t.Errorf("%s: %v %s", kind, err, out)
		}
	}
}

func TestStopDuringSlowAnswer(t *testing.T) {
	svc := start(t, web(HTTP{Page: Page{Delay: time.Hour}}))
	done := make(chan error, 1)
	go func() { _, _, err := get(t, client(nil), "http://"+svc.Addrs()[0]+"/"); done <- err }()
	waitStat(t, svc, "requests", 1)
	if err := svc.Stop(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("an answer came")
	}
}
