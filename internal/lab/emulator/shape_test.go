package emulator

import (
	"math"
	"slices"
	"testing"
	"time"

	"fathom/internal/lab/emulator/unit"
)

func mustShaper(t testing.TB, c Config) *shaper {
	t.Helper()
	s, err := newShaper(c, 7, AtoB)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wilson is the 99.99 % interval of a share: with a fixed seed it either holds
// for ever or never.
func wilson(k, n int) (lo, hi float64) {
	const z = 3.89
	p, m := float64(k)/float64(n), float64(n)
	mid := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return mid - half, mid + half
}

func wantShare(t *testing.T, what string, k, n int, want float64) {
	t.Helper()
	if lo, hi := wilson(k, n); want < lo || want > hi {
		t.Errorf("%s: %d of %d (%.4f…%.4f), want %.4f", what, k, n, lo, hi, want)
	}
}

// play sends n packets of size bytes, one every gap, and returns the verdicts.
func play(s *shaper, n, size int, gap time.Duration) []verdict {
	frame := udpFrame(1000, 2000, 0, size-42)
	v := make([]verdict, n)
	for i := range v {
		v[i] = s.decide(time.Duration(i)*gap, frame, len(frame), 0)
	}
	return v
}

func lost(v []verdict, why Reason) (n int) {
	for _, x := range v {
		if x.lost == why {
			n++
		}
	}
	return n
}

// runs are the lengths of runs of lost packets.
func runs(v []verdict) (lengths []int) {
	n := 0
	for _, x := range v {
		if x.lost != "" {
			n++
		} else if n > 0 {
			lengths, n = append(lengths, n), 0
		}
	}
	return lengths
}

func TestPerfectCable(t *testing.T) {
	for i, v := range play(mustShaper(t, Config{}), 100, 100, time.Millisecond) {
		if v != (verdict{at: time.Duration(i) * time.Millisecond, copies: 1}) {
			t.Fatalf("packet %d: %+v", i, v)
		}
	}
}

func TestRandomLoss(t *testing.T) {
	const n = 100_000
	v := play(mustShaper(t, Config{Impairment: Impairment{Loss: Loss{Random: 0.05}}}), n, 100, time.Millisecond)
	wantShare(t, "lost", lost(v, LostRandom), n, 0.05)
	r := runs(v) // of independent losses a run goes on with probability 0.05
	longer := 0
	for _, l := range r {
		if l > 1 {
			longer++
		}
	}
	wantShare(t, "runs longer than 1", longer, len(r), 0.05)
}

func TestGilbertElliott(t *testing.T) {
	const n = 400_000
	g := &GilbertElliott{P: 0.01, R: 0.25}
	v := play(mustShaper(t, Config{Impairment: Impairment{Loss: Loss{GE: g}}}), n, 100, time.Millisecond)
	share, sum := float64(lost(v, LostGE))/n, 0
	if want := 0.01 / 0.26; math.Abs(share-want) > 0.003 {
		t.Errorf("lost share %.4f, want %.4f", share, want)
	}
	r := runs(v)
	for _, l := range r {
		sum += l
	}
	if mean := float64(sum) / float64(len(r)); math.Abs(mean-4) > 0.2 {
		t.Errorf("mean burst %.2f packets, want 4", mean)
	}
	if slices.Max(r) < 15 {
		t.Errorf("longest burst %d: no long tail", slices.Max(r))
	}
}

func TestGilbertElliottWithLossInBothStates(t *testing.T) {
	const n = 400_000
	g := &GilbertElliott{P: 0.1, R: 0.3, Good: 0.01, Bad: 0.5}
	v := play(mustShaper(t, Config{Impairment: Impairment{Loss: Loss{GE: g}}}), n, 100, time.Millisecond)
	share := float64(lost(v, LostGE)) / n
	if want := 0.25*0.5 + 0.75*0.01; math.Abs(share-want) > 0.005 {
		t.Errorf("lost share %.4f, want %.4f", share, want)
	}
}

func TestEveryNthIsLost(t *testing.T) {
	v := play(mustShaper(t, Config{Impairment: Impairment{Loss: Loss{Every: 10}}}), 100, 100, time.Millisecond)
	for i, x := range v {
		if (x.lost == LostEvery) != (i%10 == 9) {
			t.Fatalf("packet %d: %+v", i, x)
		}
	}
}

func TestPeriodicBurst(t *testing.T) {
	v := play(mustShaper(t, Config{Impairment: Impairment{Loss: Loss{Burst: &Burst{Packets: 5, Period: time.Second}}}}), 1000, 100, 10*time.Millisecond)
	for i, x := range v {
		if want := i >= 100 && i%100 < 5; (x.lost == LostBurst) != want {
			t.Fatalf("packet %d: %+v", i, x)
		}
	}
	v = play(mustShaper(t, Config{Impairment: Impairment{Loss: Loss{Burst: &Burst{For: 200 * time.Millisecond, Period: time.Second}}}}), 1000, 100, 10*time.Millisecond)
	for i, x := range v {
		if want := i >= 100 && i%100 < 20; (x.lost == LostBurst) != want {
			t.Fatalf("outage, packet %d: %+v", i, x)
		}
	}
}

func TestJitterKeepsOrderAndBounds(t *testing.T) {
	for _, dist := range []Distribution{Uniform, Normal} {
		s := mustShaper(t, Config{Impairment: Impairment{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, JitterDist: dist}})
		v := play(s, 20_000, 100, 50*time.Millisecond) // far apart: order does not interfere
		var sum, sq float64
		for i, x := range v {
			d := (x.at - time.Duration(i)*50*time.Millisecond).Seconds() * 1e3
			if d < 0 || dist == Uniform && (d < 15 || d > 25) || d > 40 {
				t.Fatalf("%s: delay %.3f ms", dist, d)
			}
			sum, sq = sum+d, sq+d*d
		}
		mean := sum / 20_000
		sd := math.Sqrt(sq/20_000 - mean*mean)
		want := map[Distribution]float64{Uniform: 5 / math.Sqrt(3), Normal: 5}[dist]
		if math.Abs(mean-20) > 0.15 || math.Abs(sd-want) > 0.15 {
			t.Errorf("%s: mean %.2f sd %.2f, want 20 and %.2f", dist, mean, sd, want)
		}
		last := time.Duration(0)
		for i, x := range play(s, 5000, 100, time.Millisecond/10) {
			if x.at < last {
				t.Fatalf("%s: packet %d overtakes", dist, i)
			}
			last = x.at
		}
	}
}

func TestReorderOvertakes(t *testing.T) {
	const n = 50_000
	v := play(mustShaper(t, Config{Impairment: Impairment{Delay: 10 * time.Millisecond, Reorder: 0.02}}), n, 100, time.Millisecond)
	early := 0
	for i, x := range v {
		if x.at == time.Duration(i)*time.Millisecond {
			early++
			if i > 0 && !x.reordered {
				t.Fatalf("packet %d overtakes and does not say so", i)
			}
		} else if x.at != time.Duration(i+10)*time.Millisecond {
			t.Fatalf("packet %d leaves at %s", i, x.at)
		}
	}
	wantShare(t, "early", early, n, 0.02)
}

func TestDuplicateAndCorruptShares(t *testing.T) {
	const n = 50_000
	v := play(mustShaper(t, Config{Impairment: Impairment{Duplicate: 0.03, Corrupt: 0.01}}), n, 100, time.Millisecond)
	dup, bad := 0, 0
	for _, x := range v {
		dup += x.copies - 1
		if x.corrupt {
			bad++
		}
	}
	wantShare(t, "duplicates", dup, n, 0.03)
	wantShare(t, "corrupt", bad, n, 0.01)
}

func TestRateQueuesAndDropsAtTheTail(t *testing.T) {
	// 1 Mbit/s carries 125 packets of 1000 bytes a second; 250 a second come.
	s := mustShaper(t, Config{Impairment: Impairment{Rate: 1e6, Queue: Queue{Packets: 50}, Delay: 5 * time.Millisecond}})
	v := play(s, 2500, 1000, 4*time.Millisecond)
	var sent []time.Duration
	maxWait := time.Duration(0)
	for i, x := range v {
		if x.lost == "" {
			sent = append(sent, x.at)
			maxWait = max(maxWait, x.at-time.Duration(i)*4*time.Millisecond)
		}
	}
	for i := 1; i < len(sent); i++ {
		if d := sent[i] - sent[i-1]; d != 8*time.Millisecond {
			t.Fatalf("packets %s apart, want 8 ms (back to back)", d)
		}
	}
	// 50 packets of 8 ms, less the part already sent when the last one came.
	if maxWait < 396*time.Millisecond || maxWait > 405*time.Millisecond {
		t.Errorf("standing queue %s, want about 400 ms", maxWait)
	}
	if got := lost(v, LostQueue); got != 2500-len(sent) || got < 1150 || got > 1250 {
		t.Errorf("dropped %d of 2500", got)
	}
}

func TestQueueInBytes(t *testing.T) {
	s := mustShaper(t, Config{Impairment: Impairment{Rate: 8000, Queue: Queue{Bytes: 3000}}})
	v := play(s, 5, 1000, 0) // all at once
	if lost(v, LostQueue) != 2 || v[2].at != 3*time.Second {
		t.Errorf("%+v", v)
	}
	s = mustShaper(t, Config{Impairment: Impairment{Rate: 8000, Queue: Queue{Bytes: 100}}})
	if v := play(s, 2, 1000, 2*time.Second); lost(v, LostQueue) != 0 {
		t.Error("a packet longer than the queue must pass an idle line")
	}
}

func TestPolicerDropsWithoutDelay(t *testing.T) {
	s := mustShaper(t, Config{Impairment: Impairment{Police: Police{Rate: 1e6, Burst: 10_000}}})
	v := play(s, 10_000, 1000, 4*time.Millisecond) // 2 Mbit/s
	passed := 0
	for i, x := range v {
		if x.lost == "" {
			passed++
			if x.at != time.Duration(i)*4*time.Millisecond {
				t.Fatal("delayed")
			}
		}
	}
	if passed < 5000 || passed > 5025 { // half and the burst
		t.Errorf("passed %d of 10000", passed)
	}
}

func TestBlackHoles(t *testing.T) {
	s := mustShaper(t, Config{Impairment: Impairment{MaxFrame: 1400}})
	if v := play(s, 1, 1414, 0); v[0].lost != "" {
		t.Errorf("1400-byte packet: %s", v[0].lost)
	}
	if v := play(s, 1, 1415, 0); v[0].lost != LostMaxFrame {
		t.Errorf("1401-byte packet: %+v", v[0])
	}
	s = mustShaper(t, Config{Impairment: Impairment{Blackhole: true}})
	if v := play(s, 10, 100, 0); lost(v, LostBlackhole) != 10 {
		t.Error("not everything lost")
	}
}

func TestClassTreatsOnlyItsFlows(t *testing.T) {
	s := mustShaper(t, Config{
		Impairment: Impairment{Delay: time.Millisecond},
		Classes:    []Class{{Match: Match{Flow: &FlowMatch{Of: 4, Is: []int{1}}}, Impairment: Impairment{Blackhole: true}}},
	})
	bad := 0
	for port := range uint16(4000) {
		f := udpFrame(port+1000, 53, 0, 20)
		first := s.decide(0, f, len(f), 0).lost
		for range 3 {
			if s.decide(0, f, len(f), 0).lost != first {
				t.Fatal("one flow has two fates")
			}
		}
		if first != "" {
			bad++
		}
	}
	wantShare(t, "bad flows", bad, 4000, 0.25)
}

func TestSetKeepsQueueOfTheSameRate(t *testing.T) {
	c := Config{Impairment: Impairment{Rate: 8000}}
	s := mustShaper(t, c)
	play(s, 3, 1000, 0) // three seconds of backlog
	c.Loss.Every = 1000
	if err := s.configure(c); err != nil {
		t.Fatal(err)
	}
	if v := play(s, 1, 1000, 0); v[0].at != 4*time.Second {
		t.Errorf("after a change of loss: leaves at %s", v[0].at)
	}
	c.Rate = 0
	if err := s.configure(c); err != nil {
		t.Fatal(err)
	}
	if v := play(s, 1, 1000, 0); v[0].at != 0 {
		t.Errorf("without the rate: leaves at %s", v[0].at)
	}
}

func TestSameSeedSameFate(t *testing.T) {
	c := Config{Impairment: Impairment{Delay: 10 * time.Millisecond, Jitter: 3 * time.Millisecond, Duplicate: 0.1, Corrupt: 0.1, Loss: Loss{Random: 0.2}}}
	a, b := play(mustShaper(t, c), 1000, 100, time.Millisecond), play(mustShaper(t, c), 1000, 100, time.Millisecond)
	if !slices.Equal(a, b) {
		t.Error("the same seed decided differently")
	}
	other, _ := newShaper(c, 8, AtoB)
	if slices.Equal(a, play(other, 1000, 100, time.Millisecond)) {
		t.Error("another seed decided the same")
	}
}

func TestValidateRefuses(t *testing.T) {
	neg := -1
	for name, c := range map[string]Config{
		"negative delay":        {Impairment: Impairment{Delay: -1}},
		"share above 1":         {Impairment: Impairment{Loss: Loss{Random: 1.5}}},
		"NaN":                   {Impairment: Impairment{Corrupt: unit.Share(math.NaN())}},
		"reorder without delay": {Impairment: Impairment{Reorder: 0.1}},
		"burst without period":  {Impairment: Impairment{Loss: Loss{Burst: &Burst{Packets: 3}}}},
		"ge":                    {Impairment: Impairment{Loss: Loss{GE: &GilbertElliott{P: 2}}}},
		"jitter kind":           {Impairment: Impairment{JitterDist: "pareto"}},
		"dscp":                  {Classes: []Class{{Match: Match{DSCP: &neg}}}},
		"flow":                  {Classes: []Class{{Match: Match{Flow: &FlowMatch{Of: 4, Is: []int{4}}}}}},
		"prefix":                {Classes: []Class{{Match: Match{Src: "10.0.0.0/33"}}}},
		"class":                 {Classes: []Class{{Impairment: Impairment{Rate: -1}}}},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHeapIsStable(t *testing.T) {
	var h waitHeap
	s := mustShaper(t, Config{})
	for i := range uint64(2000) {
		h.push(waiting{at: time.Duration(s.rng.IntN(50)), seq: i})
	}
	var last waiting
	for i := range 2000 {
		w := h.pop()
		if i > 0 && (w.at < last.at || w.at == last.at && w.seq < last.seq) {
			t.Fatalf("%v after %v", w, last)
		}
		last = w
	}
}

func BenchmarkDecide(b *testing.B) {
	s := mustShaper(b, Config{
		Impairment: Impairment{Delay: 10 * time.Millisecond, Jitter: time.Millisecond, Rate: 1e9, Loss: Loss{Random: 0.01}},
		Classes:    []Class{{Match: Match{Flow: &FlowMatch{Of: 4, Is: []int{1}}}}},
	})
	f := udpFrame(1, 2, 0, 100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.decide(time.Duration(i)*time.Microsecond, f, len(f), 0)
	}
}
