package attempts

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestStartsAnIntervalApartAndWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, next := time.Now(), 0
		got, err := Run(t.Context(), 3, 50*time.Millisecond, func(context.Context) (time.Duration, error) {
			at := time.Since(begin)
			next++
			time.Sleep(time.Duration(4-next) * time.Second) // the first takes longest
			return at, nil
		})
		if want := []time.Duration{0, 50 * time.Millisecond, 100 * time.Millisecond}; err != nil || !slices.Equal(got, want) {
			t.Errorf("started after %v (%v), want %v", got, err, want)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("took %v, want 3 s: side by side", took)
		}
	})
}

func TestContextEndsTheSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
		defer cancel()
		begin := time.Now()
		got, err := Run(ctx, 100, 50*time.Millisecond, func(context.Context) (int, error) { return 7, nil })
		if len(got) != 3 || !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 120*time.Millisecond {
			t.Errorf("%v %v after %v", got, err, time.Since(begin))
		}
	})
}

func TestFirstErrorAndWhatSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, worse := errors.New("bad"), errors.New("worse")
		n := 0
		got, err := Run(t.Context(), 4, time.Millisecond, func(context.Context) (int, error) {
			n++
			return n, []error{nil, bad, worse, nil}[n-1]
		})
		if !slices.Equal(got, []int{1, 4}) || !errors.Is(err, bad) {
			t.Errorf("%v %v", got, err)
		}
	})
}

func TestJoin(t *testing.T) {
	for _, c := range [][3]string{{"", "", ""}, {"a", "", "a"}, {"", "b", "b"}, {"a", "b", "a; b"}} {
		if got := Join(c[0], c[1]); got != c[2] {
			t.Errorf("%q and %q: %q", c[0], c[1], got)
		}
	}
}
