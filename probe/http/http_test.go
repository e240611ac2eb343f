package http

import (
	"context"
	ctls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fathom/probe"
	"fathom/probe/tls"
	"fathom/probe/tls/tlstest"
)

const host = "www.example.net"

// get probes url with a resolver that knows only loopback.
func get(t *testing.T, cfg Config, url string) probe.Result {
	t.Helper()
	if cfg.Resolve == nil {
		cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}
	}
	r, err := New(cfg).Probe(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	checkPhases(t, r)
	return r
}

// checkPhases: in the contract's order, none negative, together not more than Elapsed.
func checkPhases(t *testing.T, r probe.Result) {
	t.Helper()
	order, at, sum := []string{"resolve", "connect", "tls", "request", "first_byte", "body"}, 0, int64(0)
	for _, p := range r.Phases {
		for at < len(order) && order[at] != p.Name {
			at++
		}
		if at == len(order) || p.Duration < 0 {
			t.Errorf("phases %+v", r.Phases)
			return
		}
		at++
		sum += int64(p.Duration)
	}
	if sum > int64(r.Elapsed) {
		t.Errorf("phases %+v are longer than %v", r.Phases, r.Elapsed)
	}
}

func wantPhases(t *testing.T, r probe.Result, names ...string) {
	t.Helper()
	var got []string
	for _, p := range r.Phases {
		got = append(got, p.Name)
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("phases %v, want %v", got, names)
	}
}

func want(t *testing.T, r probe.Result, o probe.Outcome, detail string) {
	t.Helper()
	if r.Outcome != o || !strings.Contains(r.Detail, detail) || detail == "" && r.Detail != "" {
		t.Fatalf("outcome %v detail %q errno %q, want %v %q", r.Outcome, r.Detail, r.Errno, o, detail)
	}
}

func serve(t *testing.T, h nethttp.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// raw serves each connection with f after it has read the request.
func raw(t *testing.T, f func(net.Conn)) string {
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
			_, _ = c.Read(make([]byte, 4096))
			f(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return "http://" + ln.Addr().String() + "/"
}

func untilClosed(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func TestPlainRequest(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.UserAgent() != "fathom" || r.Header.Get("X-Mine") != "1" || r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("request header %v", r.Header)
		}
		w.Header().Set("Alt-Svc", `h3=":8443"`)
		w.Header().Set("Server", "s/1")
		w.Header().Set("Via", strings.Repeat("é", 200))
		w.Header().Set("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
		io.WriteString(w, "hello")
	})
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	r := get(t, Config{Header: map[string]string{"x-mine": "1"}}, "http://"+host+":"+port+"/p?q=1#f")
	want(t, r, probe.OK, "")
	wantPhases(t, r, "resolve", "connect", "request", "first_byte", "body")
	h := r.HTTP
	if h.Status != 200 || h.Bytes != 5 || h.Truncated || h.Proto != "HTTP/1.1" || h.Server != "s/1" || h.AltSvcH3 != host+":8443" {
		t.Errorf("%+v", h)
	}
	if h.Date != time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC) || h.Header["Content-Length"] != "5" || h.Header["Via"] != strings.Repeat("é", 128) {
		t.Errorf("%+v", h)
	}
	if r.TLS != nil || r.RTT == nil || !r.Address.IsLoopback() || !r.Source.IsLoopback() || strconv.Itoa(int(r.Port)) != port {
		t.Errorf("%+v", r)
	}
}

func TestStatus(t *testing.T) {
	for status, o := range map[int]probe.Outcome{204: probe.OK, 404: probe.OK, 500: probe.BadAnswer, 503: probe.BadAnswer} {
		s := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) { w.WriteHeader(status) })
		r := get(t, Config{}, s.URL)
		detail := ""
		if status >= 400 {
			detail = strconv.Itoa(status) + " " + nethttp.StatusText(status)
		}
		want(t, r, o, detail)
	}
}

type pki struct{ root, inter, leaf *tlstest.Pair }

