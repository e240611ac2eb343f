package tcp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"fathom/probe"
	"fathom/sample"
)

const (
	// kernelError: both ends of tcpi_rtt are taken in the kernel's TCP code, in
	// microseconds; a softirq may keep a packet waiting this long on an idle host.
	kernelError = 20 * time.Microsecond
	// userError is the 99th percentile of what a busy Go process adds, measured
	// against kernel stamps: 0.05 to 0.9 ms.
	userError = time.Millisecond
)

// verdict is what one attempt means.
type verdict struct {
	outcome probe.Outcome
	errno   string
	detail  string
	icmp    *probe.ICMPError
}

// judge tells the ends of an attempt apart. An ICMP message says more than the
// errno the kernel made of it: ECONNREFUSED is also a port unreachable, EHOSTUNREACH
// also a TTL that ran out.
func judge(a attempt, to netip.Addr) verdict {
	switch {
	case a.Err == nil && a.aborted == nil:
		return verdict{outcome: probe.OK}
	case a.Err == nil:
		o, errno := probe.OutcomeOfErrno(a.aborted)
		return verdict{outcome: o, errno: errno, detail: "connected, then " + a.aborted.Error()}
	case errors.Is(a.Err, os.ErrDeadlineExceeded):
		return verdict{outcome: probe.Timeout, detail: silence(a)}
	}
	v := verdict{}
	v.outcome, v.errno = probe.OutcomeOfErrno(a.Err)
	if a.ICMP == nil {
		v.detail = a.Err.Error()
		if v.outcome == probe.Refused {
			v.detail = "connection refused by RST"
		}
		return v
	}
	v.icmp = probe.NewICMPError(a.ICMP.V6, a.ICMP.From, a.ICMP.Type, a.ICMP.Code, a.ICMP.MTU)
	v.outcome, v.detail = probe.JudgeICMP(v.icmp, to, a.Local.Addr())
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
	verdicts := make([]verdict, len(done))
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

func count(t *probe.TCP, a attempt, v verdict) {
	if n := a.Retransmitted(); n > 0 {
		t.SYNRetrans += n
		t.Retried++
	}
	switch {
	case a.Err == nil:
		t.Connected++
		if v.outcome == probe.Reset {
			t.ResetAfter++
		}
		if a.Info != nil {
			t.MSS = int(a.Info.Snd_mss)
		}
		if rtt, ok := a.KernelRTT(); ok && (t.MinRTT == 0 || sample.D(rtt) < t.MinRTT) {
			t.MinRTT = sample.D(rtt)
		}
	case v.outcome == probe.Refused:
		t.Refused++
	case v.outcome == probe.Timeout:
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

// decide takes OK when any connection was made and stayed, else the outcome of
// most attempts that were answered, the earlier one of equals (silence is the
// weakest evidence: a router that says why may be limited to one word a second); what the others met is in Detail.
func decide(r *probe.Result, verdicts []verdict) {
	n := map[probe.Outcome]int{}
	first := map[probe.Outcome]verdict{}
	var order []probe.Outcome
	for _, v := range verdicts {
		if n[v.outcome]++; n[v.outcome] == 1 {
			first[v.outcome] = v
			order = append(order, v.outcome)
		}
	}
	best := order[0]
	for _, o := range order[1:] {
		if best != probe.OK && o != probe.Timeout && (o == probe.OK || best == probe.Timeout || n[o] > n[best]) {
			best = o
		}
	}
	v := first[best]
	r.Outcome, r.Errno, r.Detail, r.ICMP = best, v.errno, v.detail, v.icmp
	for _, o := range order {
		if o != best {
			r.Detail = join(r.Detail, fmt.Sprintf("%d of %d attempts: %s", n[o], len(verdicts), first[o].detail))
		}
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
	rtt := &probe.RTT{Value: sample.D(fastest), Error: sample.D(min(fastest, userError)), Clock: "user"}
	if kernel > 0 && kernel <= fastest {
		rtt = &probe.RTT{Value: sample.D(kernel), Error: sample.D(min(kernel, kernelError)), Clock: "tcp_info"}
	}
	if !connected {
		return rtt, nil
	}
	return rtt, []probe.Phase{{Name: "connect", Duration: sample.D(fastest)}}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
