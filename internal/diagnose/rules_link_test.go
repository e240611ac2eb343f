package diagnose

import (
	"net/netip"
	"testing"
	"time"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

const (
	critical = sample.Critical
	major    = sample.Major
	minor    = sample.Minor
	info     = sample.Info
)

func cut(l *facts.Link) { l.Carrier, l.OperState, l.SpeedMbps = false, "down", 0 }

// everythingSilent: nothing outside this host answers anything.
var everythingSilent = edit(func(w Want) bool { return wantAddr(w).IsValid() && !wantAddr(w).IsLoopback() }, func(w Want, m *Measured) {
	silence(m.Result)
	if m.Result.Kind == probe.KindPath {
		m.Result.Path.Hops = nil
		pad(m.Result.Path)
	}
})

var secondCard = facts.Link{Name: "eth1", Kind: "device", Up: true, Carrier: true, OperState: "up", MTU: 1500, MAC: "02:00:00:00:00:12", SpeedMbps: 1000, Duplex: "full"}

func TestLinkRules(t *testing.T) {
	off := func(h *facts.Host) {
		l := linkOf(h, "eth0")
		cut(l)
		l.Up = false
	}
	card := func(f func(*facts.Link)) facts.Link {
		l := secondCard
		f(&l)
		return l
	}
	judge(t, []verdictOf{
		{
			name: "flapping: four carrier changes in the window", opts: opts(eth0Later(func(l *facts.Link) { l.CarrierChanges += 4 })),
			cause: "link.flapping", subject: "eth0", location: "this host, eth0", severity: major, conf: Confirmed, proof: "4 times",
		},
		{
			name: "flapping: seen by events only, and the loss it costs", opts: opts(askAddr(webAddr), lossy(webAddr, 0.1), lossy(gwAddr, 0.1), lossy(hop2, 0.1), lossy(hop3, 0.1),
				refused(to(webAddr)), finally(func(e *Evidence) {
					for i, k := range []string{"link.down", "link.up", "link.down", "link.up"} {
						e.Events = append(e.Events, sample.Event{Time: t0.Add(time.Duration(i) * time.Second / 2), Kind: k, Subject: sample.Subject{Kind: sample.KindInterface, Name: "eth0"}})
					}
				}), change(both(kind("tcp"), to(webAddr)), func(r *probe.Result) { r.TCP.Retried = 5 })),
			cause: "link.flapping", subject: "eth0", location: "eth0", severity: major, masks: []string{"path.loss"},
		},
		{name: "flapping: the cable was plugged in once", opts: opts(eth0Later(func(l *facts.Link) { l.CarrierChanges++ }))},
		{name: "flapping: years of changes, none now", opts: opts(eth0(func(l *facts.Link) { l.CarrierChanges = 4000 }))},
		{name: "flapping: an unused interface", opts: opts(addLink(secondCard), later(func(h *facts.Host) { linkOf(h, "eth1").CarrierChanges = 9 }))},

		{
			name: "admin down: the only interface", opts: opts(host(off), host(noRoutes), askURL(webURL)),
			cause: "link.admin_down", subject: "eth0", location: "this host, eth0", severity: critical,
		},
		{
			name: "admin down: a second one with an address", opts: opts(addLink(card(func(l *facts.Link) { l.Up, l.Carrier = false, false }), "10.7.0.2/24")),
			cause: "link.admin_down", subject: "eth1", location: "eth1", severity: minor,
		},
		{name: "admin down: unused", opts: opts(addLink(card(func(l *facts.Link) { l.Up, l.Carrier = false, false })))},
		{name: "admin down: a tunnel that is off", opts: opts(addLink(facts.Link{Name: "wg0", Kind: "wireguard", Flags: []string{"noarp"}}, "10.8.0.2/24"))},

		{
			name: "link down: cable pulled", opts: opts(eth0(cut), everythingSilent, askURL(webURL)),
			cause: "link.down", subject: "eth0", location: "this host, eth0", severity: critical, conf: Confirmed,
		},
		{
			name: "link down: storage network", opts: opts(addLink(card(cut), "10.7.0.2/24")),
			cause: "link.down", subject: "eth1", location: "eth1", severity: minor,
		},
		{name: "link down: no cable in an unused port", opts: opts(addLink(card(cut)))},
		{name: "link down: docker0 without containers", opts: opts(addLink(facts.Link{Name: "docker0", Kind: "bridge", Up: true, MAC: "02:42:00:00:00:01", MTU: 1500}, "172.17.0.1/16"))},
		{name: "link down: libvirt's bridge, whose one port is its own tap that is off", opts: opts(
			addLink(facts.Link{Name: "virbr0", Kind: "bridge", Up: true, MAC: "52:54:00:00:00:01", MTU: 1500, Ports: 1}, "192.168.122.1/24"),
			addLink(facts.Link{Name: "virbr0-nic", Kind: "tun", MAC: "52:54:00:00:00:02", Master: "virbr0", MTU: 1500}))},

		{
			name: "speed: 100 where both can 1000", opts: opts(eth0(func(l *facts.Link) { l.SpeedMbps = 100 })),
			cause: "link.speed_degraded", subject: "eth0", location: "eth0", severity: major, conf: Confirmed, proof: "up to 1000 Mbit/s",
		},
		{
			name: "speed: half duplex with collisions", opts: opts(eth0(func(l *facts.Link) { l.SpeedMbps, l.Duplex, l.SupportedMbps = 10, "half", 10 }),
				eth0Later(func(l *facts.Link) { l.Stats.Collisions += 40 })),
			cause: "link.speed_degraded", subject: "eth0", location: "eth0", severity: major, proof: "40 collisions",
		},
		{name: "speed: the partner can no more", opts: opts(eth0(func(l *facts.Link) { l.SpeedMbps, l.PartnerMbps = 100, 100 }))},
		{name: "speed: the partner's modes are unknown", opts: opts(eth0(func(l *facts.Link) { l.SpeedMbps, l.PartnerMbps = 100, 0 }))},
		{name: "speed: unknown, as on virtual machines", opts: opts(eth0(func(l *facts.Link) { l.SpeedMbps, l.Duplex = 0, "" }))},

		{
			name: "errors: CRC", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.RxCRCErrors, l.Stats.RxErrors = 60, 60 })),
			cause: "link.errors", subject: "eth0", location: "eth0", severity: major, conf: Confirmed, proof: "60 CRC errors",
		},
		{
			name: "errors: in the driver's counters only", opts: opts(eth0Later(func(l *facts.Link) { l.DriverStats["rx_symbol_error_phy"] = 500 })),
			cause: "link.errors", subject: "eth0", location: "eth0", severity: major, proof: "+500",
		},
		{
			name: "errors: a few", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.RxFrameErrors, l.Stats.RxErrors = 5, 5 })),
			cause: "link.errors", subject: "eth0", location: "eth0", severity: minor, conf: Likely,
		},
		{name: "errors: one", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.RxCRCErrors, l.Stats.RxErrors = 1, 1 }))},
		{name: "errors: millions, all of them old", opts: opts(eth0(func(l *facts.Link) { l.Stats.RxCRCErrors, l.Stats.RxErrors = 4e6, 4e6 }))},
		{name: "errors: symbols that forward error correction repaired", opts: opts(eth0Later(func(l *facts.Link) { l.DriverStats["port_rx_fec_corrected_symbols_lane0"] = 900 }))},
		{name: "errors: a tunnel without a route to its end counts carrier errors", opts: opts(
			addLink(facts.Link{Name: "gre1", Kind: "gre", Up: true, Carrier: true, Flags: []string{"noarp"}, MTU: 1476}, "10.8.0.2/30"),
			later(func(h *facts.Host) { linkOf(h, "gre1").Stats.TxCarrierErrors = 40 }))},

		{
			name: "saturated: a shaper at its rate, dropping", opts: opts(host(func(h *facts.Host) {
				h.Qdiscs = []facts.Qdisc{{Link: "eth0", Kind: "tbf", Handle: "1:", Parent: "root", RateBps: 10e6}}
			}), later(func(h *facts.Host) {
				linkOf(h, "eth0").Stats.TxBytes = 1e9 + 2_450_000
				h.Qdiscs[0].Drops, h.Qdiscs[0].Backlog = 800, 30000
			})),
			cause: "link.saturated", subject: "eth0", location: "eth0", severity: major, conf: Confirmed, masks: []string{"link.qdisc_drops"}, proof: "dropped 800",
		},
		{
			name: "saturated: the line rate inwards", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.RxBytes = 1e9 + 245_000_000 })),
			cause: "link.saturated", subject: "eth0", location: "eth0", severity: minor,
		},
		{name: "saturated: busy at 60 per cent", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.TxBytes = 1e9 + 150_000_000 }))},
		{name: "saturated: an idle shaper", opts: opts(host(func(h *facts.Host) {
			h.Qdiscs = []facts.Qdisc{{Link: "eth0", Kind: "tbf", Handle: "1:", Parent: "root", RateBps: 10e6}}
		}))},
		{name: "saturated: one of two root classes is slower than what the other sends", opts: opts(host(func(h *facts.Host) {
			h.Qdiscs = []facts.Qdisc{
				{Link: "eth0", Kind: "htb", Handle: "1:", Parent: "root"},
				{Link: "eth0", Kind: "htb", Handle: "1:10", Parent: "root", Class: true, RateBps: 1e6, CeilBps: 1e6},
				{Link: "eth0", Kind: "htb", Handle: "1:20", Parent: "root", Class: true, RateBps: 500e6, CeilBps: 500e6},
			}
		}), eth0Later(func(l *facts.Link) { l.Stats.TxBytes = 1e9 + 5_000_000 }))},

		{
			name: "rx drops: the ring overflows", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.RxMissedErrors = 90 })),
			cause: "link.rx_drops", subject: "eth0", location: "eth0", severity: major, conf: Confirmed, proof: "90 missed",
		},
		{
			name: "rx drops: the backlog of a CPU overflows", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.RxDropped = 50 }),
				later(func(h *facts.Host) { h.Softnet[0].Dropped = 50 })),
			cause: "link.rx_drops", subject: "eth0", location: "eth0", severity: major, proof: "netdev_max_backlog",
		},
		{name: "rx drops: frames nobody wants", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.RxDropped = 50 })), notes: "Harmless"},
		{name: "rx drops: three of two thousand", opts: opts(eth0Later(func(l *facts.Link) { l.Stats.RxMissedErrors = 3 }))},
		{name: "rx drops: an XDP program drops on purpose", opts: opts(eth0Later(func(l *facts.Link) { l.DriverStats["rx_queue_0_xdp_drops"] = 5000 }))},
		{name: "rx drops: a counter of the sending side", opts: opts(eth0Later(func(l *facts.Link) { l.DriverStats["tx_fifo_errors"] = 50 }))},

		{
			name: "qdisc drops", opts: opts(later(func(h *facts.Host) { h.Qdiscs[0].Drops = 60 })),
			cause: "link.qdisc_drops", subject: "eth0", location: "eth0", severity: major, conf: Confirmed, proof: "60 dropped",
		},
		{name: "qdisc drops: a handful", opts: opts(later(func(h *facts.Host) { h.Qdiscs[0].Drops = 3 }))},
		{name: "qdisc drops: all of them old", opts: opts(host(func(h *facts.Host) { h.Qdiscs[0].Drops = 1e6 }))},
		{name: "qdisc drops: the ingress policer's", opts: opts(host(func(h *facts.Host) {
			h.Qdiscs = append(h.Qdiscs, facts.Qdisc{Link: "eth0", Kind: "ingress", Handle: "ffff:", Parent: "ingress"})
		}), later(func(h *facts.Host) { h.Qdiscs[1].Drops = 600 }))},

		{
			name: "mtu mismatch: the gateway's side is smaller", opts: opts(
				change(func(w Want) bool { return w.Kind == "icmp" && w.Size > 1400 && wantAddr(w) == ip(gwAddr) }, silence),
				change(both(kind("mtu"), to(gwAddr)), func(r *probe.Result) { r.MTU.Works, r.MTU.Fails = 1400, 1401 })),
			cause: "link.mtu_mismatch", subject: "eth0", location: gwAddr, severity: major, proof: "1401 bytes are not",
		},
		{name: "mtu mismatch: the gateway ignores large pings, and forwards large packets", opts: opts(askAddr(webAddr),
			change(func(w Want) bool { return w.Kind == "icmp" && w.Size > 1400 && wantAddr(w) == ip(gwAddr) }, silence),
			change(both(kind("mtu"), to(gwAddr)), func(r *probe.Result) { r.MTU.Works, r.MTU.Fails = 1400, 1401 }))},
		{name: "mtu mismatch: the gateway ignores large pings, and a router beyond it says frag needed", opts: opts(askAddr(webAddr),
			change(func(w Want) bool { return w.Kind == "icmp" && w.Size > 1400 && wantAddr(w) == ip(gwAddr) }, silence),
			change(both(kind("mtu"), to(gwAddr)), func(r *probe.Result) { r.MTU.Works, r.MTU.Fails = 1400, 1401 }),
			change(both(kind("mtu"), to(webAddr)), func(r *probe.Result) {
				r.MTU.Works, r.MTU.Fails, r.MTU.Signalled, r.MTU.By, r.MTU.SignalMTU = 1492, 1493, true, ip(hop2), 1492
			}))},
		{name: "mtu mismatch: a gateway that answers no ping at all", opts: opts(askAddr(webAddr), silent(both(kind("icmp"), to(gwAddr))))},
	})
}

