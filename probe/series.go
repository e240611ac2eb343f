package probe

import (
	"fmt"
	"net/netip"
	"time"

	"fathom/sample"
)

// ParseTarget reads "192.0.2.1:443" or "[2001:db8::1]:443". what names the
// target in the error, and port is the example in it.
func ParseTarget(what, target string, port uint16) (netip.AddrPort, error) {
	to, err := netip.ParseAddrPort(target)
	if err != nil || to.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s %q: want address:port, for instance 192.0.2.1:%d or [2001:db8::1]:%d", what, target, port, port)
	}
	return to, nil
}

// Error bars of a round trip.
const (
	// kernelError: both ends are taken in the kernel, in its TCP code or near the
	// driver; this is what a softirq may add on an idle host.
	kernelError = 20 * time.Microsecond
	// userError is the 99th percentile of what a busy Go process adds, measured
	// against kernel stamps: 0.05 to 0.9 ms.
	userError = time.Millisecond
)

// NewRTT is a round trip by a clock, "user", "kernel" or "tcp_info", with the
// error bar of single measurements by that clock. It cannot be longer than d.
func NewRTT(d time.Duration, clock string) *RTT {
	bar := kernelError
	if clock == "user" {
		bar = userError
	}
	return &RTT{Value: sample.D(d), Error: sample.D(min(d, bar)), Clock: clock}
}

// Verdict is how one attempt of a series ended.
type Verdict struct {
	Outcome Outcome
	Errno   string
	Detail  string
	ICMP    *ICMPError
}

// Tally is how many attempts ended one way, with the first of them.
type Tally struct {
	Verdict
	N int
}

// Weigh says what a series of at least one attempt shows: OK when any attempt
// was, else the outcome of most attempts that were answered, and of equals the
// earlier one. Silence is the weakest evidence: a router that says why may be
// limited to one word a second. others lists the rest in order of appearance.
func Weigh(all []Verdict) (best Tally, others []Tally) {
	var tallies []Tally
	at := map[Outcome]int{}
	for _, v := range all {
		i, seen := at[v.Outcome]
		if !seen {
			i = len(tallies)
			at[v.Outcome], tallies = i, append(tallies, Tally{Verdict: v})
		}
		tallies[i].N++
	}
	for i, t := range tallies {
		if i == 0 || outweighs(t, best) {
			best = t
		}
	}
	for _, t := range tallies {
		if t.Outcome != best.Outcome {
			others = append(others, t)
		}
	}
	return best, others
}

func outweighs(a, b Tally) bool {
	switch {
	case b.Outcome == OK || a.Outcome == Timeout:
		return false
	case a.Outcome == OK || b.Outcome == Timeout:
		return true
	}
	return a.N > b.N
}
