package path

import (
	"net/netip"
	"slices"
	"time"

	"fathom/probe"
)

// lookahead is how many TTLs behind the last answer are probed at once. Ten
// cover most paths in one round trip; all thirty would send twenty needless
// packets to a near target.
const lookahead = 10

// plan is the strategy of a trace: which TTL next, when it is over. It is pure:
// the caller gives the time and sends.
//
//  1. Every TTL up to lookahead behind the last answer gets a first probe, in order.
//  2. A TTL that lacks answers gets further ones, spread over the first part of
//     the timeout, so that a router that limits its errors (Linux: a burst of six,
//     then one per second to each destination) has a chance and a lost packet is
//     not a silent hop. Only up to StopAfterSilent behind the last answer.
//  3. Nothing goes beyond the TTL at which the target answered or a router
//     refused, nor further into a loop that has come round twice.
//  4. It is over when each TTL up to that end, or up to StopAfterSilent behind
//     the last answer, has its answers or has been silent for the timeout.
type plan struct {
	cfg    Config
	target netip.Addr

	ttls   []ttlState   // index TTL-1
	probes []probeState // index ID-1
	last   int          // largest TTL with an answer
	reach  int          // smallest TTL at which the target answered; 0: none
	refuse int          // smallest TTL at which a router refused; 0: none
	looped bool         // a loop has come round twice
}

type ttlState struct {
	sent     int // left this host
	tries    int // those and the ones our kernel did not take
	answered int
	first    time.Time // of the first try
	latest   time.Time // of the latest try
}

type probeState struct {
	ttl        int
	left       time.Time // user space
	leftKernel time.Time
	got        *reply // first answer
}

func newPlan(c Config, target netip.Addr) *plan {
	return &plan{cfg: c, target: target, ttls: make([]ttlState, c.MaxTTL), last: c.FirstTTL - 1}
}

// spacing is the time between probes of one TTL: the last one still has a good
// part of the timeout to be answered.
func (p *plan) spacing() time.Duration { return p.cfg.Timeout / time.Duration(p.cfg.Probes+1) }

// end is the TTL beyond which nothing is sent.
func (p *plan) end() int {
	e := p.cfg.MaxTTL
	if p.looped {
		e = max(p.last, p.cfg.FirstTTL)
	}
	if p.refuse > 0 {
		e = min(e, p.refuse)
	}
	if p.reach > 0 {
		e = min(p.cfg.MaxTTL, p.reach) // the target's word is the last, whatever a router said
	}
	return e
}

// tail is the TTL up to which answers are waited for.
func (p *plan) tail() int { return min(p.end(), p.last+p.cfg.StopAfterSilent) }

// next is the next probe and when it is due; ok is false when nothing more is to be sent.
func (p *plan) next(now time.Time) (ttl int, due time.Time, ok bool) {
	for t := p.cfg.FirstTTL; t <= min(p.end(), p.last+max(lookahead, p.cfg.StopAfterSilent)); t++ {
		s := &p.ttls[t-1]
		at := now
		if s.tries > 0 {
			if s.answered >= p.cfg.Answers || s.tries >= p.cfg.Probes || t > p.tail() {
				continue
			}
			if at = s.latest.Add(p.spacing()); at.After(s.first.Add(p.cfg.Timeout)) {
				continue
			}
		}
		if !ok || at.Before(due) {
			ttl, due, ok = t, at, true
		}
	}
	return ttl, due, ok && len(p.probes) < maxID
}

// packet makes the next probe for a TTL.
func (p *plan) packet(ttl int) packet {
	return packet{ID: len(p.probes) + 1, TTL: ttl, To: p.target, Size: p.cfg.Size}
}

// sent notes that a packet was given to the kernel at now; failed, that it was refused.
func (p *plan) sent(pk packet, now time.Time, failed bool) {
	s := &p.ttls[pk.TTL-1]
	if s.tries == 0 {
		s.first = now
	}
	s.latest = now
	s.tries++
	if !failed {
		s.sent++
	}
	p.probes = append(p.probes, probeState{ttl: pk.TTL, left: now})
}

// answer notes what came back. Unknown and second answers to the same probe are ignored.
func (p *plan) answer(r reply) {
	if r.ID < 1 || r.ID > len(p.probes) {
		return
	}
	ps := &p.probes[r.ID-1]
	if r.Kind == kindSent {
		ps.leftKernel = r.Kernel
		return
	}
	if ps.got != nil || (r.Kind == kindTarget && r.From != p.target.WithZone("")) {
		return
	}
	ps.got = &r
	p.ttls[ps.ttl-1].answered++
	p.last = max(p.last, ps.ttl)
	switch r.Kind {
	case kindTarget:
		p.reach = minPositive(p.reach, ps.ttl)
	case kindUnreachable, kindTooBig:
		p.refuse = minPositive(p.refuse, ps.ttl)
	case kindTimeExceeded:
		_, turns := findLoop(p.hops(p.last), false)
		p.looped = turns >= 2
	}
}

// done reports whether the trace is over at now; when not, wake is the time at
// which it may be, zero when only further sending can tell.
func (p *plan) done(now time.Time) (over bool, wake time.Time) {
	over = true
	for t := p.cfg.FirstTTL; t <= p.tail(); t++ {
		s := &p.ttls[t-1]
		if s.tries == 0 {
			return false, time.Time{}
		}
		if s.answered >= p.cfg.Answers {
			continue
		}
		wait := p.cfg.Timeout
		if t == p.last+1 && p.reach == 0 && p.refuse == 0 {
			wait = max(wait, p.cfg.Linger)
		}
		if at := s.first.Add(wait); at.After(now) {
			over = false
			if wake.IsZero() || at.Before(wake) {
				wake = at
			}
		}
	}
	return over, wake
}

// lacksStamp reports whether an answer with the kernel's stamp waits for that of its sending.
func (p *plan) lacksStamp() bool {
	return slices.ContainsFunc(p.probes, func(ps probeState) bool {
		return ps.got != nil && !ps.got.Kernel.IsZero() && ps.leftKernel.IsZero()
	})
}

// hops gives TTL 1 … n as the report shows them.
func (p *plan) hops(n int) []probe.Hop {
	out := make([]probe.Hop, n)
	for i := range out {
		out[i] = probe.Hop{TTL: i + 1, Sent: p.ttls[i].sent}
	}
	for i := range p.probes {
		ps := &p.probes[i]
		if ps.got != nil && ps.ttl <= n {
			addAnswer(&out[ps.ttl-1], ps)
		}
	}
	return out
}

func addAnswer(h *probe.Hop, ps *probeState) {
	r := ps.got
	h.Received++
	rtt, _ := ps.roundTrip()
	h.RTTs = append(h.RTTs, rtt)
	switch {
	case !h.Address.IsValid():
		h.Address = r.From
	case h.Address != r.From && !slices.Contains(h.Others, r.From):
		h.Others = append(h.Others, r.From)
	}
	if r.Kind == kindTarget {
		h.Target = true
	}
	if r.ICMP != nil && r.Kind != kindTimeExceeded && h.Unreach == nil {
		h.Unreach = r.ICMP
	}
	h.QuotedTTL = firstKnown(h.QuotedTTL, r.QuotedTTL)
	h.QuotedTOS = firstKnown(h.QuotedTOS, r.QuotedTOS)
	h.ReplyTTL = firstKnown(h.ReplyTTL, r.ReplyTTL)
	if h.MPLS == nil {
		h.MPLS = r.MPLS
	}
}

func firstKnown(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

func minPositive(a, b int) int {
	if a == 0 {
		return b
	}
	return min(a, b)
}
