package http3

import (
	"bytes"
	"context"
	ctls "crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	nethttp "net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"fathom/probe"
	"fathom/probe/tls"
	"fathom/probe/tls/tlstest"
)

const host = "www.example.net"

func TestMain(m *testing.M) {
	// The server of quic-go, not our side, complains about its buffer.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	os.Exit(m.Run())
}

type server struct {
	at   netip.AddrPort
	root *tlstest.Pair
	url  string
}

// serve starts an HTTP/3 server on loopback.
func serve(t *testing.T, w tlstest.Want, tune func(*ctls.Config), h nethttp.HandlerFunc) server {
	t.Helper()
	root := tlstest.Issue(t, tlstest.Want{CN: "root", CA: true}, nil)
	if w.DNS == nil {
		w.DNS = []string{host}
	}
	leaf := tlstest.Issue(t, w, root)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ctls.Config{Certificates: []ctls.Certificate{leaf.Server()}}
	if tune != nil {
		tune(cfg)
	}
	s := &http3.Server{Handler: h, TLSConfig: http3.ConfigureTLSConfig(cfg)}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(pc) }()
	t.Cleanup(func() { s.Close(); pc.Close(); <-done })
	at := netip.MustParseAddrPort(pc.LocalAddr().String())
	return server{at, root, "https://" + host + ":" + strconv.Itoa(int(at.Port())) + "/"}
}

func get(t *testing.T, cfg Config, url string) probe.Result {
	t.Helper()
	r, err := New(cfg).Probe(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, p := range r.Phases {
		sum += int64(p.Duration)
		if p.Duration < 0 || sum > int64(r.Elapsed) {
			t.Errorf("phases %+v of %v", r.Phases, r.Elapsed)
		}
	}
	return r
}

func want(t *testing.T, r probe.Result, o probe.Outcome, detail string) {
	t.Helper()
	if r.Outcome != o || !strings.Contains(r.Detail, detail) || detail == "" && r.Detail != "" {
		t.Fatalf("outcome %v detail %q errno %q, want %v %q", r.Outcome, r.Detail, r.Errno, o, detail)
	}
}

func TestGoodServerLeavesNothingBehind(t *testing.T) {
	s := serve(t, tlstest.Want{}, nil, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.TLS.ServerName != host || r.UserAgent() != "fathom" {
			t.Errorf("sni %q, user agent %q", r.TLS.ServerName, r.UserAgent())
		}
		w.Header().Set("Server", "q/1")
		io.WriteString(w, "hello")
	})
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	t.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "false")
	cfg := Config{Pin: s.at, Roots: tlstest.Pool(s.root)}
	get(t, cfg, s.url) // until then the server is still starting its goroutines
	goroutines, fds := runtime.NumGoroutine(), openFiles(t)
	for range 5 {
		r := get(t, cfg, s.url)
		want(t, r, probe.OK, "")
		if r.HTTP.Proto != "HTTP/3.0" || r.HTTP.Status != 200 || r.HTTP.Bytes != 5 || r.HTTP.Server != "q/1" {
			t.Errorf("%+v", r.HTTP)
		}
		if !r.TLS.Verified || r.TLS.Version != "TLS 1.3" || r.TLS.ALPN != "h3" || len(r.TLS.Chain) != 1 || r.RTT == nil || r.RTT.Value <= 0 {
			t.Errorf("%+v rtt %+v", r.TLS, r.RTT)
		}
		for _, name := range []string{"connect", "first_byte", "body"} {
			if _, ok := r.PhaseNamed(name); !ok {
				t.Errorf("no phase %s: %+v", name, r.Phases)
			}
		}
	}
	settle(t, goroutines)
	if n := openFiles(t); n > fds {
		t.Errorf("%d open files, %d before", n, fds)
	}
	if strings.Contains(logged.String(), "buffer") {
		t.Errorf("logged: %s", logged.String())
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// settle waits until the goroutines of closed connections, the server's included, have gone.
func settle(t *testing.T, want int) {
	t.Helper()
	for range 500 {
		if runtime.NumGoroutine() <= want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 64<<10)
	t.Fatalf("%d goroutines, want %d\n%s", runtime.NumGoroutine(), want, buf[:runtime.Stack(buf, true)])
}

func TestStatusAndHead(t *testing.T) {
	s := serve(t, tlstest.Want{}, nil, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Content-Length", "3")
		w.WriteHeader(503)
		if r.Method != "HEAD" {
			io.WriteString(w, "abc")
		}
	})
	for method, n := range map[string]int64{"GET": 3, "HEAD": 0} {
		r := get(t, Config{Pin: s.at, Roots: tlstest.Pool(s.root), Method: method}, s.url)
		want(t, r, probe.BadAnswer, "503 Service Unavailable")
		if r.HTTP.Bytes != n {
			t.Errorf("%s: %d bytes", method, r.HTTP.Bytes)
		}
	}
}

