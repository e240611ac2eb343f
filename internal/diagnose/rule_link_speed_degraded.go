package diagnose

import (
	"fmt"

	"fathom/sample"
)

var ruleLinkSpeedDegraded = Rule{
	ID: "link.speed_degraded", Layer: LayerLink,
	Title:       "The link runs slower than both ends can",
	Explanation: "Autonegotiation settled on less than both partners support, or on half duplex. A bad pair in the cable, an old cable, or one end with a fixed setting does that. Half duplex against full duplex loses frames as soon as both sides send.",
	TellApart:   "Negotiated speed against the fastest mode of this NIC and the fastest mode the partner advertises; duplex half. A slow speed that nobody could exceed is not a fault.",
	Remedy:      []string{"Use autonegotiation at both ends", "Replace the cable (category 5e or better; all four pairs)", "Check the partner's port configuration"},
	Validate:    []string{"ethtool <iface> shows the expected speed and full duplex after the link has come up again"},
	Sceptic:     "ethtool <iface>",
	References:  []string{"IEEE 802.3 clause 28 (autonegotiation)"},
	Explains:    []string{"link.errors", "link.saturated", "path.loss", "path.congested"},
	Check:       checkLinkSpeed,
}

func checkLinkSpeed(e *Evidence) (a Answer) {
	for _, l := range e.Host().Links {
		if !l.Up || !l.Carrier || !e.linkInUse(l) {
			continue
		}
		possible := min(l.SupportedMbps, l.PartnerMbps)
		half := l.Duplex == "half"
		slow := l.SpeedMbps > 0 && possible > l.SpeedMbps
		if !half && !slow {
			if l.SpeedMbps > 0 && l.Duplex == "full" {
				a.RuledOut = append(a.RuledOut, RuledOut{"link.speed_degraded", l.Name, fmt.Sprintf("%s runs at %d Mbit/s full duplex", l.Name, l.SpeedMbps)})
			}
			continue
		}
		f := Finding{
			Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
			Severity: sample.Major, Confidence: Confirmed,
			Evidence: []Proof{proof("ethtool", "%s: %d Mbit/s, %s duplex", l.Name, l.SpeedMbps, orWord(l.Duplex, "unknown"))},
			Sceptic:  []string{"ethtool " + l.Name},
		}
		if slow {
			f.Summary = fmt.Sprintf("%s negotiated %d Mbit/s although both ends can do %d Mbit/s.", l.Name, l.SpeedMbps, possible)
			f.Evidence = append(f.Evidence, proof("ethtool", "this NIC supports up to %d Mbit/s, the partner advertises up to %d Mbit/s", l.SupportedMbps, l.PartnerMbps))
		} else {
			f.Summary = fmt.Sprintf("%s runs in half duplex (%d Mbit/s): it cannot send and receive at the same time.", l.Name, l.SpeedMbps)
			f.Remedy = append([]string{"Set both ends to autonegotiation; a fixed setting at one end makes the other fall back to half duplex"}, ruleLinkSpeedDegradedRemedy...)
		}
		if d, ok := e.LinkDelta(l.Name); ok && d.Collisions > 0 {
			f.Evidence = append(f.Evidence, proof("counters", "%d collisions %s", d.Collisions, e.windowText()))
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

var ruleLinkSpeedDegradedRemedy = []string{"Replace the cable (category 5e or better; all four pairs)", "Check the partner's port configuration"}
