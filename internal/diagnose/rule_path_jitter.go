package diagnose

import (
	"fmt"
	"net/netip"
	"time"

	"fathom/probe"
	"fathom/sample"
)

var rulePathJitter = Rule{
	ID: "path.jitter", Layer: LayerNetwork,
	Title:       "The delay varies strongly",
	Explanation: "Some packets to the target take far longer than others although none of them need to. Something queues them for a while: a line that is full from time to time, a radio link, a scheduler. Calls and remote desktops suffer first, then everything interactive.",
	TellApart:   "Half of the packets differ by more than a few milliseconds and by more than a third of the base delay, in kernel time stamps (so that this host's own load does not count), and the hops from one place on show it. A delay that is high but steady is path.latency_step.",
	Remedy:      []string{"Find what fills the named link, or give it a fair queue (fq_codel, cake)", "On a radio link: signal, channel, distance"},
	Validate:    []string{"The 95th percentile of 300 probes lies close to the median"},
	Sceptic:     "mtr -n -r -c 200 -i 0.1 <address>",
	References:  []string{"RFC 3393 (IP packet delay variation)", "RFC 5481 (IPDV and PDV)"},
	Explains:    []string{"path.latency_step", "tls.handshake_slow", "dns.resolver_slow"},
	Check:       checkPathJitter,
}

// minSpread is the least variation between quartiles worth a finding: a busy
// scheduler or interrupt moderation stays below it in kernel time stamps.
const minSpread = sample.Duration(8 * time.Millisecond)

func checkPathJitter(e *Evidence) (a Answer) {
	for _, addr := range e.remoteAddrs() {
		p, tr := e.Ping(addr), e.Trace(addr, "")
		if p == nil || p.Echo == nil || len(p.Echo.RTTs) < 20 || tr == nil {
			continue
		}
		if p.RTT == nil || p.RTT.Clock == "user" {
			continue // this host's own load would count
		}
		spread, base := quartileSpread(p), minOf(p.Echo.RTTs)
		if spread < minSpread || spread < base/3 {
			a.RuledOut = append(a.RuledOut, RuledOut{"path.jitter", addr.String(), fmt.Sprintf("%s: half of the round trips lie within %s", addr, spread)})
			continue
		}
		if e.hopSeries(&a, tr, addr) {
			continue
		}
		again := e.Result(WantPingMore(addr))
		if again == nil || again.Echo == nil || quartileSpread(again) < minSpread/2 {
			continue // a passing burst
		}
		where, hopProof := e.locateSpread(tr, addr, quartileSpread(again))
		t := e.addrTargets(addr)[0]
		f := Finding{
			Subject: t.Raw, SubjectKind: sample.KindPath, Location: where,
			Severity: sample.Minor, Confidence: Likely,
			Summary: fmt.Sprintf("The delay to %s varies strongly: half of the packets differ by more than %s, %s.", sideOf(t, addr), spread, where),
			Evidence: append([]Proof{
				proof(WantPing(addr).Key(), "%s: best %s, median %s, 95 %% below %s", addr, base, median(p.Echo.RTTs), probe.Percentile(p.Echo.RTTs, 95)),
				proof(WantPingMore(addr).Key(), "again, 300 probes: best %s, median %s, 95 %% below %s", minOf(again.Echo.RTTs), median(again.Echo.RTTs), probe.Percentile(again.Echo.RTTs, 95)),
			}, hopProof...),
			Sceptic: []string{"mtr -n -r -c 200 -i 0.1 " + addr.String()},
			Affects: []string{TagAddr(addr), TagTarget(t.Raw)}, Depends: e.pairDepends(t, addr),
		}
		if spread > sample.Duration(30*time.Millisecond) {
			f.Severity = sample.Major
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

func quartileSpread(r *probe.Result) sample.Duration {
	return probe.Percentile(r.Echo.RTTs, 75) - probe.Percentile(r.Echo.RTTs, 25)
}

// hopSeries asks for a longer series to the target and to each hop at the same
// time. It reports whether one of them is still to come.
func (e *Evidence) hopSeries(a *Answer, tr *probe.Result, addr netip.Addr) (waiting bool) {
	ws := []Want{WantPingMore(addr)}
	for _, h := range e.lossHops(tr.Path, addr) {
		ws = append(ws, WantPingMore(h.Address))
	}
	for _, w := range ws {
		if _, ok := e.Get(w); !ok {
			a.Wants = append(a.Wants, w)
			waiting = true
		}
	}
	return waiting
}

// locateSpread finds the first hop from which on all vary as the target does.
func (e *Evidence) locateSpread(tr *probe.Result, addr netip.Addr, target sample.Duration) (string, []Proof) {
	_, link, _ := e.NextHop(addr)
	from, to := fmt.Sprintf("this host (%s)", link), fmt.Sprintf("the target %s", addr)
	var proofs []Proof
	var steady *probe.Hop
	hops := e.lossHops(tr.Path, addr)
	for i := len(hops) - 1; i >= 0; i-- {
		r := e.Result(WantPingMore(hops[i].Address))
		if r == nil || r.Echo == nil || len(r.Echo.RTTs) < 20 {
			continue
		}
		if quartileSpread(r) < target/2 {
			steady = &hops[i]
			proofs = append(proofs, proof(WantPingMore(steady.Address).Key(), "%s, before it: half within %s", hopText(*steady), quartileSpread(r)))
			break
		}
		to = hopText(hops[i])
	}
	if steady != nil {
		from = hopText(*steady)
	}
	return fmt.Sprintf("between %s and %s", from, to), proofs
}