func TestEndlessBodyIsCutOff(t *testing.T) {
	s := serve(t, tlstest.Want{}, nil, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		for b := make([]byte, 4096); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	before := openFiles(t)
	r := get(t, Config{Pin: s.at, Roots: tlstest.Pool(s.root), MaxBody: 10000}, s.url)
	want(t, r, probe.OK, "")
	if r.HTTP.Bytes != 10000 || !r.HTTP.Truncated || openFiles(t) > before {
		t.Fatalf("%+v", r.HTTP)
	}
}

func TestBadCertificateSendsNoRequest(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	for problem, w := range map[string]tlstest.Want{
		tls.Expired:      {NotBefore: past.Add(-time.Hour), NotAfter: past},
		tls.NotYetValid:  {NotBefore: time.Now().Add(time.Hour)},
		tls.NameMismatch: {DNS: []string{"www.example.org"}},
		tls.Untrusted:    {},
	} {
		t.Run(problem, func(t *testing.T) {
			var asked atomic.Int32
			s := serve(t, w, nil, func(nethttp.ResponseWriter, *nethttp.Request) { asked.Add(1) })
			roots := tlstest.Pool(s.root)
			if problem == tls.Untrusted {
				roots = tlstest.Pool()
			}
			r := get(t, Config{Pin: s.at, Roots: roots}, s.url)
			if r.Outcome != probe.BadAnswer || r.TLS.Problem != problem || r.TLS.Verified || r.Detail == "" || asked.Load() != 0 {
				t.Fatalf("%v %q %+v, %d requests", r.Outcome, r.Detail, r.TLS, asked.Load())
			}
			want(t, get(t, Config{Pin: s.at, Roots: roots, Insecure: true}, s.url), probe.OK, "")
		})
	}
}

func TestClientCertificateRequired(t *testing.T) {
	s := serve(t, tlstest.Want{}, func(c *ctls.Config) { c.ClientAuth = ctls.RequireAnyClientCert },
		func(nethttp.ResponseWriter, *nethttp.Request) { t.Error("the request was served") })
	r := get(t, Config{Pin: s.at, Roots: tlstest.Pool(s.root)}, s.url)
	want(t, r, probe.Failed, "client certificate")
	if r.TLS == nil || r.TLS.Alert != "certificate required" || len(r.TLS.Chain) != 1 {
		t.Fatalf("%+v", r.TLS)
	}
}

func TestServerWithoutH3(t *testing.T) {
	leaf := tlstest.Issue(t, tlstest.Want{CN: "leaf", DNS: []string{host}}, nil)
	ln, err := quic.ListenAddr("127.0.0.1:0", &ctls.Config{Certificates: []ctls.Certificate{leaf.Server()}, NextProtos: []string{"doq"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := get(t, Config{Pin: netip.MustParseAddrPort(ln.Addr().String())}, "https://"+host+"/")
	want(t, r, probe.Failed, "no application protocol")
	if r.TLS == nil || r.TLS.Alert != "no application protocol" {
		t.Fatalf("%+v", r.TLS)
	}
}

// udp serves datagrams with f.
func udp(t *testing.T, f func([]byte) []byte) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if out := f(b[:n]); out != nil {
				_, _ = pc.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func TestSilence(t *testing.T) {
	before := openFiles(t)
	at := udp(t, func([]byte) []byte { return nil })
	r := get(t, Config{Pin: at, Timeout: 200 * time.Millisecond}, "https://"+host+"/")
	want(t, r, probe.Timeout, "no quic handshake with "+at.String()+" in ")
	if strings.Contains(r.Detail, "datagrams") || r.TLS != nil {
		t.Errorf("%q %+v", r.Detail, r.TLS)
	}
	if n := openFiles(t); n > before+1 { // the listener's is open still
		t.Errorf("%d open files, %d before", n, before)
	}
}

func TestGarbage(t *testing.T) {
	at := udp(t, func([]byte) []byte { return []byte("what?") })
	r := get(t, Config{Pin: at, Timeout: 200 * time.Millisecond}, "https://"+host+"/")
	want(t, r, probe.Timeout, "datagrams received")
}

// TestVersionNegotiation answers as a server that knows another version only (RFC 9000 §17.2.1).
func TestVersionNegotiation(t *testing.T) {
	at := udp(t, func(b []byte) []byte {
		if len(b) < 7 || b[0]&0x80 == 0 {
			return nil
		}
		dcid := b[6 : 6+int(b[5])]
		rest := b[6+len(dcid):]
		scid := rest[1 : 1+int(rest[0])]
		out := []byte{0x80, 0, 0, 0, 0, byte(len(scid))}
		out = append(append(append(out, scid...), byte(len(dcid))), dcid...)
		return append(out, 0x0a, 0x1a, 0x2a, 0x3a, 0xff, 0, 0, 0x1d)
	})
	r := get(t, Config{Pin: at}, "https://"+host+"/")
	want(t, r, probe.Failed, "no compatible QUIC version")
}

func TestRefused(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(pc.LocalAddr().String())
	pc.Close()
	r := get(t, Config{Pin: at}, "https://"+host+"/")
	want(t, r, probe.Refused, "icmp port unreachable from 127.0.0.1")
	if r.ICMP == nil || r.ICMP.Type != 3 || r.ICMP.Code != 3 || r.Errno != "ECONNREFUSED" || r.TLS != nil {
		t.Fatalf("%+v %q", r.ICMP, r.Errno)
	}
}

func TestRefusedIPv6(t *testing.T) {
	pc, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on loopback")
	}
	at := netip.MustParseAddrPort(pc.LocalAddr().String())
	pc.Close()
	r := get(t, Config{Pin: at}, "https://"+host+"/")
	want(t, r, probe.Refused, "icmp port unreachable from ::1")
	if r.ICMP == nil || r.ICMP.Type != 1 || r.ICMP.Code != 4 {
		t.Fatalf("%+v", r.ICMP)
	}
}

func TestSlowFirstByteTimesOut(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, tlstest.Want{}, nil, func(_ nethttp.ResponseWriter, r *nethttp.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	r := get(t, Config{Pin: s.at, Roots: tlstest.Pool(s.root), Timeout: 500 * time.Millisecond}, s.url)
	want(t, r, probe.Timeout, "connected, request sent, no response in ")
	if !r.TLS.Verified {
		t.Errorf("%+v", r.TLS)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	at := udp(t, func([]byte) []byte { cancel(); return nil })
	if _, err := New(Config{Pin: at, Timeout: time.Hour}).Probe(ctx, "https://"+host+"/"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestErrorsWhenNothingCanBeMeasured(t *testing.T) {
	pin := netip.MustParseAddrPort("127.0.0.1:1")
	for _, c := range []struct {
		cfg       Config
		url, want string
	}{
		{Config{Pin: pin}, "http://x.example/", "want https://"},
		{Config{}, "https://x.example/", "pinned address"},
		{Config{Pin: pin, Method: "POST"}, "https://x.example/", "GET or HEAD"},
		{Config{Pin: pin, Source: netip.MustParseAddr("192.0.2.77")}, "https://x.example/", "address of this host"},
		{Config{Pin: pin, Source: netip.MustParseAddr("::1")}, "https://x.example/", "family"},
		{Config{Pin: pin, Interface: "nosuch0"}, "https://x.example/", "no such interface"},
		{Config{Pin: pin, Header: map[string]string{"a": "\n"}}, "https://x.example/", "cannot be in a value"},
	} {
		if _, err := New(c.cfg).Probe(context.Background(), c.url); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.url, err, c.want)
		}
	}
}
