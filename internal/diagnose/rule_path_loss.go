package diagnose

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"fathom/probe"
	"fathom/sample"
)

var rulePathLoss = Rule{
	ID: "path.loss", Layer: LayerNetwork,
	Title:       "Packets are lost on the way",
	Explanation: "A share of the packets to the target never comes back. Even one per cent makes TCP over a long path several times slower, and every lost packet at a connection's start costs a second.",
	TellApart:   "The loss is seen in a second, longer series as well, TCP handshakes need retransmissions too, and from one hop on all later hops show it. Loss at one hop only, or a constant number of answers per second, is a router limiting its ICMP answers: no fault.",
	Remedy:      []string{"Look at the named link: error counters and queue drops at both of its ends", "If it belongs to a provider, send them the two hops and the counts", "Check whether it follows load (then it is congestion) or is there at all times (then it is damage)"},
	Validate:    []string{"300 probes without a loss (that excludes 1 % at 95 %)"},
	Sceptic:     "mtr -n -r -c 200 -i 0.1 <address>",
	References:  []string{"RFC 2680 (one-way loss)", "RFC 7680", "Mathis et al. 1997 (TCP throughput against loss)"},
	Explains:    []string{"tcp.syn_loss", "path.latency_step", "path.mtu_blackhole", "http.server_slow", "http.transfer_slow", "http.protocol_error", "tls.handshake_slow", "tls.handshake_failed", "dns.resolver_slow"},
	Check:       checkPathLoss,
}

const (
	// minLoss is the smallest loss worth a finding: the lower end of its interval must exceed it.
	minLoss = 0.004
	// maxHopsPinged bounds the hops asked directly while locating loss.
	maxHopsPinged = 10
)

func checkPathLoss(e *Evidence) (a Answer) {
	for _, addr := range e.remoteAddrs() {
		p := e.Ping(addr)
		if p == nil || p.Echo == nil || p.Echo.Received == 0 {
			continue
		}
		n := p.Echo.Sent - p.Echo.SendErrors
		lost := n - p.Echo.Received
		if more := e.Result(WantPingMore(addr)); more != nil && more.Echo != nil {
			m := more.Echo.Sent - more.Echo.SendErrors
			n, lost = n+m, lost+m-more.Echo.Received
		}
		if lost == 0 {
			a.RuledOut = append(a.RuledOut, RuledOut{"path.loss", addr.String(), fmt.Sprintf("%s: 0 of %d lost (excludes %s and more)", addr, n, percent(excluded(n)))})
			continue
		}
		if waiting := e.lossWants(&a, addr); waiting {
			continue
		}
		if f, ok := e.lossFinding(&a, addr, p); ok {
			a.Findings = append(a.Findings, f)
		}
	}
	if len(e.Question.Targets) == 0 && len(a.Findings) == 0 {
		for _, g := range e.Gateways() {
			e.gatewayLoss(&a, g)
		}
	}
	return a
}

// gatewayLoss judges the first hop when the question is this host itself. A
// router may answer echo sparsely; what passes through it cleanly clears it.
func (e *Evidence) gatewayLoss(a *Answer, g Gateway) {
	addr := zoned(g.Addr, g.Link)
	first := e.Result(WantPingLocal(addr))
	if first == nil || first.Echo == nil || first.Echo.Received == 0 || first.Echo.Sent-first.Echo.SendErrors-first.Echo.Received < 2 {
		return
	}
	more := e.Result(WantPingMore(addr))
	if more == nil {
		a.Wants = append(a.Wants, WantPingMore(addr))
		return
	}
	if more.Echo == nil {
		return
	}
	n := first.Echo.Sent - first.Echo.SendErrors + more.Echo.Sent - more.Echo.SendErrors
	lost := n - first.Echo.Received - more.Echo.Received
	moreLost := more.Echo.Sent - more.Echo.SendErrors - more.Echo.Received
	lo, _ := probe.LossInterval(lost, n)
	if moreLost < 3 || lo < minLoss || limitedRate(first, more, localEvery, echoMoreEvery) || e.cleanThrough(g, lo) {
		a.Notes = append(a.Notes, fmt.Sprintf("The gateway %s leaves some echo requests unanswered (%s); what passes through it is not known to suffer.", g.Addr, lossText(lost, n)))
		return
	}
	where := fmt.Sprintf("between this host (%s) and hop 1 (%s)", g.Link, g.Addr)
	a.Findings = append(a.Findings, Finding{
		Subject: g.Addr.String(), SubjectKind: sample.KindGateway, Location: where,
		Severity: lossSeverity(float64(lost) / float64(n)), Confidence: Likely,
		Summary: fmt.Sprintf("%s of the packets to the gateway %s are lost, %s.", percent(float64(lost)/float64(n)), g.Addr, where),
		Evidence: []Proof{
			proof(WantPingLocal(addr).Key(), "first series: %s", lossText(first.Echo.Sent-first.Echo.SendErrors-first.Echo.Received, first.Echo.Sent-first.Echo.SendErrors)),
			proof(WantPingMore(addr).Key(), "second series: %s", lossText(moreLost, more.Echo.Sent-more.Echo.SendErrors)),
		},
		Sceptic: []string{"ping -c 300 -i 0.01 " + g.Addr.String()},
		Affects: []string{TagAddr(g.Addr)}, Depends: []string{TagAddr(g.Addr), TagLink(g.Link)},
	})
}

