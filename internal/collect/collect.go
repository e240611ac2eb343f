// Package collect is the contract of the collectors, which read one part of
// this host's network state each, and the runner that puts their parts
// together into one snapshot.
package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"fathom/internal/facts"
)

// Timeout caps one collector. A snapshot of a small host takes milliseconds;
// a table of a million routes or a driver that holds the RTNL lock for seconds
// must not keep a ten-second diagnosis waiting for more than a part of it.
const Timeout = 3 * time.Second

// grace is how long the runner waits for a collector beyond its time-out: it
// honours its context, but may sit in an ioctl that nothing can interrupt.
const grace = 250 * time.Millisecond

// Collector fills its part of a facts.Host.
type Collector struct {
	Name string // link, route, …: unique, used in gaps and for the order

	// Collect reads into h, which is its own and empty. It returns an error
	// only for what it could not read at all; for a partial success it adds a
	// facts.Gap to h.Gaps and returns nil. What is in h counts either way.
	Collect func(ctx context.Context, h *facts.Host) error
}

// Run runs the collectors at the same time and returns what they found, with
// h.Taken set to the moment it was called. The result does not depend on who
// finished first: parts are merged in the order of the names. A collector that
// fails, panics (vendor libraries do) or does not end in time becomes a Gap.
func Run(ctx context.Context, collectors []Collector) *facts.Host {
	return run(ctx, collectors, Timeout, grace)
}

func run(ctx context.Context, collectors []Collector, timeout, grace time.Duration) *facts.Host {
	h := &facts.Host{Taken: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	sorted := slices.SortedStableFunc(slices.Values(collectors), func(a, b Collector) int {
		return strings.Compare(a.Name, b.Name)
	})
	parts := make([]*facts.Host, len(sorted))
	var wg sync.WaitGroup
	for i, c := range sorted {
		wg.Go(func() { parts[i] = one(ctx, c, grace) })
	}
	wg.Wait()
	for _, p := range parts {
		merge(h, p)
	}
	return h
}

// one runs a collector to its end, or leaves it behind when it does not end
// although its context is done. A part left behind is never looked at again,
// so that a late writer races with nobody.
func one(ctx context.Context, c Collector, grace time.Duration) *facts.Host {
	type result struct {
		part *facts.Host
		err  error
	}
	done := make(chan result, 1)
	go func() {
		part := &facts.Host{}
		done <- result{part, guarded(ctx, c, part)}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case r = <-done:
		case <-late.C:
			r = result{&facts.Host{}, fmt.Errorf("did not stop in time: %w", context.Cause(ctx))}
		}
	}
	if r.err != nil {
		r.part.Gaps = append(r.part.Gaps, gap(c.Name, r.err))
	}
	return r.part
}

// guarded turns a panic into an error.
func guarded(ctx context.Context, c Collector, part *facts.Host) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the collector: %v", p)
		}
	}()
	if c.Collect == nil {
		return errors.New("the collector has no Collect function")
	}
	return c.Collect(ctx, part)
}

// Unlocker is implemented by errors that know what would make the reading possible.
type Unlocker interface {
	error
	Unlock() string
}

func gap(name string, err error) facts.Gap {
	g := facts.Gap{What: name, Why: err.Error()}
	if u, ok := errors.AsType[Unlocker](err); ok {
		g.Unlock = u.Unlock()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		g.Unlock = "try again when the host is less busy"
	}
	return g
}
