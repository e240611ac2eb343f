package path

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fathom/probe"
)

// mtuNet is a path in virtual time: pass says whether a packet gets to its
// destination; otherwise tell, when valid, signals mtu.
type mtuNet struct {
	rtt  time.Duration
	pass func(p packet, nth int) bool
	tell netip.Addr
	mtu  int
}

func (m mtuNet) net() *simNet {
	nth := map[ask]int{}
	return newSimNet(func(p packet, _ int) (reply, time.Duration, bool) {
		nth[ask{p.To, p.Size}]++
		switch {
		case m.pass(p, nth[ask{p.To, p.Size}]):
			return reply{Kind: kindTarget, From: p.To}, m.rtt, true
		case m.tell.IsValid() && p.Size > m.mtu:
			return reply{Kind: kindTooBig, From: m.tell, ICMP: &probe.ICMPError{From: m.tell, MTU: m.mtu}}, m.rtt, true
		}
		return reply{}, 0, false
	})
}

func searchMTU(t *testing.T, c MTUConfig, n *simNet) (probe.Result, time.Duration) {
	t.Helper()
	m := NewMTU(c)
	m.open = func(context.Context, MTUConfig, netip.Addr) (network, way, error) {
		return n, way{method: "simulated"}, nil
	}
	start := time.Now()
	res, err := m.Probe(t.Context(), simTarget.String())
	if err != nil {
		t.Fatal(err)
	}
	if !n.closed {
		t.Error("the network was not closed")
	}
	return res, time.Since(start)
}

func upTo(mtu int) func(packet, int) bool { return func(p packet, _ int) bool { return p.Size <= mtu } }

func TestMTUSearchFindsEverySize(t *testing.T) {
	for _, mtu := range []int{97, 300, 576, 577, 1006, 1111, 1280, 1397, 1400, 1401, 1472, 1491, 1492, 1499, 1500} {
		for _, link := range []int{1500, 9000, 65535} {
			synctest.Test(t, func(t *testing.T) {
				n := mtuNet{rtt: 20 * time.Millisecond, pass: upTo(mtu)}.net()
				res, took := searchMTU(t, MTUConfig{LinkMTU: link}, n)
				wantFails := mtu + 1
				if mtu == link {
					wantFails = 0
				}
				if res.Outcome != probe.OK || res.MTU.Works != mtu || res.MTU.Fails != wantFails || res.MTU.Signalled {
					t.Errorf("mtu %d, link %d: %s %+v", mtu, link, res.Outcome, res.MTU)
				}
				if limit := 2 * time.Second; link < 65535 && took > limit {
					t.Errorf("mtu %d, link %d: took %v", mtu, link, took)
				}
			})
		}
	}
}

func TestHealthyMTUTakesOneRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := mtuNet{rtt: 30 * time.Millisecond, pass: upTo(1500)}.net()
		res, took := searchMTU(t, MTUConfig{}, n)
		if res.MTU.Works != 1500 || took > 40*time.Millisecond || len(n.sent) != 2 {
			t.Errorf("%+v, %v, %d packets", res.MTU, took, len(n.sent))
		}
	})
}

func TestSignalledMTUIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := mtuNet{rtt: 30 * time.Millisecond, pass: upTo(1412), tell: router(3), mtu: 1412}.net()
		res, took := searchMTU(t, MTUConfig{}, n)
		m := res.MTU
		if m.Works != 1412 || !m.Signalled || m.By != router(3) || m.SignalMTU != 1412 || took > 100*time.Millisecond {
			t.Errorf("%+v, %v", m, took)
		}
	})
}

// A router tells an MTU, behind it a smaller link swallows silently.
func TestBlackHoleBehindSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := mtuNet{rtt: 10 * time.Millisecond, pass: upTo(1300), tell: router(2), mtu: 1450}.net()
		res, _ := searchMTU(t, MTUConfig{Hops: []netip.Addr{simTarget}}, n)
		m := res.MTU
		if m.Works != 1300 || m.Fails != 1301 || !m.Signalled || m.SignalMTU != 1450 || m.FirstBad != simTarget {
			t.Errorf("%+v", m)
		}
	})
}

