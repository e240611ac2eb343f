package diagnose

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

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
	Explains:    []string{"tcp.syn_loss", "path.latency_step", "path.mtu_blackhole", "http.server_slow", "tls.handshake_slow", "dns.resolver_slow"},
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
	return a
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
	for _, h := range lossHops(tr.Path, addr) {
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
	return waiting
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

func lossHops(p *probe.Path, target netip.Addr) []probe.Hop {
	hops := slices.DeleteFunc(hopAddrs(p), func(h probe.Hop) bool { return h.Address == target })
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
	n := first.Echo.Sent - first.Echo.SendErrors + more.Echo.Sent - more.Echo.SendErrors
	lost := n - first.Echo.Received - more.Echo.Received
	lo, hi := probe.LossInterval(lost, n)
	moreLost := more.Echo.Sent - more.Echo.SendErrors - more.Echo.Received
	if moreLost == 0 || lost < 3 || lo < minLoss {
		a.RuledOut = append(a.RuledOut, RuledOut{"path.loss", addr.String(), fmt.Sprintf("%s: %s in two series; a single loss is no pattern", addr, lossText(lost, n))})
		return Finding{}, false
	}
	tcp, tcpKey := e.tcpSeries(addr)
	tcpClean, tcpAgrees := false, false
	if tcp != nil && tcp.Connected+tcp.Refused+tcp.TimedOut > 0 {
		tlo, thi := probe.LossInterval(tcp.Retried, tcp.Attempts)
		tcpClean = thi < lo || tcp.Retried == 0 && lo > 0.08
		tcpAgrees = tcp.Retried > 0 && tlo <= hi*2.2
	}
	if tcpClean || rateLimited(first, more) && !tcpAgrees {
		a.Notes = append(a.Notes, fmt.Sprintf("%s leaves some echo requests unanswered (%s) but TCP to it is clean: it limits its ICMP answers. Harmless.", addr, lossText(lost, n)))
		a.RuledOut = append(a.RuledOut, RuledOut{"path.loss", addr.String(), fmt.Sprintf("%s: only ICMP is answered sparsely", addr)})
		return Finding{}, false
	}
	where, whereProof := e.locateLoss(addr, lo)
	t := e.addrTargets(addr)[0]
	f := Finding{
		Subject: t.Raw, SubjectKind: sample.KindPath, Location: where,
		Severity: lossSeverity(float64(lost) / float64(n)), Confidence: Likely,
		Summary: fmt.Sprintf("%s of the packets to %s are lost, %s.", percent(float64(lost)/float64(n)), sideOf(t, addr), where),
		Evidence: []Proof{
			proof(WantPing(addr).Key(), "first series to %s: %s", addr, lossText(first.Echo.Sent-first.Echo.SendErrors-first.Echo.Received, first.Echo.Sent-first.Echo.SendErrors)),
			proof(WantPingMore(addr).Key(), "second series: %s", lossText(moreLost, more.Echo.Sent-more.Echo.SendErrors)),
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
	s, f := slow.Echo, fast.Echo
	if s.Loss() < 0.05 && f.Loss() < 0.10 {
		return false
	}
	slowRate := float64(s.Received) / (float64(s.Sent) * echoEvery.Seconds())
	fastRate := float64(f.Received) / (float64(f.Sent) * echoMoreEvery.Seconds())
	asked := echoEvery.Seconds() / echoMoreEvery.Seconds() // how much faster the second series asked
	return math.Abs(math.Log(fastRate/slowRate)) < math.Abs(math.Log(asked))/2.5 && f.Loss() > s.Loss()*1.15
}

// locateLoss finds the first hop from which on every answering hop loses about
// as much as the target does.
func (e *Evidence) locateLoss(addr netip.Addr, targetLo float64) (string, []Proof) {
	tr := e.Trace(addr, "")
	unknown := "somewhere on the way"
	if tr == nil {
		return unknown, nil
	}
	type point struct {
		ttl        int
		addr       netip.Addr
		lost, sent int
	}
	var pts []point
	for _, h := range lossHops(tr.Path, addr) {
		if r := e.Result(WantPingMore(h.Address)); r != nil && r.Echo != nil && r.Echo.Received > 0 {
			n := r.Echo.Sent - r.Echo.SendErrors
			pts = append(pts, point{h.TTL, h.Address, n - r.Echo.Received, n})
		}
	}
	// Walk back from the target while the loss persists.
	first := len(pts)
	for i := len(pts) - 1; i >= 0; i-- {
		if float64(pts[i].lost)/float64(max(pts[i].sent, 1)) < targetLo*0.5 {
			break
		}
		first = i
	}
	var proofs []Proof
	text := func(p point) string { return fmt.Sprintf("hop %d (%s)", p.ttl, p.addr) }
	if first > 0 && len(pts) > 0 {
		before := pts[first-1]
		proofs = append(proofs, proof(WantPingMore(before.addr).Key(), "%s, before it: %s", text(before), lossText(before.lost, before.sent)))
		if first == len(pts) {
			return fmt.Sprintf("between %s and the target %s", text(before), addr), proofs
		}
		at := pts[first]
		proofs = append(proofs, proof(WantPingMore(at.addr).Key(), "%s, and all beyond it: %s", text(at), lossText(at.lost, at.sent)))
		return fmt.Sprintf("between %s and %s", text(before), text(at)), proofs
	}
	if len(pts) == 0 {
		if gw, link, ok := e.NextHop(addr); ok && !gw.IsValid() {
			return fmt.Sprintf("between this host (%s) and the target %s on the same segment", link, addr), nil
		}
		return unknown, nil
	}
	at := pts[0]
	proofs = append(proofs, proof(WantPingMore(at.addr).Key(), "%s already: %s", text(at), lossText(at.lost, at.sent)))
	_, link, _ := e.NextHop(addr)
	return fmt.Sprintf("between this host (%s) and %s", link, text(at)), proofs
}
