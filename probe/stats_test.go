package probe

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"fathom/sample"
)

func TestWilsonAgainstPublishedValues(t *testing.T) {
	// Newcombe 1998, Stat. Med. 17:857, table I, method 3 (score without correction).
	for _, c := range []struct {
		k, n   int
		lo, hi float64
	}{
		{81, 263, 0.2553, 0.3662},
		{15, 148, 0.0624, 0.1605},
		{0, 20, 0, 0.1611},
		{1, 29, 0.0061, 0.1718},
		{20, 20, 0.8389, 1},
		{0, 0, 0, 1},
		{-3, 20, 0, 0.1611},
		{99, 20, 0.8389, 1},
	} {
		lo, hi := LossInterval(c.k, c.n)
		if math.Abs(lo-c.lo) > 5e-5 || math.Abs(hi-c.hi) > 5e-5 {
			t.Errorf("%d of %d: %.4f to %.4f, want %.4f to %.4f", c.k, c.n, lo, hi, c.lo, c.hi)
		}
	}
}

func TestWilsonHoldsTheProportion(t *testing.T) {
	for n := 1; n < 200; n++ {
		for k := 0; k <= n; k++ {
			lo, hi := Wilson(k, n)
			if p := float64(k) / float64(n); !(0 <= lo && lo <= p && p <= hi && hi <= 1) {
				t.Fatalf("%d of %d: %v to %v", k, n, lo, hi)
			}
		}
	}
}

func TestNeededForLoss(t *testing.T) {
	for p, want := range map[float64]int{0.01: 299, 0.05: 59, 0.5: 5, 1: 1, 2: 1, 0.99: 1, 0: math.MaxInt32, -1: math.MaxInt32, 1e-12: math.MaxInt32} {
		if got := NeededForLoss(p); got != want {
			t.Errorf("loss %v: %d probes, want %d", p, got, want)
		}
	}
	if NeededForLoss(math.NaN()) != math.MaxInt32 {
		t.Error("not a number")
	}
	for _, p := range []float64{0.001, 0.02, 0.3} { // the definition itself
		n := float64(NeededForLoss(p))
		if math.Pow(1-p, n) > 0.05 || math.Pow(1-p, n-1) <= 0.05 {
			t.Errorf("loss %v: %v is not the smallest number", p, n)
		}
	}
}

func TestPercentileAndIPDV(t *testing.T) {
	d := []sample.Duration{40, 10, 30, 20}
	for q, want := range map[float64]sample.Duration{0: 10, 50: 25, 100: 40, 25: 18, -5: 10, 500: 40} {
		if got := Percentile(d, q); got != want {
			t.Errorf("percentile %v: %d, want %d", q, got, want)
		}
	}
	if d[0] != 40 {
		t.Error("the input was sorted")
	}
	if got := IPDV(d); got != 20 { // 30, 20, 10
		t.Errorf("ipdv %d, want 20", got)
	}
	if Median(nil) != 0 || IPDV(d[:1]) != 0 || Percentile(d, math.NaN()) != 0 || Median(d[:1]) != 40 {
		t.Error("edges")
	}
	big := []sample.Duration{math.MaxInt64, math.MinInt64}
	_ = IPDV(big)
	for range 100 {
		q := rand.Float64() * 100
		if p := Percentile([]sample.Duration{sample.D(time.Second), sample.D(time.Minute)}, q); p < sample.D(time.Second) || p > sample.D(time.Minute) {
			t.Fatalf("percentile %v is out of range: %v", q, p)
		}
	}
}