// One packet in two is lost: loss is not an MTU.
func TestLossIsNotMistakenForMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := mtuNet{rtt: 10 * time.Millisecond, pass: func(_ packet, nth int) bool { return nth%2 == 0 }}.net()
		res, _ := searchMTU(t, MTUConfig{}, n)
		if res.Outcome != probe.OK || res.MTU.Works != 1500 || res.MTU.Fails != 0 {
			t.Errorf("%s %+v", res.Outcome, res.MTU)
		}
	})
}

// The path breaks in the middle of the search: no verdict from silence.
func TestPathBreaksDuringSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := mtuNet{rtt: 10 * time.Millisecond, pass: func(p packet, _ int) bool {
			return p.Size <= 1000 && time.Since(start) < 300*time.Millisecond
		}}.net()
		res, took := searchMTU(t, MTUConfig{}, n)
		if res.Outcome != probe.Timeout || took > 2*time.Second {
			t.Errorf("%s (%s) %+v, %v", res.Outcome, res.Detail, res.MTU, took)
		}
	})
}

func TestSmallPacketsUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := mtuNet{pass: func(packet, int) bool { return false }}.net()
		res, took := searchMTU(t, MTUConfig{}, n)
		if res.Outcome != probe.Timeout || res.MTU.Works != 0 || took > 510*time.Millisecond {
			t.Errorf("%s %+v, %v", res.Outcome, res.MTU, took)
		}
	})
}

func TestBlackHoleIsLocated(t *testing.T) {
	// TTL 2 is silent, 3 answers no ping, the narrow link is before 5.
	hops := []netip.Addr{router(1), {}, router(3), router(4), router(5), simTarget}
	narrow := hops[4:]
	synctest.Test(t, func(t *testing.T) {
		n := mtuNet{rtt: 10 * time.Millisecond, pass: func(p packet, _ int) bool {
			return p.To != router(3) && (p.Size <= 1400 || !slices.Contains(narrow, p.To))
		}}.net()
		res, took := searchMTU(t, MTUConfig{Hops: hops}, n)
		m := res.MTU
		if m.LastGood != router(4) || m.LastGoodTTL != 4 || m.FirstBad != router(5) || m.FirstBadTTL != 5 || m.Works != 1400 {
			t.Errorf("%+v", m)
		}
		if took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestMTURefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(nil)
		n.refuse = syscall.EPERM
		if res, _ := searchMTU(t, MTUConfig{}, n); res.Outcome != probe.LocalDrop || res.Errno != "EPERM" {
			t.Errorf("%s %s", res.Outcome, res.Errno)
		}
		n = newSimNet(func(packet, int) (reply, time.Duration, bool) {
			e := &probe.ICMPError{From: router(1), Type: 3, Code: 13, Text: "prohibited"}
			return reply{Kind: kindUnreachable, From: router(1), ICMP: e}, time.Millisecond, true
		})
		if res, _ := searchMTU(t, MTUConfig{}, n); res.Outcome != probe.Prohibited || res.ICMP == nil {
			t.Errorf("%s %+v", res.Outcome, res.ICMP)
		}
	})
}

func TestContextEndsMTUSearchAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := mtuNet{pass: func(packet, int) bool { return false }}.net()
		m := NewMTU(MTUConfig{})
		m.open = func(context.Context, MTUConfig, netip.Addr) (network, way, error) { return n, way{}, nil }
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := m.Probe(ctx, simTarget.String())
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 100*time.Millisecond || !n.closed {
			t.Errorf("%v after %v, closed %v", err, time.Since(start), n.closed)
		}
	})
}

func TestBadMTUArguments(t *testing.T) {
	for target, c := range map[string]MTUConfig{
		"127.0.0.1": {LinkMTU: 60}, "::1": {LinkMTU: 1200}, "127.0.0.2": {Tries: -1}, "127.0.0.3": {Timeout: -1},
		"127.0.0.4": {Hops: make([]netip.Addr, 256)}, "example.net": {},
	} {
		if _, err := NewMTU(c).Probe(t.Context(), target); err == nil {
			t.Errorf("%s %+v was accepted", target, c)
		}
	}
}
