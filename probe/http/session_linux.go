package http

import (
	"context"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"fathom/probe"
	"fathom/probe/tls"
	"fathom/sample"
)

// maxAddresses is how many addresses of a name are tried, each with its share of the
// time left: with the default timeout each lives through one lost SYN (1 s).
const maxAddresses = 4

// session is one connection with the HTTP client on top of it.
type session struct {
	addr netip.AddrPort
	raw  net.Conn
	obs  *tls.Observer // nil: plain HTTP
	tr   *nethttp.Transport
}

// close ends the connection and with it the client's goroutines. A nil session is allowed.
func (s *session) close() {
	if s == nil {
		return
	}
	s.tr.CloseIdleConnections()
	_ = s.raw.Close()
}

// errSpent is what the client gets when it wants a second connection: it shall
// not make one that we do not time.
var errSpent = errors.New("the connection is used up")

// endpoint returns the port of a URL and checks its host.
func endpoint(u *url.URL) (uint16, error) {
	if h := u.Hostname(); h == "" || len(h) > 253 {
		return 0, fmt.Errorf("host %q: its length must be 1 to 253 bytes", Clip(h))
	}
	if u.Port() == "" {
		if u.Scheme == "https" {
			return 443, nil
		}
		return 80, nil
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: must be 1 to 65535", Clip(u.Port()))
	}
	return uint16(n), nil
}

func resolveGo(ctx context.Context, host string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true} // cgo and nss would hide what is asked
	return r.LookupNetIP(ctx, "ip", host)
}

// addresses returns where to connect for u. With none and no error, r says why.
func (c *chain) addresses(ctx context.Context, u *url.URL, r *probe.Result) ([]netip.AddrPort, error) {
	port, err := endpoint(u)
	if err != nil {
		return nil, err
	}
	if pin := c.cfg.Pin; pin.IsValid() && sameHost(u, c.origin) {
		if first, _ := endpoint(c.origin); port == first && pin.Port() != 0 {
			port = pin.Port()
		}
		return []netip.AddrPort{netip.AddrPortFrom(pin.Addr().Unmap(), port)}, nil
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), port)}, nil
	}
	began := time.Now()
	found, err := c.cfg.Resolve(ctx, u.Hostname())
	took := time.Since(began)
	r.Phases = append(r.Phases, probe.Phase{Name: "resolve", Duration: sample.D(took)})
	if err != nil {
		return nil, resolveFailed(ctx, u.Hostname(), err, took, r)
	}
	var out []netip.AddrPort
	for _, a := range found {
		if a = a.Unmap(); !c.cfg.Source.IsValid() || a.Is4() == c.cfg.Source.Unmap().Is4() {
			out = append(out, netip.AddrPortFrom(a, port))
		}
	}
	switch {
	case len(found) == 0:
		r.Outcome, r.Detail = probe.BadAnswer, "resolve "+u.Hostname()+": the name has no address"
	case len(out) == 0:
		return nil, fmt.Errorf("connect to %s from %s: the name has no address of that family", u.Hostname(), c.cfg.Source)
	}
	return out[:min(len(out), maxAddresses)], nil
}

// resolveFailed says in r why a name has no address. An errno in err is about the
// way to a resolver, not to the target, so it does not decide the outcome.
func resolveFailed(ctx context.Context, host string, err error, took time.Duration, r *probe.Result) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("resolve %s: %w", host, context.Canceled)
	}
	var de *net.DNSError
	switch isDNS := errors.As(err, &de); {
	case isDNS && de.IsNotFound:
		r.Outcome, r.Detail = probe.BadAnswer, "resolve "+host+": no such host"
	case ctx.Err() != nil || isDNS && de.IsTimeout:
		r.Outcome, r.Detail = probe.Timeout, "resolve "+host+": no answer in "+wait(took)
	case isDNS:
		r.Outcome, r.Detail = probe.Failed, "resolve "+host+": "+Clip(de.Err)
	default:
		r.Outcome, r.Detail = probe.Failed, "resolve "+host+": "+Clip(err.Error())
	}
	return nil
}