func TestLayer2Rules(t *testing.T) {
	macs := func(addr string, m ...string) option {
		return change(both(kind("arp"), to(addr)), func(r *probe.Result) { r.ARP.MACs, r.Outcome = m, probe.OK })
	}
	judge(t, []verdictOf{
		{
			name: "neighbour table full", opts: opts(host(func(h *facts.Host) { h.NeighTables[0].Entries = 1024 }), later(func(h *facts.Host) { h.NeighTables[0].TableFulls = 30 })),
			cause: "l2.neighbour_table_full", subject: "arp_cache", location: "this host", severity: critical, conf: Confirmed, proof: "30 times",
		},
		{
			name: "neighbour table nearly full", opts: opts(host(func(h *facts.Host) { h.NeighTables[0].Entries = 1000 })),
			cause: "l2.neighbour_table_full", subject: "arp_cache", location: "this host", severity: minor, conf: Likely,
		},
		{name: "neighbour table: much used", opts: opts(host(func(h *facts.Host) { h.NeighTables[0].Entries = 900 }))},
		{name: "neighbour table: limits unknown", opts: opts(host(func(h *facts.Host) { h.NeighTables[0].Entries, h.NeighTables[0].Thresh3 = 9000, 0 }))},

		{
			name: "gateway conflict", opts: opts(askURL(webURL), macs(gwAddr, "02:00:00:00:00:01", "02:00:00:00:00:66")),
			cause: "l2.gateway_conflict", subject: gwAddr, location: "segment of eth0", severity: critical, conf: Likely, proof: "02:00:00:00:00:66",
		},
		{name: "gateway conflict: one virtual MAC answers twice", opts: opts(macs(gwAddr, "00:00:5e:00:01:07", "00:00:5e:00:01:07"))},
		{name: "gateway conflict: the second MAC is this host's own proxy", opts: opts(macs(gwAddr, "02:00:00:00:00:01", "02:00:00:00:00:12"), addLink(secondCard, "10.0.0.3/24"))},

		{
			name: "duplicate ip: ours", opts: opts(macs("10.0.0.2", "02:00:00:00:00:66")),
			cause: "l2.duplicate_ip", subject: "10.0.0.2", location: "segment of eth0", severity: critical, conf: Confirmed, proof: "02:00:00:00:00:66",
		},
		{
			name: "duplicate ip: the target's", opts: opts(askTCP(neighbour77, 22), macs(neighbour77, "02:00:00:00:00:77", "02:00:00:00:00:66")),
			cause: "l2.duplicate_ip", subject: neighbour77, location: "eth0", severity: major, conf: Likely,
		},
		{
			name: "duplicate ip: the kernel's own detection", opts: opts(host(func(h *facts.Host) {
				h.Addrs = append(h.Addrs, facts.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("fd00::2/64"), Scope: "global", Flags: []string{"tentative", "dadfailed"}})
			})),
			cause: "l2.duplicate_ip", subject: "fd00::2", location: "eth0", severity: major, conf: Confirmed,
		},
		{name: "duplicate ip: our other card on the same segment answers", opts: opts(macs("10.0.0.2", "02:00:00:00:00:12"), addLink(secondCard, "10.0.0.3/24"))},
		{name: "duplicate ip: our own MAC in capitals", opts: opts(eth0(func(l *facts.Link) { l.MAC = "02:00:00:aa:bb:cc" }), macs("10.0.0.2", "02:00:00:AA:BB:CC"))},

		{
			name: "neighbour failed: on-link target is off", opts: opts(askTCP(neighbour77, 22), silent(to(neighbour77)),
				host(func(h *facts.Host) {
					h.Neighbours = append(h.Neighbours, facts.Neighbour{Link: "eth0", Address: ip(neighbour77), State: "failed"})
				})),
			cause: "l2.neighbour_failed", subject: neighbour77, location: "segment of eth0", severity: critical, conf: Confirmed,
		},
		{
			name: "neighbour failed: the next hop of a static route", opts: opts(askTCP("10.5.0.9", 22), vanishAfter("10.5.0.9", 0), silent(to("10.5.0.9")), silent(to("10.0.0.5")),
				addRoute(facts.Route{Dst: netip.MustParsePrefix("10.5.0.0/24"), Gateway: ip("10.0.0.5"), Link: "eth0"})),
			cause: "l2.neighbour_failed", subject: "10.0.0.5", location: "segment of eth0", severity: critical,
		},
		{name: "neighbour failed: no ARP answer, but the port answers", opts: opts(askTCP(neighbour77, 22), silent(both(kind("arp", "icmp"), to(neighbour77))))},
		{name: "neighbour failed: an entry of somebody nobody asked about", opts: opts(askAddr(webAddr), host(func(h *facts.Host) {
			h.Neighbours = append(h.Neighbours, facts.Neighbour{Link: "eth0", Address: ip("10.0.0.200"), State: "failed"})
		}))},
	})
}
