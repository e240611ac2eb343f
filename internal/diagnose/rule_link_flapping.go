package diagnose

import (
	"fmt"
	"time"

	"fathom/sample"
)

// flapWindow is how long a suspicious link is watched: it catches what comes
// and goes every few seconds and still fits the ten seconds of a quick run.
const flapWindow = 5500 * time.Millisecond

var ruleLinkFlapping = Rule{
	ID: "link.flapping", Layer: LayerLink,
	Title:       "The link comes and goes",
	Explanation: "The carrier is lost and found again and again. Each time everything in flight is lost, neighbours and routes may be learned anew, and a switch may hold the port back for seconds (spanning tree). Users see short outages that are hard to reproduce.",
	TellApart:   "carrier_changes grows while we watch, or rtnetlink reports down and up events. A link that is simply dead is link.down.",
	Remedy:      []string{"Replace the cable or optic, try another switch port", "Check autonegotiation and energy-saving Ethernet at both ends", "Look for a script, a bond or a hypervisor that toggles the port"},
	Validate:    []string{"carrier_changes stays the same for an hour: cat /sys/class/net/<iface>/carrier_changes"},
	Sceptic:     "watch -d cat /sys/class/net/<iface>/carrier_changes",
	References:  []string{"Linux Documentation/ABI/testing/sysfs-class-net (carrier_changes)"},
	Explains:    append([]string{"link.down", "link.errors"}, everythingAbove...),
	Check:       checkLinkFlapping,
}

func checkLinkFlapping(e *Evidence) (a Answer) {
	for _, l := range e.Host().Links {
		// A bridge has carrier while a port has: containers come and go.
		virtual := l.Kind == "bridge" && !e.carriesTarget(l.Name) && !e.carriesDefault(l.Name)
		if l.Kind == "loopback" || virtual || !e.linkInUse(l) {
			continue
		}
		changes := e.carrierChanges(l.Name)
		// One change may be a single event; twice is a pattern. Watch longer to know.
		if changes == 1 {
			a.Wants = append(a.Wants, WantWindow(flapWindow))
		}
		if changes < 2 {
			if e.Window() > 0 {
				a.RuledOut = append(a.RuledOut, RuledOut{"link.flapping", l.Name, fmt.Sprintf("%s: the carrier did not flap %s", l.Name, e.windowText())})
			}
			continue
		}
		f := Finding{
			Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
			Severity: e.linkSeverity(l.Name), Confidence: Confirmed,
			Summary:  fmt.Sprintf("%s loses and regains its carrier: %d changes %s.", l.Name, changes, e.windowText()),
			Evidence: []Proof{proof("links", "%s: carrier changed %d times %s (%d since the interface came to be)", l.Name, changes, e.windowText(), l.CarrierChanges)},
			Sceptic:  []string{"watch -d cat /sys/class/net/" + l.Name + "/carrier_changes"},
		}
		if f.Severity == sample.Critical {
			f.Severity = sample.Major
		}
		for _, ev := range e.Events {
			if (ev.Kind == "link.down" || ev.Kind == "link.up") && ev.Subject.Name == l.Name && len(f.Evidence) < 5 {
				f.Evidence = append(f.Evidence, proof("rtnetlink", "%s at +%.1f s", ev.Kind, ev.Time.Sub(e.Started).Seconds()))
			}
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

// carrierChanges counts carrier changes of a link within the window: by the
// kernel's counter, or by the events seen, whichever saw more.
func (e *Evidence) carrierChanges(link string) int {
	n, ev := 0, 0
	if e.Before != nil && e.After != nil {
		b, ok1 := e.Before.LinkByName(link)
		c, ok2 := e.After.LinkByName(link)
		if ok1 && ok2 && b.Index == c.Index && c.CarrierChanges > b.CarrierChanges {
			n = int(c.CarrierChanges - b.CarrierChanges)
		}
	}
	for _, x := range e.Events {
		if (x.Kind == "link.down" || x.Kind == "link.up") && x.Subject.Name == link {
			ev++
		}
	}
	return max(n, ev)
}
