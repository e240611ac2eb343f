package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleNoAddress = Rule{
	ID: "ip.no_address", Layer: LayerNetwork,
	Title:       "The interface has no usable address",
	Explanation: "The link works, but the interface was given no IP address that others can talk to: DHCP got no answer, router advertisements did not come, or a static address is missing. An address in 169.254.0.0/16 is what a host gives itself when DHCP fails.",
	TellApart:   "Carrier is there, and only link-local addresses or none at all; no other interface of the host has one either.",
	Remedy:      []string{"Ask DHCP again (dhclient -v <iface>, networkctl renew <iface>, nmcli device reapply <iface>) and look at its log", "Set the static address that belongs here"},
	Validate:    []string{"ip -br addr show dev <iface> lists a global address"},
	Sceptic:     "ip -br addr",
	References:  []string{"RFC 3927 (link-local IPv4)", "RFC 2131 (DHCP)", "RFC 4862 (SLAAC)"},
	Explains:    []string{"ip.no_route", "ip.gateway_unreachable", "ip.v6_broken", "dns.*", "tcp.*", "http.*", "path.*", "ip.blackhole_hop"},
	Check:       checkNoAddress,
}

func checkNoAddress(e *Evidence) (a Answer) {
	h := e.Host()
	var bare []facts.Link
	any := e.anotherUsableLink("")
	for _, l := range h.Links {
		if l.Kind == "loopback" || l.Master != "" || !l.Up || !l.Carrier || !ethernet(l) {
			continue
		}
		if e.hasGlobalAddr(l.Name) {
			any = true
			continue
		}
		if l.Kind == "bridge" && l.Ports == 0 || e.lowerOfAddressed(l.Name) {
			continue
		}
		bare = append(bare, l)
	}
	if any {
		bare = slices.DeleteFunc(bare, func(l facts.Link) bool { return e.Question.Link != l.Name })
		if len(bare) == 0 {
			a.RuledOut = append(a.RuledOut, RuledOut{Cause: "ip.no_address", Text: "this host has usable addresses: " + e.addressList()})
		}
	}
	for _, l := range bare {
		f := Finding{
			Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
			Severity: sample.Critical, Confidence: Confirmed,
			Summary:  fmt.Sprintf("%s has carrier but no usable IP address.", l.Name),
			Evidence: []Proof{proof("links", "%s is up with carrier", l.Name), proof("addresses", "%s: %s", l.Name, e.addressesOf(l.Name))},
			Sceptic:  []string{"ip -br addr show dev " + l.Name},
			Affects:  []string{TagLink(l.Name)},
		}
		if !any {
			f.Affects = append(f.Affects, TagHost)
			f.Evidence = append(f.Evidence, proof("addresses", "no other interface of this host has a usable address"))
		} else {
			f.Severity = sample.Minor
		}
		if e.hasAPIPA(l.Name) {
			f.Summary = fmt.Sprintf("%s got no address from DHCP and gave itself a link-local one.", l.Name)
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

// lowerOfAddressed: a VLAN, macvlan or the like on top of it has the address.
func (e *Evidence) lowerOfAddressed(link string) bool {
	for _, l := range e.Host().Links {
		if l.Parent == link && e.hasGlobalAddr(l.Name) {
			return true
		}
	}
	return false
}

func (e *Evidence) hasAPIPA(link string) bool {
	for _, a := range e.Host().Addrs {
		if a.Link == link && a.Prefix.Addr().Is4() && a.Prefix.Addr().IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}

func (e *Evidence) addressesOf(link string) string {
	var s []string
	for _, a := range e.Host().Addrs {
		if a.Link == link {
			s = append(s, a.Prefix.String())
		}
	}
	if len(s) == 0 {
		return "no address at all"
	}
	return "only " + strings.Join(s, ", ")
}

func (e *Evidence) addressList() string {
	var s []string
	for _, a := range e.Host().Addrs {
		if usableAddr(a) {
			s = append(s, fmt.Sprintf("%s (%s)", a.Prefix.Addr(), a.Link))
		}
	}
	return joinMax(s, 4)
}
