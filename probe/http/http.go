// Package http measures requests over HTTP/1.1 and HTTP/2: the phases of a
// request, its redirects, the server's certificate and clock, and what the
// server says about caching and HTTP/3.
//
// The environment's proxy variables are ignored on purpose: what is measured is
// the network between this host and the server, not a proxy's idea of it.
// Nothing is asked of the server to be compressed, and no connection is kept
// from one Probe to the next.
package http

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	nethttp "net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"fathom/probe"
	"fathom/probe/tls"
	"fathom/sample"
)

// Defaults of Config.
const (
	DefaultTimeout      = 5 * time.Second // as for the other probes: two lost SYNs and a slow server
	DefaultMaxRedirects = 10              // curl allows 50, browsers 20; an honest site needs three
	DefaultMaxBody      = 1 << 20
	DefaultUserAgent    = "fathom"
	maxURL              = 8 << 10   // bytes, of a redirect's target
	maxHeader           = 256 << 10 // bytes, of one response's header
)

// Config says how to measure. The zero value is usable.
type Config struct {
	Method       string            // "": GET
	Header       map[string]string // sent as given; Host sets the authority. Credentials are not sent to another origin
	Pin          netip.AddrPort    // connect here for the URL's host whatever its name resolves to; nothing is resolved then
	HTTP1Only    bool              // do not offer h2
	MaxRedirects int               // 0: DefaultMaxRedirects
	NoFollow     bool              // a redirect is the answer
	MaxBody      int64             // bytes of body read; 0: DefaultMaxBody
	Timeout      time.Duration     // of one request with all its redirects, and of each repeat; 0: DefaultTimeout
	Insecure     bool              // send the request in spite of a bad certificate (which is still reported)
	Repeat       int               // requests altogether; 0 and 1: one. The others go to the last URL and address, redirects not followed
	Reuse        bool              // repeats use the first connection while it stands
	Source       netip.Addr        // local address
	Interface    string            // bind to this interface
	UserAgent    string            // "": DefaultUserAgent
	Roots        *x509.CertPool    // trust anchors; nil: this host's
	// Resolve replaces net.Resolver (pure Go: /etc/hosts and /etc/resolv.conf).
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Prober measures requests. It is safe for concurrent use.
type Prober struct{ cfg Config }

// New returns a Prober.
func New(cfg Config) *Prober {
	if cfg.Method == "" {
		cfg.Method = nethttp.MethodGet
	}
	if cfg.MaxRedirects <= 0 {
		cfg.MaxRedirects = DefaultMaxRedirects
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = DefaultUserAgent
	}
	if cfg.Resolve == nil {
		cfg.Resolve = resolveGo
	}
	return &Prober{cfg: cfg}
}

// Probe requests target, an http or https URL. The error is not nil only when
// nothing could be measured: a bad URL or option, a source address or interface that
// cannot be used, no trust store to judge a certificate by, or ctx cancelled.
func (p *Prober) Probe(ctx context.Context, target string) (probe.Result, error) {
	u, _, err := ParseURL(target)
	if err != nil {
		return probe.Result{}, err
	}
	if p.cfg.Method == nethttp.MethodConnect {
		return probe.Result{}, errors.New("http method CONNECT: is for proxies, not for measuring")
	}
	if _, err := nethttp.NewRequest(p.cfg.Method, target, nil); err != nil {
		return probe.Result{}, fmt.Errorf("http request: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return probe.Result{}, fmt.Errorf("http request to %s: %w", u.Redacted(), err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return probe.Result{}, err
	}
	if err := CheckHeader(p.cfg.Header); err != nil {
		return probe.Result{}, err
	}
	c := chain{cfg: p.cfg, origin: u, jar: jar, seen: map[string]bool{}}
	start := time.Now()
	r, v, err := c.follow(ctx)
	defer func() { v.sess.close() }()
	if err == nil && p.cfg.Repeat > 1 {
		elapsed := time.Since(start)
		err = c.repeat(ctx, v, &r)
		r.Elapsed = sample.D(elapsed)
	} else {
		r.Elapsed = sample.D(time.Since(start))
	}
	r.Kind, r.Target, r.Start = probe.KindHTTP, target, start
	return r, err
}

// ParseURL checks an http or https URL that is to be measured and returns its port.
func ParseURL(target string) (*url.URL, uint16, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, 0, fmt.Errorf("http target: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, 0, fmt.Errorf("http target %q: want http://… or https://…", target)
	}
	port, err := endpoint(u)
	if err != nil {
		return nil, 0, fmt.Errorf("http target %q: %w", target, err)
	}
	return u, port, nil
}

// chain is one Probe: a request and where its redirects lead.
type chain struct {
	cfg    Config
	origin *url.URL
	jar    nethttp.CookieJar
	seen   map[string]bool // requests made, by method, URL and cookies
}

// follow makes the request and follows its redirects. The visit returned is the
// last one; the caller closes its session.
func (c *chain) follow(ctx context.Context) (probe.Result, *visit, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	u, method := c.origin, c.cfg.Method
	var redirects []probe.Redirect
	for {
		c.seen[c.key(method, u)] = true
		v := &visit{method: method, url: u}
		r, err := c.visit(ctx, v)
		r.HTTP.Redirects = redirects
		if err != nil || v.resp == nil || c.cfg.NoFollow || !isRedirect(v.resp) || r.Outcome != probe.OK {
			return r, v, err
		}
		next, why := nextURL(u, v.resp)
		if next == nil {
			r.Detail += ": " + why
			return r, v, nil
		}
		redirects = append(redirects, probe.Redirect{
			From: u.Redacted(), Status: v.resp.StatusCode, To: next.Redacted(), Elapsed: r.Elapsed,
		})
		r.HTTP.Redirects = redirects
		method = redirectMethod(method, v.resp.StatusCode)
		if c.stop(&r, method, next, len(redirects)) {
			return r, v, nil
		}
		v.sess.close()
		u = next
	}
}

// stop tells whether the redirect to next is not followed, and says why in r.
func (c *chain) stop(r *probe.Result, method string, next *url.URL, n int) bool {
	switch {
	case c.seen[c.key(method, next)]:
		r.HTTP.Loop, r.Outcome = true, probe.BadAnswer
		r.Detail = "redirect loop: " + Clip(next.Redacted()) + " comes a second time"
	case n > c.cfg.MaxRedirects:
		r.HTTP.Loop, r.Outcome = true, probe.BadAnswer
		r.Detail = fmt.Sprintf("more than %d redirects", c.cfg.MaxRedirects)
	case c.cfg.Pin.IsValid() && !sameHost(next, c.origin) && !isLiteral(next):
		r.Detail += ": redirect to " + Clip(next.Host) + " not followed, as only " + Clip(c.origin.Host) + " is pinned to an address"
	default:
		return false
	}
	return true
}

// key identifies a request: the same key again gets the same answer again, so
// that is a loop. A redirect that sets a cookie and comes back is none.
func (c *chain) key(method string, u *url.URL) string {
	k := *u
	k.Fragment, k.RawFragment = "", ""
	var b strings.Builder
	b.WriteString(method + " " + k.String())
	for _, ck := range c.jar.Cookies(&k) {
		b.WriteString("\n" + ck.Name + "=" + ck.Value)
	}
	return b.String()
}

// isRedirect tells whether a response sends the client elsewhere (RFC 9110 §15.4).
func isRedirect(resp *nethttp.Response) bool {
	switch resp.StatusCode {
	case 301, 302, 303, 307, 308:
		return true
	}
	return false
}

// nextURL returns where a redirect leads, or nil and why it leads nowhere.
func nextURL(u *url.URL, resp *nethttp.Response) (*url.URL, string) {
	loc := resp.Header.Get("Location")
	if loc == "" {
		return nil, "redirect without a Location"
	}
	if len(loc) > maxURL {
		return nil, fmt.Sprintf("redirect to a URL of %d bytes, not followed", len(loc))
	}
	next, err := u.Parse(loc)
	if err != nil {
		return nil, "redirect to something that is no URL: " + fmt.Sprintf("%q", Clip(loc))
	}
	if next.Scheme != "http" && next.Scheme != "https" {
		return nil, fmt.Sprintf("redirect to scheme %q, not followed", Clip(next.Scheme))
	}
	if _, err := endpoint(next); err != nil {
		return nil, fmt.Sprintf("redirect to %q, not followed: %v", Clip(next.Host), err)
	}
	return next, ""
}

// redirectMethod is the method of the request after a redirect, as browsers do it (RFC 9110 §15.4.2-4).
func redirectMethod(method string, status int) string {
	if method == nethttp.MethodHead {
		return method
	}
	if status == 303 || (method == nethttp.MethodPost && (status == 301 || status == 302)) {
		return nethttp.MethodGet
	}
	return method
}

func sameHost(a, b *url.URL) bool { return strings.EqualFold(a.Hostname(), b.Hostname()) }

func isLiteral(u *url.URL) bool {
	_, err := netip.ParseAddr(u.Hostname())
	return err == nil
}

// headersKept are the response headers worth keeping.
var headersKept = []string{
	"Server", "Via", "Age", "Cache-Control", "Cache-Status", "X-Cache", "Retry-After", "Location", "Content-Type", "Content-Length",
}

// DescribeResponse fills in what a response's header says. It is shared with the HTTP/3 probe.
func DescribeResponse(h *probe.HTTP, u *url.URL, resp *nethttp.Response) {
	h.Proto, h.Status = resp.Proto, resp.StatusCode
	if t, err := nethttp.ParseTime(resp.Header.Get("Date")); err == nil {
		h.Date = t.UTC()
	}
	h.Server = Clip(resp.Header.Get("Server"))
	h.AltSvcH3 = H3Authority(resp.Header.Values("Alt-Svc"), u.Hostname())
	for _, name := range headersKept {
		if v := resp.Header.Values(name); len(v) > 0 {
			if h.Header == nil {
				h.Header = map[string]string{}
			}
			h.Header[name] = Clip(strings.Join(v, ", "))
		}
	}
}

// JudgeStatus sets Outcome and Detail from a status: a server that says 404
// works, one that says 503 does not.
func JudgeStatus(r *probe.Result, status int) {
	r.Outcome = probe.OK
	if status >= 500 {
		r.Outcome = probe.BadAnswer
	}
	if status < 200 || status >= 300 {
		r.Detail = statusText(status)
	}
}

func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, nethttp.StatusText(status)))
}

// Clip bounds a string from outside to 256 bytes without splitting a character;
// control characters stay, as the output escapes them.
func Clip(s string) string {
	const most = 256
	if len(s) <= most {
		return s
	}
	end := most
	for end > most-4 && s[end]&0xc0 == 0x80 {
		end--
	}
	return s[:end]
}

// wait is how waiting times are written in Detail.
func wait(d time.Duration) string { return tls.Wait(d) }
