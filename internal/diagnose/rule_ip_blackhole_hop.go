package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"fathom/probe"
	"fathom/sample"
)

var ruleBlackholeHop = Rule{
	ID: "ip.blackhole_hop", Layer: LayerNetwork,
	Title:       "Packets vanish after a hop",
	Explanation: "Everything sent towards the target gets as far as one router and is never heard of again: no answer, and no message that says why. That router drops it (a blackhole route, a filter, a dead link that nobody noticed), or the next one does.",
	TellApart:   "Echo, TCP and traces by more than one protocol all end after the same hop, without an unreachable message. If other ports or protocols reach the target it is ip.filtered or tcp.filtered; with a message from the last router it is ip.host_down or ip.no_route.",
	Remedy:      []string{"Look at the named hop: its route for this prefix, its link to the next hop, its filters", "Ask the operator of that hop; send them the trace", "If the target is known to be firewalled completely, ask it on the port it serves"},
	Validate:    []string{"traceroute -n <address> goes on past that hop"},
	Sceptic:     "traceroute -n <address>; traceroute -n -T -p <port> <address>",
	References:  []string{"RFC 1812 section 4.3.3.1 (a router should say unreachable)"},
	Explains:    []string{"tcp.*", "udp.no_port", "dns.*", "http.*", "tls.*", "path.*"},
	Check:       checkBlackholeHop,
}

// aliveness ports are tried when a host answers no echo: any answer at all, even
// a refusal, proves that it is there.
var alivePorts = []uint16{443, 80, 22, 53}

func checkBlackholeHop(e *Evidence) (a Answer) {
	for _, p := range e.remotePairs() {
		ping, tr := e.Ping(p.Addr), e.Trace(p.Addr, "icmp")
		if ping == nil || tr == nil || e.Heard(p.Addr) {
			continue
		}
		if silentOnPurpose(ping) || tr.Path.LoopAt > 0 || e.saidAbout(p, anyError) != nil {
			continue
		}
		waiting := e.moreProtocols(&a, p)
		if waiting || e.Heard(p.Addr) {
			continue
		}
		last, ok := lastAnswering(tr.Path)
		gw, link, _ := e.NextHop(p.Addr)
		var where, who string
		switch {
		case ok:
			where, who = fmt.Sprintf("after hop %d (%s)", last.TTL, last.Address), last.Address.String()
		case gw.IsValid() && (e.Heard(zoned(gw, link)) || e.arpAnswers(gw, link)):
			where, who = fmt.Sprintf("after hop 1 (%s), the next hop", gw), gw.String()
			if e.isGateway(gw.String(), link) {
				where = fmt.Sprintf("after hop 1 (%s), the gateway", gw)
			}
		case !gw.IsValid():
			continue // on-link: ip.filtered or l2.neighbour_failed judge it
		default:
			continue // not even the gateway is there
		}
		next, other := e.hopBehind(who, p.Addr)
		if next.IsValid() {
			where = fmt.Sprintf("between hop %d (%s) and hop %d (%s)", max(last.TTL, 1), who, max(last.TTL, 1)+1, next)
		}
		f := Finding{
			Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: where,
			Severity: sample.Critical, Confidence: Likely,
			Summary: fmt.Sprintf("Everything to %s vanishes %s, without a message.", sideOf(p.Target, p.Addr), where),
			Evidence: []Proof{
				proof(WantPing(p.Addr).Key(), "%s: %s", p.Addr, echoText(ping)),
				proof(WantTrace(p.Addr, "icmp", 0).Key(), "ICMP trace: %s, then silence up to TTL %d", orWord(pathText(tr.Path, 1, lastTTL(tr.Path)), "no hop"), len(tr.Path.Hops)),
			},
			Sceptic: []string{"traceroute -n " + p.Addr.String()},
			Affects: []string{TagAddr(p.Addr), TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
		}
		f.Evidence = append(f.Evidence, e.otherProtocolProofs(p)...)
		if other.IsValid() {
			f.Evidence = append(f.Evidence, proof("path", "the path to %s goes on from there by %s and is answered", other, next))
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

func silentOnPurpose(r *probe.Result) bool {
	return r.Outcome == probe.LocalDrop || r.Outcome == probe.SendFailed || r.Outcome == probe.NoRoute || r.ICMP != nil
}

// anyError is any ICMP error but time exceeded, which every trace provokes.
func anyError(a netip.Addr, x *probe.ICMPError) bool {
	return x != nil && probe.OutcomeOfICMP(a.Is6(), x.Type, x.Code) != probe.TTLExceeded
}

func lastTTL(p *probe.Path) int {
	if h, ok := lastAnswering(p); ok {
		return h.TTL
	}
	return 0
}

// moreProtocols asks for what tells "vanishes for everyone" from "filtered":
// other protocols and ports. It reports whether something is still to come.
func (e *Evidence) moreProtocols(a *Answer, p targetPair) bool {
	ws := []Want{WantTraceLong(p.Addr), WantTrace(p.Addr, "udp", 0)}
	if p.Target.Port != 0 && p.Target.Scheme != "udp" {
		ws = append(ws, WantTrace(p.Addr, "tcp", p.Target.Port))
	}
	for _, port := range alivePorts {
		ws = append(ws, WantTCP(netip.AddrPortFrom(p.Addr, port)))
	}
	waiting := false
	for _, w := range ws {
		if _, ok := e.Get(w); !ok {
			a.Wants = append(a.Wants, w)
			waiting = true
		}
	}
	return waiting
}

func (e *Evidence) otherProtocolProofs(p targetPair) (out []Proof) {
	if r := e.Result(WantTrace(p.Addr, "udp", 0)); r != nil && r.Path != nil {
		out = append(out, proof(WantTrace(p.Addr, "udp", 0).Key(), "UDP trace ends after TTL %d as well", lastTTL(r.Path)))
	}
	silent := 0
	ports := append([]uint16{}, alivePorts...)
	if p.Target.Port != 0 && !slices.Contains(ports, p.Target.Port) {
		ports = append(ports, p.Target.Port)
	}
	for _, port := range ports {
		if r := e.Result(WantTCP(netip.AddrPortFrom(p.Addr, port))); r != nil && r.Outcome == probe.Timeout {
			silent++
		}
	}
	if silent > 0 {
		out = append(out, proof("tcp "+p.Addr.String(), "TCP SYNs to %s are unanswered too", plural(silent, "port", "ports")))
	}
	return out
}

func (e *Evidence) arpAnswers(a netip.Addr, link string) bool {
	m, ok := e.Get(WantARP(a, link))
	return ok && m.Result != nil && m.Result.ARP != nil && len(m.Result.ARP.MACs) > 0
}

// hopBehind finds, on the path to another measured address that answers, the
// router that comes after hop.
func (e *Evidence) hopBehind(hop string, not netip.Addr) (next, other netip.Addr) {
	for _, a := range e.remoteAddrs() {
		tr := e.Trace(a, "")
		if a == not || tr == nil || !e.Heard(a) {
			continue
		}
		for i, h := range tr.Path.Hops[:max(len(tr.Path.Hops)-1, 0)] {
			if n := tr.Path.Hops[i+1]; h.Address.String() == hop && n.Address.IsValid() && !n.Target {
				return n.Address, a
			}
		}
	}
	return netip.Addr{}, netip.Addr{}
}
