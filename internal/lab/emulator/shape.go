package emulator

import (
	"math/rand/v2"
	"time"
)

// verdict is what becomes of one packet.
type verdict struct {
	lost      Reason        // "" when it goes on
	at        time.Duration // when to send it, on the clock of decide's now
	copies    int           // 1, or 2 for a duplicate
	corrupt   bool
	fix       bool
	rand      uint64 // picks the bit to flip
	reordered bool   // it goes before packets that came earlier
}

// shaper is one direction of a link: it decides about packets in the order of
// their arrival. It is pure: time and randomness come from outside.
type shaper struct {
	rng     *rand.Rand
	match   []matcher
	classes []class // exceptions first, the plain Impairment last
}

// class is one Impairment with its memory.
type class struct {
	Impairment
	loss   lossState
	busy   time.Duration // when the line has sent all that waits
	queue  []queued      // what waits or is being sent, oldest first
	bytes  int64
	floor  time.Duration // latest sending time so far; later packets keep behind it
	tokens float64       // policer, bytes
	filled time.Duration
	primed bool
}

type queued struct {
	gone time.Duration
	size int
}

func newShaper(c Config, seed uint64, d Direction) (*shaper, error) {
	s := &shaper{rng: rand.New(rand.NewPCG(seed, uint64(d)+1))}
	return s, s.configure(c)
}

// configure puts a new configuration in force. Queues and loss states go on;
// packets that already wait keep their times, so that a shorter delay lets later
// packets overtake them, as on a real change of path.
func (s *shaper) configure(c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	old := s.classes
	s.match, s.classes = nil, make([]class, len(c.Classes)+1)
	for i, k := range c.Classes {
		m, err := k.Match.compile()
		if err != nil {
			return err
		}
		s.match = append(s.match, m)
		s.classes[i] = class{Impairment: k.Impairment}
		if i < len(old)-1 {
			s.classes[i].inherit(old[i])
		}
	}
	last := &s.classes[len(c.Classes)]
	last.Impairment = c.Impairment
	if len(old) > 0 {
		last.inherit(old[len(old)-1])
	}
	return nil
}

func (c *class) inherit(o class) {
	c.loss = o.loss
	c.loss.left = 0
	if c.Rate > 0 && c.Rate == o.Rate { // another rate starts with an empty queue
		c.busy, c.queue, c.bytes = o.busy, o.queue, o.bytes
	}
}

// decide says what becomes of a frame b that arrives now; size is its length on
// the wire, with a segmentation-offload frame counted whole, and packet the
// length of its largest IP packet.
func (s *shaper) decide(now time.Duration, b []byte, size, packet int) verdict {
	c := &s.classes[len(s.classes)-1]
	if len(s.match) > 0 || c.MaxFrame > 0 {
		f := parseFrame(b)
		if packet == 0 {
			packet = f.ipLen()
		}
		for i := range s.match {
			if s.match[i].fits(b, f) {
				c = &s.classes[i]
				break
			}
		}
	}
	return c.decide(now, size, packet, s.rng)
}

func (c *class) decide(now time.Duration, size, packet int, r *rand.Rand) verdict {
	switch {
	case c.Blackhole:
		return verdict{lost: LostBlackhole}
	case c.MaxFrame > 0 && packet > c.MaxFrame:
		return verdict{lost: LostMaxFrame}
	}
	if why := c.loss.lose(c.Loss, r, now); why != "" {
		return verdict{lost: why}
	}
	if !c.police(now, size) {
		return verdict{lost: LostPolicer}
	}
	sent, ok := c.transmit(now, size)
	if !ok {
		return verdict{lost: LostQueue}
	}
	v := verdict{at: sent, copies: 1}
	if chance(r, c.Reorder) {
		v.reordered = v.at < c.floor
	} else {
		v.at = max(sent+c.delay(r), c.floor)
		c.floor = v.at
	}
	if chance(r, c.Duplicate) {
		v.copies = 2
	}
	if chance(r, c.Corrupt) {
		v.corrupt, v.fix, v.rand = true, c.CorruptFix, r.Uint64()
	}
	return v
}

// delay draws the delay of one packet, never negative.
func (c *class) delay(r *rand.Rand) time.Duration {
	if c.Jitter == 0 {
		return c.Delay
	}
	x := 2*r.Float64() - 1
	if c.JitterDist == Normal {
		x = min(max(r.NormFloat64(), -4), 4)
	}
	return max(0, c.Delay+time.Duration(x*float64(c.Jitter)))
}

// police is a token bucket: it reports whether the packet conforms.
func (c *class) police(now time.Duration, size int) bool {
	if c.Police.Rate <= 0 {
		return true
	}
	burst := float64(c.Police.Burst)
	if burst == 0 {
		burst = max(3000, float64(c.Police.Rate)/8*0.05)
	}
	if !c.primed {
		c.primed, c.tokens = true, burst
	} else {
		c.tokens = min(burst, c.tokens+(now-c.filled).Seconds()*float64(c.Police.Rate)/8)
	}
	c.filled = now
	if c.tokens < float64(size) {
		return false
	}
	c.tokens -= float64(size)
	return true
}

// transmit puts the packet on the line behind those that wait and says when its
// last bit is sent; false when the queue is full.
func (c *class) transmit(now time.Duration, size int) (time.Duration, bool) {
	if c.Rate <= 0 {
		return now, true
	}
	n := 0
	for n < len(c.queue) && c.queue[n].gone <= now {
		c.bytes -= int64(c.queue[n].size)
		n++
	}
	c.queue = c.queue[n:]
	limit := c.Queue.Packets
	if limit == 0 && c.Queue.Bytes == 0 {
		limit = 1000
	}
	if limit > 0 && len(c.queue) >= limit {
		return 0, false
	}
	// A packet longer than the whole queue still passes when the line is idle.
	if c.Queue.Bytes > 0 && len(c.queue) > 0 && c.bytes+int64(size) > int64(c.Queue.Bytes) {
		return 0, false
	}
	c.busy = max(c.busy, now) + c.Rate.Serialise(size)
	c.queue = append(c.queue, queued{c.busy, size})
	c.bytes += int64(size)
	return c.busy, true
}