// cleanThrough: something behind the gateway was probed and lost clearly less.
func (e *Evidence) cleanThrough(g Gateway, lo float64) bool {
	for i := range e.Measured {
		r := e.Measured[i].Result
		if r == nil || r.Echo == nil || r.Echo.Received < 20 || r.Address == g.Addr {
			continue
		}
		if l := e.Lookup(r.Address); l == nil || l.Route.Gateway != g.Addr {
			continue
		}
		n := r.Echo.Sent - r.Echo.SendErrors
		if _, hi := probe.LossInterval(n-r.Echo.Received, n); hi < lo {
			return true
		}
	}
	return false
}

// excluded is the loss that n clean probes exclude at 95 %.
func excluded(n int) float64 {
	_, hi := probe.LossInterval(0, n)
	return hi
}

// lossWants asks for what settles a suspicion: a longer series to the target and
// to each hop at the same time, and TCP handshakes.
func (e *Evidence) lossWants(a *Answer, addr netip.Addr) (waiting bool) {
	ws := []Want{WantPingMore(addr)}
	tr := e.Trace(addr, "")
	if tr == nil {
		return true
	}
	for _, h := range e.lossHops(tr.Path, addr) {
		ws = append(ws, WantPingMore(h.Address))
	}
	if ap, ok := e.lossPort(addr); ok {
		ws = append(ws, WantTCPMore(ap))
	}
	for _, w := range ws {
		if _, ok := e.Get(w); !ok {
			a.Wants = append(a.Wants, w)
			waiting = true
		}
	}
	if waiting || !e.pausedBursts(addr) {
		return waiting
	}
	again := []Want{WantPingAgain(addr)}
	for _, h := range e.lossHops(tr.Path, addr) {
		again = append(again, WantPingAgain(h.Address))
	}
	for _, w := range again {
		if _, ok := e.Get(w); !ok {
			a.Wants = append(a.Wants, w)
			waiting = true
		}
	}
	return waiting
}

// pausedBursts: the first series lost several packets in a row, the second hardly any.
func (e *Evidence) pausedBursts(addr netip.Addr) bool {
	first, more := e.Ping(addr), e.Result(WantPingMore(addr))
	if first == nil || first.Echo == nil || more == nil || more.Echo == nil {
		return false
	}
	return longestRun(first.Echo.Lost) >= 3 && more.Echo.Sent-more.Echo.SendErrors-more.Echo.Received < 3
}

// burstRun is a run of losses that independent loss of a few per cent practically
// never shows among some hundred packets.
const burstRun = 5

// longestRun is the greatest number of consecutive indices.
func longestRun(lost []int) int {
	best, run := 0, 0
	for i, x := range lost {
		if i > 0 && x == lost[i-1]+1 {
			run++
		} else {
			run = 1
		}
		best = max(best, run)
	}
	return best
}

// longSeries sums the long series to an address, those of the same rounds for
// every place on the path.
func (e *Evidence) longSeries(addr netip.Addr) (lost, sent int, answered bool) {
	for _, w := range []Want{WantPingMore(addr), WantPingAgain(addr)} {
		r := e.Result(w)
		if r == nil || r.Echo == nil {
			continue
		}
		n := r.Echo.Sent - r.Echo.SendErrors
		sent, lost, answered = sent+n, lost+n-r.Echo.Received, answered || r.Echo.Received > 0
	}
	return lost, sent, answered
}

// lossPort is a TCP port of addr that answers or at least has not been shown to
// be silent: a refusal serves as well as a connection. A host asked without a
// port is tried on 80, where a refusal is the usual answer.
func (e *Evidence) lossPort(addr netip.Addr) (netip.AddrPort, bool) {
	ports := []uint16{}
	for _, t := range e.addrTargets(addr) {
		if t.Port != 0 && t.Scheme != "udp" {
			ports = append(ports, t.Port)
		}
	}
	ports = append(ports, 80)
	for _, port := range ports {
		ap := netip.AddrPortFrom(addr, port)
		r := e.Result(WantTCP(ap))
		if r == nil && port == 80 || r != nil && r.TCP != nil && r.TCP.Connected+r.TCP.Refused > 0 {
			return ap, true
		}
	}
	return netip.AddrPort{}, false
}

