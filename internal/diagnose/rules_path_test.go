package diagnose

import (
	"testing"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

// lossFrom loses a share of everything to the target and to the routers from TTL on.
func lossFrom(ttl int, share float64) option {
	return func(w *world) {
		for i, a := range []string{gwAddr, hop2, hop3, webAddr} {
			if i+1 >= ttl {
				lossy(a, share)(w)
			}
		}
		change(both(kind("tcp"), to(webAddr)), func(r *probe.Result) {
			r.TCP.Retried = int(share * 1.5 * float64(r.TCP.Attempts))
			r.TCP.SYNRetrans = r.TCP.Retried
		})(w)
	}
}

// jitter spreads the round trips of an echo series evenly over spread.
func jitter(addr string, spread sample.Duration) option {
	return change(both(kind("icmp"), to(addr)), func(r *probe.Result) {
		for i := range r.Echo.RTTs {
			r.Echo.RTTs[i] += spread * sample.Duration(i*7%len(r.Echo.RTTs)) / sample.Duration(len(r.Echo.RTTs))
		}
	})
}

func TestPathRules(t *testing.T) {
	judge(t, []verdictOf{
		{
			name: "loss on the middle link", opts: opts(askTCP(webAddr, 22), lossFrom(3, 0.1)),
			cause: "path.loss", subject: "10.0.9.9:22", location: "between hop 2 (10.0.2.1) and hop 3 (10.0.3.1)", severity: major, conf: Confirmed, masks: []string{"tcp.syn_loss"},
		},
		{
			name: "loss on the last link", opts: opts(askAddr(webAddr), lossFrom(4, 0.3)),
			cause: "path.loss", subject: webAddr, location: "between hop 3 (10.0.3.1) and the target", severity: critical,
		},
		{
			name: "loss on the own segment", opts: opts(askAddr(neighbour77), lossy(neighbour77, 0.05), change(both(kind("tcp"), to(neighbour77)), func(r *probe.Result) { r.TCP.Retried = 3 })),
			cause: "path.loss", subject: neighbour77, location: "between this host (eth0) and the target", severity: major,
		},
		{name: "loss of one packet in a hundred, once", opts: opts(askAddr(webAddr), change(func(w Want) bool { return w.Kind == "icmp" && w.Count == echoCount }, func(r *probe.Result) { lose(r, 1) }))},
		{name: "loss: one in each series", opts: opts(askAddr(webAddr), change(both(kind("icmp"), to(webAddr)), func(r *probe.Result) { lose(r, 1) }))},
		{name: "loss of echo only: TCP is clean", opts: opts(askTCP(webAddr, 22), lossy(webAddr, 0.15)), notes: "limits its ICMP answers"},
		{name: "loss at a router that answers sparsely, not beyond", opts: opts(askTCP(webAddr, 22), lossy(hop2, 0.5))},
		{name: "loss: a bare host that answers fifty echoes a second and refuses port 80", opts: opts(askAddr(webAddr), refused(to(webAddr)),
			change(both(kind("icmp"), to(webAddr)), func(r *probe.Result) { lose(r, r.Echo.Sent/4) }),
			change(func(w Want) bool { return w.Kind == "icmp" && w.Round == 2 && wantAddr(w) == ip(webAddr) }, func(r *probe.Result) { lose(r, r.Echo.Sent*6/10) })), notes: "Harmless"},
		{name: "loss: packets that this host never sent", opts: opts(askAddr(webAddr), change(both(kind("icmp"), to(webAddr)), func(r *probe.Result) { lose(r, 20); r.Echo.SendErrors = 20 }))},

		{
			name: "mtu black hole", opts: opts(askURL(literalURL), change(both(kind("mtu"), to(webAddr)), func(r *probe.Result) {
				*r.MTU = probe.MTU{LinkMTU: 1500, Works: 1400, Fails: 1401, Tries: 3, LastGood: ip(hop2), LastGoodTTL: 2, FirstBad: ip(hop3), FirstBadTTL: 3}
			})),
			cause: "path.mtu_blackhole", subject: literalURL, location: "between hop 2 (10.0.2.1) and hop 3 (10.0.3.1)", severity: major, conf: Confirmed,
		},
		{
			name: "mtu black hole: a page that hangs for it", opts: opts(askURL(literalURL), change(both(kind("mtu"), to(webAddr)), func(r *probe.Result) {
				*r.MTU = probe.MTU{LinkMTU: 1500, Works: 1400, Fails: 1401, Tries: 3}
			}), web(func(r *probe.Result) {
				r.Outcome, r.Detail, r.Phases = probe.Timeout, "no response header", r.Phases[:1]
				r.HTTP = &probe.HTTP{URL: r.Target}
			})),
			cause: "path.mtu_blackhole", subject: literalURL, location: "on the way to 10.0.9.9", severity: critical, masks: []string{"http.server_slow"}, proof: "hung",
		},
		{name: "mtu smaller, and a router says so", opts: opts(askURL(literalURL), change(both(kind("mtu"), to(webAddr)), func(r *probe.Result) {
			*r.MTU = probe.MTU{LinkMTU: 1500, Works: 1400, Fails: 1401, Tries: 3, Signalled: true, By: ip(hop2), SignalMTU: 1400}
		}))},
		{name: "mtu: the search got no answer at any size", opts: opts(askTCP(webAddr, 22), change(both(kind("mtu"), to(webAddr)), func(r *probe.Result) {
			*r.MTU = probe.MTU{LinkMTU: 1500, Fails: 1500, Tries: 3}
		}))},
		{name: "mtu: jumbo frames all the way", opts: opts(askTCP(webAddr, 22), eth0(func(l *facts.Link) { l.MTU = 9000 }), change(kind("mtu"), func(r *probe.Result) { r.MTU.LinkMTU, r.MTU.Works = 9000, 9000 }))},

		{
			name: "jitter: a queue at a hop", opts: opts(askAddr(webAddr), roundTrip(hop3, ms(40)), roundTrip(webAddr, ms(41)), jitter(hop3, ms(50)), jitter(webAddr, ms(50))),
			cause: "path.jitter", subject: webAddr, location: "between hop 2 (10.0.2.1) and hop 3 (10.0.3.1)", severity: minor, conf: Likely, masks: []string{"path.latency_step"},
		},
		{name: "jitter: a busy host that has no kernel time stamps", opts: opts(askAddr(webAddr), jitter(webAddr, ms(40)), change(kind("icmp"), func(r *probe.Result) {
			if r.RTT != nil {
				r.RTT.Clock, r.RTT.Error = "user", ms(20)
			}
		}))},
		{name: "jitter: a passing burst", opts: opts(askAddr(webAddr), change(func(w Want) bool { return w.Kind == "icmp" && w.Count == echoCount }, func(r *probe.Result) {
			for i := range r.Echo.RTTs[:40] {
				r.Echo.RTTs[i] += ms(80)
			}
		}))},
		{name: "jitter: one packet in ten is late", opts: opts(askAddr(webAddr), change(both(kind("icmp"), to(webAddr)), func(r *probe.Result) {
			for i := range r.Echo.RTTs {
				if i%10 == 0 {
					r.Echo.RTTs[i] += ms(60)
				}
			}
		}))},
		{name: "jitter: a router on the way answers when it likes", opts: opts(askAddr(webAddr), jitter(hop2, ms(200)))},
		{
			name: "latency: the first hop of a local Ethernet", opts: opts(askAddr(webAddr), roundTrip(gwAddr, ms(40)), roundTrip(hop2, ms(41)), roundTrip(hop3, ms(42)), roundTrip(webAddr, ms(43))),
			cause: "path.latency_step", subject: webAddr, location: "between this host and hop 1 (10.0.0.1)", severity: major,
		},
		{
			name: "latency: another address of the name is near", opts: opts(askURL(webURL), named(webFQDN, webAddr, "10.0.8.8"), roundTrip(hop3, ms(90)), roundTrip(webAddr, ms(91)),
				change(both(kind("path"), to("10.0.8.8")), func(r *probe.Result) { r.Path.Hops[2].RTTs, r.Path.Hops[2].Address = repeat(ms(5), 3), ip("10.0.4.1") })),
			cause: "path.latency_step", subject: webURL, location: "hop 3 (10.0.3.1)", severity: major, proof: "10.0.8.8",
		},
		{name: "latency: a satellite, steady", opts: opts(askAddr(webAddr), roundTrip(hop2, ms(600)), roundTrip(hop3, ms(601)), roundTrip(webAddr, ms(602))), info: []string{"path.latency_step"}},
		{name: "latency: one router answers late, the target does not", opts: opts(askAddr(webAddr), roundTrip(hop2, ms(300)))},
		{name: "latency: an overlay is no local Ethernet", info: []string{"path.latency_step"}, opts: opts(askAddr("10.9.0.7"),
			addLink(facts.Link{Name: "vxlan1", Kind: "vxlan", Up: true, Carrier: true, MTU: 1450, MAC: "02:00:00:00:00:13"}, "10.9.0.2/24"),
			addRoute(onLink("10.9.0.0/24", "vxlan1")), roundTrip("10.9.0.7", ms(40)))},
	})
}
