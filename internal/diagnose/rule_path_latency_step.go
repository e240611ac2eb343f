package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fathom/probe"
	"fathom/sample"
)

var ruleLatencyStep = Rule{
	ID: "path.latency_step", Layer: LayerNetwork,
	Title:       "One hop adds most of the delay",
	Explanation: "The round-trip time jumps at one hop and stays high to the end: a detour, or simply a long cable or a satellite. Without an earlier measurement distance cannot be told from a detour, so a steady step is reported as information; one that varies is path.jitter.",
	TellApart:   "The smallest round trips per hop, several each, so that slow ICMP answers of one router do not count; the step must persist to the target. It is a fault when another address or path to the same place is much faster (a detour), or when the hop is on the local Ethernet.",
	Remedy:      []string{"A queue: find what fills that link", "A detour: compare the route with what it should be and tell the operator of that hop", "Plain distance: use a nearer server"},
	Validate:    []string{"The step at that hop is gone in a new trace"},
	Sceptic:     "mtr -n -r -c 20 <address>",
	References:  []string{"RFC 2681 (round-trip delay)"},
	Explains:    []string{"http.server_slow", "tls.handshake_slow", "dns.resolver_slow"},
	Check:       checkLatencyStep,
}

// minStep is the smallest added delay worth a word: less disappears in normal variation.
const minStep = sample.Duration(20 * time.Millisecond)

// lanKinds are the interfaces whose next station is on the same local segment;
// overlays such as vxlan may span the world.
var lanKinds = []string{"device", "veth", "bond", "vlan", "macvlan", "bridge"}

// lanStep is what no healthy Ethernet segment adds.
const lanStep = sample.Duration(8 * time.Millisecond)

func checkLatencyStep(e *Evidence) (a Answer) {
	for _, addr := range e.remoteAddrs() {
		p, tr := e.Ping(addr), e.Trace(addr, "")
		if p == nil || p.Echo == nil || len(p.Echo.RTTs) < 5 || tr == nil {
			continue
		}
		total := minOf(p.Echo.RTTs)
		s, ok := biggestStep(tr.Path, addr, total)
		t := e.addrTargets(addr)[0]
		if !ok || s.added < minStep && !(s.toTTL <= 1 && s.added >= lanStep) || s.added < total/2 {
			a.RuledOut = append(a.RuledOut, RuledOut{"path.latency_step", addr.String(), fmt.Sprintf("%s: best round trip %s, no hop stands out", addr, total)})
			continue
		}
		f := Finding{
			Subject: t.Raw, SubjectKind: sample.KindPath, Location: s.where(),
			Severity: sample.Info, Confidence: Inconclusive,
			Summary: fmt.Sprintf("%s of the %s to %s are added %s.", s.added, total, sideOf(t, addr), s.where()),
			Evidence: []Proof{
				proof(WantTrace(addr, "icmp", 0).Key(), "best round trip %s before, %s from there on", s.before, s.before+s.added),
				proof(WantPing(addr).Key(), "%s: best %s, median %s, 95 %% below %s", addr, total, median(p.Echo.RTTs), probe.Percentile(p.Echo.RTTs, 95)),
			},
			Sceptic: []string{"mtr -n -r -c 20 " + addr.String()},
			Affects: []string{TagAddr(addr), TagTarget(t.Raw)}, Depends: e.pairDepends(t, addr),
		}
		e.judgeStep(&f, t, addr, s, p, total)
		a.Findings = append(a.Findings, f)
	}
	return a
}

// step is a jump of the best round trip between two answering hops.
type step struct {
	before, added  sample.Duration
	from, to       netip.Addr
	fromTTL, toTTL int
	target         bool
}

func (s step) where() string {
	to := fmt.Sprintf("hop %d (%s)", s.toTTL, s.to)
	if s.target {
		to = fmt.Sprintf("the target %s", s.to)
	}
	if !s.from.IsValid() {
		return "between this host and " + to
	}
	return fmt.Sprintf("between hop %d (%s) and %s", s.fromTTL, s.from, to)
}

// biggestStep finds the largest jump that persists to the end.
func biggestStep(p *probe.Path, target netip.Addr, total sample.Duration) (step, bool) {
	type point struct {
		ttl  int
		addr netip.Addr
		best sample.Duration
	}
	pts := []point{{}}
	end := len(p.Hops)
	for _, h := range p.Hops {
		if h.Target || h.Address == target {
			end = h.TTL
			break
		}
		if d, ok := h.BestRTT(); ok && h.Address.IsValid() {
			pts = append(pts, point{h.TTL, h.Address, d})
		}
	}
	pts = append(pts, point{end, target, total})
	// A hop's own answer may be slow; what counts is the least of it and all beyond.
	for i := len(pts) - 2; i >= 0; i-- {
		pts[i].best = min(pts[i].best, pts[i+1].best)
	}
	var best step
	for i := 1; i < len(pts); i++ {
		if d := pts[i].best - pts[i-1].best; d > best.added {
			best = step{before: pts[i-1].best, added: d, from: pts[i-1].addr, fromTTL: pts[i-1].ttl, to: pts[i].addr, toTTL: pts[i].ttl, target: i == len(pts)-1}
		}
	}
	return best, best.added > 0
}

func minOf(ds []sample.Duration) sample.Duration {
	m := ds[0]
	for _, d := range ds {
		m = min(m, d)
	}
	return m
}

// judgeStep looks for what makes a step more than distance.
func (e *Evidence) judgeStep(f *Finding, t Target, addr netip.Addr, s step, p *probe.Result, total sample.Duration) {
	raise := func(c Confidence, sev sample.Severity) { f.Confidence, f.Severity = c, sev }
	if s.toTTL <= 1 && !s.from.IsValid() && s.added >= lanStep {
		if _, link, ok := e.NextHop(addr); ok {
			if l, ok := e.Host().LinkByName(link); ok && ethernet(l) && slices.Contains(lanKinds, l.Kind) {
				raise(Likely, sample.Major)
				f.Evidence = append(f.Evidence, proof("links", "%s is a local Ethernet segment: it should add well under a millisecond", link))
			}
		}
	}
	if s := e.Host().Sockets; s != nil {
		for _, c := range s.Targets {
			// The kernel remembers the best round trip of the last five minutes.
			if c.Remote.Addr() == addr && c.MinRTT > 0 && c.MinRTT < total/2 {
				raise(Confirmed, sample.Major)
				f.Summary += fmt.Sprintf(" A connection to it saw %s within the last five minutes.", c.MinRTT)
				f.Evidence = append(f.Evidence, proof("sockets", "the connection %s → %s had a best round trip of %s, now %s", c.Local, c.Remote, c.MinRTT, c.RTT))
				break
			}
		}
	}
	for _, o := range e.TargetAddrs(t) {
		if o == addr {
			continue
		}
		if q := e.Ping(o); q != nil && q.Echo != nil && len(q.Echo.RTTs) > 3 && minOf(q.Echo.RTTs) < total-s.added*7/10 {
			raise(Likely, sample.Major)
			f.Summary += fmt.Sprintf(" The same name at %s answers in %s.", o, minOf(q.Echo.RTTs))
			f.Evidence = append(f.Evidence, proof(WantPing(o).Key(), "%s, another address of the same name: best %s", o, minOf(q.Echo.RTTs)))
		}
	}
	if f.Severity == sample.Info {
		f.Summary += " It is steady: distance or a detour, and no earlier measurement to compare with."
	}
}
