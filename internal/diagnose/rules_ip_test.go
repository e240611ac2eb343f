package diagnose

import (
	"net/netip"
	"testing"

	"fathom/internal/facts"
	"fathom/probe"
)

func defaultVia(gw, link string, metric int) facts.Route {
	return facts.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: ip(gw), Link: link, Metric: metric, Type: "unicast", Table: mainTable}
}

func drop(hook, text string, m ...facts.FWMatch) option {
	return host(func(h *facts.Host) {
		h.Firewall.Chains = []facts.FWChain{{
			Family: "inet", Table: "filter", Name: hook, Hook: hook, Type: "filter", Policy: "accept",
			Rules: []facts.FWRule{{Handle: 4, Text: text, Verdict: "drop", Matches: m}},
		}}
	})
}

func eperm(m match) option {
	return change(m, func(r *probe.Result) {
		silence(r)
		r.Outcome, r.Errno, r.Detail = probe.LocalDrop, "EPERM", "operation not permitted"
	})
}

func TestAddressAndRouteRules(t *testing.T) {
	bare := func(h *facts.Host) { h.Addrs, h.Routes = h.Addrs[:1], nil }
	judge(t, []verdictOf{
		{
			name: "no address", opts: opts(host(bare), askURL(webURL)),
			cause: "ip.no_address", subject: "eth0", location: "this host, eth0", severity: critical, conf: Confirmed,
		},
		{
			name: "no address: DHCP failed", opts: opts(host(bare), host(func(h *facts.Host) {
				h.Addrs = append(h.Addrs, facts.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("169.254.7.7/16"), Scope: "link"})
			})),
			cause: "ip.no_address", subject: "eth0", location: "eth0", severity: critical, proof: "169.254.7.7",
		},
		{name: "no address: another card has one", opts: opts(addLink(secondCard))},
		{name: "no address: a VLAN on top has it", opts: opts(host(func(h *facts.Host) {
			h.Addrs[1].Link, h.Routes[0].Link, h.Routes[1].Link = "eth0.7", "eth0.7", "eth0.7"
			h.Neighbours = nil
		}), addLink(facts.Link{Name: "eth0.7", Kind: "vlan", Parent: "eth0", VLAN: 7, Up: true, Carrier: true, MTU: 1500, MAC: "02:00:00:00:00:02"}))},
		{name: "no address: a bridge has it", opts: opts(host(func(h *facts.Host) {
			h.Addrs[1].Link, h.Routes[0].Link, h.Routes[1].Link = "br0", "br0", "br0"
			linkOf(h, "eth0").Master = "br0"
			h.Neighbours = nil
		}), addLink(facts.Link{Name: "br0", Kind: "bridge", Ports: 1, Up: true, Carrier: true, MTU: 1500, MAC: "02:00:00:00:00:02"}))},
		{name: "no address: PPP over this Ethernet has it", opts: opts(host(func(h *facts.Host) {
			h.Addrs = append(h.Addrs[:1], facts.Addr{Link: "ppp0", Prefix: netip.MustParsePrefix("198.51.100.7/32"), Scope: "global", Peer: ip("198.51.100.1")})
			h.Routes = []facts.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Link: "ppp0", Type: "unicast", Table: mainTable}}
			h.Neighbours = nil
		}), addLink(facts.Link{Name: "ppp0", Kind: "ppp", Flags: []string{"noarp"}, Up: true, Carrier: true, MTU: 1492}))},

		{
			name: "no route", opts: opts(askTCP(webAddr, 80), host(func(h *facts.Host) { h.Routes = h.Routes[1:] })),
			cause: "ip.no_route", subject: "10.0.9.9:80", location: "this host, routing table", severity: critical, conf: Confirmed,
		},
		{
			name: "no route: a blackhole route", opts: opts(askTCP(webAddr, 80), addRoute(facts.Route{Dst: netip.MustParsePrefix("10.0.9.0/24"), Type: "blackhole"})),
			cause: "ip.no_route", subject: "10.0.9.9:80", location: "this host, routing table", severity: critical, proof: "blackhole 10.0.9.0/24",
		},
		{
			name: "no route: a router says so", opts: opts(askTCP(webAddr, 80), says(to(webAddr), hop2, 3, 0)),
			cause: "ip.no_route", subject: "10.0.9.9:80", location: "hop 2 (10.0.2.1)", severity: critical, conf: Confirmed,
		},
		{
			name: "no route: not even to the resolver", opts: opts(host(func(h *facts.Host) {
				h.Routes = h.Routes[1:]
				h.Resolver.Servers = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
			})),
			cause: "ip.no_route", subject: "192.0.2.53", location: "this host", severity: critical,
		},
		{name: "no route: a blackhole for somebody else", opts: opts(askTCP(webAddr, 80), addRoute(facts.Route{Dst: netip.MustParsePrefix("10.0.8.0/24"), Type: "blackhole"}))},
		{name: "no route: the name has an IPv6 address too, this host has none", opts: opts(askURL(webURL), named(webFQDN, webAddr, v6Web)), notes: "no IPv6"},
		{name: "no route: the look-up itself could not be made", unknown: true, opts: opts(askAddr(webAddr), lookup(facts.Lookup{Destination: ip(webAddr), Error: "open netlink socket: operation not permitted"}))},

		{
			name: "wrong route", opts: opts(askTCP(webAddr, 80), addLink(secondCard, "10.7.0.2/24"),
				addRoute(facts.Route{Dst: netip.MustParsePrefix("10.0.9.0/24"), Gateway: ip("10.7.0.1"), Link: "eth1"}),
				vanishAfter(webAddr, 1), change(func(w Want) bool { return w.Via == ip(gwAddr) }, func(r *probe.Result) {
					r.Echo.Received, r.Echo.RTTs, r.Outcome = r.Echo.Sent, repeat(ms(10), r.Echo.Sent), probe.OK
				})),
			cause: "ip.wrong_route", subject: "10.0.9.9:80", location: "route 10.0.9.0/24 via 10.7.0.1", severity: critical, conf: Confirmed,
		},
		{name: "wrong route: it works as it is, and another would, too", opts: opts(askTCP(webAddr, 80), addLink(secondCard, "10.7.0.2/24"),
			addRoute(facts.Route{Dst: netip.MustParsePrefix("10.0.9.0/24"), Gateway: ip("10.7.0.1"), Link: "eth1"}))},
		{name: "wrong route: two default routes, the second unused", opts: opts(askTCP(webAddr, 80), addLink(secondCard, "10.7.0.2/24"), addRoute(defaultVia("10.7.0.1", "eth1", 200)))},

		{
			name: "gateway dead", opts: opts(askURL(webURL), silent(to(gwAddr)), vanishAfter(webAddr, 0), host(func(h *facts.Host) { h.Neighbours[0].State = "failed" })),
			cause: "ip.gateway_unreachable", subject: gwAddr, location: "segment of eth0, first hop", severity: critical, conf: Confirmed,
		},
		{
			name: "gateway dead, nothing asked, resolver behind it", opts: opts(everythingSilent, host(func(h *facts.Host) {
				h.Neighbours[0].State, h.Resolver.Servers = "incomplete", []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
			})),
			cause: "ip.gateway_unreachable", subject: gwAddr, location: "eth0", severity: critical, masks: []string{"dns.resolver_down"},
		},
		{name: "gateway ignores ping and forwards", opts: opts(askTCP(webAddr, 80), silent(both(kind("icmp"), to(gwAddr))))},
		{name: "gateway ignores ping, nothing asked, ARP answers", opts: opts(silent(both(kind("icmp"), to(gwAddr))))},
		{name: "gateway with a static entry ignores ARP and ping, and forwards", opts: opts(askTCP(webAddr, 80), silent(both(kind("icmp", "arp"), to(gwAddr))),
			host(func(h *facts.Host) { h.Neighbours[0].State = "permanent" }))},

		{
			name: "routing loop", opts: opts(askAddr(webAddr), vanishAfter(webAddr, 1), change(both(kind("path"), to(webAddr)), func(r *probe.Result) {
				r.Path.Hops = r.Path.Hops[:1]
				for i := range 12 {
					r.Path.Hops = append(r.Path.Hops, probe.Hop{TTL: i + 2, Address: ip([]string{hop2, hop3}[i%2]), Sent: 3, Received: 3, RTTs: repeat(ms(4), 3)})
				}
				r.Path.LoopAt, r.Outcome = 2, probe.TTLExceeded
			})),
			cause: "ip.routing_loop", subject: webAddr, location: "hop 2 (10.0.2.1, 10.0.3.1)", severity: critical, conf: Confirmed,
		},
		{name: "routing loop: the trace repeats, but the target answers", opts: opts(askAddr(webAddr), change(both(kind("path"), to(webAddr)), func(r *probe.Result) { r.Path.LoopAt = 2 }))},

		{
			name: "host down: the last router says so", opts: opts(askTCP(webAddr, 80), says(to(webAddr), hop3, 3, 1)),
			cause: "ip.host_down", subject: "10.0.9.9:80", location: "10.0.9.9, behind hop 3 (10.0.3.1)", severity: critical, conf: Confirmed,
		},
		{name: "host down: said once, for a ping, and the port answers", opts: opts(askTCP(webAddr, 80), says(both(kind("icmp"), to(webAddr)), hop3, 3, 1))},

		{
			name: "one family broken", opts: opts(askURL(webURL), dualStack, vanishAfter(v6Web, 2)),
			cause: "ip.v6_broken", subject: webURL, location: "IPv6 path to fd00:9::9", severity: critical, conf: Confirmed,
		},
		{
			name: "one family broken: the service listens on IPv4 only", opts: opts(askURL(webURL), dualStack, refused(to(v6Web))),
			cause: "ip.v6_broken", subject: webURL, location: v6Web, severity: critical, masks: []string{"tcp.refused"},
		},
		{name: "one family is not asked for", opts: opts(askURL(webURL), dualStack, vanishAfter(v6Web, 2), question(func(q *Question) { q.V4Only = true }))},
	})
}

