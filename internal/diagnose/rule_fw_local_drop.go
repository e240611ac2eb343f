package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

var ruleLocalDrop = Rule{
	ID: "fw.local_drop", Layer: LayerNetwork,
	Title:       "This host's own firewall drops it",
	Explanation: "The packets never leave this machine, or their answers arrive and are thrown away here: a rule of the local firewall (nftables, iptables) matches them.",
	TellApart:   "Sending fails with EPERM, or a packet socket on the interface sees no SYN go out (or sees the answer come in that the program never gets), or the loaded ruleset, evaluated for this 5-tuple, ends in drop or reject. When the packet does leave, the filter is elsewhere.",
	Remedy:      []string{"Allow the traffic in the rule named, above the line that drops it", "nft -a list ruleset shows the rule with its handle"},
	Validate:    []string{"The same probe is answered; the rule's counter stands still"},
	Sceptic:     "nft -a list ruleset; nft monitor trace (after: nft add rule … meta nftrace set 1)",
	References:  []string{"nft(8)", "Linux net/netfilter/core.c (NF_DROP_GETERR: EPERM)"},
	Explains:    []string{"ip.filtered", "ip.blackhole_hop", "ip.host_down", "ip.gateway_unreachable", "ip.v6_broken", "l2.neighbour_failed", "tcp.*", "udp.no_port", "dns.*", "http.*", "tls.*", "path.*"},
	Check:       checkLocalDrop,
}

// dnsPort is the only UDP port the witness watches (internal/witness filter).
const dnsPort = 53

// flow is one thing this host sends: what the firewall judges.
type flow struct {
	subject string
	kind    sample.SubjectKind
	addr    netip.Addr
	proto   string // tcp | udp | icmp
	port    uint16
	result  *probe.Result
	key     string
	depends []string
	affects []string
}

func checkLocalDrop(e *Evidence) (a Answer) {
	var seen []string
	for _, f := range e.flows() {
		if f.result == nil || f.proto == "icmp" && e.Heard(f.addr) {
			continue
		}
		fd, ok := e.localDrop(f)
		if !ok {
			continue
		}
		if i := slices.Index(seen, fd.Location); i >= 0 {
			// The same chain stops several things: one finding, the target's first.
			g := &a.Findings[i]
			g.Affects, g.Depends = addTags(g.Affects, fd.Affects...), addTags(g.Depends, fd.Depends...)
			if fd.Subject != g.Subject && len(g.Evidence) < 6 {
				g.Evidence = append(g.Evidence, proof(f.key, "it stops %s to %s as well", flowText(f), fd.Subject))
			}
			continue
		}
		seen = append(seen, fd.Location)
		a.Findings = append(a.Findings, fd)
	}
	if fw := e.Host().Firewall; fw != nil && len(a.Findings) == 0 {
		a.RuledOut = append(a.RuledOut, RuledOut{Cause: "fw.local_drop", Text: fmt.Sprintf("%s of this host's firewall read; none stops what was measured", plural(len(fw.Chains), "chain", "chains"))})
	}
	return a
}

// flows lists what was sent for the user's sake: to targets and resolvers. That a
// host may not ping its gateway is a policy, not a fault.
func (e *Evidence) flows() []flow {
	var out []flow
	for _, p := range e.remotePairs() {
		r, w := e.asked(p)
		proto := map[string]string{probe.KindTCP: "tcp", probe.KindUDP: "udp", probe.KindDNS: "udp", probe.KindICMP: "icmp"}[w.Kind]
		out = append(out, flow{p.Target.Raw, sample.KindTarget, p.Addr, proto, p.Target.Port, r, w.Key(), e.pairDepends(p.Target, p.Addr), []string{TagAddr(p.Addr), TagTarget(p.Target.Raw)}})
	}
	for _, s := range e.Servers() {
		for i := range e.Measured {
			m := &e.Measured[i]
			if m.Want.Kind == probe.KindDNS && m.Want.Target == s.String() && m.Result != nil {
				out = append(out, flow{s.Addr().String(), sample.KindResolver, s.Addr(), "udp", s.Port(), m.Result, m.Want.Key(), e.DependsOnAddr(s.Addr()), []string{TagAddr(s.Addr())}})
				break
			}
		}
	}
	return out
}

