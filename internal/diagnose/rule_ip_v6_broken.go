package diagnose

import (
	"fmt"
	"net/netip"

	"fathom/probe"
	"fathom/sample"
)

var ruleV6Broken = Rule{
	ID: "ip.v6_broken", Layer: LayerNetwork,
	Title:       "One address family works, the other does not",
	Explanation: "The name has IPv4 and IPv6 addresses, and only one of the families reaches the service. Programs that try the broken one first wait for a time-out on every connection, others hide it (happy eyeballs).",
	TellApart:   "Both families are probed at the same time to the same name. A host that has no address or route of a family at all does not use it: that is not a fault.",
	Remedy:      []string{"Repair the broken family (route, router advertisement, firewall, or the service's listening address)", "Until then withdraw its address record, or take the address off this host"},
	Validate:    []string{"curl -4 and curl -6 to the name both work"},
	Sceptic:     "curl -4 -sv -o /dev/null <url>; curl -6 -sv -o /dev/null <url>",
	References:  []string{"RFC 8305 (happy eyeballs)", "RFC 6724"},
	Explains:    []string{"ip.no_route", "ip.blackhole_hop", "ip.filtered", "ip.host_down", "ip.routing_loop", "l2.neighbour_failed", "tcp.*", "http.*", "tls.*", "path.mtu_blackhole", "path.loss"},
	Check: func(e *Evidence) (a Answer) {
		for _, t := range e.targets() {
			if f, ok := e.oneFamily(&a, t); ok {
				a.Findings = append(a.Findings, f)
			}
		}
		return a
	},
}

func (e *Evidence) oneFamily(a *Answer, t Target) (Finding, bool) {
	var good, bad [2][]netip.Addr // [0] IPv4, [1] IPv6
	for _, addr := range e.TargetAddrs(t) {
		i := 0
		if addr.Is6() {
			i = 1
		}
		switch works, known := e.addrWorks(t, addr); {
		case !known:
		case works:
			good[i] = append(good[i], addr)
		default:
			if e.familyAbsent(addr) {
				continue
			}
			bad[i] = append(bad[i], addr)
		}
	}
	for i := range 2 {
		j := 1 - i
		if len(good[i]) == 0 || len(bad[j]) == 0 || len(good[j]) > 0 {
			if len(good[0]) > 0 && len(good[1]) > 0 {
				a.RuledOut = append(a.RuledOut, RuledOut{"ip.v6_broken", t.Raw, fmt.Sprintf("%s works over IPv4 (%s) and IPv6 (%s)", t.Host, addrList(good[0]), addrList(good[1]))})
				return Finding{}, false
			}
			continue
		}
		broken, fine := family(bad[j][0]), family(good[i][0])
		f := Finding{
			Subject: t.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s path to %s", broken, addrList(bad[j])),
			Severity: sample.Major, Confidence: Confirmed,
			Summary: fmt.Sprintf("%s works over %s (%s) but not over %s (%s).", t.Raw, fine, addrList(good[i]), broken, addrList(bad[j])),
			Remedy:  []string{fmt.Sprintf("Repair %s towards %s: route, firewall, or the service's listening address", broken, addrList(bad[j])), "Until then withdraw that address record"},
			Depends: addTags([]string{TagTarget(t.Raw)}, TagName(t.Host)),
		}
		for _, x := range bad[j] {
			f.Evidence = append(f.Evidence, proof(e.workKey(t, x), "%s %s: %s", broken, x, e.workText(t, x)))
			f.Affects = addTags(f.Affects, TagAddr(x))
			f.Depends = addTags(f.Depends, e.DependsOnAddr(x)...)
		}
		f.Evidence = append(f.Evidence, proof(e.workKey(t, good[i][0]), "%s %s: %s", fine, good[i][0], e.workText(t, good[i][0])))
		if tr := e.Trace(bad[j][0], ""); tr != nil && !tr.Path.Reached {
			f.Evidence = append(f.Evidence, proof(WantTrace(bad[j][0], "icmp", 0).Key(), "%s trace: %s, then silence", broken, orWord(pathText(tr.Path, 1, max(lastTTL(tr.Path), 1)), "no hop answers")))
		}
		return f, true
	}
	return Finding{}, false
}

// addrWorks: whether what the user asked of the target works on this address;
// known is false while it has not been measured.
func (e *Evidence) addrWorks(t Target, addr netip.Addr) (works, known bool) {
	if l := e.Lookup(addr); l != nil {
		if _, refuses := routeRefuses(l); refuses {
			return false, true
		}
	}
	r, _ := e.asked(targetPair{t, addr})
	if r == nil {
		return false, false
	}
	if r.Outcome == probe.OK {
		return true, true
	}
	if t.Port == 0 && e.Heard(addr) {
		return true, true
	}
	// Silence on a bare host is final only when the other ways have been tried.
	return false, r.Outcome != probe.Timeout || t.Port != 0 || e.Trace(addr, "") != nil
}

func (e *Evidence) workKey(t Target, addr netip.Addr) string {
	_, w := e.asked(targetPair{t, addr})
	return w.Key()
}

func (e *Evidence) workText(t Target, addr netip.Addr) string {
	if l := e.Lookup(addr); l != nil {
		if why, refuses := routeRefuses(l); refuses {
			return why
		}
	}
	r, w := e.asked(targetPair{t, addr})
	switch {
	case r == nil:
		return "not measured"
	case w.Kind == probe.KindICMP:
		return echoText(r)
	case r.Outcome == probe.OK && r.RTT != nil:
		return fmt.Sprintf("port %d answers in %s", t.Port, r.RTT.Value)
	case r.ICMP != nil:
		return fmt.Sprintf("%s, ICMP from %s: %s", r.Outcome, r.ICMP.From, r.ICMP.Text)
	}
	return fmt.Sprintf("port %d: %s", t.Port, r.Outcome)
}