func newPKI(t *testing.T, w tlstest.Want) pki {
	root := tlstest.Issue(t, tlstest.Want{CN: "root", CA: true, NotBefore: time.Unix(1e9, 0)}, nil)
	inter := tlstest.Issue(t, tlstest.Want{CN: "inter", CA: true, NotBefore: time.Unix(1e9, 0)}, root)
	w.CN = "leaf"
	if w.DNS == nil {
		w.DNS = []string{host}
	}
	return pki{root, inter, tlstest.Issue(t, w, inter)}
}

func secure(t *testing.T, cert ctls.Certificate, h nethttp.HandlerFunc) (*httptest.Server, string) {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = &ctls.Config{Certificates: []ctls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	t.Cleanup(s.Close)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return s, "https://" + host + ":" + port + "/"
}

func TestHTTPS(t *testing.T) {
	p := newPKI(t, tlstest.Want{})
	_, url := secure(t, p.leaf.Server(p.inter), func(w nethttp.ResponseWriter, r *nethttp.Request) { io.WriteString(w, r.Proto) })
	for _, http1 := range []bool{false, true} {
		r := get(t, Config{Roots: tlstest.Pool(p.root), HTTP1Only: http1}, url)
		want(t, r, probe.OK, "")
		wantPhases(t, r, "resolve", "connect", "tls", "request", "first_byte", "body")
		proto, alpn := "HTTP/2.0", "h2"
		if http1 {
			proto, alpn = "HTTP/1.1", "http/1.1"
		}
		if r.HTTP.Proto != proto || r.HTTP.Bytes != 8 || r.TLS.ALPN != alpn || !r.TLS.Verified || r.TLS.ConnectRTT <= 0 || r.TLS.Handshake <= 0 {
			t.Errorf("%+v %+v", r.HTTP, r.TLS)
		}
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
			p := newPKI(t, w)
			roots := tlstest.Pool(p.root)
			if problem == tls.Untrusted {
				roots = tlstest.Pool()
			}
			var asked atomic.Int32
			_, url := secure(t, p.leaf.Server(p.inter), func(nethttp.ResponseWriter, *nethttp.Request) { asked.Add(1) })
			r := get(t, Config{Roots: roots, Repeat: 3}, url)
			if r.Outcome != probe.BadAnswer || r.TLS.Problem != problem || r.TLS.Verified || r.Detail == "" || r.HTTP.Status != 0 || len(r.HTTP.Repeats) != 1 {
				t.Fatalf("%v %q %+v", r.Outcome, r.Detail, r.TLS)
			}
			if asked.Load() != 0 {
				t.Fatal("a request was sent")
			}
			r = get(t, Config{Roots: roots, Insecure: true}, url)
			want(t, r, probe.OK, "")
			if r.TLS.Problem != problem || r.TLS.Verified || asked.Load() != 1 {
				t.Errorf("insecure: %+v", r.TLS)
			}
		})
	}
}

func TestRedirects(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		switch r.URL.Path {
		case "/":
			nethttp.Redirect(w, r, "/b", 302)
		case "/b":
			nethttp.Redirect(w, r, "//other.example:"+strings.Split(r.Host, ":")[1]+"/c", 308)
		case "/c":
			if r.Header.Get("X-Key") != "" {
				t.Error("the caller's header went to another origin")
			}
			io.WriteString(w, "done")
		}
	})
	r := get(t, Config{Header: map[string]string{"X-Key": "secret"}}, s.URL)
	want(t, r, probe.OK, "")
	rd := r.HTTP.Redirects
	if len(rd) != 2 || rd[0].Status != 302 || rd[1].Status != 308 || rd[0].To != rd[1].From || rd[0].Elapsed <= 0 || !strings.Contains(r.HTTP.URL, "other.example") || r.HTTP.Bytes != 4 || r.HTTP.Loop {
		t.Fatalf("%+v", r.HTTP)
	}
	if r = get(t, Config{NoFollow: true}, s.URL); r.HTTP.Status != 302 || len(r.HTTP.Redirects) != 0 || r.HTTP.Header["Location"] != "/b" {
		t.Fatalf("%+v", r.HTTP)
	}
	pin := netip.MustParseAddrPort(s.Listener.Addr().String())
	r = get(t, Config{Pin: pin, Resolve: noResolver(t)}, "http://"+host+":"+strconv.Itoa(int(pin.Port())))
	want(t, r, probe.OK, "not followed")
	if len(r.HTTP.Redirects) != 2 || r.HTTP.Status != 308 {
		t.Fatalf("%+v", r.HTTP)
	}
}

