package diagnose

import (
	"fmt"

	"fathom/sample"
)

var ruleLinkQdiscDrops = Rule{
	ID: "link.qdisc_drops", Layer: LayerLink,
	Title:       "This host's own send queue drops packets",
	Explanation: "The queue discipline of the interface throws away packets that programs here want to send: its queue is too short, or a shaper (tbf, htb) lets out less than is offered. The network has nothing to do with it.",
	TellApart:   "tc's drop and overlimit counters grow while we watch, with the link far below its capacity. At capacity it is link.saturated.",
	Remedy:      []string{"Raise the shaper's rate or burst, or remove it: tc qdisc show dev <iface>", "Lengthen the queue (limit, txqueuelen) or use fq_codel"},
	Validate:    []string{"tc -s qdisc show dev <iface>: dropped stays the same under load"},
	Sceptic:     "tc -s qdisc show dev <iface>",
	References:  []string{"tc(8)", "Linux net/sched/"},
	Explains:    []string{"path.*", "tcp.syn_loss", "tcp.retransmissions", "dns.resolver_slow", "dns.resolver_down", "http.server_slow", "tls.handshake_failed"},
	Check:       checkLinkQdiscDrops,
}

func checkLinkQdiscDrops(e *Evidence) (a Answer) {
	for _, l := range e.Host().Links {
		d, ok := e.LinkDelta(l.Name)
		if !ok || !l.Up || l.Kind == "loopback" {
			continue
		}
		drops, backlog := e.queueTrouble(l.Name)
		if drops == 0 {
			if e.linkInUse(l) {
				a.RuledOut = append(a.RuledOut, RuledOut{"link.qdisc_drops", l.Name, fmt.Sprintf("%s: its send queue dropped nothing %s", l.Name, e.windowText())})
			}
			continue
		}
		offered := d.TxPackets + drops
		if drops < 5 || float64(drops) < 0.001*float64(offered) {
			continue
		}
		f := Finding{
			Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
			Severity: sample.Major, Confidence: Confirmed,
			Summary:  fmt.Sprintf("The send queue of %s drops packets: %d of %d offered %s (%s).", l.Name, drops, offered, e.windowText(), percent(float64(drops)/float64(offered))),
			Evidence: []Proof{proof("qdisc", "%s: %d dropped, %d sent %s, %d bytes waiting now", l.Name, drops, d.TxPackets, e.windowText(), backlog)},
			Sceptic:  []string{"tc -s qdisc show dev " + l.Name},
		}
		for _, q := range e.After.Qdiscs {
			if q.Link == l.Name && !q.Class && (q.Parent == "root" || q.RateBps > 0) && len(f.Evidence) < 4 {
				text := fmt.Sprintf("queue discipline %s %s", q.Kind, q.Handle)
				if q.RateBps > 0 {
					text += ", rate " + rateText(float64(q.RateBps))
				}
				if q.Limit > 0 {
					text += fmt.Sprintf(", limit %d", q.Limit)
				}
				f.Evidence = append(f.Evidence, Proof{Text: text, Measurement: "qdisc"})
			}
		}
		f.Evidence = append(f.Evidence, proof("counters", "%s sends %s %s", l.Name, rateText(float64(d.TxBytes)*8/e.Window().Seconds()), e.windowText()))
		a.Findings = append(a.Findings, f)
	}
	return a
}
