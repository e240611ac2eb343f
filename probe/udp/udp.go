// Package udp sends datagrams to one address and port and tells what comes
// back: an answer, a refusal (and from whom), a prohibition, or nothing — which
// for UDP may mean an open port, a filtered one or a lost packet. It needs no
// privilege.
package udp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"fathom/internal/attempts"
	"fathom/internal/sys/dial"
	"fathom/probe"
	"fathom/sample"
)

const (
	defaultTimeout = time.Second
	// defaultInterval keeps within the rate at which Linux hosts send ICMP
	// errors (net.ipv4.icmp_ratelimit: one per second and peer after a burst of six).
	defaultInterval = 200 * time.Millisecond
	// maxCount bounds the descriptors of a series.
	maxCount   = 500
	maxPayload = 65507 // 65535 minus IPv4 and UDP headers
)

// defaultPayload says what it is to whoever finds it in a capture.
const defaultPayload = "fathom probe\n"

// Config of a series. Zero values take the defaults in brackets.
type Config struct {
	Count     int           // datagrams [1], at most 500
	Interval  time.Duration // between them [200 ms]; each waits on its own
	Timeout   time.Duration // for the answer to each [1 s]
	Payload   []byte        // [a few harmless bytes]; non-nil and empty sends an empty datagram
	Source    netip.Addr    // from this address
	Interface string        // leave through this interface
}

// Prober sends datagrams.
type Prober struct{ c Config }

var _ probe.Prober = (*Prober)(nil)

// New fills in the defaults; a bad Config shows in Probe's error.
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
	if c.Payload == nil {
		c.Payload = []byte(defaultPayload)
	}
	return &Prober{c: c}
}

func (c Config) check() error {
	switch {
	case c.Count < 1 || c.Count > maxCount:
		return fmt.Errorf("%d datagrams: must be 1 to %d", c.Count, maxCount)
	case c.Interval < 0 || c.Timeout < 0:
		return fmt.Errorf("interval %v, timeout %v: must not be negative", c.Interval, c.Timeout)
	case len(c.Payload) > maxPayload:
		return fmt.Errorf("payload of %d bytes: at most %d fit into a datagram", len(c.Payload), maxPayload)
	}
	return nil
}

// Probe sends to target, "192.0.2.1:123" or "[2001:db8::1]:123". Each datagram
// goes from its own socket and port, so that answers and errors cannot be mixed
// up and each is a flow of its own. An error means that nothing could be
// measured: a malformed target, a bad option, no descriptors, or ctx ended first.
func (p *Prober) Probe(ctx context.Context, target string) (probe.Result, error) {
	to, err := probe.ParseTarget("udp target", target, 123)
	if err != nil {
		return probe.Result{}, err
	}
	if err := p.c.check(); err != nil {
		return probe.Result{}, fmt.Errorf("udp probe of %s: %w", target, err)
	}
	start := time.Now()
	done, err := attempts.Run(ctx, p.c.Count, p.c.Interval, func(ctx context.Context) (trip, error) { return p.once(ctx, to) })
	if len(done) == 0 {
		return probe.Result{}, fmt.Errorf("udp probe of %s: %w", target, err)
	}
	r := summarize(target, to, done, len(p.c.Payload))
	r.Start, r.Elapsed = start, sample.D(time.Since(start))
	if err != nil {
		r.Detail = attempts.Join(r.Detail, fmt.Sprintf("%d of %d datagrams were sent: %v", len(done), p.c.Count, err))
	}
	return r, nil
}

// trip is one datagram and what became of it.
type trip struct {
	local    netip.AddrPort
	took     time.Duration // user space, until answer or error
	kernel   time.Duration // between the kernel's stamps; 0 when it gave none
	answer   int           // bytes, when answered
	answered bool
	err      error // an errno of our own kernel, or os.ErrDeadlineExceeded
	icmp     *dial.ICMP
}

// once sends one datagram and waits for the first thing that decides its fate.
func (p *Prober) once(ctx context.Context, to netip.AddrPort) (trip, error) {
	start := time.Now()
	u, err := dial.OpenUDP(to, true, dial.Options{Source: p.c.Source, Interface: p.c.Interface})
	if err != nil {
		if ce := (*dial.ConnectError)(nil); errors.As(err, &ce) {
			return trip{err: err, took: time.Since(start)}, nil
		}
		return trip{}, err
	}
	defer u.Close()
	t := trip{local: u.Local()}
	at, err := u.Send(p.c.Payload, netip.AddrPort{})
	if err != nil {
		t.err, t.took = err, time.Since(at)
		return t, nil
	}
	return p.await(ctx, u, t, at)
}

func (p *Prober) await(ctx context.Context, u *dial.UDP, t trip, at time.Time) (trip, error) {
	buf := make([]byte, 64) // the rest of an answer is of no interest
	var left time.Time
	for {
		ev, err := u.Recv(ctx, at.Add(p.c.Timeout), buf)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.err, t.took = err, time.Since(at)
				return t, nil
			}
			return trip{}, err
		}
		t.took = ev.Seen.Sub(at)
		switch {
		case ev.Sent:
			left = ev.Stamp
			continue
		case ev.ICMP != nil:
			t.icmp, t.err = ev.ICMP, ev.ICMP.Errno
		case ev.Local != 0:
			t.err = ev.Local
		default:
			t.answered, t.answer = true, len(ev.Data)
			t.kernel = dial.Between(left, ev.Stamp, t.took)
		}
		return t, nil
	}
}
