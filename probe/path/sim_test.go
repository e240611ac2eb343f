package path

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"fathom/probe"
)

// simNet is a network in virtual time: forward says what a packet meets.
type simNet struct {
	replies chan reply
	forward func(p packet, nth int) (r reply, after time.Duration, ok bool)
	refuse  error // our own kernel

	mu     sync.Mutex
	sent   []packet
	times  []time.Time
	nth    map[int]int // packets so far per TTL
	closed bool
}

func newSimNet(forward func(p packet, nth int) (reply, time.Duration, bool)) *simNet {
	return &simNet{replies: make(chan reply, 10_000), forward: forward, nth: map[int]int{}}
}

func (n *simNet) Send(p packet) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refuse != nil {
		return &localError{op: "send", err: n.refuse}
	}
	n.sent, n.times = append(n.sent, p), append(n.times, time.Now())
	n.nth[p.TTL]++
	r, after, ok := n.forward(p, n.nth[p.TTL])
	if ok {
		r.ID = p.ID
		time.AfterFunc(after, func() {
			r.At = time.Now()
			n.replies <- r
		})
	}
	return nil
}

func (n *simNet) Replies() <-chan reply { return n.replies }
func (n *simNet) Close() error          { n.closed = true; return nil }

// count is the number of packets with a TTL of at least ttl.
func (n *simNet) count(ttl int) (c int) {
	for _, p := range n.sent {
		if p.TTL >= ttl {
			c++
		}
	}
	return c
}

var simTarget = netip.MustParseAddr("203.0.113.9")

func router(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i), 1}) }

func exceeded(from netip.Addr) reply {
	return reply{Kind: kindTimeExceeded, From: from, QuotedTTL: 1, ICMP: &probe.ICMPError{From: from, Type: 11}}
}

// chain is a path of routers with rtt per hop; the target stands at TTL n.
// silent TTLs say nothing.
func chain(n int, rtt time.Duration, silent ...int) func(packet, int) (reply, time.Duration, bool) {
	return func(p packet, _ int) (reply, time.Duration, bool) {
		for _, s := range silent {
			if p.TTL == s {
				return reply{}, 0, false
			}
		}
		if p.TTL >= n {
			return reply{Kind: kindTarget, From: simTarget}, rtt * time.Duration(n), true
		}
		return exceeded(router(p.TTL)), rtt * time.Duration(p.TTL), true
	}
}

// simulate traces through n and returns the result and how long it took.
func simulate(t *testing.T, c Config, n *simNet) (probe.Result, time.Duration) {
	t.Helper()
	tr := New(c)
	tr.open = func(context.Context, Config, netip.Addr) (network, way, error) {
		return n, way{method: "simulated", protocol: "icmp", source: netip.MustParseAddr("10.0.0.2")}, nil
	}
	start := time.Now()
	res, err := tr.Probe(t.Context(), simTarget.String())
	if err != nil {
		t.Fatal(err)
	}
	if !n.closed {
		t.Error("the network was not closed")
	}
	return res, time.Since(start)
}

// addresses is the hop list in short: last octet groups, * for silence, T for the target.
func addresses(p *probe.Path) string {
	s := ""
	for _, h := range p.Hops {
		switch {
		case h.Target:
			s += " T"
		case h.Address.IsValid():
			s += fmt.Sprintf(" %d", h.Address.As4()[2])
		default:
			s += " *"
		}
	}
	return s
}
