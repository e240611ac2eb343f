package path

import (
	"fmt"
	"net/netip"
	"time"

	"fathom/probe"
	"fathom/sample"
)

// Error bars of a round trip: kernel stamps are taken in the driver's vicinity;
// user-space ones wait for the scheduler (KERNEL.md: p99 up to 0.9 ms).
const (
	kernelError = 10 * time.Microsecond
	userError   = time.Millisecond
)

// roundTrip is the time between send and answer, by the kernel's clock when it
// stamped both ends and the pair is possible, else by the monotonic clock.
func (ps *probeState) roundTrip() (rtt sample.Duration, clock string) {
	user := max(ps.got.At.Sub(ps.left), 0)
	if !ps.leftKernel.IsZero() && !ps.got.Kernel.IsZero() {
		// A stepped wall clock shows as a negative time or one longer than we waited.
		if k := ps.got.Kernel.Sub(ps.leftKernel); k > 0 && k <= user+userError {
			return sample.D(k), "kernel"
		}
	}
	return sample.D(user), "user"
}

// report fills res from what the plan has seen. sendErr is the kernel's word
// when it refused every probe.
func (p *plan) report(res *probe.Result, w way, sendErr error) {
	n := p.end()
	if p.reach == 0 && p.refuse == 0 {
		n = min(p.cfg.MaxTTL, p.tail())
	}
	hops := p.hops(n)
	for i := range hops { // our own kernel's word, after it found no neighbour, is no hop
		if hops[i].Address == w.source && hops[i].Unreach != nil {
			hops[i].Address = netip.Addr{}
		}
	}
	path := &probe.Path{Protocol: w.protocol, Port: w.port, Reached: p.reach > 0, Hops: hops}
	path.LoopAt, _ = findLoop(hops, path.Reached)
	res.Path = path
	p.outcome(res, w.source, sendErr)
	if best, ok := p.bestTarget(); ok {
		res.RTT = &best
	}
}

// outcome decides how the trace ended. The first that applies:
// reached; refused by a router; a loop; our own kernel refused; TTLs used up; silence.
func (p *plan) outcome(res *probe.Result, source netip.Addr, sendErr error) {
	path := res.Path
	switch {
	case path.Reached:
		res.Outcome = probe.OK
	case p.refuse > 0:
		h := &path.Hops[p.refuse-1]
		res.ICMP = h.Unreach
		res.Outcome = probe.Unreachable
		switch {
		case res.ICMP == nil:
		case probe.OutcomeOfICMP(p.target.Is6(), res.ICMP.Type, res.ICMP.Code) == probe.Prohibited:
			res.Outcome = probe.Prohibited
		case res.ICMP.MTU > 0:
			res.Outcome = probe.TooBig
		}
		if res.ICMP != nil {
			res.Detail = fmt.Sprintf("%s says at ttl %d: %s", res.ICMP.From, p.refuse, res.ICMP.Text)
			if res.ICMP.From == source {
				res.Detail = fmt.Sprintf("our own host (%s) says: %s", source, res.ICMP.Text)
			}
		}
	case path.LoopAt > 0:
		res.Outcome = probe.TTLExceeded
		res.Detail = fmt.Sprintf("the path runs in a circle from ttl %d (%s)", path.LoopAt, path.Hops[path.LoopAt-1].Address)
	case sendErr != nil && p.last < p.cfg.FirstTTL:
		res.Outcome, res.Detail = probe.Failed, sendErr.Error()
		if o, errno, ok := refusal(sendErr); ok {
			res.Outcome, res.Errno = o, errno
		}
	case p.last >= p.cfg.MaxTTL:
		res.Outcome = probe.TTLExceeded
		res.Detail = fmt.Sprintf("not reached within %d hops", p.cfg.MaxTTL)
	default:
		res.Outcome = probe.Timeout
		res.Detail = "no answer at any ttl"
		if p.last >= p.cfg.FirstTTL {
			res.Detail = fmt.Sprintf("silent behind ttl %d", p.last)
		}
	}
}

// bestTarget is the smallest round trip to the target itself.
func (p *plan) bestTarget() (best probe.RTT, ok bool) {
	for i := range p.probes {
		ps := &p.probes[i]
		if ps.got == nil || ps.got.Kind != kindTarget {
			continue
		}
		d, clock := ps.roundTrip()
		if !ok || d < best.Value {
			best, ok = probe.RTT{Value: d, Error: sample.D(userError), Clock: clock}, true
			if clock == "kernel" {
				best.Error = sample.D(kernelError)
			}
		}
	}
	return best, ok
}

// selfRun is how often in a row one address must answer to count as a router
// that forwards to itself, or to one that never says a word. Two are a known harmless bug: a router that
// forwards packets of TTL 0 lets its successor answer twice.
const selfRun = 3

// findLoop looks for routers that pass packets round. at is the TTL at which
// the address that comes again stands first, 0 without a loop; turns counts the
// addresses that came again. Three kinds of repeat are no loop: a refusal or the
// target itself, the last hop twice in a row, and the same address several
// times before the target answers (a NAT that hides the routers behind it).
func findLoop(hops []probe.Hop, reached bool) (at, turns int) {
	seen := map[netip.Addr]int{} // address → index of its latest hop
	first := map[netip.Addr]int{}
	var prev netip.Addr // latest address that answered
	for i, h := range hops {
		if !h.Address.IsValid() || h.Target || h.Unreach != nil {
			continue
		}
		if _, ok := seen[h.Address]; ok && prev != h.Address {
			turns++
			if at == 0 {
				at = hops[first[h.Address]].TTL
			}
		} else if !ok {
			first[h.Address] = i
		}
		seen[h.Address], prev = i, h.Address
	}
	if at == 0 && !reached {
		at = selfLoop(hops)
	}
	return at, turns
}

// selfLoop finds the run of one address at the end of what answered, each time
// with a quoted TTL of 1: the router really let the packet die, it is no
// zero-TTL forwarding. Silence in between does not end the run: routers limit
// their errors, and the other router of a loop may never send any.
func selfLoop(hops []probe.Hop) int {
	run, at := 0, 0
	var addr netip.Addr
	for _, h := range hops {
		switch {
		case !h.Address.IsValid():
		case h.Target || h.Unreach != nil || h.QuotedTTL != 1:
			run, addr = 0, netip.Addr{}
		case h.Address == addr:
			run++
		default:
			run, addr, at = 1, h.Address, h.TTL
		}
	}
	if run >= selfRun {
		return at
	}
	return 0
}
