// Package http3 measures one request over HTTP/3: the QUIC handshake to a pinned
// address, the server's certificate, the first byte and the body. Its purpose
// is the comparison with package http: the same server, by UDP instead of TCP.
//
// The packets of the handshake are 1280 bytes long as IP packets or more (RFC
// 9000 §14.1), so a path with a smaller MTU looks silent, as it does to browsers.
package http3

import (
	"context"
	ctls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"fathom/probe"
	"fathom/probe/http"
	"fathom/probe/tls"
	"fathom/sample"
)

// DefaultTimeout is as long as that of package http, so that the two compare.
const DefaultTimeout = http.DefaultTimeout

// maxHeader bounds a response's header, in bytes.
const maxHeader = 256 << 10

// Config says how to measure. The zero value is usable for URLs with an address literal.
type Config struct {
	Method    string // GET or HEAD; "": GET
	Header    map[string]string
	Pin       netip.AddrPort // connect here; port 0: the URL's. Needed unless the URL's host is an address: names are not resolved
	MaxBody   int64          // bytes of body read; 0: http.DefaultMaxBody
	Timeout   time.Duration  // of all of it; 0: DefaultTimeout
	Insecure  bool           // send the request in spite of a bad certificate
	Source    netip.Addr     // local address
	Interface string         // bind to this interface
	UserAgent string         // "": http.DefaultUserAgent
	Roots     *x509.CertPool // trust anchors; nil: this host's
	Now       func() time.Time
}

// Prober measures HTTP/3 requests. It is safe for concurrent use.
type Prober struct{ cfg Config }