// lossHops are the routers of a path that can be asked themselves. A gateway that
// stays silent in traces may well answer an echo.
func (e *Evidence) lossHops(p *probe.Path, target netip.Addr) []probe.Hop {
	if e.Question.Passive {
		return nil // nothing is sent but to the named targets
	}
	hops := slices.DeleteFunc(hopAddrs(p), func(h probe.Hop) bool { return h.Address == target })
	if gw, _, ok := e.NextHop(target); ok && gw.IsValid() && !gw.IsLinkLocalUnicast() && (len(hops) == 0 || hops[0].TTL > 1) {
		hops = append([]probe.Hop{{TTL: 1, Address: gw}}, hops...)
	}
	if len(hops) > maxHopsPinged {
		hops = hops[:maxHopsPinged]
	}
	return hops
}

func (e *Evidence) lossFinding(a *Answer, addr netip.Addr, first *probe.Result) (Finding, bool) {
	more := e.Result(WantPingMore(addr))
	if more == nil || more.Echo == nil {
		return Finding{}, false
	}
	moreLost, moreSent, _ := e.longSeries(addr)
	n := first.Echo.Sent - first.Echo.SendErrors + moreSent
	lost := first.Echo.Sent - first.Echo.SendErrors - first.Echo.Received + moreLost
	lo, hi := probe.LossInterval(lost, n)
	if moreLost == 0 || lost < 3 || lo < minLoss {
		a.RuledOut = append(a.RuledOut, RuledOut{"path.loss", addr.String(), fmt.Sprintf("%s: %s in two series; a single loss is no pattern", addr, lossText(lost, n))})
		return Finding{}, false
	}
	tcp, tcpKey := e.tcpSeries(addr)
	tcpClean, tcpAgrees := false, false
	if tcp != nil && tcp.Connected+tcp.Refused+tcp.TimedOut > 0 {
		tlo, thi := probe.LossInterval(tcp.Retried, tcp.Attempts)
		// A handshake crosses the path both ways, as an echo does.
		tcpClean = thi < lo || tcp.Retried == 0 && probe.NeededForLoss(lo) <= tcp.Attempts
		// Loss that comes in bursts may spare forty connects in a row; unless it is
		// a limiter's pattern, clean connects prove nothing then.
		if tcpClean && max(longestRun(first.Echo.Lost), longestRun(more.Echo.Lost)) >= burstRun && !rateLimited(first, more) {
			tcpClean = false
		}
		tcpAgrees = tcp.Retried > 0 && tlo <= hi*2.2
	}
	if tcpClean || rateLimited(first, more) && !tcpAgrees {
		a.Notes = append(a.Notes, fmt.Sprintf("%s leaves some echo requests unanswered (%s) but TCP to it is clean: it limits its ICMP answers. Harmless.", addr, lossText(lost, n)))
		a.RuledOut = append(a.RuledOut, RuledOut{"path.loss", addr.String(), fmt.Sprintf("%s: only ICMP is answered sparsely", addr)})
		return Finding{}, false
	}
	where, whereProof := e.locateLoss(addr)
	t := e.addrTargets(addr)[0]
	f := Finding{
		Subject: t.Raw, SubjectKind: sample.KindPath, Location: where,
		Severity: lossSeverity(float64(lost) / float64(n)), Confidence: Likely,
		Summary: fmt.Sprintf("%s of the packets to %s are lost, %s.", percent(float64(lost)/float64(n)), sideOf(t, addr), where),
		Evidence: []Proof{
			proof(WantPing(addr).Key(), "first series to %s: %s", addr, lossText(first.Echo.Sent-first.Echo.SendErrors-first.Echo.Received, first.Echo.Sent-first.Echo.SendErrors)),
			proof(WantPingMore(addr).Key(), "later, the long series: %s", lossText(moreLost, moreSent)),
		},
		Sceptic: []string{"mtr -n -r -c 200 -i 0.1 " + addr.String()},
		Affects: []string{TagAddr(addr), TagTarget(t.Raw)}, Depends: e.pairDepends(t, addr),
	}
	f.Evidence = append(f.Evidence, whereProof...)
	if tcpAgrees {
		f.Confidence = Confirmed
		f.Evidence = append(f.Evidence, proof(tcpKey, "TCP agrees: %d of %d handshakes needed a retransmission", tcp.Retried, tcp.Attempts))
	}
	return f, true
}

func lossSeverity(l float64) sample.Severity {
	switch {
	case l >= 0.2:
		return sample.Critical
	case l >= 0.01:
		return sample.Major
	}
	return sample.Minor
}