func (e *Evidence) localDrop(f flow) (Finding, bool) {
	r := f.result
	silent := r.Outcome == probe.Timeout || r.Outcome == probe.LocalDrop || r.Outcome == probe.Unreachable && e.ownICMP(r) || e.ownReset(f)
	if !silent {
		return Finding{}, false
	}
	out := Finding{
		Subject: f.subject, SubjectKind: f.kind, Severity: sample.Critical, Confidence: Likely,
		Location: "this host, firewall", Depends: f.depends, Affects: f.affects,
		Sceptic: []string{"nft -a list ruleset"},
	}
	if len(f.affects) == 0 {
		out.Affects = []string{TagAddr(f.addr)}
	}
	what := fmt.Sprintf("%s to %s", flowText(f), f.subject)
	wire, seen := e.wireFlow(f.addr, f.proto, f.port)
	votes := 0
	if r.Outcome == probe.LocalDrop {
		votes += 2
		out.Evidence = append(out.Evidence, proof(f.key, "sending %s fails with %s: this host's own kernel refuses it", what, orWord(r.Errno, "EPERM")))
	}
	hook, verdict := e.firewallSays(f)
	if verdict.Outcome == "drop" || verdict.Outcome == "reject" {
		votes++
		out.Location = "this host, chain " + verdict.Chain
		out.Evidence = append(out.Evidence, proof("firewall", "%s: %s ends in %s at: %s", verdict.Chain, what, verdict.Outcome, orWord(verdict.Rule, "the chain's policy")))
		if f.kind == sample.KindTarget {
			out.Remedy = []string{fmt.Sprintf("Allow it above that line, for example: nft insert rule %s %s accept", verdict.Chain, ruleText(f)), "nft -a list ruleset shows the rule with its handle"}
		}
	}
	sent := sentOut(f, wire)
	if e.witnessed() && r.Outcome == probe.Timeout && (f.proto != "udp" || f.port == dnsPort) {
		switch {
		case !seen || sent == 0:
			votes++
			out.Evidence = append(out.Evidence, proof("wire", "%d were sent, a packet socket on every interface saw 0 of them leave", sentCount(r)))
		// Only TCP: its socket was still waiting when the SYN-ACK came. An echo
		// or datagram seen on the wire may have come after its probe had ended.
		case f.proto == "tcp" && wire.SynAckIn > 0, hook == "input" && wire.In > 0:
			votes += 2
			hook = "input"
			out.Evidence = append(out.Evidence, proof("wire", "%d answers arrived on %s, but the kernel did not deliver them", max(wire.SynAckIn, wire.In), wire.Link))
		case hook == "output":
			return Finding{}, false // it left: whatever we think of the rules, they let it pass
		}
	}
	if votes == 0 || votes == 1 && verdict.Outcome == "" && r.Outcome != probe.LocalDrop && !e.witnessedQuiet(f) {
		return Finding{}, false
	}
	if votes > 1 {
		out.Confidence = Confirmed
	}
	if in, ok := e.reversePath(f, wire); ok && hook == "input" && verdict.Outcome == "" {
		out.Location = "this host, reverse-path filter (rp_filter) of " + in
		out.Summary = fmt.Sprintf("The answers of %s come back by %s, and this host's reverse-path filter drops them.", f.subject, in)
		out.Evidence = append(out.Evidence, proof("sysctl", "rp_filter is strict on %s, and the route to %s leaves by another interface", in, f.addr))
		out.Remedy = []string{"Make the way back the same: correct the routes here or at the far end", "Or loosen the check where asymmetric routing is meant: sysctl net.ipv4.conf." + in + ".rp_filter=2"}
		return out, true
	}
	out.Summary = fmt.Sprintf("This host's own firewall stops %s (%s).", what, orWord(verdict.Chain, hook))
	return out, true
}

// ownICMP: the unreachable was made by this host (a local reject rule).
func (e *Evidence) ownICMP(r *probe.Result) bool {
	return r.ICMP != nil && e.Host().HasAddr(r.ICMP.From)
}

