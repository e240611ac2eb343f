package tcp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"fathom/internal/attempts"
	"fathom/probe"
	"fathom/sample"
)

// judge tells the ends of an attempt apart. An ICMP message says more than the
// errno the kernel made of it: ECONNREFUSED is also a port unreachable, EHOSTUNREACH
// also a TTL that ran out.
func judge(a attempt, to netip.Addr) probe.Verdict {
	switch {
	case a.Err == nil && a.aborted == nil:
		return probe.Verdict{Outcome: probe.OK}
	case a.Err == nil:
		o, errno := probe.OutcomeOfErrno(a.aborted)
		return probe.Verdict{Outcome: o, Errno: errno, Detail: "connected, then " + a.aborted.Error()}
	case errors.Is(a.Err, os.ErrDeadlineExceeded):
		return probe.Verdict{Outcome: probe.Timeout, Detail: silence(a)}
	}
	v := probe.Verdict{}
	v.Outcome, v.Errno = probe.OutcomeOfErrno(a.Err)
	if a.ICMP == nil {
		v.Detail = a.Err.Error()
		if v.Outcome == probe.Refused {
			v.Detail = "connection refused by RST"
		}
		return v
	}
	v.ICMP = probe.NewICMPError(a.ICMP.V6, a.ICMP.From, a.ICMP.Type, a.ICMP.Code, a.ICMP.MTU)
	v.Outcome, v.Detail = probe.JudgeICMP(v.ICMP, to, a.Local.Addr())
	return v
}

func silence(a attempt) string {
	s := fmt.Sprintf("no answer to SYN within %s", sample.D(a.Took.Round(time.Millisecond)))
	if n := a.Retransmitted(); n > 0 {
		s += fmt.Sprintf(", sent %d times", n+1)
	}
	return s
}

// summarize makes one Result of a series; at least one attempt is given.
func summarize(target string, to netip.AddrPort, done []attempt) probe.Result {
	r := probe.Result{
		Kind: probe.KindTCP, Target: target, Address: to.Addr().Unmap(), Port: to.Port(),
		Method: "tcp socket", TCP: &probe.TCP{Attempts: len(done)},
	}
	verdicts := make([]probe.Verdict, len(done))
	for i, a := range done {
		verdicts[i] = judge(a, r.Address)
		count(r.TCP, a, verdicts[i])
		if !r.Source.IsValid() && a.Local.Addr().IsValid() && !a.Local.Addr().IsUnspecified() {
			r.Source, r.TCP.LocalPort = a.Local.Addr().WithZone(""), a.Local.Port()
		}
	}
	decide(&r, verdicts)
	r.RTT, r.Phases = times(done)
	return r
}

func count(t *probe.TCP, a attempt, v probe.Verdict) {
	if n := a.Retransmitted(); n > 0 {
		t.SYNRetrans += n
		t.Retried++
	}
	switch {
	case a.Err == nil:
		t.Connected++
		if v.Outcome == probe.Reset {
			t.ResetAfter++
		}
		if a.Info != nil {
			t.MSS = int(a.Info.Snd_mss)
		}
		if rtt, ok := a.KernelRTT(); ok && (t.MinRTT == 0 || sample.D(rtt) < t.MinRTT) {
			t.MinRTT = sample.D(rtt)
		}
	case v.Outcome == probe.Refused:
		t.Refused++
	case v.Outcome == probe.Timeout:
		t.TimedOut++
		return
	default:
		return
	}
	t.Connects = append(t.Connects, sample.D(a.Took))
	if a.Took >= slowConnect {
		t.Slow++
	}
}

// decide takes what the series shows; what the other attempts met is in Detail.
func decide(r *probe.Result, verdicts []probe.Verdict) {
	best, others := probe.Weigh(verdicts)
	r.Outcome, r.Errno, r.Detail, r.ICMP = best.Outcome, best.Errno, best.Detail, best.ICMP
	for _, o := range others {
		r.Detail = attempts.Join(r.Detail, fmt.Sprintf("%d of %d attempts: %s", o.N, len(verdicts), o.Detail))
	}
}

// times gives the best figure for the round trip — the kernel's own sample, or
// else the fastest connect — and the connect phase of the fastest attempt.
func times(done []attempt) (*probe.RTT, []probe.Phase) {
	var fastest, kernel time.Duration
	connected := false
	for _, a := range done {
		refused := a.ICMP == nil && a.Err != nil && !errors.Is(a.Err, os.ErrDeadlineExceeded)
		if o, _ := probe.OutcomeOfErrno(a.Err); a.Err != nil && (!refused || o != probe.Refused) {
			continue // silence and routers do not tell the way to the target
		}
		if fastest == 0 || a.Took < fastest {
			fastest = a.Took
		}
		connected = connected || a.Err == nil
		if k, ok := a.KernelRTT(); ok && (kernel == 0 || k < kernel) {
			kernel = k
		}
	}
	if fastest == 0 {
		return nil, nil
	}
	rtt := probe.NewRTT(fastest, "user")
	if kernel > 0 && kernel <= fastest {
		rtt = probe.NewRTT(kernel, "tcp_info")
	}
	if !connected {
		return rtt, nil
	}
	return rtt, []probe.Phase{{Name: "connect", Duration: sample.D(fastest)}}
}
