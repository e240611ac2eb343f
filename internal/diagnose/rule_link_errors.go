package diagnose

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"fathom/sample"
)

var ruleLinkErrors = Rule{
	ID: "link.errors", Layer: LayerLink,
	Title:       "Frames arrive damaged",
	Explanation: "The interface receives frames whose checksum or shape is wrong and throws them away. On a sound cable that practically never happens: it means a bad cable, connector or optic, a duplex mismatch, or a dying port.",
	TellApart:   "CRC, frame, length, symbol or alignment errors grow while we watch. Missed or dropped frames (the host was too slow) are link.rx_drops, and rx_dropped alone also counts frames nobody wanted.",
	Remedy:      []string{"Clean or replace the cable and optics", "Check duplex and speed at both ends", "Try another port, then another NIC"},
	Validate:    []string{"The error counters stay the same under load: ip -s -s link show dev <iface>"},
	Sceptic:     "ip -s -s link show dev <iface>; ethtool -S <iface> | grep -Ei 'crc|symbol|align|frame'",
	References:  []string{"Linux Documentation/networking/statistics.rst", "include/uapi/linux/if_link.h (struct rtnl_link_stats64)"},
	Explains:    []string{"path.loss", "path.corruption", "tcp.syn_loss", "link.rx_drops", "dns.resolver_slow"},
	Check:       checkLinkErrors,
}

// damage are driver counters of frames that arrived broken. The names differ by
// driver; these stems cover the common ones.
var damage = regexp.MustCompile(`(?i)(crc|fcs|symbol|align|jabber|code_err|phy_err|rx_frame_err|in_range_length|undersize|fragment.*err)`)

type errorKind struct {
	name string
	n    uint64
}

func checkLinkErrors(e *Evidence) (a Answer) {
	for _, l := range e.Host().Links {
		d, ok := e.LinkDelta(l.Name)
		if !ok || l.Kind == "loopback" || !l.Up {
			continue
		}
		kinds := []errorKind{
			{"CRC errors", d.RxCRCErrors}, {"frame errors", d.RxFrameErrors}, {"length errors", d.RxLengthErrors},
		}
		if l.Kind == "device" { // tunnels count a missing route as a carrier error
			kinds = append(kinds, errorKind{"carrier errors while sending", d.TxCarrierErrors}, errorKind{"aborted transmissions", d.TxAbortedErrors})
		}
		var n uint64
		var proofs []Proof
		for _, k := range kinds {
			if k.n > 0 {
				n += k.n
				proofs = append(proofs, proof("counters", "%s: %d %s %s", l.Name, k.n, k.name, e.windowText()))
			}
		}
		other := saturatingSub(d.RxErrors, d.RxCRCErrors+d.RxFrameErrors+d.RxLengthErrors+d.RxMissedErrors+d.RxFIFOErrors+d.RxOverErrors)
		if other > 0 {
			n += other
			proofs = append(proofs, proof("counters", "%s: %d receive errors of no stated kind %s", l.Name, other, e.windowText()))
		}
		if n == 0 {
			for name, x := range e.driverDelta(l.Name, damage) {
				n += x
				proofs = append(proofs, proof("ethtool -S", "%s: %s +%d %s", l.Name, name, x, e.windowText()))
			}
			sortProofs(proofs)
		}
		frames := d.RxPackets + d.TxPackets + n
		switch {
		case n == 0 && e.linkInUse(l):
			a.RuledOut = append(a.RuledOut, RuledOut{"link.errors", l.Name, fmt.Sprintf("%s: no damaged frame among %d %s", l.Name, frames, e.windowText())})
			continue
		case n == 0:
			continue
		case n < 3:
			a.Wants = append(a.Wants, WantWindow(flapWindow))
			if e.Window() < 5*time.Second {
				continue // one or two may be a leftover; the longer window decides
			}
		}
		f := Finding{
			Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
			Severity: sample.Major, Confidence: Confirmed,
			Summary:  fmt.Sprintf("%s receives damaged frames: %d errors beside %d good frames %s.", l.Name, n, d.RxPackets, e.windowText()),
			Evidence: append(proofs, proof("counters", "share of all frames: %s", percent(float64(n)/float64(frames)))),
			Sceptic:  []string{"ip -s -s link show dev " + l.Name, "ethtool -S " + l.Name},
		}
		if n < 10 {
			f.Confidence, f.Severity = Likely, sample.Minor
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

// notOurs are counters that look alike and mean something else: what forward
// error correction repaired, what the sending side or an XDP program dropped.
var notOurs = regexp.MustCompile(`(?i)(_corrected|corrected_|fec_corr|^tx|_tx_|xdp)`)

// driverDelta is the growth of the driver's own counters whose names match.
func (e *Evidence) driverDelta(link string, re *regexp.Regexp) map[string]uint64 {
	out := map[string]uint64{}
	if e.Before == nil || e.After == nil {
		return out
	}
	b, ok1 := e.Before.LinkByName(link)
	c, ok2 := e.After.LinkByName(link)
	if !ok1 || !ok2 {
		return out
	}
	for name, v := range c.DriverStats {
		if old := b.DriverStats[name]; v > old && re.MatchString(name) && !notOurs.MatchString(name) {
			out[name] = v - old
		}
	}
	return out
}

func sortProofs(p []Proof) {
	slices.SortFunc(p, func(a, b Proof) int {
		if a.Text < b.Text {
			return -1
		}
		return 1
	})
}

func saturatingSub(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

// linkLoss is the worst echo loss seen towards something that is directly on
// the link: what the link itself loses.
func (e *Evidence) linkLoss(link string) (lost, sent int, who string) {
	for i := range e.Measured {
		m := &e.Measured[i]
		r := m.Result
		if r == nil || r.Echo == nil || r.Echo.Received == 0 || m.Want.Size > 0 || m.Want.Via.IsValid() {
			continue
		}
		gw, l, ok := e.NextHop(r.Address)
		if l == link && ok && !gw.IsValid() || e.isGateway(r.Address.WithZone("").String(), link) {
			n := r.Echo.Sent - r.Echo.SendErrors
			if x := n - r.Echo.Received; x > lost {
				lost, sent, who = x, n, r.Address.String()
			}
		}
	}
	return lost, sent, who
}

func (e *Evidence) isGateway(addr, link string) bool {
	return slices.ContainsFunc(e.Gateways(), func(g Gateway) bool { return g.Link == link && g.Addr.String() == addr })
}