func noResolver(t *testing.T) func(context.Context, string) ([]netip.Addr, error) {
	return func(_ context.Context, h string) ([]netip.Addr, error) {
		t.Error("resolved " + h)
		return nil, errors.New("no")
	}
}

func TestRedirectLoops(t *testing.T) {
	var n atomic.Int32
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		switch r.URL.Path {
		case "/a":
			nethttp.Redirect(w, r, "/b", 302)
		case "/b":
			nethttp.Redirect(w, r, "/a", 302)
		case "/self":
			nethttp.Redirect(w, r, "/self#x", 302)
		case "/cookie": // sets a cookie, comes back, is content
			if c, err := r.Cookie("seen"); err == nil && c.Value == "1" {
				io.WriteString(w, "welcome")
				return
			}
			nethttp.SetCookie(w, &nethttp.Cookie{Name: "seen", Value: "1", Path: "/"})
			nethttp.Redirect(w, r, "/cookie", 302)
		case "/samecookie": // sets the same cookie again and again
			nethttp.SetCookie(w, &nethttp.Cookie{Name: "x", Value: "1", Path: "/"})
			nethttp.Redirect(w, r, "/samecookie", 302)
		case "/post":
			if r.Method == "GET" {
				io.WriteString(w, "form")
				return
			}
			nethttp.Redirect(w, r, "/post", 303)
		default:
			nethttp.Redirect(w, r, fmt.Sprintf("/n%d", n.Add(1)), 302)
		}
	})
	for _, c := range []struct {
		path, method string
		loop         bool
		steps        int
		detail       string
	}{
		{"/a", "", true, 2, "comes a second time"},
		{"/self", "", true, 1, "comes a second time"},
		{"/samecookie", "", true, 2, "comes a second time"},
		{"/endless", "", true, 11, "more than 10 redirects"},
		{"/cookie", "", false, 1, ""},
		{"/post", "POST", false, 1, ""},
	} {
		t.Run(c.path, func(t *testing.T) {
			r := get(t, Config{Method: c.method}, s.URL+c.path)
			o := probe.OK
			if c.loop {
				o = probe.BadAnswer
			}
			want(t, r, o, c.detail)
			if r.HTTP.Loop != c.loop || len(r.HTTP.Redirects) != c.steps {
				t.Fatalf("loop %v, %d redirects", r.HTTP.Loop, len(r.HTTP.Redirects))
			}
		})
	}
}

func TestRedirectsThatLeadNowhere(t *testing.T) {
	for location, detail := range map[string]string{
		"":                  "redirect without a Location",
		"ftp://x.example/":  `redirect to scheme "ftp"`,
		"http://[::1":       "no URL",
		"http:///nohost":    "length must be 1",
		"http://x:99999/":   "must be 1 to 65535",
		"mailto:a@example":  `scheme "mailto"`,
		"http://x.example:": "",
	} {
		if detail == "" {
			continue // an empty port is the default one: nothing to see without network
		}
		r := get(t, Config{}, raw(t, func(c net.Conn) {
			fmt.Fprintf(c, "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", location)
		}))
		want(t, r, probe.OK, detail)
	}
}

