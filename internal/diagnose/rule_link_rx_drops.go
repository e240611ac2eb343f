package diagnose

import (
	"fmt"
	"regexp"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleLinkRxDrops = Rule{
	ID: "link.rx_drops", Layer: LayerLink,
	Title:       "Received frames are dropped before the stack sees them",
	Explanation: "The NIC, its ring buffer or the kernel's per-CPU backlog overflows: frames arrive intact and are thrown away because this host does not fetch them fast enough.",
	TellApart:   "rx_missed, rx_fifo, rx_over or the driver's no-buffer counters grow, or rx_dropped grows together with softnet drops or with loss towards a direct neighbour. rx_dropped on its own also counts frames of unknown protocols (LLDP, spanning tree) and is then harmless.",
	Remedy:      []string{"Larger receive ring: ethtool -G <iface> rx <max>", "Spread the load over CPUs: RSS queues (ethtool -L), RPS (/sys/class/net/<iface>/queues/rx-0/rps_cpus)", "Raise net.core.netdev_max_backlog and net.core.netdev_budget when softnet drops grow"},
	Validate:    []string{"The counters stay the same while traffic is at its peak"},
	Sceptic:     "ip -s -s link show dev <iface>; cat /proc/net/softnet_stat",
	References:  []string{"Linux Documentation/networking/statistics.rst", "net/core/dev.c (enqueue_to_backlog)", "Linux Documentation/networking/scaling.rst"},
	Explains:    []string{"path.loss", "tcp.syn_loss", "tcp.retransmissions"},
	Check:       checkLinkRxDrops,
}

var noBuffer = regexp.MustCompile(`(?i)(no_?buf|missed|out_of_buffer|rx_discard|rx_over|fifo|alloc_fail|rx_no_dma|kicks_drop|rx.*_drops$)`)

func checkLinkRxDrops(e *Evidence) (a Answer) {
	soft, softOK := e.softnetDropped()
	for _, l := range e.Host().Links {
		d, ok := e.LinkDelta(l.Name)
		if !ok || l.Kind == "loopback" || !l.Up {
			continue
		}
		ring := d.RxMissedErrors + d.RxFIFOErrors + d.RxOverErrors
		var proofs []Proof
		if ring > 0 {
			proofs = append(proofs, proof("counters", "%s: %d missed, %d fifo, %d overrun %s", l.Name, d.RxMissedErrors, d.RxFIFOErrors, d.RxOverErrors, e.windowText()))
		} else {
			for name, x := range e.driverDelta(l.Name, noBuffer) {
				ring += x
				proofs = append(proofs, proof("ethtool -S", "%s: %s +%d %s", l.Name, name, x, e.windowText()))
			}
			sortProofs(proofs)
		}
		n, conf := ring, Confirmed
		if ring == 0 {
			n, conf, proofs = e.stackDrops(l, d, soft)
		}
		total := d.RxPackets + n
		if n < 5 || float64(n) < 0.001*float64(total) {
			if d.RxDropped >= 5 && n == 0 {
				a.Notes = append(a.Notes, fmt.Sprintf("%s counted %d rx_dropped %s without missed frames, softnet drops or loss to a neighbour: frames of protocols nobody here listens to (LLDP, spanning tree, other VLANs). Harmless.", l.Name, d.RxDropped, e.windowText()))
			}
			if e.linkInUse(l) {
				a.RuledOut = append(a.RuledOut, RuledOut{"link.rx_drops", l.Name, fmt.Sprintf("%s: %d frames received, none missed %s", l.Name, d.RxPackets, e.windowText())})
			}
			continue
		}
		if softOK && soft > 0 && ring > 0 {
			proofs = append(proofs, proof("counters", "softnet dropped %d frames %s", soft, e.windowText()))
		}
		a.Findings = append(a.Findings, Finding{
			Subject: l.Name, SubjectKind: sample.KindInterface, Location: "this host, " + l.Name,
			Severity: sample.Major, Confidence: conf,
			Summary:  fmt.Sprintf("%s drops received frames: %d of %d %s never reached the network stack.", l.Name, n, total, e.windowText()),
			Evidence: proofs,
			Sceptic:  []string{"ip -s -s link show dev " + l.Name, "cat /proc/net/softnet_stat"},
		})
	}
	return a
}

// stackDrops judges rx_dropped without ring errors: only together with softnet
// drops or with loss to a neighbour on this link is it more than unknown frames.
func (e *Evidence) stackDrops(l facts.Link, d facts.LinkStats, soft uint64) (uint64, Confidence, []Proof) {
	if d.RxDropped == 0 {
		return 0, Inconclusive, nil
	}
	p := []Proof{proof("counters", "%s: rx_dropped +%d beside %d frames %s", l.Name, d.RxDropped, d.RxPackets, e.windowText())}
	if soft > 0 {
		// The softnet counters are the machine's: another interface may have caused them.
		return min(d.RxDropped, soft), Likely, append(p, proof("counters", "softnet dropped %d frames %s: the per-CPU backlog (net.core.netdev_max_backlog=%s) overflowed", soft, e.windowText(), orWord(e.Host().Sysctls["net.core.netdev_max_backlog"], "?")))
	}
	if lost, sent, who := e.linkLoss(l.Name); lost >= 2 {
		return d.RxDropped, Likely, append(p, proof("icmp "+who, "%s on this link: %s", who, lossText(lost, sent)))
	}
	return 0, Inconclusive, nil
}

// softnetDropped sums the backlog drops of all CPUs over the window. The
// counters belong to the machine, not to a network namespace.
func (e *Evidence) softnetDropped() (n uint64, ok bool) {
	if e.Before == nil || e.After == nil {
		return 0, false
	}
	old := map[int]facts.Softnet{}
	for _, s := range e.Before.Softnet {
		old[s.CPU] = s
	}
	for _, s := range e.After.Softnet {
		if o, have := old[s.CPU]; have {
			n, ok = n+saturatingSub(s.Dropped, o.Dropped), true
		}
	}
	return n, ok
}
