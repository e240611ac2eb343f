package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"fathom/internal/lab/emulator/unit"
)

// Kind names what the Spec runs: dns, http, tcp, udp, or the load's own name;
// "" when it is not exactly one.
func (s Spec) Kind() string {
	kind, n := "", 0
	set := func(name string, is bool) {
		if is {
			kind, n = name, n+1
		}
	}
	set("dns", s.DNS != nil)
	set("http", s.HTTP != nil)
	set("tcp", s.TCP != nil)
	set("udp", s.UDP != nil)
	if l := s.Load; l != nil {
		set("close_wait", l.CloseWait != nil)
		set("time_wait", l.TimeWait != nil)
		set("port_hog", l.PortHog != nil)
		set("connect", l.Connect != nil)
		set("traffic", l.Traffic != nil)
		set("flap", l.Flap != nil)
		set("neighbour_fill", l.NeighbourFill != nil)
		set("arp_responder", l.ARPResponder != nil)
		set("frames", l.Frames != nil)
		set("conntrack_fill", l.ConntrackFill != nil)
	}
	if n != 1 {
		return ""
	}
	return kind
}

func (s Spec) name() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Kind()
}

// Start runs the service that spec describes. Sockets are opened inside inNS
// before Start returns, so that a client can connect at once; load generators
// begin at once and reach their level in time (Stats tells how far they are). The
// service ends when ctx does.
func Start(ctx context.Context, inNS InNS, spec Spec) (Service, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start service %s: %w", spec.name(), err)
	}
	if spec.Process {
		return startChild(ctx, inNS, spec)
	}
	b := newBase(ctx, inNS, spec)
	if err := b.start(spec); err != nil {
		b.cancel()
		_ = b.Stop()
		return nil, fmt.Errorf("start service %s: %w", spec.name(), err)
	}
	detach := context.AfterFunc(ctx, func() { _ = b.Stop() }) // may run at once
	b.mu.Lock()
	b.detach = detach
	b.mu.Unlock()
	return b, nil
}

func (b *base) start(s Spec) error {
	switch s.Kind() {
	case "dns":
		return b.startDNS(*s.DNS)
	case "http":
		return b.startHTTP(*s.HTTP, s.CA)
	case "tcp":
		return b.startTCP(*s.TCP)
	case "udp":
		return b.startUDP(*s.UDP)
	case "close_wait":
		return b.startCloseWait(*s.Load.CloseWait)
	case "time_wait":
		return b.startTimeWait(*s.Load.TimeWait)
	case "port_hog":
		return b.startPortHog(*s.Load.PortHog)
	case "connect":
		return b.startConnect(*s.Load.Connect)
	case "traffic":
		return b.startTraffic(*s.Load.Traffic)
	case "flap":
		return b.startFlap(*s.Load.Flap)
	case "neighbour_fill":
		return b.startNeighbourFill(*s.Load.NeighbourFill)
	case "arp_responder":
		return b.startARPResponder(*s.Load.ARPResponder)
	case "frames":
		return b.startFrames(*s.Load.Frames)
	case "conntrack_fill":
		return b.startConntrackFill(*s.Load.ConntrackFill)
	}
	return errors.New("exactly one kind must be set")
}

// base is what all services share: the goroutines and sockets that they own, and
// what they counted.
type base struct {
	ctx    context.Context
	cancel context.CancelFunc
	detach func() bool
	inNS   InNS
	wg     sync.WaitGroup
	once   sync.Once

	mu      sync.Mutex
	stopped bool
	open    map[io.Closer]struct{}
	addrs   []string
	stats   map[string]uint64
	rng     *rand.Rand
	err     error
}

func newBase(ctx context.Context, inNS InNS, s Spec) *base {
	seed := s.Seed
	if seed == 0 {
		seed = 1
	}
	b := &base{inNS: inNS, open: map[io.Closer]struct{}{}, stats: map[string]uint64{}, rng: rand.New(rand.NewPCG(seed, 0xfa7403))}
	b.ctx, b.cancel = context.WithCancel(ctx)
	return b
}

// Stop ends the service; see Service.
func (b *base) Stop() error {
	b.once.Do(func() {
		b.cancel()
		b.mu.Lock()
		b.stopped = true
		open := b.open
		b.open = map[io.Closer]struct{}{}
		b.mu.Unlock()
		for c := range open {
			_ = c.Close()
		}
		b.wg.Wait()
		b.mu.Lock()
		detach := b.detach
		b.mu.Unlock()
		if detach != nil {
			detach()
		}
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Addrs are the listening addresses.
func (b *base) Addrs() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.addrs...)
}

// PID is this process.
func (b *base) PID() int { return os.Getpid() }

// Stats is a copy of the counters.
func (b *base) Stats() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.stats)
}

func (b *base) count(what string) { b.add(what, 1) }

func (b *base) add(what string, n uint64) { b.mu.Lock(); b.stats[what] += n; b.mu.Unlock() }

func (b *base) listens(addr string) { b.mu.Lock(); b.addrs = append(b.addrs, addr); b.mu.Unlock() }

// fail keeps the first error of a goroutine for Stop.
func (b *base) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil && !b.stopped && b.ctx.Err() == nil {
		b.err = err
	}
}

// run starts a goroutine that Stop waits for; nothing once stopped.
func (b *base) run(f func()) bool {
	if !b.enter() {
		return false
	}
	go func() {
		defer b.wg.Done()
		f()
	}()
	return true
}

// enter lets a foreign goroutine (a server library's) be waited for; it must call
// b.wg.Done when it was let in.
func (b *base) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return false
	}
	b.wg.Add(1)
	return true
}

// keep has Stop close c; when it is too late c is closed at once.
func (b *base) keep(c io.Closer) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		_ = c.Close()
		return false
	}
	b.open[c] = struct{}{}
	return true
}

// drop closes c and forgets it.
func (b *base) drop(c io.Closer) {
	b.mu.Lock()
	delete(b.open, c)
	b.mu.Unlock()
	_ = c.Close()
}

// chance is true with probability p.
func (b *base) chance(p unit.Share) bool {
	if p <= 0 || p >= 1 {
		return p >= 1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rng.Float64() < float64(p)
}

// spread is uniform in [0, d).
func (b *base) spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Duration(b.rng.Int64N(int64(d)))
}

// sleep waits; false when the service ended meanwhile.
func (b *base) sleep(d time.Duration) bool { return sleep(b.ctx, d) }

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// closer makes a function an io.Closer with an identity of its own.
type closer struct{ f func() error }

func (c *closer) Close() error { return c.f() }
