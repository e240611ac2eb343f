package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	mdns "github.com/miekg/dns"

	"fathom/internal/attempts"
	"fathom/probe"
	"fathom/sample"
)

func judge(t try, to, own netip.Addr) probe.Verdict {
	v := probe.Verdict{}
	switch {
	case t.ok():
		v.Outcome, v.Detail = rcodeOutcome(t.answer)
	case errors.Is(t.err, errGarbage):
		v.Outcome, v.Detail = probe.Failed, t.err.Error()
	case errors.Is(t.err, os.ErrDeadlineExceeded):
		v.Outcome, v.Detail = probe.Timeout, "no answer over "+t.transport
	default:
		v.Outcome, v.Errno = probe.OutcomeOfErrno(t.err)
		v.Detail = t.err.Error()
		if i := t.icmp; i != nil {
			v.ICMP = probe.NewICMPError(i.V6, i.From, i.Type, i.Code, i.MTU)
			v.Outcome, v.Detail = probe.JudgeICMP(v.ICMP, to, own)
		}
	}
	if t.noEDNS {
		v.Detail = attempts.Join(v.Detail, fmt.Sprintf("%s to a question with EDNS, asked again without", t.rejected))
	}
	if t.first != nil && !t.ok() {
		v.Detail = "truncated over udp; again over tcp: " + v.Detail
	}
	if t.ok() && t.wrongFrom.IsValid() {
		v.Detail = attempts.Join(v.Detail, fmt.Sprintf("%s answered in the server's place as well", t.wrongFrom))
	}
	return v
}

// rcodeOutcome: NXDOMAIN is as good an answer as any; the rest are failures of
// the server to answer.
func rcodeOutcome(a answer) (probe.Outcome, string) {
	switch a.rcode {
	case mdns.RcodeSuccess, mdns.RcodeNameError:
		return probe.OK, ""
	}
	return probe.BadAnswer, "server answers " + a.dns.Rcode
}

// rank orders outcomes by how much they tell about the server: the best try
// speaks for the series, and of equals the first.
func rank(o probe.Outcome) int {
	switch o {
	case probe.OK:
		return 0
	case probe.BadAnswer:
		return 1
	case probe.Failed:
		return 2
	case probe.Timeout:
		return 4
	}
	return 3
}

// summarize makes one Result of the tries; at least one is given.
func (p *Prober) summarize(server string, to netip.AddrPort, own netip.Addr, q query, done []try) probe.Result {
	verdicts := make([]probe.Verdict, len(done))
	best := 0
	for i, t := range done {
		verdicts[i] = judge(t, to.Addr(), own)
		if rank(verdicts[i].Outcome) < rank(verdicts[best].Outcome) {
			best = i
		}
	}
	t, v := done[best], verdicts[best]
	d := t.describe()
	d.Server, d.Transport = to.String(), t.transport
	d.Name, d.Type = q.name, typeText(q.qtype)
	d.Tries = len(done)
	d.LocalPort = t.local.Port()
	r := probe.Result{
		Kind: probe.KindDNS, Target: server, Address: to.Addr(), Port: to.Port(),
		Source: own, Outcome: v.Outcome, Errno: v.Errno, Detail: v.Detail, ICMP: v.ICMP,
		Method: t.transport + " socket", Phases: t.phases(), DNS: &d,
	}
	others := map[string]int{}
	for i, t := range done {
		d.Intercepted = d.Intercepted || t.wrongFrom.IsValid()
		if !t.answered && t.first == nil {
			d.Lost++
		}
		if t.ok() {
			d.Times = append(d.Times, t.total())
			if rtt := t.roundTrip(); r.RTT == nil || rtt.Value < r.RTT.Value {
				r.RTT = rtt
			}
		}
		if why := verdicts[i].Detail; verdicts[i].Outcome != v.Outcome {
			if others[why]++; others[why] == 1 && len(others) <= 3 {
				r.Detail = attempts.Join(r.Detail, fmt.Sprintf("try %d of %d: %s", i+1, len(done), why))
			}
		}
	}
	return r
}

// describe is the answer's content; after a retry over TCP that failed it is
// what UDP brought.
func (t try) describe() probe.DNS {
	var d probe.DNS
	switch {
	case t.answered:
		d = t.answer.dns
		if t.first != nil && !t.answer.truncated {
			d.Flags = withTC(d.Flags)
		}
	case t.first != nil:
		d = t.first.dns
	}
	d.TCPRetry, d.NoEDNS = t.first != nil, t.noEDNS
	return d
}

// withTC keeps tc among the flags, in its place after qr and aa.
func withTC(flags []string) []string {
	i := 0
	for i < len(flags) && (flags[i] == "qr" || flags[i] == "aa") {
		i++
	}
	return append(append(append([]string{}, flags[:i]...), "tc"), flags[i:]...)
}

// roundTrip is from question to answer in the last exchange; connecting is not in it.
func (r reply) roundTrip() *probe.RTT {
	if r.kernel > 0 {
		return probe.NewRTT(r.kernel, "kernel")
	}
	return probe.NewRTT(r.took, "user")
}

// total is how long a user of the answer waited: every exchange with its connecting.
func (t try) total() sample.Duration {
	if len(t.trips) == 1 && t.kernel > 0 {
		return sample.D(t.kernel)
	}
	var sum time.Duration
	for _, x := range t.trips {
		sum += x.connect + x.took
	}
	return sample.D(sum)
}

// phases lists connect and request of every exchange in order, so that after a
// retry over TCP there are two requests with a connect between them.
func (t try) phases() []probe.Phase {
	var out []probe.Phase
	for _, x := range t.trips {
		if x.transport == TCP && x.connect > 0 && (x.took > 0 || x.ok()) {
			out = append(out, probe.Phase{Name: "connect", Duration: sample.D(x.connect)})
		}
		if x.answered {
			out = append(out, probe.Phase{Name: "request", Duration: sample.D(x.took)})
		}
	}
	return out
}
