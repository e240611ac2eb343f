package diagnose

import (
	"fmt"

	"fathom/internal/facts"
	"fathom/sample"
)

// everythingAbove is what a broken link or interface can bring about.
var everythingAbove = []string{"link.mtu_mismatch", "link.qdisc_drops", "l2.*", "ip.*", "path.*", "tcp.*", "udp.*", "dns.*", "tls.*", "http.*", "edge.*"}

var ruleLinkDown = Rule{
	ID: "link.down", Layer: LayerLink,
	Title:       "The link is down",
	Explanation: "The interface is switched on, but it sees no partner: no cable, no light, a switched-off port at the other end, or (on virtual machines and containers) a peer interface that is down. Nothing can leave or arrive through it.",
	TellApart:   "IFF_UP is set and the carrier is 0. An interface that is switched off locally is link.admin_down; one that comes and goes is link.flapping. A bridge without ports (docker0 with no container) also shows no carrier and is fine.",
	Remedy:      []string{"Check the cable or optic and the port at the other end (is it shut, err-disabled, or in the wrong place?)", "For a virtual interface bring its peer up"},
	Validate:    []string{"The interface shows LOWER_UP and its carrier stays up for a minute", "fathom why reports the link as up"},
	Sceptic:     "ip -d -s link show dev <iface>",
	References:  []string{"Linux Documentation/networking/operstates.rst", "IEEE 802.3 clause 28 (link integrity)"},
	Explains:    everythingAbove,
	Check:       checkLinkDown,
}

func checkLinkDown(e *Evidence) (a Answer) {
	h := e.Host()
	for _, l := range h.Links {
		if !l.Up || l.Kind == "loopback" || !e.linkInUse(l) {
			continue
		}
		if l.Carrier {
			a.RuledOut = append(a.RuledOut, RuledOut{"link.down", l.Name, fmt.Sprintf("%s has carrier", l.Name)})
			continue
		}
		if l.Kind == "bridge" && !e.hasPortUp(l.Name) && !e.carriesTarget(l.Name) {
			continue
		}
		if l.Kind == "tun" && !e.carriesTarget(l.Name) && !e.carriesDefault(l.Name) {
			a.Notes = append(a.Notes, fmt.Sprintf("%s is a tunnel that no program holds open at the moment.", l.Name))
			continue
		}
		// Down now, but it has come and gone before: watch a little longer, so that
		// a flapping link is not called dead.
		if l.CarrierChanges >= 4 {
			a.Wants = append(a.Wants, WantWindow(flapWindow))
		}
		f := Finding{
			Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
			Severity: e.linkSeverity(l.Name), Confidence: Confirmed,
			Summary: fmt.Sprintf("%s is switched on but has no carrier: the cable, the port or the peer at the other end is down.", l.Name),
			Evidence: []Proof{
				proof("links", "%s: UP set, LOWER_UP clear, state %s", l.Name, orWord(l.OperState, "unknown")),
				proof("links", "carrier changed %d times since the interface came to be", l.CarrierChanges),
			},
			Sceptic: []string{"ip -d -s link show dev " + l.Name},
		}
		f.Evidence = append(f.Evidence, e.linkUse(l.Name)...)
		if ev, ok := e.lastLog("kernel.link_down", l.Name); ok {
			f.Since = ev.Time.UTC().Format("2006-01-02T15:04:05Z")
			f.Evidence = append(f.Evidence, proof("kernel log", "kernel at %s: %s", ev.Time.UTC().Format("15:04:05"), ev.Text))
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

// linkInUse: it has an address of its own (not only link-local), or a route or
// a target goes through it, or it is a member of a bond or bridge in use.
func (e *Evidence) linkInUse(l facts.Link) bool {
	if e.hasGlobalAddr(l.Name) || e.carriesTarget(l.Name) || e.Question.Link == l.Name {
		return true
	}
	for _, r := range e.Host().Routes {
		if r.Link == l.Name && !r.Dst.Addr().IsLinkLocalUnicast() && !r.Dst.Addr().IsMulticast() {
			return true
		}
	}
	return false
}

// hasPortUp: a bridge whose ports are all off (libvirt's, with its own tap) has
// nothing to carry and is fine.
func (e *Evidence) hasPortUp(bridge string) bool {
	for _, l := range e.Host().Links {
		if l.Master == bridge && l.Up {
			return true
		}
	}
	return false
}

func (e *Evidence) hasGlobalAddr(link string) bool {
	for _, a := range e.Host().Addrs {
		if a.Link == link && usableAddr(a) {
			return true
		}
	}
	return false
}

// usableAddr: one that other hosts can talk to.
func usableAddr(a facts.Addr) bool {
	ip := a.Prefix.Addr()
	return !ip.IsLinkLocalUnicast() && !ip.IsLoopback() && !ip.IsMulticast() && a.Scope != "host"
}

// carriesTarget: the kernel routes one of the asked targets through the link.
func (e *Evidence) carriesTarget(link string) bool {
	for _, t := range e.Question.Targets {
		for _, a := range e.TargetAddrs(t) {
			if _, l, ok := e.NextHop(a); ok && l == link {
				return true
			}
		}
	}
	return false
}

func (e *Evidence) carriesDefault(link string) bool {
	for _, g := range e.Gateways() {
		if g.Link == link {
			return true
		}
	}
	return false
}

// linkSeverity: critical where the way out or a target hangs on it, minor otherwise.
func (e *Evidence) linkSeverity(link string) sample.Severity {
	if e.carriesTarget(link) || e.carriesDefault(link) || !e.anotherUsableLink(link) {
		return sample.Critical
	}
	return sample.Minor
}

func (e *Evidence) anotherUsableLink(not string) bool {
	for _, l := range e.Host().Links {
		if l.Name != not && l.Up && l.Carrier && l.Kind != "loopback" && e.hasGlobalAddr(l.Name) {
			return true
		}
	}
	return false
}

// linkUse says what hangs on a link.
func (e *Evidence) linkUse(link string) []Proof {
	var out []Proof
	for _, ad := range e.Host().Addrs {
		if ad.Link == link && usableAddr(ad) {
			out = append(out, proof("addresses", "%s carries %s", link, ad.Prefix))
			break
		}
	}
	if e.carriesDefault(link) {
		out = append(out, proof("routes", "the default route goes through %s", link))
	}
	return out
}

func (e *Evidence) lastLog(kind, subject string) (sample.Event, bool) {
	if !e.Host().Privilege.Init { // the kernel log is shared: a line may be about another namespace's interface
		return sample.Event{}, false
	}
	log := e.Host().Log
	for i := len(log) - 1; i >= 0; i-- {
		if log[i].Kind == kind && log[i].Subject.Name == subject {
			return log[i], true
		}
	}
	return sample.Event{}, false
}

func orWord(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