func (e *Evidence) tcpSeries(addr netip.Addr) (*probe.TCP, string) {
	for i := range e.Measured {
		m := &e.Measured[i]
		if m.Want.Kind == probe.KindTCP && m.Want.Round == 2 && m.Result != nil && m.Result.Address == addr && m.Result.TCP != nil {
			return m.Result.TCP, m.Want.Key()
		}
	}
	return nil, ""
}

// rateLimited recognises a limiter by its signature: however fast we ask, about
// the same number of answers per second comes back.
func rateLimited(slow, fast *probe.Result) bool {
	return limitedRate(slow, fast, echoEvery, echoMoreEvery)
}

func limitedRate(slow, fast *probe.Result, slowEvery, fastEvery time.Duration) bool {
	s, f := slow.Echo, fast.Echo
	if s.Loss() < 0.05 && f.Loss() < 0.10 || s.Received == 0 || f.Received == 0 {
		return false
	}
	slowRate := float64(s.Received) / (float64(s.Sent) * slowEvery.Seconds())
	fastRate := float64(f.Received) / (float64(f.Sent) * fastEvery.Seconds())
	asked := slowEvery.Seconds() / fastEvery.Seconds() // how much faster the second series asked
	return math.Abs(math.Log(fastRate/slowRate)) < math.Log(asked)/2.5 && f.Loss() > s.Loss()+0.15*(1-s.Loss())
}

// locateLoss finds the place where loss begins: the split of the hops, in path
// order, into a clean part and a lossy part that explains the counts best. All
// series ran at the same time, the target's second one included.
func (e *Evidence) locateLoss(addr netip.Addr) (string, []Proof) {
	tr := e.Trace(addr, "")
	if tr == nil {
		return "somewhere on the way", nil
	}
	var pts []lossPoint
	target := lossPoint{addr: addr, target: true}
	target.lost, target.sent, _ = e.longSeries(addr)
	for _, h := range e.lossHops(tr.Path, addr) {
		p := lossPoint{ttl: h.TTL, addr: h.Address}
		answered := false
		if p.lost, p.sent, answered = e.longSeries(h.Address); !answered {
			continue
		}
		if lo, _ := probe.LossInterval(p.lost, p.sent); lo > 2*target.share()+0.05 {
			continue // it limits its own answers: says nothing about the path
		}
		pts = append(pts, p)
	}
	pts = append(pts, target)
	k := lossSplit(pts)
	_, link, _ := e.NextHop(addr)
	from := fmt.Sprintf("this host (%s)", link)
	var proofs []Proof
	if k > 0 {
		from = pts[k-1].String()
		proofs = append(proofs, proof(WantPingMore(pts[k-1].addr).Key(), "%s, before it: %s", from, lossText(pts[k-1].lost, pts[k-1].sent)))
	}
	if !pts[k].target {
		proofs = append(proofs, proof(WantPingMore(pts[k].addr).Key(), "%s and what lies behind it: %s", pts[k], lossText(pts[k].lost, pts[k].sent)))
	}
	return fmt.Sprintf("between %s and %s", from, pts[k]), proofs
}

// lossPoint is the loss of echo to one place on the path.
type lossPoint struct {
	ttl        int
	addr       netip.Addr
	lost, sent int
	target     bool
}

func (p lossPoint) share() float64 { return float64(p.lost) / float64(max(p.sent, 1)) }

func (p lossPoint) String() string {
	if p.target {
		return fmt.Sprintf("the target %s", p.addr)
	}
	return fmt.Sprintf("hop %d (%s)", p.ttl, p.addr)
}

// lossSplit returns the index of the first lossy point: the split with the
// greatest binomial likelihood, one loss rate before it and a higher one from it
// on. Without a split that is clearly better (minSplitGain), all lose alike and
// the loss begins before the first point.
func lossSplit(pts []lossPoint) int {
	_, whole := pooled(pts)
	best, at := whole+minSplitGain, 0
	for k := 1; k < len(pts); k++ {
		pa, la := pooled(pts[:k])
		pb, lb := pooled(pts[k:])
		if pa < pb && la+lb > best {
			best, at = la+lb, k
		}
	}
	return at
}

// minSplitGain is a log likelihood ratio of 3: odds of twenty to one.
const minSplitGain = 3.0

// pooled is the common loss rate of some points and its log likelihood.
func pooled(pts []lossPoint) (rate, logL float64) {
	lost, sent := 0, 0
	for _, p := range pts {
		lost, sent = lost+p.lost, sent+p.sent
	}
	if sent == 0 {
		return 0, 0
	}
	rate = float64(lost) / float64(sent)
	if rate > 0 {
		logL += float64(lost) * math.Log(rate)
	}
	if rate < 1 {
		logL += float64(sent-lost) * math.Log(1-rate)
	}
	return rate, logL
}
