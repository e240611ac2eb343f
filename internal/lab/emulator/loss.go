package emulator

import (
	"math/rand/v2"
	"time"

	"fathom/internal/lab/emulator/unit"
)

// lossState is what Loss remembers between packets of one class.
type lossState struct {
	bad    bool // Gilbert-Elliott
	count  int  // for Every
	period int64
	left   int // of the current burst
}

func chance(r *rand.Rand, p unit.Share) bool {
	return p > 0 && (p >= 1 || r.Float64() < float64(p))
}

// lose decides about one packet; "" keeps it. All parts advance for each packet,
// whatever the others decide, so that they stay independent.
func (s *lossState) lose(l Loss, r *rand.Rand, now time.Duration) Reason {
	var why Reason
	if chance(r, l.Random) {
		why = LostRandom
	}
	if l.GE != nil && s.gilbert(*l.GE, r) {
		why = LostGE
	}
	if l.Every > 0 {
		if s.count++; s.count >= l.Every {
			s.count, why = 0, LostEvery
		}
	}
	if l.Burst != nil && s.burst(*l.Burst, now) {
		why = LostBurst
	}
	return why
}

// gilbert moves the state, then draws with the new state's probability, as
// netem's GEmodel does.
func (s *lossState) gilbert(g GilbertElliott, r *rand.Rand) bool {
	if s.bad {
		s.bad = !chance(r, g.R)
	} else {
		s.bad = chance(r, g.P)
	}
	if !s.bad {
		return chance(r, g.Good)
	}
	if g.Bad == 0 {
		return true
	}
	return chance(r, g.Bad)
}

func (s *lossState) burst(b Burst, now time.Duration) bool {
	if b.Period <= 0 {
		return false
	}
	if n := int64(now / b.Period); n != s.period { // the first period of all is clean
		s.period, s.left = n, b.Packets
	}
	if b.For > 0 && s.period > 0 && now%b.Period < b.For {
		return true
	}
	if s.left > 0 {
		s.left--
		return true
	}
	return false
}
