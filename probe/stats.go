package probe

import (
	"math"
	"slices"

	"fathom/sample"
)

// z95 is the standard normal quantile of a two-sided 95 % interval.
const z95 = 1.959963984540054

// Wilson is the 95 % confidence interval (Wilson score) of a proportion of
// which k in n trials were seen. It is honest where the naive one is not: 0 of
// 10 gives up to 0.28. Without trials nothing is known: 0 to 1.
func Wilson(k, n int) (lo, hi float64) {
	if n <= 0 {
		return 0, 1
	}
	k = min(max(k, 0), n)
	N, p := float64(n), float64(k)/float64(n)
	mid := p + z95*z95/(2*N)
	half := z95 * math.Sqrt(p*(1-p)/N+z95*z95/(4*N*N))
	norm := 1 + z95*z95/N
	lo, hi = max(0, (mid-half)/norm), min(1, (mid+half)/norm)
	if k == 0 { // exact, where rounding leaves 1e-17
		lo = 0
	}
	if k == n {
		hi = 1
	}
	return lo, hi
}

// LossInterval is the 95 % interval of the true loss ratio when lost of sent
// probes were lost.
func LossInterval(lost, sent int) (lo, hi float64) { return Wilson(lost, sent) }

// maxNeeded is the answer of NeededForLoss for a loss that cannot be excluded.
const maxNeeded = math.MaxInt32

// NeededForLoss is how many probes must all come back to exclude, with 95 %
// confidence, a random loss of ratio p or more: the smallest n with
// (1-p)^n ≤ 0.05. For p ≥ 1 it is 1; for p ≤ 0 or not a number it is
// math.MaxInt32, for no number suffices.
func NeededForLoss(p float64) int {
	switch {
	case p >= 1:
		return 1
	case !(p > 0):
		return maxNeeded
	}
	n := math.Ceil(math.Log(0.05) / math.Log1p(-p))
	if n >= maxNeeded {
		return maxNeeded
	}
	return max(1, int(n))
}

// Median is the middle value, 0 of none. The slice is left as it is.
func Median(d []sample.Duration) sample.Duration { return Percentile(d, 50) }

// Percentile is the q-th percentile (0 to 100), linearly interpolated between
// neighbours (Hyndman-Fan 7, as numpy and R do); 0 of no values. The slice is
// left as it is.
func Percentile(d []sample.Duration, q float64) sample.Duration {
	if len(d) == 0 || math.IsNaN(q) {
		return 0
	}
	s := slices.Clone(d)
	slices.Sort(s)
	at := min(max(q, 0), 100) / 100 * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + sample.Duration(math.Round((at-float64(i))*float64(s[i+1]-s[i])))
}

// IPDV is the mean absolute difference of consecutive round trips (RFC 3393
// with the previous packet as selection, in absolute value): the jitter that a
// play-out buffer feels. 0 of fewer than two values.
func IPDV(d []sample.Duration) sample.Duration {
	if len(d) < 2 {
		return 0
	}
	var sum float64
	for i := 1; i < len(d); i++ {
		sum += math.Abs(float64(d[i] - d[i-1]))
	}
	return sample.Duration(math.Round(sum / float64(len(d)-1)))
}
