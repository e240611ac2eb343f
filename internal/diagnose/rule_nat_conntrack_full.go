package diagnose

import (
	"fmt"

	"fathom/sample"
)

var ruleConntrackFull = Rule{
	ID: "nat.conntrack_full", Layer: LayerNetwork,
	Title:       "The connection tracking table is full",
	Explanation: "This host's firewall or NAT remembers every connection in a table of fixed size. It is full, so packets of new connections are dropped while existing ones go on: it looks like a network that refuses newcomers.",
	TellApart:   "nf_conntrack_count stands at nf_conntrack_max, and the drop or early_drop counters grow while we watch, or the kernel logs \"nf_conntrack: table full, dropping packet\".",
	Remedy:      []string{"Find who fills it: conntrack -L | awk … by source, or a scan or leak in one program", "Raise net.netfilter.nf_conntrack_max (and the hash size nf_conntrack_buckets to a quarter of it)", "Shorten nf_conntrack_tcp_timeout_established, or exempt bulk traffic with notrack"},
	Validate:    []string{"nf_conntrack_count stays below 80 % of the maximum and the drop counter stands still"},
	Sceptic:     "cat /proc/sys/net/netfilter/nf_conntrack_{count,max}; conntrack -S",
	References:  []string{"Linux Documentation/networking/nf_conntrack-sysctl.rst", "net/netfilter/nf_conntrack_core.c (__nf_conntrack_alloc)"},
	Explains:    []string{"fw.local_drop", "ip.filtered", "ip.blackhole_hop", "ip.host_down", "path.*", "tcp.*", "udp.*", "dns.*", "http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		c := e.Host().Conntrack
		if c == nil || c.Max <= 0 {
			return a
		}
		var drop, early, failed uint64
		if e.Before != nil && e.After != nil && e.Before.Conntrack != nil {
			b := e.Before.Conntrack
			drop, early, failed = saturatingSub(c.Drop, b.Drop), saturatingSub(c.EarlyDrop, b.EarlyDrop), saturatingSub(c.InsertFailed, b.InsertFailed)
		}
		used := float64(c.Count) / float64(c.Max)
		// A drop with room in the table is a clash of two entries, not a full table.
		if used < 0.9 {
			a.RuledOut = append(a.RuledOut, RuledOut{Cause: "nat.conntrack_full", Text: fmt.Sprintf("%d of at most %d tracked connections", c.Count, c.Max)})
			return a
		}
		f := Finding{
			Subject: "nf_conntrack", SubjectKind: sample.KindTable, Location: "this host",
			Severity: sample.Critical, Confidence: Confirmed,
			Summary:  fmt.Sprintf("The connection tracking table is full: %d of at most %d entries, new connections are dropped.", c.Count, c.Max),
			Evidence: []Proof{proof("conntrack", "%d of %d entries in use (%s)", c.Count, c.Max, percent(used))},
			Sceptic:  []string{"cat /proc/sys/net/netfilter/nf_conntrack_count /proc/sys/net/netfilter/nf_conntrack_max", "conntrack -S"},
			Affects:  []string{TagHost},
		}
		if drop+early+failed > 0 {
			f.Evidence = append(f.Evidence, proof("counters", "%d new connections dropped, %d entries evicted early, %d inserts failed %s", drop, early, failed, e.windowText()))
		}
		if drop+early == 0 && used < 0.99 {
			f.Severity, f.Confidence = sample.Minor, Likely
			f.Summary = fmt.Sprintf("The connection tracking table is nearly full: %d of at most %d entries.", c.Count, c.Max)
		}
		a.Findings = append(a.Findings, f)
		return a
	},
}
