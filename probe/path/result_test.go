package path

import (
	"net/netip"
	"testing"
	"time"

	"fathom/probe"
)

// hopsOf builds hops from router numbers; 0 is silence, -1 the target.
func hopsOf(nums ...int) []probe.Hop {
	out := make([]probe.Hop, len(nums))
	for i, n := range nums {
		out[i] = probe.Hop{TTL: i + 1}
		switch {
		case n > 0:
			out[i].Address, out[i].QuotedTTL = router(n), 1
		case n < 0:
			out[i].Address, out[i].Target = simTarget, true
		}
	}
	return out
}

func TestFindLoop(t *testing.T) {
	zeroTTL := hopsOf(1, 2, 2, 2)
	zeroTTL[2].QuotedTTL = 0
	refused := hopsOf(1, 2, 1)
	refused[2].Unreach = &probe.ICMPError{}
	for name, tc := range map[string]struct {
		hops      []probe.Hop
		reached   bool
		at, turns int
	}{
		"straight":                        {hopsOf(1, 2, 3, -1), true, 0, 0},
		"two routers":                     {hopsOf(1, 2, 3, 2, 3, 2), false, 2, 3},
		"with a silent router":            {hopsOf(1, 2, 0, 2, 0, 2), false, 2, 0},
		"twice with silence between":      {hopsOf(1, 2, 0, 2, 0), false, 0, 0}, // may be a changed route
		"three routers":                   {hopsOf(1, 2, 3, 4, 2, 3, 4), false, 2, 3},
		"silence after the burst":         {hopsOf(1, 2, 3, 2, 0, 0, 0), false, 2, 1},
		"last hop twice":                  {hopsOf(1, 2, 2), false, 0, 0},
		"forwards to itself":              {hopsOf(1, 2, 2, 2, 2), false, 2, 0},
		"forwards to itself, then silent": {hopsOf(1, 2, 2, 2, 0, 0), false, 2, 0},
		"NAT hides routers":               {hopsOf(1, 2, 2, 2, -1), true, 0, 0},
		"NAT hides routers, then goes on": {hopsOf(1, 2, 2, 2, 3, 4), false, 0, 0},
		"forwards packets with TTL 0":     {zeroTTL, false, 0, 0},
		"a refusal from the hop before":   {refused, false, 0, 0},
		"nothing":                         {nil, false, 0, 0},
	} {
		if at, turns := findLoop(tc.hops, tc.reached); at != tc.at || turns != tc.turns {
			t.Errorf("%s: at %d, %d turns; want %d, %d", name, at, turns, tc.at, tc.turns)
		}
	}
}

func TestRoundTripClocks(t *testing.T) {
	now := time.Now()
	wall := time.Unix(1_800_000_000, 0)
	for name, tc := range map[string]struct {
		left, got time.Time
		want      time.Duration
		clock     string
	}{
		"both stamped":       {wall, wall.Add(8 * time.Millisecond), 8 * time.Millisecond, "kernel"},
		"only arrival":       {time.Time{}, wall, 10 * time.Millisecond, "user"},
		"clock set back":     {wall, wall.Add(-time.Second), 10 * time.Millisecond, "user"},
		"clock set forward":  {wall, wall.Add(time.Hour), 10 * time.Millisecond, "user"},
		"no stamps anywhere": {time.Time{}, time.Time{}, 10 * time.Millisecond, "user"},
	} {
		ps := probeState{left: now, leftKernel: tc.left, got: &reply{At: now.Add(10 * time.Millisecond), Kernel: tc.got}}
		if d, clock := ps.roundTrip(); d.Std() != tc.want || clock != tc.clock {
			t.Errorf("%s: %v by %s, want %v by %s", name, d, clock, tc.want, tc.clock)
		}
	}
}

func TestClassify(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::9")
	zoned := netip.MustParseAddr("fe80::9%eth0")
	for _, tc := range []struct {
		target, from netip.Addr
		typ, code    uint8
		want         replyKind
	}{
		{simTarget, router(1), 11, 0, kindTimeExceeded},
		{simTarget, router(1), 11, 1, 0}, // reassembly
		{simTarget, router(1), 3, 4, kindTooBig},
		{simTarget, router(1), 3, 13, kindUnreachable},
		{simTarget, simTarget, 3, 3, kindTarget},
		{simTarget, simTarget, 3, 10, kindTarget},
		{simTarget, router(1), 12, 0, kindUnreachable},
		{simTarget, router(1), 5, 1, 0}, // redirect
		{v6, codecSrc6, 3, 0, kindTimeExceeded},
		{v6, codecSrc6, 2, 0, kindTooBig},
		{v6, codecSrc6, 1, 3, kindUnreachable},
		{v6, v6, 1, 4, kindTarget},
		{zoned, zoned.WithZone(""), 1, 4, kindTarget},
		{v6, codecSrc6, 137, 0, 0},
	} {
		got, ok := classify(tc.target, probe.ICMPError{From: tc.from, Type: tc.typ, Code: tc.code})
		if got != tc.want || ok != (tc.want != 0) {
			t.Errorf("type %d code %d from %s: %d, %v; want %d", tc.typ, tc.code, tc.from, got, ok, tc.want)
		}
	}
}

func BenchmarkPlanOfThirtyHops(b *testing.B) {
	cfg := Config{StopAfterSilent: -1}.withDefaults()
	for b.Loop() {
		p := newPlan(cfg, simTarget)
		now := time.Unix(0, 0)
		for {
			ttl, due, ok := p.next(now)
			if !ok {
				break
			}
			if due.After(now) {
				now = due
			}
			pk := p.packet(ttl)
			p.sent(pk, now, false)
			r := exceeded(router(ttl))
			r.ID, r.At = pk.ID, now
			p.answer(r)
		}
		if over, _ := p.done(now); !over {
			b.Fatal("not over")
		}
	}
}
