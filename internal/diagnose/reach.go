package diagnose

import (
	"net/netip"
	"slices"

	"fathom/probe"
)

// Heard reports whether the address itself answered anything at all: an echo
// reply, SYN-ACK, RST, port unreachable of its own, a datagram.
func (e *Evidence) Heard(a netip.Addr) bool {
	if a.IsLoopback() || e.Host().HasAddr(a) {
		return true
	}
	for i := range e.Measured {
		r := e.Measured[i].Result
		if r != nil && e.Measured[i].Want.Via == (netip.Addr{}) && answered(r, a) {
			return true
		}
	}
	return false
}

// heardFrom reports whether a sent us anything at all, about whatever: an ICMP
// error, a place in a trace.
func (e *Evidence) heardFrom(a netip.Addr) bool {
	for i := range e.Measured {
		r := e.Measured[i].Result
		if r == nil {
			continue
		}
		if r.ICMP != nil && r.ICMP.From == a {
			return true
		}
		if r.Path != nil && slices.ContainsFunc(r.Path.Hops, func(h probe.Hop) bool { return h.Address == a }) {
			return true
		}
	}
	return e.Heard(a)
}

// answered reports whether r proves that a itself sent something.
func answered(r *probe.Result, a netip.Addr) bool {
	if r.Address.WithZone("") != a.WithZone("") {
		return false
	}
	if r.ICMP != nil {
		return r.ICMP.From == a
	}
	switch r.Kind {
	case probe.KindPath:
		return r.Path != nil && r.Path.Reached
	case probe.KindMTU:
		return r.MTU != nil && r.MTU.Works > 0
	case probe.KindARP:
		return false // somebody answered for it, on layer 2 only
	case probe.KindICMP:
		return r.Echo != nil && r.Echo.Received > 0
	}
	switch r.Outcome {
	case probe.OK, probe.Refused, probe.Reset, probe.Failed, probe.BadAnswer:
		return true
	}
	return r.TCP != nil && (r.TCP.Connected > 0 || r.TCP.Refused > 0)
}

// Ping is the standard echo series to a, whichever was made; nil when none was.
func (e *Evidence) Ping(a netip.Addr) *probe.Result {
	for _, w := range []Want{WantPing(a), WantPingLocal(a), WantPingAnchor(a)} {
		if r := e.Result(w); r != nil {
			return r
		}
	}
	return nil
}

// Trace is the first trace to a that exists, of the given protocol ("" any, icmp first).
func (e *Evidence) Trace(a netip.Addr, protocol string) *probe.Result {
	var best *probe.Result
	for i := range e.Measured {
		m := &e.Measured[i]
		if m.Want.Kind != probe.KindPath || m.Want.Target != a.String() || m.Result == nil || m.Result.Path == nil {
			continue
		}
		if protocol != "" && m.Want.Protocol != protocol {
			continue
		}
		if best == nil || m.Want.Protocol == "icmp" {
			best = m.Result
		}
	}
	return best
}

// lastAnswering is the last hop before the target that answered; ok is false when none did.
func lastAnswering(p *probe.Path) (probe.Hop, bool) {
	for i := len(p.Hops) - 1; i >= 0; i-- {
		if h := p.Hops[i]; h.Address.IsValid() && !h.Target {
			return h, true
		}
	}
	return probe.Hop{}, false
}

// hopAddrs lists the distinct answering routers of a path in order, the target excluded.
func hopAddrs(p *probe.Path) []probe.Hop {
	var out []probe.Hop
	for _, h := range p.Hops {
		if !h.Address.IsValid() || h.Target {
			continue
		}
		if slices.ContainsFunc(out, func(o probe.Hop) bool { return o.Address == h.Address }) {
			continue
		}
		out = append(out, h)
	}
	return out
}

// addrTargets lists the targets that have a among their addresses, with a port or not.
func (e *Evidence) addrTargets(a netip.Addr) []Target {
	var out []Target
	for _, t := range e.targets() {
		if slices.Contains(e.TargetAddrs(t), a) {
			out = append(out, t)
		}
	}
	return out
}

// targets are what the paths to which are judged: the user's targets and, where
// they stand for something, the anchors. An anchor that the user named is
// expected to answer. Of the built-in ones the first that answers per family is
// looked at more closely when the question is this host's way out; that others
// are silent says nothing, the network may be isolated on purpose.
func (e *Evidence) targets() []Target {
	out := slices.Clip(e.Question.Targets)
	if e.Question.Passive {
		return out
	}
	var seen [2]bool
	for _, a := range e.Question.Anchors {
		i := 0
		if a.Is6() {
			i = 1
		}
		if !e.Question.AnchorsGiven && (len(e.Question.Targets) > 0 || seen[i] || !e.Heard(a)) {
			continue
		}
		seen[i] = true
		if !slices.ContainsFunc(out, func(t Target) bool { return t.Host == a.String() }) {
			out = append(out, Target{Raw: a.String(), Host: a.String()})
		}
	}
	return out
}

// targetPair is one address of one target.
type targetPair struct {
	Target Target
	Addr   netip.Addr
}

// remotePairs lists every target with each of its addresses that the kernel
// routes away from this host.
func (e *Evidence) remotePairs() []targetPair {
	var out []targetPair
	for _, t := range e.targets() {
		for _, a := range e.TargetAddrs(t) {
			if !a.IsLoopback() && !e.Host().HasAddr(a) && e.Usable(a) {
				out = append(out, targetPair{t, a})
			}
		}
	}
	return out
}

// remoteAddrs is remotePairs without repeating an address asked by several targets.
func (e *Evidence) remoteAddrs() []netip.Addr {
	var out []netip.Addr
	for _, p := range e.remotePairs() {
		if !slices.Contains(out, p.Addr) {
			out = append(out, p.Addr)
		}
	}
	return out
}
