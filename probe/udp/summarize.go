package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"fathom/internal/attempts"
	"fathom/probe"
)

func judge(t trip, to netip.Addr) probe.Verdict {
	switch {
	case t.answered:
		return probe.Verdict{Outcome: probe.OK}
	case errors.Is(t.err, os.ErrDeadlineExceeded):
		return probe.Verdict{Outcome: probe.Timeout, Detail: "no answer: open or filtered, UDP cannot tell"}
	}
	v := probe.Verdict{}
	v.Outcome, v.Errno = probe.OutcomeOfErrno(t.err)
	if t.icmp == nil {
		v.Detail = t.err.Error()
		return v
	}
	i := t.icmp
	v.ICMP = probe.NewICMPError(i.V6, i.From, i.Type, i.Code, i.MTU)
	v.Outcome, v.Detail = probe.JudgeICMP(v.ICMP, to, t.local.Addr())
	return v
}

// summarize makes one Result of a series; at least one trip is given.
func summarize(target string, to netip.AddrPort, done []trip, size int) probe.Result {
	r := probe.Result{
		Kind: probe.KindUDP, Target: target, Address: to.Addr().Unmap(), Port: to.Port(),
		Method: "connected udp socket", RTT: roundTrip(done),
	}
	verdicts := make([]probe.Verdict, len(done))
	for i, t := range done {
		verdicts[i] = judge(t, r.Address)
		if !r.Source.IsValid() && t.local.IsValid() {
			r.Source = t.local.Addr().WithZone("")
		}
	}
	best, others := probe.Weigh(verdicts)
	r.Outcome, r.Errno, r.Detail, r.ICMP = best.Outcome, best.Errno, best.Detail, best.ICMP
	if best.Outcome == probe.OK {
		r.Detail = fmt.Sprintf("%d of %d datagrams of %d bytes answered", best.N, len(done), size)
	}
	for _, o := range others {
		r.Detail = attempts.Join(r.Detail, fmt.Sprintf("%d of %d: %s", o.N, len(done), o.Detail))
	}
	return r
}

// roundTrip is the smallest of the answered datagrams, by the kernel's stamps if there are any.
func roundTrip(done []trip) *probe.RTT {
	var user, kernel time.Duration
	for _, t := range done {
		if !t.answered {
			continue
		}
		if user == 0 || t.took < user {
			user = t.took
		}
		if t.kernel > 0 && (kernel == 0 || t.kernel < kernel) {
			kernel = t.kernel
		}
	}
	switch {
	case kernel > 0:
		return probe.NewRTT(kernel, "kernel")
	case user > 0:
		return probe.NewRTT(user, "user")
	}
	return nil
}
