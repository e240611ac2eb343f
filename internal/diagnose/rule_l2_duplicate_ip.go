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

var ruleDuplicateIP = Rule{
	ID: "l2.duplicate_ip", Layer: LayerLink,
	Title:       "Two machines claim the same address",
	Explanation: "More than one machine on this segment answers for one IP address. Neighbours send to whichever answered last, so connections break and recover at random, often after some minutes.",
	TellApart:   "Answers to one ARP (or neighbour discovery) question from different MAC addresses; for an address of our own, any answer at all. A host with two interfaces on one segment also answers twice: its MACs then belong to one machine.",
	Remedy:      []string{"Find the second MAC in the switch's address table and renumber that machine", "Check DHCP reservations against static addresses"},
	Validate:    []string{"arping -D -I <iface> <address> gets no answer from a second MAC"},
	Sceptic:     "arping -I <iface> -c 3 <address>",
	References:  []string{"RFC 5227 (IPv4 address conflict detection)", "RFC 4862 section 5.4 (IPv6 duplicate address detection)"},
	Needs:       "CAP_NET_RAW",
	Explains:    []string{"path.*", "tcp.*", "l2.neighbour_failed", "ip.gateway_unreachable", "ip.no_route", "dns.*", "http.*", "tls.*", "ip.blackhole_hop", "ip.filtered", "ip.host_down"},
	Check:       checkDuplicateIP,
}

func checkDuplicateIP(e *Evidence) (a Answer) {
	for i := range e.Measured {
		m := &e.Measured[i]
		if m.Want.Kind != probe.KindARP || m.Result == nil || m.Result.ARP == nil {
			continue
		}
		addr, err := netip.ParseAddr(m.Want.Target)
		if err != nil || e.isGateway(addr.String(), m.Want.Link) && !e.Host().HasAddr(addr) {
			continue // the gateway has a rule of its own
		}
		if f, ok := e.conflict(m, addr); ok {
			a.Findings = append(a.Findings, f)
		} else if m.Result.ARP.Own {
			a.RuledOut = append(a.RuledOut, RuledOut{"l2.duplicate_ip", addr.String(), fmt.Sprintf("nobody else on %s claims %s (%d probes)", m.Want.Link, addr, m.Result.ARP.Sent)})
		}
	}
	for _, ad := range e.Host().Addrs {
		if slices.Contains(ad.Flags, "dadfailed") && !slices.ContainsFunc(a.Findings, func(f Finding) bool { return f.Subject == ad.Prefix.Addr().String() }) {
			a.Findings = append(a.Findings, duplicateFinding(ad.Prefix.Addr(), ad.Link, Confirmed,
				proof("addresses", "the kernel's duplicate address detection failed for %s on %s: another station owns it", ad.Prefix.Addr(), ad.Link)))
		}
	}
	return a
}

// conflict judges the answers to one ARP question.
func (e *Evidence) conflict(m *Measured, addr netip.Addr) (Finding, bool) {
	foreign := e.foreignMACs(m.Result.ARP.MACs)
	switch {
	case e.Host().HasAddr(addr) && len(foreign) > 0:
		f := duplicateFinding(addr, m.Want.Link, Confirmed,
			proof(m.Want.Key(), "asked for our own address %s on %s, %s answered", addr, m.Want.Link, strings.Join(foreign, ", ")),
			proof("links", "%s itself has %s", m.Want.Link, e.macOf(m.Want.Link)))
		f.Summary = fmt.Sprintf("Another machine (%s) on %s uses this host's address %s.", strings.Join(foreign, ", "), m.Want.Link, addr)
		f.Severity = sample.Critical
		f.Affects = addTags(f.Affects, TagLink(m.Want.Link))
		return f, true
	case len(foreign) > 1 && !e.oneMachine(foreign, addr):
		f := duplicateFinding(addr, m.Want.Link, Likely,
			proof(m.Want.Key(), "one question, %d answers for %s: from %s", len(foreign), addr, strings.Join(foreign, " and ")))
		f.Summary = fmt.Sprintf("%d machines on %s answer for %s: %s.", len(foreign), m.Want.Link, addr, strings.Join(foreign, " and "))
		return f, true
	}
	return Finding{}, false
}

func duplicateFinding(addr netip.Addr, link string, c Confidence, p ...Proof) Finding {
	return Finding{
		Subject: addr.String(), SubjectKind: sample.KindAddress, Location: "segment of " + link,
		Severity: sample.Major, Confidence: c, Evidence: p,
		Summary: fmt.Sprintf("Another station on %s claims the address %s.", link, addr),
		Sceptic: []string{fmt.Sprintf("arping -I %s -c 3 %s", link, addr)},
		Affects: []string{TagAddr(addr)},
	}
}

// foreignMACs leaves out the MACs of this host's own interfaces: with two of
// them on one segment the kernel answers from both.
func (e *Evidence) foreignMACs(macs []string) []string {
	var out []string
	for _, m := range macs {
		own := slices.ContainsFunc(e.Host().Links, func(l facts.Link) bool { return strings.EqualFold(l.MAC, m) })
		if !own && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}

func (e *Evidence) macOf(link string) string {
	l, _ := e.Host().LinkByName(link)
	return orWord(l.MAC, "no MAC")
}

// oneMachine: the same MACs answer for another address as well, or one of them is
// known to own another address: a host with two interfaces on this segment, whose
// kernel answers from both (ARP flux).
func (e *Evidence) oneMachine(macs []string, addr netip.Addr) bool {
	for i := range e.Measured {
		m := &e.Measured[i]
		if m.Want.Kind == probe.KindARP && m.Want.Target != addr.String() && m.Result != nil && m.Result.ARP != nil && slices.Equal(e.foreignMACs(m.Result.ARP.MACs), macs) {
			return true
		}
	}
	owned := 0
	for _, mac := range macs {
		if slices.ContainsFunc(e.Host().Neighbours, func(n facts.Neighbour) bool {
			return strings.EqualFold(n.MAC, mac) && n.Address.Is4() && n.Address != addr
		}) {
			owned++
		}
	}
	return owned > 0 && owned < len(macs)
}
