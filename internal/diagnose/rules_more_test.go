package diagnose

import (
	"net/netip"
	"testing"

	"fathom/internal/facts"
	"fathom/probe"
)

// Cases in which several things come together.
func TestMixedSituations(t *testing.T) {
	viaFive := addRoute(facts.Route{Dst: netip.MustParsePrefix("10.5.0.0/24"), Gateway: ip("10.0.0.5"), Link: "eth0"})
	judge(t, []verdictOf{
		{
			name: "the IPv6 gateway is dead, IPv4 works", opts: opts(askAddr(webAddr), dualStack, silent(func(w Want) bool { return wantAddr(w).WithZone("") == ip(v6GW) }),
				host(func(h *facts.Host) {
					h.Neighbours = append(h.Neighbours, facts.Neighbour{Link: "eth0", Address: ip(v6GW), State: "failed", Router: true})
				})),
			cause: "ip.gateway_unreachable", subject: v6GW, location: "eth0", severity: critical, conf: Confirmed,
		},
		{
			name: "a dead machine behind a router that ignores ARP and ping, but forwards for another", opts: opts(
				asking(tcpTarget("10.5.0.8", 22), tcpTarget("10.5.0.9", 22)), viaFive, silent(both(kind("arp", "icmp"), to("10.0.0.5"))),
				host(func(h *facts.Host) {
					h.Neighbours = append(h.Neighbours, facts.Neighbour{Link: "eth0", Address: ip("10.0.0.5"), MAC: "02:00:00:00:00:05", State: "permanent"})
				}), says(to("10.5.0.9"), "10.0.0.5", 3, 1)),
			cause: "ip.host_down", subject: "10.5.0.9:22", location: "10.5.0.9", severity: critical,
		},
		{
			name: "local firewall refuses echo to the IPv6 gateway, and nothing passes", opts: opts(askTCP(v6Web, 443), dualStack,
				eperm(func(w Want) bool { return wantAddr(w).Is6() && w.Kind != "arp" && w.Kind != "path" && w.Kind != "mtu" }),
				silent(both(kind("path", "mtu"), to(v6Web)))),
			cause: "fw.local_drop", subject: "[fd00:9::9]:443", location: "this host, firewall", severity: critical,
		},
		{
			name: "black hole: the ports that were tried are counted once each", opts: opts(askTCP(webAddr, 443), vanishAfter(webAddr, 2)),
			cause: "ip.blackhole_hop", subject: "10.0.9.9:443", location: "after hop 2", severity: critical, proof: "SYNs to 4 ports",
		},
		{name: "a web server that answers neither ping nor traces, and serves pages", opts: opts(askURL(literalURL), silent(both(kind("icmp"), to(webAddr))), change(both(kind("path"), to(webAddr)), silence))},
		{name: "this host is its own resolver and that does not answer ping", opts: opts(askURL(webURL), host(func(h *facts.Host) {
			h.Resolver.Servers, h.Resolver.Stub = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53")}, true
		}), silent(both(kind("icmp"), to("127.0.0.53"))))},
		{name: "a counter that was reset during the window", opts: opts(later(func(h *facts.Host) {
			l := linkOf(h, "eth0")
			l.Stats = facts.LinkStats{RxPackets: 5}
			h.Counters["TcpExt.ListenOverflows"], h.Counters["Udp.RcvbufErrors"] = 0, 0
			h.Qdiscs[0].Drops, h.Softnet[0].Dropped = 0, 0
		}))},
		{name: "an interface that was made anew during the window", opts: opts(eth0(func(l *facts.Link) { l.Stats.RxCRCErrors = 5 }),
			eth0Later(func(l *facts.Link) { l.Index, l.Stats.RxCRCErrors, l.CarrierChanges = 9, 900, 90 }))},
		{name: "echo replies from a host that limits them, one in five, TCP is clean", opts: opts(askTCP(webAddr, 22),
			change(both(kind("icmp"), to(webAddr)), func(r *probe.Result) { lose(r, r.Echo.Sent/5) })), notes: "Harmless"},
	})
}
