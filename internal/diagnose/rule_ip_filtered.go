package diagnose

import (
	"fmt"
	"net/netip"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

var ruleFiltered = Rule{
	ID: "ip.filtered", Layer: LayerNetwork,
	Title:       "A filter on the way stops this traffic",
	Explanation: "A firewall or access list between here and the target drops or rejects exactly this traffic. Other protocols or ports to the same host pass, so the path itself is fine.",
	TellApart:   "Rejected: an ICMP administratively prohibited (or an unreachable sent by a router, or a TCP reset whose TTL shows that it was made nearer than the target). Dropped: a trace with the real protocol and port goes silent at a hop that other traffic passes. When the silence begins at the target itself it is tcp.filtered.",
	Remedy:      []string{"Allow this protocol and port in the firewall at the named place", "If the filter is not yours, send its owner the 5-tuple and the ICMP message"},
	Validate:    []string{"The same probe is answered by the target itself"},
	Sceptic:     "traceroute -n -T -p <port> <address>; traceroute -n <address>",
	References:  []string{"RFC 1812 section 5.2.7.1 (codes 9, 10, 13)", "RFC 4443 section 3.1 (codes 1, 5, 6)"},
	Explains:    []string{"tcp.*", "udp.no_port", "ip.host_down", "ip.blackhole_hop", "http.*", "tls.*", "dns.*"},
	Check:       checkFiltered,
}

func checkFiltered(e *Evidence) (a Answer) {
	for _, p := range e.remotePairs() {
		if f, ok := e.rejected(p); ok {
			a.Findings = append(a.Findings, f)
			continue
		}
		if f, ok := e.droppedBefore(&a, p); ok {
			a.Findings = append(a.Findings, f)
			continue
		}
		if f, ok := e.stealthNeighbour(&a, p); ok {
			a.Findings = append(a.Findings, f)
		}
	}
	return a
}

// asked is the result that stands for what the user wants of the pair: the
// port when there is one, echo otherwise.
func (e *Evidence) asked(p targetPair) (*probe.Result, Want) {
	w := WantPing(p.Addr)
	if p.Target.Port != 0 {
		ap := netip.AddrPortFrom(p.Addr, p.Target.Port)
		switch p.Target.Scheme {
		case "udp":
			w = WantUDP(ap)
		case "dns":
			w = WantDNS(ap, rootName, "NS", "udp")
		default:
			w = WantTCP(ap)
		}
	}
	return e.Result(w), w
}

// rejected: somebody said no in so many words, and it was not the target's own port.
func (e *Evidence) rejected(p targetPair) (Finding, bool) {
	r, w := e.asked(p)
	if r == nil || r.Outcome == probe.OK {
		return Finding{}, false
	}
	if r.Outcome == probe.Refused && r.ICMP == nil {
		return e.forgedReset(p, r, w)
	}
	x := r.ICMP
	// For a port question the echo's error counts as well when the port is silent.
	if x == nil && r.Outcome == probe.Timeout && !e.Heard(p.Addr) {
		if pr := e.Ping(p.Addr); pr != nil && pr.ICMP != nil {
			x = pr.ICMP
		}
	}
	if x == nil || e.Host().HasAddr(x.From) {
		return Finding{}, false
	}
	prohibited := probe.OutcomeOfICMP(p.Addr.Is6(), x.Type, x.Code) == probe.Prohibited
	port := probe.OutcomeOfICMP(p.Addr.Is6(), x.Type, x.Code) == probe.Refused
	fromTarget := x.From == p.Addr
	isTCP := w.Kind == probe.KindTCP
	switch {
	case prohibited:
	case port && !fromTarget: // a router never says "port unreachable" of its own accord
	case port && fromTarget && isTCP: // a TCP stack answers a closed port with RST
	case isTCP && e.Heard(p.Addr) && (netUnreachable(p.Addr, x) || hostUnreachable(p.Addr, x)):
	default:
		return Finding{}, false
	}
	where := e.whereIs(p.Addr, x.From)
	f := filteredFinding(e, p, where, w)
	f.Confidence = Confirmed
	f.Summary = fmt.Sprintf("A filter at %s rejects traffic to %s: %q.", where, askedText(p), x.Text)
	f.Evidence = append(f.Evidence, proof(w.Key(), "ICMP from %s: %s (type %d code %d)", x.From, x.Text, x.Type, x.Code))
	f.Evidence = append(f.Evidence, e.passes(p)...)
	return f, true
}

func askedText(p targetPair) string {
	proto := p.Target.Scheme
	switch proto {
	case "", "http", "https", "tls", "tcp":
		proto = "TCP"
	case "dns", "udp":
		proto = "UDP"
	}
	if p.Target.Port == 0 {
		return sideOf(p.Target, p.Addr)
	}
	return fmt.Sprintf("%s (%s port %d)", sideOf(p.Target, p.Addr), proto, p.Target.Port)
}

func filteredFinding(e *Evidence, p targetPair, where string, w Want) Finding {
	return Finding{
		Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: where,
		Severity: sample.Critical, Confidence: Likely,
		Sceptic: []string{fmt.Sprintf("traceroute -n -T -p %d %s", max(int(p.Target.Port), 80), p.Addr), "traceroute -n " + p.Addr.String()},
		Affects: []string{TagTarget(p.Target.Raw), "asked:" + p.Target.Raw}, Depends: e.pairDepends(p.Target, p.Addr),
	}
}

// passes lists what does get through to the same host.
func (e *Evidence) passes(p targetPair) (out []Proof) {
	if r := e.Ping(p.Addr); r != nil && r.Echo != nil && r.Echo.Received > 0 {
		out = append(out, proof(WantPing(p.Addr).Key(), "ping to the same address: %s", echoText(r)))
	}
	for i := range e.Measured {
		m := &e.Measured[i]
		if m.Result == nil || m.Want.Kind != probe.KindTCP || m.Result.Address != p.Addr || m.Result.Port == p.Target.Port {
			continue
		}
		if m.Result.Outcome == probe.OK || m.Result.Outcome == probe.Refused && m.Result.ICMP == nil {
			out = append(out, proof(m.Want.Key(), "TCP port %d on the same address answers (%s)", m.Result.Port, m.Result.Outcome))
			break
		}
	}
	return out
}

// forgedReset: a RST whose TTL shows that it comes from nearer than the target.
func (e *Evidence) forgedReset(p targetPair, r *probe.Result, w Want) (Finding, bool) {
	ping := e.Ping(p.Addr)
	fl, ok := e.wireFlow(p.Addr, "tcp", r.Port)
	if !ok || fl.RstTTL == 0 || ping == nil || ping.Echo == nil || ping.Echo.ReplyTTL == 0 {
		return Finding{}, false
	}
	dRST, dEcho := distance(fl.RstTTL), distance(ping.Echo.ReplyTTL)
	if dRST >= dEcho {
		return Finding{}, false
	}
	where := fmt.Sprintf("hop %d", dRST+1)
	if tr := e.Trace(p.Addr, ""); tr != nil {
		for _, h := range tr.Path.Hops {
			if h.TTL == dRST+1 && h.Address.IsValid() {
				where = hopText(h)
			}
		}
	}
	f := filteredFinding(e, p, where, w)
	f.Summary = fmt.Sprintf("Connections to %s are reset by a box on the way, not by the target.", askedText(p))
	f.Evidence = append(f.Evidence,
		proof("wire", "the RST arrived with TTL %d: %s away", fl.RstTTL, plural(dRST, "router", "routers")),
		proof(WantPing(p.Addr).Key(), "the target's echo replies arrive with TTL %d: %s away", ping.Echo.ReplyTTL, plural(dEcho, "router", "routers")))
	return f, true
}

// distance is how many routers a packet has passed, by the usual initial TTLs 64, 128 and 255.
func distance(ttl int) int {
	for _, start := range []int{64, 128, 255} {
		if ttl <= start {
			return start - ttl
		}
	}
	return 0
}

func (e *Evidence) wireFlow(a netip.Addr, proto string, port uint16) (facts.WireFlow, bool) {
	var sum facts.WireFlow
	found := false
	for _, f := range e.Wire {
		if f.Remote != a || f.Proto != proto || f.Port != port || f.Link == "lo" {
			continue
		}
		found = true
		sum.SynOut += f.SynOut
		sum.SynAckIn += f.SynAckIn
		sum.RstIn += f.RstIn
		sum.Out += f.Out
		sum.In += f.In
		sum.ErrorsIn += f.ErrorsIn
		if f.RstTTL != 0 {
			sum.RstTTL = f.RstTTL
		}
		if f.SynAckTTL != 0 {
			sum.SynAckTTL = f.SynAckTTL
		}
		sum.Link = f.Link
		sum.OtherLinksIn = append(sum.OtherLinksIn, f.OtherLinksIn...)
	}
	return sum, found
}

// droppedBefore: the real protocol goes silent at a hop that other traffic passes.
func (e *Evidence) droppedBefore(a *Answer, p targetPair) (Finding, bool) {
	r, w := e.asked(p)
	if r == nil || w.Kind != probe.KindTCP || r.Outcome != probe.Timeout || !e.Heard(p.Addr) {
		return Finding{}, false
	}
	icmp := e.Trace(p.Addr, "icmp")
	tw := WantTrace(p.Addr, "tcp", p.Target.Port)
	if _, ok := e.Get(tw); !ok {
		a.Wants = append(a.Wants, tw)
		return Finding{}, false
	}
	tcp := e.Result(tw)
	if icmp == nil || tcp == nil || tcp.Path == nil || tcp.Path.Reached || !icmp.Path.Reached {
		return Finding{}, false
	}
	last, ok := lastAnswering(tcp.Path)
	next, ok2 := nextHopAfter(icmp.Path, last.TTL)
	if !ok && len(hopAddrs(icmp.Path)) == 0 || !ok2 || next.Target {
		return Finding{}, false // silence begins at the target: tcp.filtered
	}
	where := fmt.Sprintf("between this host and hop %d (%s)", next.TTL, next.Address)
	if ok {
		where = fmt.Sprintf("after hop %d (%s), before hop %d (%s)", last.TTL, last.Address, next.TTL, next.Address)
	}
	f := filteredFinding(e, p, where, w)
	f.Summary = fmt.Sprintf("A filter drops traffic to %s %s.", askedText(p), where)
	f.Evidence = append(f.Evidence,
		proof(tw.Key(), "TCP trace to port %d: last answer from TTL %d, silence after it", p.Target.Port, last.TTL),
		proof(WantTrace(p.Addr, "icmp", 0).Key(), "ICMP trace passes hop %d (%s) and reaches the target at TTL %d", next.TTL, next.Address, reachedAt(icmp.Path)))
	f.Evidence = append(f.Evidence, e.passes(p)...)
	return f, true
}

// nextHopAfter is the first answering hop of a path beyond a TTL, the target included.
func nextHopAfter(p *probe.Path, ttl int) (probe.Hop, bool) {
	for _, h := range p.Hops {
		if h.TTL > ttl && h.Address.IsValid() {
			return h, true
		}
	}
	return probe.Hop{}, false
}

// stealthNeighbour: an on-link machine that answers ARP and nothing else.
func (e *Evidence) stealthNeighbour(a *Answer, p targetPair) (Finding, bool) {
	gw, link, ok := e.NextHop(p.Addr)
	ping := e.Ping(p.Addr)
	if !ok || gw.IsValid() || ping == nil || silentOnPurpose(ping) || e.Heard(p.Addr) || !e.arpAnswers(p.Addr, link) {
		return Finding{}, false
	}
	if e.moreProtocols(a, p) || e.Heard(p.Addr) {
		return Finding{}, false
	}
	f := filteredFinding(e, p, fmt.Sprintf("%s, on %s", p.Addr, link), WantPing(p.Addr))
	f.Summary = fmt.Sprintf("%s is on the segment and answers %s, but drops everything else we send.", sideOf(p.Target, p.Addr), resolutionProtocol(p.Addr))
	f.Evidence = append(f.Evidence,
		proof(WantARP(p.Addr, link).Key(), "%s answers %s on %s", p.Addr, resolutionProtocol(p.Addr), link),
		proof(WantPing(p.Addr).Key(), "%s: %s", p.Addr, echoText(ping)))
	f.Evidence = append(f.Evidence, e.otherProtocolProofs(p)...)
	f.Remedy = []string{"Look at the firewall of the machine itself", "If it allows this traffic the machine is hung: ARP is answered by the kernel, services are not"}
	return f, true
}