// New returns a Prober.
func New(cfg Config) *Prober {
	if cfg.Method == "" {
		cfg.Method = nethttp.MethodGet
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = http.DefaultMaxBody
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = http.DefaultUserAgent
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Prober{cfg: cfg}
}

// Probe makes one handshake and one request for target, an https URL. Redirects
// are not followed. The error is not nil only when nothing could be measured.
func (p *Prober) Probe(ctx context.Context, target string) (probe.Result, error) {
	u, at, err := p.plan(target)
	if err != nil {
		return probe.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return probe.Result{}, fmt.Errorf("http3 request to %s: %w", u.Redacted(), err)
	}
	obs, err := tls.NewObserver(u.Hostname(), []string{http3.NextProtoH3})
	if err != nil {
		return probe.Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	r := probe.Result{Kind: probe.KindHTTP3, Target: target, Address: at.Addr(), Port: at.Port(), Start: time.Now(), HTTP: &probe.HTTP{URL: u.Redacted()}}
	conn, err := dialUDP(ctx, at, p.cfg.Source, p.cfg.Interface)
	if err == nil {
		r.Source = conn.local.Addr()
		m := measurement{cfg: p.cfg, url: u, conn: conn, obs: obs, r: &r}
		err = m.run(ctx)
	} else if local := new(tls.LocalError); !errors.As(err, &local) {
		r.Outcome, r.Errno = probe.OutcomeOfErrno(err)
		r.Detail, err = "connect: "+tls.Cause(err).Error(), nil
	}
	r.Elapsed = sample.D(time.Since(r.Start))
	return r, err
}

// plan checks what was asked and finds the address.
func (p *Prober) plan(target string) (*url.URL, netip.AddrPort, error) {
	none := netip.AddrPort{}
	if p.cfg.Method != nethttp.MethodGet && p.cfg.Method != nethttp.MethodHead {
		return nil, none, fmt.Errorf("http3 method %q: want GET or HEAD", p.cfg.Method)
	}
	u, port, err := http.ParseURL(target)
	if err != nil {
		return nil, none, err
	}
	if u.Scheme != "https" {
		return nil, none, fmt.Errorf("http3 target %q: want https://…", target)
	}
	if err := http.CheckHeader(p.cfg.Header); err != nil {
		return nil, none, err
	}
	at := p.cfg.Pin
	if !at.IsValid() {
		a, err := netip.ParseAddr(u.Hostname())
		if err != nil {
			return nil, none, fmt.Errorf("http3 target %q: needs a pinned address", target)
		}
		at = netip.AddrPortFrom(a, port)
	}
	if at.Port() == 0 {
		at = netip.AddrPortFrom(at.Addr(), port)
	}
	return u, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// measurement is one Probe on its socket.
type measurement struct {
	cfg  Config
	url  *url.URL
	conn *udpConn
	obs  *tls.Observer
	r    *probe.Result
}

// run makes the handshake and the request. When it returns nothing of it is left running.
func (m *measurement) run(ctx context.Context) error {
	tr := &quic.Transport{Conn: m.conn}
	defer m.conn.Close() // last: Transport.Close waits for its reader
	defer tr.Close()
	began := time.Now()
	qc, err := tr.Dial(ctx, m.conn.remote, m.obs.Config(), &quic.Config{
		HandshakeIdleTimeout: m.cfg.Timeout, // ctx is the limit, not this
		MaxIdleTimeout:       m.cfg.Timeout + time.Second,
	})
	took := time.Since(began)
	m.r.TLS = m.obs.TLS(m.cfg.Roots, m.cfg.Now())
	m.r.TLS.Handshake = sample.D(took)
	if err != nil {
		if len(m.r.TLS.Chain) == 0 {
			m.r.TLS = nil
		}
		return m.failed(ctx, err, fmt.Sprintf("no quic handshake with %s in %s", netip.AddrPortFrom(m.r.Address, m.r.Port), tls.Wait(took)))
	}
	m.r.Phases = []probe.Phase{{Name: "connect", Duration: sample.D(took)}}
	if rtt := qc.ConnectionStats().MinRTT; rtt > 0 {
		m.r.RTT = &probe.RTT{Value: sample.D(rtt), Error: sample.D(qc.ConnectionStats().MeanDeviation), Clock: "user"}
	}
	defer func() {
		_ = qc.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		<-qc.Context().Done()
	}()
	if !m.r.TLS.Verified && !m.cfg.Insecure {
		if m.r.TLS.Problem == "" {
			return fmt.Errorf("judge the certificate of %s: %s", m.url.Host, m.r.TLS.ProblemText)
		}
		tls.JudgeCertificate(m.r)
		return nil
	}
	return m.ask(ctx, qc)
}

// ask makes the request on a connection that stands.
func (m *measurement) ask(ctx context.Context, qc *quic.Conn) error {
	req, err := nethttp.NewRequestWithContext(ctx, m.cfg.Method, m.url.String(), nil)
	if err != nil {
		return fmt.Errorf("http3 request: %w", err)
	}
	req.Header.Set("Accept", "*/*")
	req.Header.Set("User-Agent", m.cfg.UserAgent)
	http.SetHeader(req, m.cfg.Header)
	h3 := &http3.Transport{DisableCompression: true, MaxResponseHeaderBytes: maxHeader}
	client := h3.NewClientConn(qc)
	began := time.Now()
	resp, err := client.RoundTrip(req)
	first := time.Now()
	if err != nil {
		return m.failed(ctx, err, "connected, request sent, no response in "+tls.Wait(first.Sub(began)))
	}
	http.DescribeResponse(m.r.HTTP, m.url, resp)
	http.JudgeStatus(m.r, resp.StatusCode)
	var berr error
	m.r.HTTP.Bytes, m.r.HTTP.Truncated, berr = http.ReadBody(resp.Body, m.cfg.MaxBody)
	end := time.Now()
	m.r.Phases = append(m.r.Phases,
		probe.Phase{Name: "first_byte", Duration: sample.D(first.Sub(began))},
		probe.Phase{Name: "body", Duration: sample.D(end.Sub(first))})
	err = http.BodyFailed(ctx, m.r, berr, end.Sub(first))
	_ = resp.Body.Close()
	return err
}

// failed turns an error of QUIC or HTTP/3 into an outcome; silence is the
// sentence for when nothing came. It returns an error only when ctx was cancelled.
func (m *measurement) failed(ctx context.Context, err error, silence string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("http3 request to %s: %w", m.url.Redacted(), context.Canceled)
	}
	if icmp, kerr := m.conn.fault(); kerr != nil {
		m.r.Outcome, m.r.Errno = probe.OutcomeOfErrno(kerr)
		m.r.Detail = "udp: " + tls.Cause(kerr).Error()
		if icmp != nil {
			m.r.ICMP = icmp
			m.r.Outcome, m.r.Detail = probe.JudgeICMP(icmp, m.r.Address, m.r.Source)
		}
		return nil
	}
	var te *quic.TransportError
	var idle *quic.IdleTimeoutError
	var hs *quic.HandshakeTimeoutError
	switch {
	case errors.As(err, &te) && te.Remote && te.ErrorCode.IsCryptoError():
		alert := strings.TrimPrefix(ctls.AlertError(te.ErrorCode-0x100).Error(), "tls: ")
		m.r.Outcome, m.r.Detail = probe.Failed, m.obs.AlertText(alert)
		if m.r.TLS == nil {
			m.r.TLS = &probe.TLS{}
		}
		m.r.TLS.Alert = alert
	case ctx.Err() != nil, errors.As(err, &idle), errors.As(err, &hs):
		m.r.Outcome, m.r.Detail = probe.Timeout, silence
		if n := m.conn.received(); n > 0 {
			m.r.Detail += fmt.Sprintf(" (%d datagrams received)", n)
		}
	default:
		m.r.Outcome, m.r.Detail = probe.Failed, words(err)
	}
	return nil
}

// words are QUIC's own, bounded: the peer's reason phrase is in them.
func words(err error) string {
	s := strings.TrimPrefix(err.Error(), "quic: ")
	var net *net.OpError
	if errors.As(err, &net) {
		s = tls.Cause(err).Error()
	}
	return http.Clip("quic: " + s)
}
