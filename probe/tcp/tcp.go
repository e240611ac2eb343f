// Package tcp measures connects to one address and port: a series of
// handshakes, each with its evidence — refused by the target or by a router,
// silent, forbidden, dropped by this host — and with the SYNs that had to be
// sent again. It needs no privilege.
package tcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"fathom/internal/attempts"
	"fathom/internal/sys/dial"
	"fathom/probe"
	"fathom/sample"
)

const (
	// defaultTimeout lets the first two SYN retransmissions (after 1 s and 3 s) happen.
	defaultTimeout  = 3500 * time.Millisecond
	defaultInterval = 50 * time.Millisecond
	// maxCount bounds the descriptors of a series, all of which may be open at once.
	maxCount = 500
	// slowConnect is just under the kernel's first SYN retransmission (1 s,
	// TCP_TIMEOUT_INIT): what takes longer has very likely lost a packet.
	slowConnect = 900 * time.Millisecond
	// politeCount is the longest series that says goodbye with FIN. Longer ones
	// close with RST (SO_LINGER 0), because each FIN leaves a port in TIME_WAIT
	// for a minute on our side, and a diagnosis must not use up the ports it examines.
	politeCount = 3
	// A load balancer without a backend accepts and then resets. That RST needs
	// another round trip, so a connection is watched for about as long as it took.
	minWatch = time.Millisecond
	maxWatch = 50 * time.Millisecond
)

// Config of a series. Zero values take the defaults in brackets.
type Config struct {
	Count     int           // attempts [1], at most 500
	Interval  time.Duration // between the starts of attempts [50 ms]; they run side by side
	Timeout   time.Duration // of each attempt [3.5 s: the first two SYN retransmissions happen]
	Interface string        // leave through this interface
	Source    netip.Addr    // from this address
	TTL       int           // TTL or hop limit [the system's]
}

// Prober measures connects.
type Prober struct {
	c       Config
	connect func(context.Context, netip.AddrPort, time.Duration, dial.Options) (dial.Attempt, error)
}

var _ probe.Prober = (*Prober)(nil)

// New checks nothing that the kernel checks better; a bad Config shows in Probe's error.
func New(c Config) *Prober {
	if c.Count == 0 {
		c.Count = 1
	}
	if c.Interval == 0 {
		c.Interval = defaultInterval
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return &Prober{c: c, connect: dial.Connect}
}

func (c Config) check() error {
	switch {
	case c.Count < 1 || c.Count > maxCount:
		return fmt.Errorf("%d attempts: must be 1 to %d", c.Count, maxCount)
	case c.Interval < 0 || c.Timeout < 0:
		return fmt.Errorf("interval %v, timeout %v: must not be negative", c.Interval, c.Timeout)
	case c.TTL < 0 || c.TTL > 255:
		return fmt.Errorf("ttl %d: must be 1 to 255", c.TTL)
	}
	return nil
}

// Probe connects to target, "192.0.2.1:443" or "[2001:db8::1]:443". An error
// means that nothing could be measured: a malformed target, a bad option, no
// descriptors, or ctx ended before the first attempt did. When ctx ends later,
// the result holds the attempts that ended by themselves.
func (p *Prober) Probe(ctx context.Context, target string) (probe.Result, error) {
	to, err := probe.ParseTarget("tcp target", target, 443)
	if err != nil {
		return probe.Result{}, err
	}
	if err := p.c.check(); err != nil {
		return probe.Result{}, fmt.Errorf("tcp probe of %s: %w", target, err)
	}
	start := time.Now()
	done, err := attempts.Run(ctx, p.c.Count, p.c.Interval, func(ctx context.Context) (attempt, error) { return p.once(ctx, to) })
	if len(done) == 0 {
		return probe.Result{}, fmt.Errorf("tcp probe of %s: %w", target, err)
	}
	r := summarize(target, to, done)
	r.Start, r.Elapsed = start, sample.D(time.Since(start))
	if err != nil {
		r.Detail = attempts.Join(r.Detail, fmt.Sprintf("%d of %d attempts were made: %v", len(done), p.c.Count, err))
	}
	return r, nil
}

// attempt is one connect and what happened in the moment after it.
type attempt struct {
	dial.Attempt
	aborted error // ECONNRESET right after the handshake
}

// once makes one attempt and closes it.
func (p *Prober) once(ctx context.Context, to netip.AddrPort) (attempt, error) {
	o := dial.Options{Source: p.c.Source, Interface: p.c.Interface, TTL: p.c.TTL}
	a, err := p.connect(ctx, to, p.c.Timeout, o)
	if err != nil {
		return attempt{}, err
	}
	if ctx.Err() != nil && errors.Is(a.Err, ctx.Err()) {
		return attempt{}, a.Err
	}
	out := attempt{Attempt: a}
	if a.ICMP == nil && (errors.Is(a.Err, syscall.ECONNRESET) || errors.Is(a.Err, syscall.EPIPE)) {
		// RST before the SYN-ACK gives ECONNREFUSED (tcp_reset in
		// net/ipv4/tcp_input.c): the handshake was over before we looked.
		out.Err, out.aborted = nil, a.Err
	}
	if a.Conn != nil {
		out.aborted = a.Conn.Aborted(ctx, min(max(a.Took, minWatch), maxWatch))
		_ = a.Conn.Close(p.c.Count > politeCount) // the measurement is over either way
		out.Conn = nil
	}
	return out, nil
}