// ownReset: refused at once, and the witness saw no SYN leave: a local reject with tcp reset.
func (e *Evidence) ownReset(f flow) bool {
	if f.proto != "tcp" || f.result.Outcome != probe.Refused || !e.witnessed() {
		return false
	}
	w, seen := e.wireFlow(f.addr, "tcp", f.port)
	return !seen || w.SynOut == 0
}

func flowText(f flow) string {
	if f.port == 0 {
		return "ICMP echo"
	}
	if f.proto == "tcp" {
		return fmt.Sprintf("TCP port %d", f.port)
	}
	return fmt.Sprintf("UDP port %d", f.port)
}

func ruleText(f flow) string {
	if f.port == 0 {
		return "icmp type echo-request"
	}
	return fmt.Sprintf("%s dport %d", f.proto, f.port)
}

// sentCount is how many packets a measurement believes to have sent.
func sentCount(r *probe.Result) int {
	switch {
	case r.Echo != nil:
		return r.Echo.Sent
	case r.TCP != nil:
		return r.TCP.Attempts + r.TCP.SYNRetrans
	case r.DNS != nil:
		return r.DNS.Tries
	}
	return 1
}

func sentOut(f flow, w facts.WireFlow) int {
	if f.proto == "tcp" {
		return w.SynOut
	}
	return w.Out
}

// witnessed: the packet socket was there, so "not seen" means something.
func (e *Evidence) witnessed() bool { return e.Witness }

// witnessedQuiet: other flows of this run were seen leaving, this one was not,
// and the neighbour is not what kept it (a packet that waits for ARP is not seen either).
func (e *Evidence) witnessedQuiet(f flow) bool {
	gw, link, ok := e.NextHop(f.addr)
	if !ok {
		return false
	}
	next := f.addr
	if gw.IsValid() {
		next = gw
	}
	return e.arpAnswers(next, link) || slices.Contains([]string{"reachable", "stale", "delay", "probe", "permanent"}, e.neighbourState(next, link))
}

// firewallSays evaluates the loaded ruleset for the flow, out and back in.
func (e *Evidence) firewallSays(f flow) (hook string, v facts.FWVerdict) {
	fw := e.Host().Firewall
	if fw == nil {
		return "output", facts.FWVerdict{}
	}
	fam := 4
	if f.addr.Is6() {
		fam = 6
	}
	proto, icmpType := f.proto, 8
	if fam == 6 && proto == "icmp" {
		proto, icmpType = "icmpv6", 128
	}
	_, link, _ := e.NextHop(f.addr)
	p := facts.Packet5{Family: fam, Proto: proto, Src: f.result.Source, Dst: f.addr, SPort: 45678, DPort: f.port, OIF: link, CTState: "new", ICMPType: icmpType, Length: 60}
	if v = fw.Verdict("output", p); v.Outcome == "drop" || v.Outcome == "reject" {
		return "output", v
	}
	back := facts.Packet5{Family: fam, Proto: proto, Src: f.addr, Dst: f.result.Source, SPort: f.port, DPort: 45678, IIF: link, CTState: "established", ICMPType: 0, Length: 60}
	if fam == 6 && f.proto == "icmp" {
		back.ICMPType = 129
	}
	if v = fw.Verdict("input", back); v.Outcome == "drop" || v.Outcome == "reject" {
		return "input", v
	}
	return "output", facts.FWVerdict{}
}

// reversePath: the answers came in by another interface than the route uses, and
// the kernel checks that strictly there (rp_filter 1, RFC 3704).
func (e *Evidence) reversePath(f flow, w facts.WireFlow) (in string, strict bool) {
	_, out, _ := e.NextHop(f.addr)
	for _, l := range append(slices.Clone(w.OtherLinksIn), w.Link) {
		if l == "" || l == out {
			continue
		}
		s := e.Host().Sysctls
		if s["net.ipv4.conf.all.rp_filter"] == "1" || s["net.ipv4.conf."+strings.ReplaceAll(l, ".", "/")+".rp_filter"] == "1" {
			return l, true
		}
	}
	return "", false
}
