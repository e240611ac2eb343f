// Package tls measures TLS handshakes: how long the connection and the
// handshake take, what was negotiated, which certificates the server sent and
// whether a client of this host would accept them.
//
// The handshake itself accepts any certificate and the package verifies
// afterwards, so that a bad chain is something seen and described rather than a
// connection that failed. It also holds what other probes that speak TLS need:
// Dialer, Observer (the observing client) and Verify.
//
// No key log is ever written: SSLKEYLOGFILE is not read.
package tls

import (
	"context"
	ctls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"fathom/probe"
	"fathom/sample"
)

// DefaultTimeout is long enough for a connection whose SYN was lost twice
// (1 s + 2 s) and a handshake of two round trips over a satellite.
const DefaultTimeout = 5 * time.Second

// Config says how to measure. The zero value is usable.
type Config struct {
	ServerName string           // for SNI and verification; "": the target's address. An address literal is verified against IP SANs and sends no SNI (RFC 6066 §3)
	ALPN       []string         // protocols offered; none: the extension is not sent
	Timeout    time.Duration    // connect and handshake together; 0: DefaultTimeout
	Source     netip.Addr       // local address; unset: the kernel chooses
	Interface  string           // bind to this interface (SO_BINDTODEVICE)
	Roots      *x509.CertPool   // trust anchors; nil: this host's
	Now        func() time.Time // the time certificates are judged at; nil: time.Now
}

// Prober measures handshakes. It is safe for concurrent use.
type Prober struct{ cfg Config }

// New returns a Prober.
func New(cfg Config) *Prober {
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Prober{cfg: cfg}
}

// Probe connects to target ("192.0.2.1:443", "[2001:db8::1]:443") and makes one
// handshake. The error is not nil only when nothing could be measured: a bad
// target or name, a source address or interface that cannot be used, or ctx
// cancelled.
func (p *Prober) Probe(ctx context.Context, target string) (probe.Result, error) {
	ap, err := probe.ParseTarget("tls target", target, 443)
	if err != nil {
		return probe.Result{}, err
	}
	name := p.cfg.ServerName
	if name == "" {
		name = ap.Addr().WithZone("").String()
	}
	obs, err := NewObserver(name, p.cfg.ALPN)
	if err != nil {
		return probe.Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	r := probe.Result{Kind: probe.KindTLS, Target: target, Address: ap.Addr().Unmap(), Port: ap.Port(), Start: time.Now()}
	err = p.measure(ctx, ap, obs, &r)
	r.Elapsed = sample.D(time.Since(r.Start))
	return r, err
}

func (p *Prober) measure(ctx context.Context, ap netip.AddrPort, obs *Observer, r *probe.Result) error {
	d := Dialer{Source: p.cfg.Source, Interface: p.cfg.Interface}
	conn, link, err := d.Dial(ctx, ap)
	if err != nil {
		return ConnectFailed(ctx, r, err, time.Since(r.Start))
	}
	defer conn.Close()
	link.Record(r)
	began := time.Now()
	tc, err := obs.Client(ctx, conn)
	took := time.Since(began)
	r.Phases = append(r.Phases, probe.Phase{Name: "tls", Duration: sample.D(took)})
	r.TLS = obs.TLS(p.cfg.Roots, p.cfg.Now())
	r.TLS.Handshake, r.TLS.ConnectRTT = sample.D(took), sample.D(link.RTT)
	if err == nil {
		err = obs.awaitVerdict(ctx, tc, took)
	}
	if err != nil {
		return obs.HandshakeFailed(ctx, r, err, took)
	}
	JudgeCertificate(r)
	return nil
}

// JudgeCertificate sets Outcome and Detail from what r.TLS says of the
// certificates, after a handshake that worked.
func JudgeCertificate(r *probe.Result) {
	r.Outcome = probe.OK
	if r.TLS.Problem != "" {
		r.Outcome = probe.BadAnswer
	}
	if !r.TLS.Verified {
		r.Detail = r.TLS.ProblemText
	}
}

// ConnectFailed turns an error of Dialer.Dial after waited into an outcome in r.
// It returns an error when nothing was measured.
func ConnectFailed(ctx context.Context, r *probe.Result, err error, waited time.Duration) error {
	var local *LocalError
	if errors.As(err, &local) {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("connect to %s: %w", netip.AddrPortFrom(r.Address, r.Port), context.Canceled)
	}
	r.ICMP = nil // of an address tried before
	r.Outcome, r.Errno = probe.OutcomeOfErrno(err)
	var failed *ConnectError
	isConnect := errors.As(err, &failed)
	if isConnect && failed.Source.IsValid() {
		r.Source = failed.Source
	}
	switch {
	case r.Outcome == probe.Timeout || ctx.Err() != nil:
		r.Outcome = probe.Timeout
		r.Detail = "no connection in " + Wait(waited)
	case isConnect && failed.ICMP != nil:
		r.ICMP = failed.ICMP
		r.Outcome, r.Detail = probe.JudgeICMP(r.ICMP, r.Address, failed.Source)
		r.Detail = "connect: " + r.Detail
	default:
		r.Detail = "connect: " + Cause(err).Error()
	}
	return nil
}

// HandshakeFailed turns an error of the handshake, waited after it began, into
// an outcome in r. It returns an error only when ctx was cancelled.
func (o *Observer) HandshakeFailed(ctx context.Context, r *probe.Result, err error, waited time.Duration) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("tls handshake with %s: %w", netip.AddrPortFrom(r.Address, r.Port), context.Canceled)
	}
	f := o.explain(ctx, err, waited)
	r.Outcome, r.Errno, r.Detail = f.outcome, f.errno, f.detail
	if r.TLS != nil {
		r.TLS.Alert = f.alert
	}
	return nil
}

// Cause unwraps the layers that net puts around an errno ("dial tcp 1.2.3.4:443: connect: …"):
// the reader knows the address already.
func Cause(err error) error {
	var op *net.OpError
	for errors.As(err, &op) && op.Err != nil {
		err, op = op.Err, nil
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call.Err
	}
	var failed *ConnectError
	var errno syscall.Errno
	if errors.As(err, &failed) && errors.As(err, &errno) {
		return errno
	}
	return err
}

// Wait writes a waiting time for a sentence: to a tenth of a second, "5 s".
func Wait(d time.Duration) string {
	if d >= 100*time.Millisecond {
		d = d.Round(100 * time.Millisecond)
	}
	if d >= time.Second {
		return fmt.Sprintf("%g s", d.Seconds())
	}
	return sample.D(d).String()
}

// VersionName is the usual name of a protocol version ("TLS 1.3").
func VersionName(v uint16) string {
	if v == 0 {
		return ""
	}
	return ctls.VersionName(v)
}
