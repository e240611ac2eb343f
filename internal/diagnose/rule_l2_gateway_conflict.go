package diagnose

import (
	"fmt"
	"strings"

	"fathom/probe"
	"fathom/sample"
)

var ruleGatewayConflict = Rule{
	ID: "l2.gateway_conflict", Layer: LayerLink,
	Title:       "More than one machine answers for the gateway's address",
	Explanation: "A second machine claims the address of the default gateway: a misconfigured host, a second DHCP or router box, or somebody redirecting traffic on purpose. Packets to the outside go to whichever answered last.",
	TellApart:   "One ARP question for the gateway, answers from several MACs. Redundant gateways (VRRP, HSRP) answer with one virtual MAC only.",
	Remedy:      []string{"Find the MAC that is not the router's in the switch's address table and unplug or renumber that machine", "Consider dynamic ARP inspection on the switch"},
	Validate:    []string{"arping -I <iface> <gateway> gets answers from one MAC only"},
	Sceptic:     "arping -I <iface> -c 3 <gateway>",
	References:  []string{"RFC 5227", "RFC 826"},
	Needs:       "CAP_NET_RAW",
	Explains:    []string{"l2.duplicate_ip", "ip.*", "path.*", "tcp.*", "dns.*", "http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		for _, g := range e.Gateways() {
			m, ok := e.Get(WantARP(g.Addr, g.Link))
			if !ok || m.Result == nil || m.Result.ARP == nil {
				continue
			}
			macs := e.foreignMACs(m.Result.ARP.MACs)
			if len(macs) == 1 && m.Result.Outcome == probe.OK {
				a.RuledOut = append(a.RuledOut, RuledOut{"l2.gateway_conflict", g.Addr.String(), fmt.Sprintf("only %s answers for the gateway %s", macs[0], g.Addr)})
			}
			if len(macs) < 2 || e.oneMachine(macs, g.Addr) {
				continue
			}
			a.Findings = append(a.Findings, Finding{
				Subject: g.Addr.String(), SubjectKind: sample.KindGateway, Location: "segment of " + g.Link,
				Severity: sample.Critical, Confidence: Likely,
				Summary:  fmt.Sprintf("%d machines on %s answer for the default gateway %s: %s.", len(macs), g.Link, g.Addr, strings.Join(macs, " and ")),
				Evidence: []Proof{proof(m.Want.Key(), "one question, answers from %s", strings.Join(macs, ", "))},
				Sceptic:  []string{fmt.Sprintf("arping -I %s -c 3 %s", g.Link, g.Addr)},
				Affects:  []string{TagAddr(g.Addr)},
			})
		}
		return a
	},
}