func TestBadServers(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		situation string
		serve     func(net.Conn)
		outcome   probe.Outcome
		detail    string
	}{
		{"accepts and never speaks", untilClosed, probe.Timeout, "connected, request sent, no response in "},
		{"stops in the header", func(c net.Conn) { io.WriteString(c, ok); untilClosed(c) }, probe.Timeout, "header not complete"},
		{"stops in the body", func(c net.Conn) { io.WriteString(c, ok+"Content-Length: 10\r\n\r\nabc"); untilClosed(c) }, probe.Timeout, "status 200, body not complete in"},
		{"closes", func(net.Conn) {}, probe.Failed, "closed the connection without"},
		{"closes in the body", func(c net.Conn) { io.WriteString(c, ok+"Content-Length: 10\r\n\r\nabc") }, probe.Failed, "body ended early (3 bytes received of 10)"},
		{"resets", func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, probe.Reset, "connection reset by peer"},
		{"garbage", func(c net.Conn) { io.WriteString(c, "\x00\x01garbage\r\n\r\n") }, probe.Failed, "malformed HTTP"},
		{"tls", func(c net.Conn) { io.WriteString(c, "\x15\x03\x01\x00\x02\x02\x46\r\n") }, probe.Failed, "use https"},
		{"endless header", func(c net.Conn) {
			io.WriteString(c, ok)
			for line := "X: " + strings.Repeat("x", 1000) + "\r\n"; ; {
				if _, err := io.WriteString(c, line); err != nil {
					return
				}
			}
		}, probe.Failed, "header"},
	} {
		t.Run(c.situation, func(t *testing.T) {
			timeout := 10 * time.Second
			if c.outcome == probe.Timeout {
				timeout = 200 * time.Millisecond
			}
			want(t, get(t, Config{Timeout: timeout}, raw(t, c.serve)), c.outcome, c.detail)
		})
	}
}

func TestResetInTheMiddleOfTheBody(t *testing.T) {
	read := make(chan struct{})
	url := raw(t, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		<-read
		c.(*net.TCPConn).SetLinger(0)
	})
	// A reset overtakes unread data, so it is sent once the client has the header.
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotFirstResponseByte: func() { close(read) }})
	r, err := New(Config{}).Probe(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome != probe.Reset || r.Errno != "ECONNRESET" {
		t.Fatalf("%v %q", r.Outcome, r.Detail)
	}
}

func TestSlowFirstByteAndSlowBody(t *testing.T) {
	const pause = 60 * time.Millisecond
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.URL.Path == "/first" {
			time.Sleep(pause)
		}
		io.WriteString(w, "a")
		w.(nethttp.Flusher).Flush()
		if r.URL.Path == "/body" {
			time.Sleep(pause)
		}
		io.WriteString(w, "b")
	})
	for path, phase := range map[string]string{"/first": "first_byte", "/body": "body"} {
		r := get(t, Config{}, s.URL+path)
		want(t, r, probe.OK, "")
		if d, _ := r.PhaseNamed(phase); d.Std() < pause*9/10 { // at least: a busy machine only adds
			t.Errorf("%s: %v", phase, r.Phases)
		}
	}
}

func TestEndlessBodyIsCutOff(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		for b := make([]byte, 4096); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	r := get(t, Config{MaxBody: 10000}, s.URL)
	want(t, r, probe.OK, "")
	if r.HTTP.Bytes != 10000 || !r.HTTP.Truncated {
		t.Fatalf("%+v", r.HTTP)
	}
	exact := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) { w.Write(make([]byte, 100)) })
	if r = get(t, Config{MaxBody: 100}, exact.URL); r.HTTP.Bytes != 100 || r.HTTP.Truncated {
		t.Fatalf("%+v", r.HTTP)
	}
}

func TestRepeat(t *testing.T) {
	var conns, asked atomic.Int32
	s := httptest.NewUnstartedServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		if asked.Add(1) == 3 {
			w.WriteHeader(503)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, st nethttp.ConnState) {
		if st == nethttp.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	r := get(t, Config{Repeat: 4}, s.URL)
	want(t, r, probe.OK, "1 of 3 repeats failed, the last of them: 503")
	if len(r.HTTP.Repeats) != 4 || r.HTTP.Repeats[2].Status != 503 || conns.Load() != 4 {
		t.Fatalf("%d connections, %+v", conns.Load(), r.HTTP.Repeats)
	}
	for _, rep := range r.HTTP.Repeats {
		if rep.Total <= 0 || rep.FirstByte <= 0 || rep.FirstByte > rep.Total {
			t.Errorf("%+v", rep)
		}
	}
	conns.Store(0)
	r = get(t, Config{Repeat: 4, Reuse: true}, s.URL)
	want(t, r, probe.OK, "")
	if len(r.HTTP.Repeats) != 4 || conns.Load() != 1 {
		t.Fatalf("reuse: %d connections, %+v", conns.Load(), r.HTTP.Repeats)
	}
}

func TestReuseOfAConnectionThatTheServerCloses(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) { w.Header().Set("Connection", "close") })
	r := get(t, Config{Repeat: 3, Reuse: true}, s.URL)
	want(t, r, probe.OK, "")
	if len(r.HTTP.Repeats) != 3 || r.HTTP.Repeats[2].Status != 200 {
		t.Fatalf("%+v", r.HTTP.Repeats)
	}
}

