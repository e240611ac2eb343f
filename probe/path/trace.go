package path

import (
	"context"
	"time"
)

// maxSendErrors is how many refusals in a row, without one packet taken, prove
// that our own kernel will not send there. A single one may be a full queue.
const maxSendErrors = 3

// run plays a plan on a network, at most rate packets per second, until the
// plan is over or ctx ends. It returns the kernel's error when it took no packet.
func run(ctx context.Context, net network, p *plan, rate int) error {
	gap := time.Second / time.Duration(rate)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var (
		free    time.Time // when the rate allows the next packet
		sendErr error     // latest refusal
		taken   bool
		refused int
	)
	for {
		drain(net, p)
		now := time.Now()
		if over, _ := p.done(now); over {
			break
		}
		ttl, due, ok := p.next(now)
		if ok && due.Before(free) {
			due = free
		}
		if ok && !due.After(now) {
			pk := p.packet(ttl)
			err := net.Send(pk)
			p.sent(pk, now, err != nil)
			free = now.Add(gap)
			if err == nil {
				taken = true
				continue
			}
			sendErr = err
			if refused++; !taken && refused >= maxSendErrors {
				return sendErr
			}
			continue
		}
		_, wake := p.done(now)
		if ok && (wake.IsZero() || due.Before(wake)) {
			wake = due
		}
		if wake.IsZero() { // nothing to send and nothing to wait for
			break
		}
		timer.Reset(wake.Sub(now))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-net.Replies():
			p.answer(r)
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if taken {
		return nil
	}
	return sendErr
}

// stampWait is how long send stamps are waited for at the end. They lie in the
// socket's queue since the packet left; only the goroutine that reads them may
// not have run yet. Without them the round trip is user space's.
const stampWait = 10 * time.Millisecond

// awaitStamps takes the send stamps that are still on their way.
func awaitStamps(ctx context.Context, net network, p *plan) {
	timer := time.NewTimer(stampWait)
	defer timer.Stop()
	for p.lacksStamp() {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case r := <-net.Replies():
			p.answer(r)
		}
	}
}

// drain takes what has already come, so that decisions to send are made on it.
func drain(net network, p *plan) {
	for {
		select {
		case r := <-net.Replies():
			p.answer(r)
		default:
			return
		}
	}
}