// A loop ends in the circle; what comes out of it again was an uneven bundle of paths.
func TestARepeatedHopThatIsPassedIsNoLoop(t *testing.T) {
	e := evidence(t, askAddr(webAddr), vanishAfter(webAddr, 1), change(both(kind("path"), to(webAddr)), func(r *probe.Result) {
		r.Path.Hops = r.Path.Hops[:1]
		for i, a := range []string{hop2, hop3, hop2, "10.0.4.1", "10.0.5.1"} {
			r.Path.Hops = append(r.Path.Hops, probe.Hop{TTL: i + 2, Address: ip(a), Sent: 3, Received: 3, RTTs: repeat(ms(4), 3)})
		}
		pad(r.Path)
		r.Path.LoopAt = 2
	}))
	for _, f := range Decide(e).Findings {
		if f.Cause == "ip.routing_loop" {
			t.Errorf("the trace goes on to 10.0.5.1, yet %s", describe(f))
		}
	}
}

func TestFilterRules(t *testing.T) {
	only443 := facts.FWMatch{Field: "dport", Op: "==", Values: []string{"443"}}
	isTCP := facts.FWMatch{Field: "l4proto", Op: "==", Values: []string{"tcp"}}
	isICMP := facts.FWMatch{Field: "l4proto", Op: "==", Values: []string{"icmp"}}
	judge(t, []verdictOf{
		{
			name: "local drop: sending fails and a rule says why", opts: opts(askTCP(webAddr, 443), drop("output", "tcp dport 443 drop", isTCP, only443),
				eperm(both(kind("tcp", "tls"), portIs(443)))),
			cause: "fw.local_drop", subject: "10.0.9.9:443", location: "chain inet filter output", severity: critical, conf: Confirmed, proof: "tcp dport 443 drop",
		},
		{
			name: "local drop: no ruleset readable, but nothing left", opts: opts(askTCP(webAddr, 443), host(func(h *facts.Host) { h.Firewall = nil }),
				silent(both(kind("tcp", "tls"), portIs(443))), witnessed(facts.WireFlow{Link: "eth0", Remote: ip(webAddr), Proto: "icmp", Out: 100, In: 100})),
			cause: "fw.local_drop", subject: "10.0.9.9:443", location: "this host, firewall", severity: critical,
		},
		{
			name: "local drop: answers arrive and are thrown away", opts: opts(askTCP(webAddr, 443), drop("input", "tcp sport 443 drop", isTCP, facts.FWMatch{Field: "sport", Op: "==", Values: []string{"443"}}),
				silent(both(kind("tcp", "tls"), portIs(443))), witnessed(facts.WireFlow{Link: "eth0", Remote: ip(webAddr), Proto: "tcp", Port: 443, SynOut: 9, SynAckIn: 9})),
			cause: "fw.local_drop", subject: "10.0.9.9:443", location: "chain inet filter input", severity: critical, conf: Confirmed, proof: "9 answers arrived",
		},
		{
			name: "local drop: the resolver", opts: opts(askURL(webURL), drop("output", "udp dport 53 drop", facts.FWMatch{Field: "l4proto", Op: "==", Values: []string{"udp"}}, facts.FWMatch{Field: "dport", Op: "==", Values: []string{"53"}}),
				eperm(both(kind("dns"), to(dns1)))),
			cause: "fw.local_drop", subject: dns1, location: "inet filter output", severity: critical, conf: Confirmed,
		},
		{name: "local drop: a rule for another port", opts: opts(askTCP(webAddr, 22), drop("output", "tcp dport 443 drop", isTCP, only443))},
		{name: "local drop: a strict host that may not ping, and everything works", opts: opts(askTCP(webAddr, 443), drop("output", "meta l4proto icmp drop", isICMP), eperm(kind("icmp")))},

		{
			name: "filtered: prohibited by a router", opts: opts(askTCP(webAddr, 443), says(both(kind("tcp", "tls"), portIs(443)), hop2, 3, 13)),
			cause: "ip.filtered", subject: "10.0.9.9:443", location: "hop 2 (10.0.2.1)", severity: critical, conf: Confirmed, proof: "type 3 code 13",
		},
		{
			name: "filtered: the target's own firewall rejects", opts: opts(askTCP(webAddr, 443), says(both(kind("tcp", "tls"), portIs(443)), webAddr, 3, 3)),
			cause: "ip.filtered", subject: "10.0.9.9:443", location: "10.0.9.9 (the target itself)", severity: critical,
		},
		{
			name: "filtered: the SYNs end at a hop that echo passes", opts: opts(askTCP(webAddr, 443), silent(both(kind("tcp", "tls"), portIs(443))),
				change(func(w Want) bool { return w.Kind == "path" && w.Protocol == "tcp" }, func(r *probe.Result) {
					silence(r)
					r.Path.Hops = r.Path.Hops[:1]
					pad(r.Path)
				})),
			cause: "ip.filtered", subject: "10.0.9.9:443", location: "after hop 1 (10.0.0.1), before hop 2 (10.0.2.1)", severity: critical,
		},
		{
			name: "filtered: a reset from nearer than the target", opts: opts(askTCP(webAddr, 443), refused(both(kind("tcp", "tls"), portIs(443))),
				witnessed(facts.WireFlow{Link: "eth0", Remote: ip(webAddr), Proto: "tcp", Port: 443, SynOut: 3, RstIn: 3, RstTTL: 63})),
			cause: "ip.filtered", subject: "10.0.9.9:443", location: "hop 2 (10.0.2.1)", severity: critical, masks: []string{"tcp.refused"},
		},
		{
			name: "filtered: a neighbour that answers ARP only", opts: opts(askTCP(neighbour77, 22), silent(both(kind("icmp", "tcp", "udp", "path", "mtu"), to(neighbour77)))),
			cause: "ip.filtered", subject: "10.0.0.77:22", location: "10.0.0.77, on eth0", severity: critical,
		},
		{name: "filtered: ping is prohibited, the port answers", opts: opts(askTCP(webAddr, 443), says(both(kind("icmp"), to(webAddr)), hop2, 3, 13))},

		{
			name: "blackhole", opts: opts(askTCP(webAddr, 443), vanishAfter(webAddr, 2)),
			cause: "ip.blackhole_hop", subject: "10.0.9.9:443", location: "after hop 2 (10.0.2.1)", severity: critical, conf: Likely,
		},
		{
			name: "blackhole behind a gateway that answers no trace", opts: opts(askAddr(webAddr), vanishAfter(webAddr, 0)),
			cause: "ip.blackhole_hop", subject: webAddr, location: "after hop 1 (10.0.0.1), the gateway", severity: critical,
		},
		{name: "blackhole: no ping, no trace, but the port answers", opts: opts(askTCP(webAddr, 443), silent(both(kind("icmp", "path", "mtu", "udp"), to(webAddr))))},
		{name: "blackhole: no ping, no trace, no port given, but a port is refused", opts: opts(askAddr(webAddr), silent(both(kind("icmp", "path", "mtu", "udp"), to(webAddr))), refused(to(webAddr)))},
	})
}

func onLink(prefix, link string) facts.Route {
	return facts.Route{Dst: netip.MustParsePrefix(prefix), Link: link, Type: "unicast", Table: mainTable}
}