func TestResolveOutcomes(t *testing.T) {
	fail := func(err error) func(context.Context, string) ([]netip.Addr, error) {
		return func(context.Context, string) ([]netip.Addr, error) { return nil, err }
	}
	want(t, get(t, Config{Resolve: fail(&net.DNSError{IsNotFound: true})}, "http://x.example/"), probe.BadAnswer, "no such host")
	want(t, get(t, Config{Resolve: fail(&net.DNSError{IsTimeout: true})}, "http://x.example/"), probe.Timeout, "no answer in")
	want(t, get(t, Config{Resolve: fail(&net.DNSError{Err: "server misbehaving"})}, "http://x.example/"), probe.Failed, "server misbehaving")
	want(t, get(t, Config{Resolve: fail(nil)}, "http://x.example/"), probe.BadAnswer, "no address")
}

func TestSecondAddressIsTried(t *testing.T) {
	s := serve(t, func(nethttp.ResponseWriter, *nethttp.Request) {})
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	two := func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")}, nil
	}
	r := get(t, Config{Resolve: two}, "http://x.example:"+port)
	want(t, r, probe.OK, "127.0.0.2: connect: connection refused")
	if r.Address != netip.MustParseAddr("127.0.0.1") || r.Errno != "" {
		t.Fatalf("%+v", r)
	}
}

func TestPlainServerOnTheTLSPort(t *testing.T) {
	s := serve(t, func(nethttp.ResponseWriter, *nethttp.Request) {})
	r := get(t, Config{}, "https://"+s.Listener.Addr().String())
	want(t, r, probe.Failed, `does not speak TLS: it answered "HTTP/1.`)
}

func TestErrorsWhenNothingCanBeMeasured(t *testing.T) {
	for _, c := range []struct {
		cfg       Config
		url, want string
	}{
		{Config{}, "example.net", "want http://"},
		{Config{}, "ftp://127.0.0.1/", "want http://"},
		{Config{}, "http://:80/", "host"},
		{Config{}, "http://127.0.0.1:0/", "port"},
		{Config{Method: "CONNECT"}, "http://127.0.0.1:1/", "CONNECT"},
		{Config{Method: "G ET"}, "http://127.0.0.1:1/", "invalid method"},
		{Config{Header: map[string]string{"a b": ""}}, "http://127.0.0.1:1/", "cannot be in a name"},
		{Config{Header: map[string]string{"a": "x\r\ny"}}, "http://127.0.0.1:1/", "cannot be in a value"},
		{Config{Source: netip.MustParseAddr("192.0.2.77")}, "http://127.0.0.1:1/", "address of this host"},
		{Config{Interface: "nosuch0"}, "http://127.0.0.1:1/", "no such interface"},
	} {
		if _, err := New(c.cfg).Probe(context.Background(), c.url); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.url, err, c.want)
		}
	}
}

func TestCancelEndsAtOnceAndNothingIsLeft(t *testing.T) {
	url := raw(t, untilClosed)
	before := runtime.NumGoroutine()
	for range 3 {
		ctx, cancel := context.WithCancel(context.Background())
		stop := time.AfterFunc(30*time.Millisecond, cancel)
		if _, err := New(Config{Timeout: time.Hour}).Probe(ctx, url); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		stop.Stop()
		cancel()
	}
	settle(t, before)
}

// settle waits until the goroutines of closed connections have gone.
func settle(t *testing.T, want int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 64<<10)
	t.Fatalf("%d goroutines, want %d\n%s", runtime.NumGoroutine(), want, buf[:runtime.Stack(buf, true)])
}
