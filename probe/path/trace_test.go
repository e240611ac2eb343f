package path

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fathom/probe"
)

func TestTenHopsTakeOneRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(chain(10, 5*time.Millisecond))
		res, took := simulate(t, Config{}, n)
		if res.Outcome != probe.OK || !res.Path.Reached || addresses(res.Path) != " 1 2 3 4 5 6 7 8 9 T" {
			t.Errorf("outcome %s, hops%s", res.Outcome, addresses(res.Path))
		}
		if took > 100*time.Millisecond { // ten packets at 5 ms, then one round trip of 50 ms
			t.Errorf("took %v", took)
		}
		if c := n.count(11); c > 10 {
			t.Errorf("%d packets beyond the target", c)
		}
		if res.RTT == nil || res.RTT.Value.Std() != 50*time.Millisecond {
			t.Errorf("round trip %+v, want 50 ms", res.RTT)
		}
		if h := res.Path.Hops[2]; h.Sent != 1 || h.Received != 1 || h.QuotedTTL != 1 || len(h.RTTs) != 1 {
			t.Errorf("hop 3: %+v", h)
		}
	})
}

func TestNearTargetGetsFewPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(chain(2, time.Millisecond))
		res, _ := simulate(t, Config{}, n)
		if len(n.sent) > 3 || len(res.Path.Hops) != 2 {
			t.Errorf("%d packets, %d hops", len(n.sent), len(res.Path.Hops))
		}
	})
}

func TestSilentHopsCostOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(chain(8, 5*time.Millisecond, 3, 4))
		res, took := simulate(t, Config{}, n)
		if res.Outcome != probe.OK || addresses(res.Path) != " 1 2 * * 5 6 7 T" {
			t.Errorf("outcome %s, hops%s", res.Outcome, addresses(res.Path))
		}
		if took > 1100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if h := res.Path.Hops[2]; h.Sent != 3 || h.Received != 0 {
			t.Errorf("a silent hop gets all its probes: %+v", h)
		}
	})
}

func TestAnswersAskForMoreRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(chain(4, 5*time.Millisecond))
		res, took := simulate(t, Config{Answers: 3}, n)
		for _, h := range res.Path.Hops {
			if h.Sent != 3 || h.Received != 3 {
				t.Errorf("hop %d: %d of %d", h.TTL, h.Received, h.Sent)
			}
		}
		if took > 700*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestSilentTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(p packet, nth int) (reply, time.Duration, bool) {
			if p.TTL > 3 {
				return reply{}, 0, false
			}
			return chain(99, 5*time.Millisecond)(p, nth)
		})
		res, took := simulate(t, Config{}, n)
		if res.Outcome != probe.Timeout || res.Path.Reached || addresses(res.Path) != " 1 2 3 * * * * *" {
			t.Errorf("outcome %s, hops%s", res.Outcome, addresses(res.Path))
		}
		if took > 1200*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestNothingAnswersAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(packet, int) (reply, time.Duration, bool) { return reply{}, 0, false })
		res, took := simulate(t, Config{StopAfterSilent: -1, MaxTTL: 20}, n)
		if res.Outcome != probe.Timeout || len(res.Path.Hops) != 20 || took > 1600*time.Millisecond {
			t.Errorf("outcome %s, %d hops, %v", res.Outcome, len(res.Path.Hops), took)
		}
	})
}

func TestTargetBehindSilentStretch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(chain(9, time.Millisecond, 2, 3, 4, 5, 6, 7, 8))
		res, _ := simulate(t, Config{}, n)
		if res.Outcome != probe.OK || addresses(res.Path) != " 1 * * * * * * * T" {
			t.Errorf("outcome %s, hops%s", res.Outcome, addresses(res.Path))
		}
	})
}

func TestLoopOfTwoRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(p packet, _ int) (reply, time.Duration, bool) {
			if p.TTL < 3 {
				return exceeded(router(p.TTL)), time.Millisecond, true
			}
			return exceeded(router(3 + p.TTL%2)), time.Duration(p.TTL) * time.Millisecond, true
		})
		res, took := simulate(t, Config{}, n)
		if res.Outcome != probe.TTLExceeded || res.Path.LoopAt != 3 {
			t.Errorf("outcome %s, loop at %d, hops%s", res.Outcome, res.Path.LoopAt, addresses(res.Path))
		}
		if len(n.sent) > 20 || took > 500*time.Millisecond {
			t.Errorf("%d packets in %v: a loop that came round twice is proof enough", len(n.sent), took)
		}
	})
}

func TestRouterForwardsToItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(p packet, _ int) (reply, time.Duration, bool) {
			return exceeded(router(min(p.TTL, 4))), time.Millisecond, true
		})
		res, _ := simulate(t, Config{}, n)
		if res.Outcome != probe.TTLExceeded || res.Path.LoopAt != 4 {
			t.Errorf("outcome %s, loop at %d", res.Outcome, res.Path.LoopAt)
		}
	})
}

// A Linux router answers six at once, then one per second. It must not look
// like loss when the answers come to the first probes.
func TestRouterThatLimitsItsErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		credit := map[netip.Addr]int{}
		n := newSimNet(func(p packet, nth int) (reply, time.Duration, bool) {
			r, d, ok := chain(6, 5*time.Millisecond)(p, nth)
			if r.Kind == kindTimeExceeded {
				if credit[r.From]++; credit[r.From] > 6 {
					return reply{}, 0, false
				}
			}
			return r, d, ok
		})
		res, took := simulate(t, Config{Answers: 3}, n)
		for _, h := range res.Path.Hops {
			if h.Received != 3 {
				t.Errorf("hop %d: %d answers", h.TTL, h.Received)
			}
		}
		if took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestLostFirstProbeIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(p packet, nth int) (reply, time.Duration, bool) {
			if p.TTL == 2 && nth < 3 {
				return reply{}, 0, false
			}
			return chain(4, 5*time.Millisecond)(p, nth)
		})
		res, took := simulate(t, Config{}, n)
		if addresses(res.Path) != " 1 2 3 T" || res.Path.Hops[1].Sent != 3 || took > 600*time.Millisecond {
			t.Errorf("hops%s, %+v, %v", addresses(res.Path), res.Path.Hops[1], took)
		}
	})
}

func TestLateAnswerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(p packet, nth int) (reply, time.Duration, bool) {
			r, d, ok := chain(4, 5*time.Millisecond, 3)(p, nth)
			if p.TTL == 2 {
				d = 900 * time.Millisecond // while hop 3 is still waited for
			}
			return r, d, ok
		})
		res, _ := simulate(t, Config{}, n)
		h := res.Path.Hops[1]
		if h.Address != router(2) || h.RTTs[0].Std() != 900*time.Millisecond {
			t.Errorf("hop 2: %+v", h)
		}
	})
}

func TestSeveralAddressesAtOneTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(p packet, nth int) (reply, time.Duration, bool) {
			r, d, ok := chain(4, 5*time.Millisecond)(p, nth)
			if p.TTL == 2 && nth == 2 {
				r.From = router(77)
			}
			return r, d, ok
		})
		res, _ := simulate(t, Config{Answers: 3}, n)
		h := res.Path.Hops[1]
		if h.Address != router(2) || len(h.Others) != 1 || h.Others[0] != router(77) || res.Path.LoopAt != 0 {
			t.Errorf("hop 2: %+v, loop at %d", h, res.Path.LoopAt)
		}
	})
}

func TestRouterRefuses(t *testing.T) {
	for _, tc := range []struct {
		code uint8
		want probe.Outcome
	}{{1, probe.Unreachable}, {13, probe.Prohibited}, {10, probe.Prohibited}} {
		synctest.Test(t, func(t *testing.T) {
			n := newSimNet(func(p packet, nth int) (reply, time.Duration, bool) {
				if p.TTL < 3 {
					return chain(9, time.Millisecond)(p, nth)
				}
				e := &probe.ICMPError{From: router(2), Type: 3, Code: tc.code, Text: "no"}
				return reply{Kind: kindUnreachable, From: router(2), ICMP: e}, 2 * time.Millisecond, true
			})
			res, _ := simulate(t, Config{}, n)
			if res.Outcome != tc.want || res.ICMP == nil || res.ICMP.Code != tc.code || len(res.Path.Hops) != 3 {
				t.Errorf("code %d: %s, %+v, %d hops", tc.code, res.Outcome, res.ICMP, len(res.Path.Hops))
			}
			if res.Path.Hops[2].Unreach == nil || res.Path.LoopAt != 0 {
				t.Errorf("hop 3: %+v, loop at %d", res.Path.Hops[2], res.Path.LoopAt)
			}
		})
	}
}

