package diagnose

import (
	"fmt"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleLinkSaturated = Rule{
	ID: "link.saturated", Layer: LayerLink,
	Title:       "The link is used up to its capacity",
	Explanation: "Nearly every bit the interface (or the shaper on it) can carry is in use. Packets queue, delay grows, and when the queue is full they are dropped. Everything through this link suffers at once.",
	TellApart:   "Bits per second against the link speed or the configured shaper rate, together with queue drops, a standing queue or higher delay. Drops far below the capacity are link.qdisc_drops.",
	Remedy:      []string{"Find who uses it (fathom top, nethogs) and move or limit that traffic", "Raise the shaper or order more capacity", "Use a fair queue (fq_codel, cake) so that one flow cannot starve the others"},
	Validate:    []string{"Utilisation stays below 80 % at the busy hour and the queue's drop counter stands still"},
	Sceptic:     "sar -n DEV 1 5; tc -s qdisc show dev <iface>",
	References:  []string{"RFC 7567 (active queue management)"},
	Explains:    []string{"link.qdisc_drops", "link.rx_drops", "path.*", "tcp.syn_loss", "tcp.retransmissions", "http.server_slow", "dns.resolver_slow", "dns.resolver_down", "tls.handshake_slow", "tls.handshake_failed", "udp.rcvbuf_overflow"},
	Check:       checkLinkSaturated,
}

// saturation is the share of capacity from which a link counts as full: framing
// and bursts keep a full link a little below its nominal rate.
const saturation = 0.90

func checkLinkSaturated(e *Evidence) (a Answer) {
	w := e.Window().Seconds()
	if w <= 0 {
		return a
	}
	for _, l := range e.Host().Links {
		d, ok := e.LinkDelta(l.Name)
		if !ok || !l.Up || l.Kind == "loopback" {
			continue
		}
		for _, dir := range []struct {
			name  string
			bytes uint64
			out   bool
		}{{"sends", d.TxBytes, true}, {"receives", d.RxBytes, false}} {
			bps := float64(dir.bytes) * 8 / w
			capacity, what := e.capacity(l, dir.out)
			if capacity <= 0 {
				continue
			}
			use := bps / capacity
			if use < saturation {
				if e.linkInUse(l) && dir.out {
					a.RuledOut = append(a.RuledOut, RuledOut{"link.saturated", l.Name, fmt.Sprintf("%s sends %s of %s (%s)", l.Name, rateText(bps), rateText(capacity), what)})
				}
				continue
			}
			f := Finding{
				Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
				Severity: sample.Minor, Confidence: Likely,
				Summary:  fmt.Sprintf("%s is full: it %s %s of %s (%s).", l.Name, dir.name, rateText(bps), rateText(capacity), percent(min(use, 1))),
				Evidence: []Proof{proof("counters", "%s %s %s %s; capacity %s by %s", l.Name, dir.name, rateText(bps), e.windowText(), rateText(capacity), what)},
				Sceptic:  []string{"sar -n DEV 1 5", "tc -s qdisc show dev " + l.Name},
			}
			if drops, backlog := e.queueTrouble(l.Name); dir.out && (drops > 0 || backlog > 0) {
				f.Severity, f.Confidence = sample.Major, Confirmed
				f.Evidence = append(f.Evidence, proof("qdisc", "its queue dropped %d packets %s and holds %d bytes now", drops, e.windowText(), backlog))
			}
			a.Findings = append(a.Findings, f)
		}
	}
	return a
}

// capacity is the rate limit of a link in bits per second and where it comes from:
// the tightest shaper at the root of its queue, else the negotiated speed.
func (e *Evidence) capacity(l facts.Link, out bool) (bps float64, what string) {
	if l.SpeedMbps > 0 && l.Kind != "tun" {
		bps, what = float64(l.SpeedMbps)*1e6, "link speed"
	}
	if !out {
		return bps, what
	}
	for _, q := range e.Host().Qdiscs {
		if q.Link != l.Name || q.RateBps == 0 {
			continue
		}
		rate := float64(max(q.RateBps, q.CeilBps))
		// A root shaper, or the top class of a hierarchical one, limits everything.
		top := !q.Class && q.Parent == "root" || q.Class && e.topClass(q)
		if top && (bps == 0 || rate < bps) {
			bps, what = rate, q.Kind+" shaper"
		}
	}
	return bps, what
}

// topClass: its parent is the root qdisc and it has no sibling.
func (e *Evidence) topClass(c facts.Qdisc) bool {
	n := 0
	for _, q := range e.Host().Qdiscs {
		if q.Link == c.Link && q.Class && (q.Parent == c.Parent || q.Parent == "root") {
			n++
		}
	}
	return n == 1 || c.Parent == "root" && n == 1
}

// queueTrouble sums what the link's queue disciplines dropped over the window
// and what waits in them now. Classes repeat their parents' counts and are left out.
func (e *Evidence) queueTrouble(link string) (drops uint64, backlog int) {
	if e.Before == nil || e.After == nil {
		return 0, 0
	}
	for _, q := range e.After.Qdiscs {
		if q.Link != link || q.Class || q.Kind == "ingress" || q.Kind == "clsact" {
			continue
		}
		backlog = max(backlog, q.Backlog)
		for _, o := range e.Before.Qdiscs {
			if o.Link == link && !o.Class && o.Handle == q.Handle && o.Kind == q.Kind && o.Parent == q.Parent {
				// A child's drops are counted in its parent as well.
				drops = max(drops, saturatingSub(q.Drops, o.Drops))
			}
		}
	}
	return drops, backlog
}
