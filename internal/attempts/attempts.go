// Package attempts is how probes make several attempts at one target: side by
// side, their starts an interval apart, so that a silent target costs one
// time-out and not as many as there are attempts.
package attempts

import (
	"context"
	"sync"
	"time"
)

// Run starts n attempts, interval apart, and waits for all of them. It returns
// those that came to an end of their own, in the order they were started, and
// the first reason why others did not: ctx's end, or an attempt's error.
func Run[T any](ctx context.Context, n int, interval time.Duration, once func(context.Context) (T, error)) ([]T, error) {
	all := make([]T, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	tick := time.NewTicker(max(interval, 1))
	defer tick.Stop()
	started := 0
	for ; started < n; started++ {
		if started > 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			break
		}
		i := started
		wg.Go(func() { all[i], errs[i] = once(ctx) })
	}
	wg.Wait()
	var done []T
	first := ctx.Err()
	for i := range started {
		switch {
		case errs[i] == nil:
			done = append(done, all[i])
		case first == nil:
			first = errs[i]
		}
	}
	return done, first
}

// Join puts two remarks into one sentence; either may be empty.
func Join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
