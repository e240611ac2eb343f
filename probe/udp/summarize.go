package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"fathom/probe"
	"fathom/sample"
)

const (
	// kernelError: both stamps are taken by software near the driver; this is
	// what lies between them and the wire on an idle host.
	kernelError = 20 * time.Microsecond
	// userError is the 99th percentile of what a busy Go process adds, measured
	// against kernel stamps: 0.05 to 0.9 ms.
	userError = time.Millisecond
)

// verdict is what one datagram's fate means.
type verdict struct {
	outcome probe.Outcome
	errno   string
	detail  string
	icmp    *probe.ICMPError
}

func judge(t trip, to netip.Addr) verdict {
	switch {
	case t.answered:
		return verdict{outcome: probe.OK}
	case errors.Is(t.err, os.ErrDeadlineExceeded):
		return verdict{outcome: probe.Timeout, detail: "no answer: open or filtered, UDP cannot tell"}
	}
	v := verdict{}
	v.outcome, v.errno = probe.OutcomeOfErrno(t.err)
	if t.icmp == nil {
		v.detail = t.err.Error()
		return v
	}
	i := t.icmp
	v.icmp = probe.NewICMPError(i.V6, i.From, i.Type, i.Code, i.MTU)
	v.outcome, v.detail = probe.JudgeICMP(v.icmp, to, t.local.Addr())
	return v
}

// summarize makes one Result of a series; at least one trip is given. OK when
// any datagram was answered, else the outcome that came most often, and of
// equals the first: silence beside a refusal is ICMP rate limiting or loss, so
// what speaks outweighs what is silent.
func summarize(target string, to netip.AddrPort, done []trip, size int) probe.Result {
	r := probe.Result{
		Kind: probe.KindUDP, Target: target, Address: to.Addr().Unmap(), Port: to.Port(),
		Method: "connected udp socket",
	}
	n := map[probe.Outcome]int{}
	first := map[probe.Outcome]verdict{}
	var order []probe.Outcome
	for _, t := range done {
		v := judge(t, r.Address)
		if n[v.outcome]++; n[v.outcome] == 1 {
			first[v.outcome] = v
			order = append(order, v.outcome)
		}
		if !r.Source.IsValid() && t.local.IsValid() {
			r.Source = t.local.Addr().WithZone("")
		}
	}
	best := order[0]
	for _, o := range order[1:] {
		if better(o, best, n) {
			best = o
		}
	}
	v := first[best]
	r.Outcome, r.Errno, r.Detail, r.ICMP = best, v.errno, v.detail, v.icmp
	if best == probe.OK {
		r.Detail = fmt.Sprintf("%d of %d datagrams of %d bytes answered", n[best], len(done), size)
	}
	for _, o := range order {
		if o != best {
			r.Detail = join(r.Detail, fmt.Sprintf("%d of %d: %s", n[o], len(done), first[o].detail))
		}
	}
	r.RTT = roundTrip(done)
	return r
}

func better(o, than probe.Outcome, n map[probe.Outcome]int) bool {
	switch {
	case than == probe.OK || o == probe.Timeout:
		return false
	case o == probe.OK || than == probe.Timeout:
		return true
	}
	return n[o] > n[than]
}

// roundTrip is the smallest of the answered datagrams, by the kernel's stamps if there are any.
func roundTrip(done []trip) *probe.RTT {
	var user, kernel time.Duration
	for _, t := range done {
		if !t.answered {
			continue
		}
		if user == 0 || t.took < user {
			user = t.took
		}
		if t.kernel > 0 && (kernel == 0 || t.kernel < kernel) {
			kernel = t.kernel
		}
	}
	switch {
	case kernel > 0:
		return &probe.RTT{Value: sample.D(kernel), Error: sample.D(min(kernel, kernelError)), Clock: "kernel"}
	case user > 0:
		return &probe.RTT{Value: sample.D(user), Error: sample.D(min(user, userError)), Clock: "user"}
	}
	return nil
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
