package diagnose

import (
	"fmt"
	"slices"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleLinkAdminDown = Rule{
	ID: "link.admin_down", Layer: LayerLink,
	Title:       "The interface is switched off",
	Explanation: "Somebody or something on this host has set the interface down. Its routes are gone with it, so what should leave through it has no way, or takes another one.",
	TellApart:   "IFF_UP is clear although the interface holds addresses (or is the host's only way out). No carrier with IFF_UP set is link.down. An unused interface that is down is fine.",
	Remedy:      []string{"Bring it up: ip link set dev <iface> up (or through the network manager that owns it)", "Find out who took it down: the journal of NetworkManager, systemd-networkd or the shell history"},
	Validate:    []string{"ip link show dev <iface> shows UP and LOWER_UP, and its routes are back"},
	Sceptic:     "ip link show dev <iface>; ip addr show dev <iface>",
	References:  []string{"Linux Documentation/networking/operstates.rst"},
	Explains:    everythingAbove,
	Check:       checkLinkAdminDown,
}

func checkLinkAdminDown(e *Evidence) (a Answer) {
	for _, l := range e.Host().Links {
		if l.Up || l.Kind == "loopback" || slices.Contains(l.Flags, "noarp") {
			continue
		}
		configured := e.hasGlobalAddr(l.Name)
		only := !configured && physical(l) && l.Master == "" && !e.anotherUsableLink(l.Name) && e.onlyPhysical(l)
		if !configured && !only && e.Question.Link != l.Name {
			continue
		}
		f := Finding{
			Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
			Severity: sample.Minor, Confidence: Confirmed,
			Summary:  fmt.Sprintf("%s is switched off on this host (administratively down).", l.Name),
			Evidence: []Proof{proof("links", "%s: the UP flag is clear", l.Name)},
			Sceptic:  []string{"ip addr show dev " + l.Name},
			Remedy:   []string{"ip link set dev " + l.Name + " up, or through the network manager that owns it", "find out who took it down before it happens again"},
		}
		if configured {
			f.Evidence = append(f.Evidence, e.linkUse(l.Name)...)
		} else {
			f.Confidence = Likely
			f.Evidence = append(f.Evidence, proof("links", "no other interface of this host has a usable address"))
		}
		f.Affects = []string{TagLink(l.Name)}
		if !e.anotherUsableLink(l.Name) {
			f.Severity = sample.Critical
			f.Affects = append(f.Affects, TagHost)
		} else if e.brokenThrough(l.Name) {
			f.Severity = sample.Critical
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

// physical: an interface that reaches other machines, not a tunnel or container bridge.
func physical(l facts.Link) bool { return l.Kind == "device" || l.Kind == "veth" || l.Kind == "bond" }

func (e *Evidence) onlyPhysical(l facts.Link) bool {
	for _, o := range e.Host().Links {
		if o.Name != l.Name && physical(o) {
			return false
		}
	}
	return true
}

// brokenThrough: a target has no usable route and would have had one through link.
func (e *Evidence) brokenThrough(link string) bool {
	for _, t := range e.Question.Targets {
		for _, a := range e.TargetAddrs(t) {
			if !e.Usable(a) && e.Lookup(a) != nil && slices.Contains(e.DependsOnAddr(a), TagLink(link)) {
				return true
			}
		}
	}
	return false
}
