package tls

import (
	"context"
	ctls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"fathom/probe"
)

// Observer is a client that accepts every server, from TLS 1.0 and with every
// cipher suite this library knows, and keeps what the server showed even when
// the handshake then fails. Use one Observer for one handshake.
type Observer struct {
	name string // lower case, no final dot, no zone
	alpn []string

	mu        sync.Mutex // guards what follows: crypto/tls and QUIC call back from their own goroutines
	state     *ctls.ConnectionState
	asked     bool   // the server asked for a client certificate
	ticket    func() // called when a session ticket arrives
	ticketGot bool
	rec       *recorder
}

// NewObserver returns an Observer for a server name or address literal. The
// error says that the name is not one that can be sent.
func NewObserver(name string, alpn []string) (*Observer, error) {
	n, err := cleanName(name)
	if err != nil {
		return nil, err
	}
	for _, p := range alpn {
		if len(p) == 0 || len(p) > 255 { // RFC 7301 §3.1
			return nil, fmt.Errorf("alpn protocol %q: its length must be 1 to 255 bytes", p)
		}
	}
	return &Observer{name: n, alpn: alpn}, nil
}

// cleanName brings a name into the form that is sent and verified.
func cleanName(name string) (string, error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if a, err := netip.ParseAddr(bare); err == nil {
		return a.WithZone("").Unmap().String(), nil
	}
	n := strings.ToLower(strings.TrimSuffix(name, "."))
	if n == "" || len(n) > 253 {
		return "", fmt.Errorf("tls server name %q: its length must be 1 to 253 bytes", name)
	}
	for _, c := range []byte(n) {
		if c >= 0x80 {
			return "", fmt.Errorf("tls server name %q: not ASCII (give the xn-- form)", name)
		}
		if c <= ' ' || c == 0x7f || strings.IndexByte("/\\:@[]", c) >= 0 {
			return "", fmt.Errorf("tls server name %q: %q cannot be in a host name", name, c)
		}
	}
	return n, nil
}

// Config returns the configuration for crypto/tls or QUIC (which raises MinVersion itself).
func (o *Observer) Config() *ctls.Config {
	c := &ctls.Config{
		ServerName:         o.name, // crypto/tls leaves SNI out for addresses
		NextProtos:         o.alpn,
		InsecureSkipVerify: true, // Verify judges afterwards
		MinVersion:         ctls.VersionTLS10,
		ClientSessionCache: ticketWatch{o},
		VerifyConnection: func(cs ctls.ConnectionState) error {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.state = &cs
			return nil
		},
		GetClientCertificate: func(*ctls.CertificateRequestInfo) (*ctls.Certificate, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.asked = true
			return new(ctls.Certificate), nil // we have none
		},
	}
	for _, list := range [][]*ctls.CipherSuite{ctls.CipherSuites(), ctls.InsecureCipherSuites()} {
		for _, s := range list {
			c.CipherSuites = append(c.CipherSuites, s.ID)
		}
	}
	return c
}

// ticketWatch is a session cache that keeps nothing: a ticket only tells that
// the server finished its side of the handshake.
type ticketWatch struct{ o *Observer }

func (ticketWatch) Get(string) (*ctls.ClientSessionState, bool) { return nil, false }

func (w ticketWatch) Put(_ string, s *ctls.ClientSessionState) {
	w.o.mu.Lock()
	defer w.o.mu.Unlock()
	if s == nil {
		return
	}
	w.o.ticketGot = true
	if w.o.ticket != nil {
		w.o.ticket()
	}
}

// Client makes the handshake on conn. It does not close conn.
func (o *Observer) Client(ctx context.Context, conn net.Conn) (*ctls.Conn, error) {
	o.rec = &recorder{Conn: conn}
	tc := ctls.Client(o.rec, o.Config())
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	o.rec.stop()
	return tc, nil
}

// verdictWait is how long we listen for the alert of a server that asked for a
// client certificate: in TLS 1.3 our side is finished before it has judged
// (RFC 8446 §4.4.2.4), so the refusal comes a round trip later.
const verdictWait = 500 * time.Millisecond

// awaitVerdict reads until the server refuses, hands out a ticket (it accepted) or
// verdictWait plus two handshake times have gone. Anything but an alert or a reset is no refusal.
func (o *Observer) awaitVerdict(ctx context.Context, tc *ctls.Conn, handshake time.Duration) error {
	o.mu.Lock()
	wait := o.asked && o.state != nil && o.state.Version == ctls.VersionTLS13 && !o.ticketGot
	if wait {
		_ = tc.SetReadDeadline(time.Now().Add(verdictWait + 2*handshake))
		o.ticket = func() { _ = tc.SetReadDeadline(time.Unix(1, 0)) }
	}
	o.mu.Unlock()
	if !wait {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = tc.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := tc.Read(make([]byte, 1))
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if _, remote := remoteAlert(err); remote {
		return err
	}
	if o, _ := probe.OutcomeOfErrno(err); o == probe.Reset {
		return err
	}
	return nil
}

// Asked tells whether the server asked for a client certificate.
func (o *Observer) Asked() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

// TLS describes what has been seen so far and verifies it at now. Handshake and
// ConnectRTT are the caller's to fill in. It is never nil.
func (o *Observer) TLS(roots *x509.CertPool, now time.Time) *probe.TLS {
	t := &probe.TLS{}
	if _, err := netip.ParseAddr(o.name); err != nil {
		t.ServerName = o.name
	}
	o.mu.Lock()
	cs := o.state
	o.mu.Unlock()
	if cs == nil {
		return t
	}
	t.Version = VersionName(cs.Version)
	t.CipherSuite = ctls.CipherSuiteName(cs.CipherSuite)
	t.ALPN = cs.NegotiatedProtocol
	t.Resumed = cs.DidResume
	t.OCSPStapled = len(cs.OCSPResponse) > 0
	chain := cs.PeerCertificates
	if len(chain) > MaxChain {
		chain = chain[:MaxChain]
	}
	for _, c := range chain {
		t.Chain = append(t.Chain, describe(c))
	}
	v := Verify(chain, o.name, roots, now)
	t.Verified, t.Problem, t.ProblemCert, t.ProblemText = v.Verified, v.Problem, v.Cert, v.Text
	return t
}

// recorder keeps the first bytes the server sent, to say what it speaks when it
// does not speak TLS.
type recorder struct {
	net.Conn
	mu    sync.Mutex
	done  bool
	first []byte
	total int64
}

const recordMax = 128

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.done && n > 0 {
		r.total += int64(n)
		r.first = append(r.first, b[:min(n, recordMax-len(r.first))]...)
	}
	return n, err
}

func (r *recorder) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done, r.first = true, nil
}

func (r *recorder) seen() ([]byte, int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first, r.total
}
