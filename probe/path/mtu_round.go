package path

import (
	"context"
	"net/netip"
	"time"

	"fathom/probe"
)

// After mtuBurst packets of a round there is a pause of mtuGap: fifty large
// packets at once would themselves cause loss, and a pause after each would take
// long on a busy host, where a millisecond may last ten.
const (
	mtuBurst = 6
	mtuGap   = 2 * time.Millisecond
)

// mtuTTL is the TTL of echo requests that are meant to arrive.
const mtuTTL = 64

// ask is one question of a round: does a packet of this size reach this address?
type ask struct {
	to   netip.Addr
	size int
}

// askState is what is known of a question.
type askState struct {
	ask
	answered bool
	tooBig   bool
	by       netip.Addr
	mtu      int
	rtt      time.Duration
}

// rounds asks questions on a network, several at once.
type rounds struct {
	net     network
	timeout time.Duration
	tries   int
	id      int // latest probe ID
	pending map[int]sentAsk
	last    *reply // latest ICMP error other than too big
	sendErr error
}

// sentAsk is a probe under way. Answers to an earlier round are of no use.
type sentAsk struct {
	state *askState
	left  time.Time
}

// run asks all at once, those without an answer again tries times in all, spread
// over the first part of the timeout. It ends when all are answered or after
// the timeout. An error is ctx's.
func (r *rounds) run(ctx context.Context, asks []ask) ([]askState, error) {
	states := make([]askState, len(asks))
	for i, a := range asks {
		states[i].ask = a
	}
	r.pending = map[int]sentAsk{}
	end := time.Now().Add(r.timeout)
	spacing := r.timeout / time.Duration(r.tries+1)
	for try := range r.tries {
		if err := r.wave(ctx, states); err != nil {
			return nil, err
		}
		until := time.Now().Add(spacing)
		if try == r.tries-1 || until.After(end) {
			until = end
		}
		over, err := r.wait(ctx, states, until)
		if over || err != nil {
			return states, err
		}
	}
	return states, nil
}

// wave sends what has no answer.
func (r *rounds) wave(ctx context.Context, states []askState) error {
	burst := 0
	for i := range states {
		s := &states[i]
		if s.settled() || r.id >= maxID {
			continue
		}
		r.id++
		burst++
		left := time.Now()
		if err := r.net.Send(packet{ID: r.id, TTL: mtuTTL, To: s.to, Size: s.size}); err != nil {
			s.notSent(err)
			r.sendErr = err
		} else {
			r.pending[r.id] = sentAsk{s, left}
		}
		if burst%mtuBurst != 0 {
			continue
		}
		if over, err := r.wait(ctx, states, time.Now().Add(mtuGap)); over || err != nil {
			return err
		}
	}
	return nil
}

// notSent takes our own kernel's refusal: larger than the interface's MTU counts
// as too big, signalled by nobody.
func (s *askState) notSent(err error) {
	if o, _, ok := refusal(err); ok && o == probe.TooBig {
		s.tooBig = true
	}
}

func (s *askState) settled() bool { return s.answered || s.tooBig }

// wait takes replies until a time; over says that all questions are settled.
func (r *rounds) wait(ctx context.Context, states []askState, until time.Time) (over bool, err error) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for {
		if allSettled(states) {
			return true, ctx.Err()
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-timer.C:
			return false, nil
		case rep := <-r.net.Replies():
			r.take(rep)
		}
	}
}

func allSettled(states []askState) bool {
	for i := range states {
		if !states[i].settled() {
			return false
		}
	}
	return true
}

func (r *rounds) take(rep reply) {
	p, ok := r.pending[rep.ID]
	if !ok {
		return
	}
	s := p.state
	switch rep.Kind {
	case kindTarget:
		if rep.ICMP != nil || rep.From != s.to.WithZone("") {
			r.last = &rep
			return
		}
		if !s.answered {
			s.rtt = rep.At.Sub(p.left)
		}
		s.answered = true
	case kindTooBig:
		s.tooBig, s.by = true, rep.From
		if rep.ICMP != nil && (s.mtu == 0 || rep.ICMP.MTU < s.mtu) {
			s.mtu = rep.ICMP.MTU
		}
	case kindUnreachable, kindTimeExceeded:
		r.last = &rep
	}
}
