package icmp

import (
	"fmt"
	"time"

	"fathom/internal/attempts"
	"fathom/probe"
	"fathom/sample"
)

// Clocks of a round trip.
const (
	clockKernel = "kernel"
	clockUser   = "user"
)

// Error bars. Kernel stamps are read from a clock of nanoseconds that NTP may
// slew by 500 ppm (adjtimex(2)), in the driver's send and the stack's receive
// function: what the network card adds is part of the round trip. User-space
// stamps, measured against them on a busy machine, erred by less than 0.9 ms in
// 99 of 100 cases; a round trip cannot be negative though.
const (
	kernelError   = time.Microsecond
	kernelSlewDiv = 2000
	userError     = time.Millisecond
)

// rtt is the round trip of an answered request by the best clock there is. The
// wall clock of the kernel's stamps may have been set meanwhile: a round trip
// that is negative or longer than our own monotonic clock saw is not believed.
func (sh *shot) rtt() (d time.Duration, clock string) {
	user := sh.got.Sub(sh.sent)
	limit := user + kernelError + user/kernelSlewDiv
	if !sh.tx.IsZero() && !sh.rx.IsZero() {
		if d := sh.rx.Sub(sh.tx); d > 0 && d <= limit {
			return d, clockKernel
		}
	}
	if !sh.rx.IsZero() { // half is better than nothing: waking us up is the larger error
		if d := sh.rx.Sub(sh.sent.Round(0)); d > 0 && d <= limit {
			return d, clockUser
		}
	}
	return max(user, 0), clockUser
}

// settled is how many requests have found their end, send errors included.
func (s *series) settled() int { return s.attempts - s.outstanding }

// fill writes what was measured into res. The round trip is the median, of the
// exact ones alone when at least half of them are. Requests still waiting (ctx ended)
// are left out: they are neither lost nor received.
func (s *series) fill(res *probe.Result) error {
	e := res.Echo
	e.Sent, e.SendErrors = s.settled(), s.sendErrors
	e.Duplicates, e.Corrupt, e.ReplyTTL = s.duplicates, s.corrupted, s.replyTTL
	var exact []sample.Duration // by kernel stamps
	for i := range s.shots {
		switch sh := &s.shots[i]; sh.state {
		case received:
			d, c := sh.rtt()
			if c == clockKernel {
				exact = append(exact, sample.D(d))
			}
			e.Received++
			e.RTTs = append(e.RTTs, sample.D(d))
		case late:
			e.Late++
			e.Lost = append(e.Lost, i)
		case lost, corrupt, rejected:
			e.Lost = append(e.Lost, i)
		}
	}
	switch {
	case e.Received == 0:
	case len(exact)*2 >= e.Received:
		res.RTT = figure(probe.Median(exact), clockKernel)
	default:
		res.RTT = figure(probe.Median(e.RTTs), clockUser)
	}
	return s.decide(res)
}

// figure puts the error bar to a round trip.
func figure(d sample.Duration, clock string) *probe.RTT {
	bar := sample.D(kernelError) + d/kernelSlewDiv
	if clock != clockKernel {
		bar = min(sample.D(userError), d)
	}
	return &probe.RTT{Value: d, Error: bar, Clock: clock}
}

// decide sets the outcome. The order matters: an answer proves that the target
// is there; what our own kernel refused never left; an ICMP error is somebody's
// word; silence is what remains.
func (s *series) decide(res *probe.Result) error {
	e := res.Echo
	if s.errno != nil {
		_, res.Errno = probe.OutcomeOfErrno(s.errno)
	}
	left := e.Sent - e.SendErrors
	switch {
	case e.Received > 0:
		res.Outcome, res.Detail = probe.OK, s.remarks()
	case left <= 0 && s.errno != nil:
		if queueFull(s.errno) {
			// A queue that stays full, or a device that refuses packets of this
			// size (veth does, when its peer's MTU is smaller).
			res.Outcome, res.Errno = probe.SendFailed, "ENOBUFS"
			res.Detail = "our own interface took none of them: " + s.errno.Error()
			return nil
		}
		res.Outcome, res.Errno = probe.OutcomeOfErrno(s.errno)
		res.Detail = s.refusal(res)
	case s.icmp != nil:
		res.ICMP = s.icmp
		res.Outcome, _ = probe.JudgeICMP(s.icmp, res.Address, res.Source)
		res.Detail = s.icmp.Text + " from " + s.icmp.From.String()
		if s.icmp.From == res.Source.WithZone("") {
			res.Detail += " (this host itself: the next hop does not answer, or a local rule rejects)"
		}
	case e.Corrupt > 0:
		res.Outcome, res.Detail = probe.Failed, fmt.Sprintf("%d replies came back damaged", e.Corrupt)
	case left > 0:
		res.Outcome, res.Detail = probe.Timeout, attempts.Join(s.remarks(), s.unstamped())
	default: // ctx ended before anything did: Probe makes it an error
		res.Outcome = probe.Timeout
	}
	return nil
}

// remarks are what happened beside the outcome.
func (s *series) remarks() string {
	var drew, unsent string
	if s.icmp != nil {
		drew = fmt.Sprintf("%d requests drew %q from %s", s.rejections, s.icmp.Text, s.icmp.From)
	}
	if s.sendErrors > 0 {
		unsent = fmt.Sprintf("%d times our own kernel did not send: %v", s.sendErrors, s.errno)
	}
	return attempts.Join(drew, unsent)
}

// unstamped tells of requests that the kernel took but that no driver was seen
// to send: dropped by a local rule or queue, or waiting for the neighbour's
// hardware address. A few drivers never stamp, so it is a hint, not a verdict.
func (s *series) unstamped() string {
	if !s.link.stamps {
		return ""
	}
	sent, without := 0, 0
	for i := range s.shots {
		if sh := &s.shots[i]; sh.state == lost {
			sent++
			if sh.tx.IsZero() {
				without++
			}
		}
	}
	if without == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d requests have no send stamp: they may not have left this host (local rule, queue, or silent next hop)", without, sent)
}

// refusal words an error of our own kernel.
func (s *series) refusal(res *probe.Result) string {
	text := "our own kernel: " + s.errno.Error()
	switch res.Outcome {
	case probe.TooBig:
		mtu, ok := s.localMTU, s.localMTU > 0
		if !ok && s.link.mtu != nil {
			mtu, ok = s.link.mtu()
		}
		if ok {
			text += fmt.Sprintf(" (packet of %d bytes, path MTU %d)", res.Echo.Size, mtu)
		}
	case probe.LocalDrop:
		text += " (a local firewall rule drops it)"
	}
	if s.icmp != nil {
		text += fmt.Sprintf(", and %q from %s", s.icmp.Text, s.icmp.From)
	}
	return text
}
