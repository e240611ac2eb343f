package diagnose

import (
	"fmt"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleNeighbourTableFull = Rule{
	ID: "l2.neighbour_table_full", Layer: LayerLink,
	Title:       "The kernel's neighbour table is full",
	Explanation: "The ARP or neighbour discovery cache has reached its hard limit. New neighbours cannot be learned, so some addresses on the segment become unreachable at random while others work.",
	TellApart:   "The entries stand at gc_thresh3, and the kernel's table_fulls counter or its log line \"neighbour table overflow\" grows while we watch.",
	Remedy:      []string{"Raise net.ipv4.neigh.default.gc_thresh1/2/3 (for example 4096/8192/16384), or the net.ipv6 ones", "Make the broadcast domain smaller", "Look for a scan: which process talks to thousands of on-link addresses?"},
	Validate:    []string{"cat /proc/net/stat/arp_cache: table_fulls no longer grows"},
	Sceptic:     "ip -s ntable show name arp_cache; cat /proc/net/stat/arp_cache; dmesg | grep overflow",
	References:  []string{"Linux net/core/neighbour.c (neigh_alloc)", "Linux Documentation/networking/ip-sysctl.rst (gc_thresh3)"},
	Explains:    []string{"l2.neighbour_failed", "ip.gateway_unreachable", "ip.host_down", "ip.blackhole_hop", "path.loss", "tcp.filtered", "fw.local_drop", "dns.*", "http.*"},
	Check: func(e *Evidence) (a Answer) {
		for _, t := range e.Host().NeighTables {
			fulls := e.tableFulls(t.Name)
			full := t.Thresh3 > 0 && t.Entries >= t.Thresh3*95/100
			if !full && (fulls == 0 || t.Entries < t.Thresh3/2) {
				if t.Thresh3 > 0 {
					a.RuledOut = append(a.RuledOut, RuledOut{"l2.neighbour_table_full", t.Name, fmt.Sprintf("%s holds %d of at most %d entries", t.Name, t.Entries, t.Thresh3)})
				}
				continue
			}
			f := Finding{
				Subject: t.Name, SubjectKind: sample.KindTable, Location: "this host",
				Severity: sample.Critical, Confidence: Confirmed,
				Summary:  fmt.Sprintf("The kernel's %s table is full (%d of at most %d entries): new neighbours cannot be reached.", tableWord(t.Name), t.Entries, t.Thresh3),
				Evidence: []Proof{proof("neighbour tables", "%s: %d entries, gc_thresh3 is %d", t.Name, t.Entries, t.Thresh3)},
				Sceptic:  []string{"ip -s ntable show name " + t.Name, "cat /proc/net/stat/" + t.Name},
				Affects:  []string{TagHost},
			}
			if fulls > 0 {
				f.Evidence = append(f.Evidence, proof("counters", "the kernel refused a new entry %d times %s (table_fulls)", fulls, e.windowText()))
			} else {
				f.Severity, f.Confidence = sample.Minor, Likely
				f.Summary = fmt.Sprintf("The kernel's %s table is nearly full: %d of at most %d entries.", tableWord(t.Name), t.Entries, t.Thresh3)
			}
			for _, ev := range e.Host().Log {
				if ev.Kind == "kernel.neighbour_overflow" && !ev.Time.Before(e.Started) && len(f.Evidence) < 4 {
					f.Evidence = append(f.Evidence, proof("kernel log", "kernel: %s", ev.Text))
				}
			}
			a.Findings = append(a.Findings, f)
		}
		return a
	},
}

func tableWord(name string) string {
	if name == "ndisc_cache" {
		return "IPv6 neighbour"
	}
	return "ARP"
}

// tableFulls is how often the table refused an entry within the window.
func (e *Evidence) tableFulls(name string) uint64 {
	if e.Before == nil || e.After == nil {
		return 0
	}
	get := func(ts []facts.NeighTable) (facts.NeighTable, bool) {
		for _, t := range ts {
			if t.Name == name {
				return t, true
			}
		}
		return facts.NeighTable{}, false
	}
	b, ok1 := get(e.Before.NeighTables)
	c, ok2 := get(e.After.NeighTables)
	if !ok1 || !ok2 {
		return 0
	}
	return saturatingSub(c.TableFulls, b.TableFulls)
}