// connect tries the addresses in order. With no connection and no error, r says
// why. note tells of addresses that failed before the one that worked.
func (c *chain) connect(ctx context.Context, addrs []netip.AddrPort, r *probe.Result) (conn net.Conn, at netip.AddrPort, note string, err error) {
	d := tls.Dialer{Source: c.cfg.Source, Interface: c.cfg.Interface}
	for i, ap := range addrs {
		r.Address, r.Port = ap.Addr(), ap.Port()
		share, cancel := context.WithCancel(ctx)
		if end, ok := ctx.Deadline(); ok && i < len(addrs)-1 {
			cancel()
			share, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(len(addrs)-i))
		}
		began := time.Now()
		conn, link, err := d.Dial(share, ap)
		cancel()
		if err == nil {
			r.Outcome, r.Errno, r.Detail, r.ICMP = "", "", "", nil
			link.Record(r)
			return conn, ap, note, nil
		}
		if err := tls.ConnectFailed(ctx, r, err, time.Since(began)); err != nil {
			return nil, ap, "", err
		}
		if len(addrs) > 1 {
			note += ap.Addr().String() + ": " + r.Detail + "; "
		}
	}
	if note != "" {
		r.Detail = note[:len(note)-2]
	}
	return nil, netip.AddrPort{}, "", nil
}

// open makes the connection for v and, for https, the handshake. With no session
// and no error, r says why.
func (c *chain) open(ctx context.Context, v *visit, addrs []netip.AddrPort, r *probe.Result) error {
	conn, at, note, err := c.connect(ctx, addrs, r)
	if conn == nil {
		return err
	}
	v.note = note
	s := &session{addr: at, raw: conn}
	top := conn
	if v.url.Scheme == "https" {
		if top, err = c.secure(ctx, v.url, s, r); top == nil {
			conn.Close()
			return err
		}
	}
	s.tr = c.client(top)
	v.sess = s
	return nil
}

// secure makes the handshake on s.raw and judges the certificate. With no
// connection and no error, r says why no request may be sent.
func (c *chain) secure(ctx context.Context, u *url.URL, s *session, r *probe.Result) (net.Conn, error) {
	alpn := []string{"h2", "http/1.1"}
	if c.cfg.HTTP1Only {
		alpn = alpn[1:]
	}
	obs, err := tls.NewObserver(u.Hostname(), alpn)
	if err != nil {
		return nil, err
	}
	s.obs = obs
	began := time.Now()
	tc, err := obs.Client(ctx, s.raw)
	took := time.Since(began)
	r.Phases = append(r.Phases, probe.Phase{Name: "tls", Duration: sample.D(took)})
	r.TLS = obs.TLS(c.cfg.Roots, time.Now())
	r.TLS.Handshake = sample.D(took)
	if r.RTT != nil {
		r.TLS.ConnectRTT = r.RTT.Value
	}
	if err != nil {
		return nil, obs.HandshakeFailed(ctx, r, err, took)
	}
	if r.TLS.Verified || c.cfg.Insecure {
		return tc, nil
	}
	if r.TLS.Problem == "" {
		return nil, fmt.Errorf("judge the certificate of %s: %s", u.Host, r.TLS.ProblemText)
	}
	tls.JudgeCertificate(r)
	return nil, nil
}

// client is net/http's client on top of a connection that stands.
func (c *chain) client(conn net.Conn) *nethttp.Transport {
	give := make(chan net.Conn, 1)
	give <- conn
	dial := func(context.Context, string, string) (net.Conn, error) {
		select {
		case c := <-give:
			return c, nil
		default:
			return nil, errSpent
		}
	}
	var protocols nethttp.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!c.cfg.HTTP1Only)
	return &nethttp.Transport{
		DialContext: dial, DialTLSContext: dial, Protocols: &protocols, // Proxy stays nil: see the package comment
		DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
}
