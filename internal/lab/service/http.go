package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// port is the default port of the listening addresses.
func (h HTTP) port() string {
	if h.Cert != "" {
		return "443"
	}
	return "80"
}

// startHTTP opens the listeners of a web server.
func (b *base) startHTTP(h HTTP, ca *CA) error {
	var addrs []string
	names := append([]string(nil), h.Names...)
	for _, l := range h.Listen {
		a, err := listenAddr(l, h.port())
		if err != nil {
			return err
		}
		if host, _, err := net.SplitHostPort(a); err == nil && host != "" {
			if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
				names = append(names, ip.WithZone("").String())
			}
		}
		addrs = append(addrs, a)
	}
	var conf *tls.Config
	if h.Cert != "" {
		var err error
		if conf, err = b.tlsConfig(h, ca, names); err != nil {
			return err
		}
	}
	for _, a := range addrs {
		if err := b.serveHTTP(h, a, conf); err != nil {
			return err
		}
	}
	return nil
}

func (b *base) tlsConfig(h HTTP, ca *CA, names []string) (*tls.Config, error) {
	if ca == nil {
		var err error
		if ca, err = NewCA(); err != nil {
			return nil, err
		}
	}
	cert, err := ca.Certificate(h.Cert, names, h.ExpiringDays)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if h.NoHTTP2 {
		conf.NextProtos = []string{"http/1.1"}
	}
	if h.HandshakeDelay > 0 {
		conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if !sleep(hello.Context(), h.HandshakeDelay) {
				return nil, hello.Context().Err()
			}
			return nil, nil
		}
	}
	return conf, nil
}

// serveHTTP serves one address, and HTTP/3 on the same port.
func (b *base) serveHTTP(h HTTP, addr string, conf *tls.Config) error {
	ln, err := b.listenTCP(addr, 0)
	if err != nil {
		return err
	}
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	if h.AltSvc == "" && (h.HTTP3 || h.HTTP3Closed) {
		h.AltSvc = `h3=":` + port + `"; ma=3600`
	}
	handler := &pages{b: b, h: h}
	quiet := log.New(io.Discard, "", 0) // handshakes fail on purpose here
	srv := &http.Server{Handler: handler, ErrorLog: quiet, ReadHeaderTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return b.ctx }}
	b.keep(srv)
	serve := func() error { return srv.Serve(ln) }
	if conf != nil {
		srv.TLSConfig = conf.Clone() // the server adds to it while it starts
		if h.NoHTTP2 {
			srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		}
		serve = func() error { return srv.ServeTLS(ln, "", "") }
	}
	b.run(func() {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			b.fail(fmt.Errorf("serve http on %s: %w", addr, err))
		}
	})
	if !h.HTTP3 {
		return nil
	}
	host, _, _ := net.SplitHostPort(addr)
	return b.serveHTTP3(net.JoinHostPort(host, port), handler, conf)
}

// pages answers requests.
type pages struct {
	b *base
	h HTTP
}

func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.b.enter() {
		panic(http.ErrAbortHandler) // stopping; the server library takes this
	}
	defer p.b.wg.Done()
	p.b.count("requests")
	// Either the client's going or the service's end stops the answer.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.b.ctx, cancel)()

	page, ok := p.h.Paths[r.URL.Path]
	if !ok {
		page = p.h.Page
	}
	p.setHeaders(w.Header(), page)
	if page.Backends > 0 {
		p.b.mu.Lock()
		turn := p.b.stats["turn"]
		p.b.stats["turn"]++
		p.b.mu.Unlock()
		n := int(turn % uint64(page.Backends))
		w.Header().Set("X-Backend", strconv.Itoa(n+1))
		if page.Fail > 0 { // the last share of the backends is bad, always the same ones
			bad := n >= page.Backends-max(1, int(float64(page.Fail)*float64(page.Backends)+0.5))
			page.Fail = 0
			if bad {
				page.Fail = 1
			}
		}
	}
	if p.b.chance(page.Fail) {
		p.b.count("failed")
		page = Page{Status: page.FailStatus, Delay: page.FailDelay, Body: "this backend is broken\n"}
		if page.Status == 0 {
			page.Status = http.StatusServiceUnavailable
		}
	} else if page.Hit != nil {
		page = p.cache(w.Header(), page)
	}
	if sleep(ctx, page.Delay+p.b.spread(page.Jitter)) {
		p.write(ctx, w, r, page)
	} else {
		panic(http.ErrAbortHandler)
	}
}

func (p *pages) setHeaders(h http.Header, page Page) {
	for _, m := range []map[string]string{p.h.Headers, page.Headers} {
		for k, v := range m {
			h.Set(k, v)
		}
	}
	h.Set("Date", time.Now().Add(p.h.DateSkew).UTC().Format(http.TimeFormat))
	if p.h.AltSvc != "" {
		h.Set("Alt-Svc", p.h.AltSvc)
	}
	if page.Redirect != "" {
		h.Set("Location", page.Redirect)
	}
}

// cache marks the answer as a hit or a miss (RFC 9211).
func (p *pages) cache(h http.Header, page Page) Page {
	if p.b.chance(*page.Hit) {
		h.Set("Cache-Status", "fathomlab; hit; ttl=300")
		h.Set("X-Cache", "HIT")
		h.Set("Age", "60")
		return page
	}
	h.Set("Cache-Status", "fathomlab; fwd=miss; stored")
	h.Set("X-Cache", "MISS")
	h.Set("Age", "0")
	page.Delay += page.MissDelay
	return page
}

// write sends status and body, at the page's rate, and breaks off where asked.
func (p *pages) write(ctx context.Context, w http.ResponseWriter, r *http.Request, page Page) {
	status, size := page.Status, int64(page.Size)
	if status == 0 {
		if status = http.StatusOK; page.Redirect != "" {
			status = http.StatusFound
		}
	}
	if page.Body != "" {
		size = int64(len(page.Body))
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	flush := http.NewResponseController(w)
	stop := size
	if page.Abort != "" {
		stop = min(size, int64(page.AbortAfter))
	}
	chunk := int64(len(zeros))
	if page.Rate > 0 { // 50 chunks a second, each sent when the line would be free for it
		chunk = min(chunk, max(1, int64(page.Rate)/8/50))
	}
	began := time.Now()
	for at := int64(0); at < stop; {
		n := min(chunk, stop-at)
		data := zeros[:n]
		if page.Body != "" {
			data = []byte(page.Body[at : at+n])
		}
		if page.Rate > 0 && !sleep(ctx, page.Rate.Serialise(int(at))-time.Since(began)) {
			panic(http.ErrAbortHandler)
		}
		if _, err := w.Write(data); err != nil {
			return
		}
		if page.Rate > 0 {
			_ = flush.Flush()
		}
		at += n
	}
	if page.Abort != "" {
		_ = flush.Flush()
		abort(w, page.Abort)
	}
}

// abort ends the connection: with FIN or RST for HTTP/1, by resetting the stream
// for HTTP/2 and HTTP/3.
func abort(w http.ResponseWriter, how string) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_ = buf.Flush()
	if how == "reset" {
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
		}
		reset(c)
		return
	}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn() // no close_notify: cut off in the middle
	}
	_ = c.Close()
}