// A Linux router says host unreachable only after three seconds of ARP.
func TestLingerHearsLateUnreachable(t *testing.T) {
	forward := func(p packet, nth int) (reply, time.Duration, bool) {
		if p.TTL < 3 {
			return chain(9, time.Millisecond)(p, nth)
		}
		e := &probe.ICMPError{From: router(2), Type: 3, Code: 1}
		return reply{Kind: kindUnreachable, From: router(2), ICMP: e}, 3050 * time.Millisecond, true
	}
	for linger, want := range map[time.Duration]probe.Outcome{0: probe.Timeout, 4 * time.Second: probe.Unreachable} {
		synctest.Test(t, func(t *testing.T) {
			if res, _ := simulate(t, Config{Linger: linger}, newSimNet(forward)); res.Outcome != want {
				t.Errorf("linger %v: %s, want %s", linger, res.Outcome, want)
			}
		})
	}
}

func TestOurOwnKernelRefuses(t *testing.T) {
	for errno, want := range map[syscall.Errno]probe.Outcome{
		syscall.EPERM: probe.LocalDrop, syscall.ENETUNREACH: probe.NoRoute,
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newSimNet(nil)
			n.refuse = errno
			res, took := simulate(t, Config{}, n)
			if res.Outcome != want || took > 100*time.Millisecond || res.Path.Hops[0].Sent != 0 {
				t.Errorf("%v: %s after %v, hop 1 %+v", errno, res.Outcome, took, res.Path.Hops[0])
			}
		})
	}
}

func TestContextEndsTraceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(packet, int) (reply, time.Duration, bool) { return reply{}, 0, false })
		tr := New(Config{})
		tr.open = func(context.Context, Config, netip.Addr) (network, way, error) { return n, way{}, nil }
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := tr.Probe(ctx, simTarget.String())
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 300*time.Millisecond || !n.closed {
			t.Errorf("%v after %v, closed %v", err, time.Since(start), n.closed)
		}
	})
}

func TestRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(func(packet, int) (reply, time.Duration, bool) { return reply{}, 0, false })
		simulate(t, Config{Rate: 50}, n)
		for i := 1; i < len(n.times); i++ {
			if gap := n.times[i].Sub(n.times[i-1]); gap < 20*time.Millisecond {
				t.Fatalf("packets %d and %d are %v apart", i-1, i, gap)
			}
		}
	})
}

func TestMoreTTLsThanTheLimitAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(chain(40, time.Millisecond))
		res, _ := simulate(t, Config{FirstTTL: 4, MaxTTL: 12}, n)
		if res.Outcome != probe.TTLExceeded || res.Path.LoopAt != 0 || len(res.Path.Hops) != 12 {
			t.Errorf("%s, loop at %d, %d hops", res.Outcome, res.Path.LoopAt, len(res.Path.Hops))
		}
		if h := res.Path.Hops[2]; h.TTL != 3 || h.Sent != 0 {
			t.Errorf("below the first TTL: %+v", h)
		}
	})
}

func TestBadArguments(t *testing.T) {
	for _, c := range []Config{{Protocol: "sctp"}, {MaxTTL: 256}, {FirstTTL: 9, MaxTTL: 3}, {Probes: -1}, {Rate: -1}, {Timeout: -1}, {Size: 70000}} {
		if _, err := New(c).Probe(t.Context(), "127.0.0.1"); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	for _, target := range []string{"", "example.net", "0.0.0.0", "224.0.0.1", "::", "1.2.3.4:80"} {
		if _, err := New(Config{}).Probe(t.Context(), target); err == nil {
			t.Errorf("target %q was accepted", target)
		}
	}
	if _, err := New(Config{Source: netip.MustParseAddr("::1")}).Probe(t.Context(), "127.0.0.1"); err == nil {
		t.Error("families were mixed")
	}
}
