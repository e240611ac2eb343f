package diagnose

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

func TestPlanWithoutASnapshotIsEmpty(t *testing.T) {
	if ws := Plan(&Evidence{Question: Question{Targets: []Target{tcpTarget(webAddr, 1)}}}); len(ws) != 0 {
		t.Errorf("%v", keys(ws))
	}
}

func TestPlanAsksNothingTwice(t *testing.T) {
	for name, e := range map[string]*Evidence{"rich": rich(t), "several targets with one address": newWorld(asking(tcpTarget(webAddr, 22), tcpTarget(webAddr, 22), Target{Raw: webAddr, Host: webAddr})).e} {
		seen, byKey := map[Want]bool{}, map[string]Want{}
		for _, w := range Plan(e) {
			if seen[w] {
				t.Errorf("%s: %s is planned twice", name, w.Key())
			}
			seen[w] = true
			if o, ok := byKey[w.Key()]; ok && o != w {
				t.Errorf("%s: %+v and %+v have one key", name, o, w)
			}
			byKey[w.Key()] = w
			if b, _ := json.Marshal(w); true {
				var back Want
				if err := json.Unmarshal(b, &back); err != nil || back != w {
					t.Errorf("%s does not survive JSON: %+v, %v", b, back, err)
				}
			}
		}
		for a := range seen {
			for b := range seen {
				if c := compareWants(a, b); (c == 0) != (a == b) || c*compareWants(b, a) > 0 {
					t.Errorf("compareWants(%s, %s) = %d", a.Key(), b.Key(), c)
				}
			}
		}
	}
}

func TestPendingIsWhatIsNotMeasured(t *testing.T) {
	w := newWorld(askTCP(webAddr, 22))
	first := Pending(w.e)
	if !slices.Contains(first, WantLookup(ip(webAddr))) || slices.Contains(first, WantPing(ip(webAddr))) {
		t.Errorf("before the route is known: %v", keys(first))
	}
	w.e.Lookups = append(w.e.Lookups, w.lookup(ip(webAddr)))
	second := Pending(w.e)
	for _, x := range []Want{WantPing(ip(webAddr)), WantTrace(ip(webAddr), "icmp", 0), WantTCP(netip.AddrPortFrom(ip(webAddr), 22))} {
		if !slices.Contains(second, x) {
			t.Errorf("%s is not pending once the route is known", x.Key())
		}
	}
	w.e.Measured = append(w.e.Measured, Measured{Want: WantPing(ip(webAddr)), Error: "no socket"}, Measured{Want: WantWindow(baseWindow)})
	third := Pending(w.e)
	if slices.Contains(third, WantPing(ip(webAddr))) || slices.Contains(third, WantWindow(baseWindow)) || slices.Contains(third, WantLookup(ip(webAddr))) {
		t.Errorf("what failed or was done is asked again: %v", keys(third))
	}
}

// generic is an answer of one outcome, with every part a rule might build on.
func generic(w Want, o probe.Outcome, share float64) probe.Result {
	a := wantAddr(w)
	n := max(w.Count, 1)
	got := int(share * float64(n))
	r := probe.Result{Kind: w.Kind, Target: w.Target, Address: a, Port: wantPort(w), Outcome: o, Start: t0, Phases: []probe.Phase{{Name: "connect", Duration: ms(5)}}}
	x := &probe.ICMPError{From: ip("10.77.0.1"), Type: 3, Code: 1}
	if o == probe.Unreachable || o == probe.Prohibited {
		r.ICMP = x
	}
	switch w.Kind {
	case probe.KindICMP:
		r.Echo = &probe.Echo{Sent: n, Received: got, ReplyTTL: 60}
		for i := range got {
			r.Echo.RTTs = append(r.Echo.RTTs, ms(float64(10+i%7*20)))
		}
	case probe.KindTCP:
		r.TCP = &probe.TCP{Attempts: n, Connected: got, Retried: n - got/2, TimedOut: n - got, Connects: repeat(ms(1000), got)}
	case probe.KindPath:
		r.Path = &probe.Path{Protocol: w.Protocol, Reached: o == probe.OK, Hops: []probe.Hop{
			{TTL: 1, Address: ip("10.77.0.1"), RTTs: repeat(ms(1), 3)}, {TTL: 2, Address: ip("10.77.1.1"), RTTs: repeat(ms(90), 3)}, {TTL: 3},
		}}
		if o == probe.OK {
			r.Path.Hops = append(r.Path.Hops, probe.Hop{TTL: 4, Address: a, Target: true, RTTs: repeat(ms(90), 3)})
		}
	case probe.KindMTU:
		r.MTU = &probe.MTU{LinkMTU: 1500, Works: 1400, Fails: 1401, FirstBad: a}
	case probe.KindARP:
		r.ARP = &probe.ARP{Interface: w.Link, Sent: n}
		if o == probe.OK {
			r.ARP.MACs = []string{"02:00:00:00:77:01"}
		}
	case probe.KindDNS:
		r.DNS = &probe.DNS{Name: w.Name, Type: w.Type, Tries: n}
		switch o {
		case probe.OK:
			r.DNS.Rcode, r.DNS.Times = "NOERROR", repeat(ms(900), n)
			if w.Type == "A" { // each server says something else
				r.DNS.Answers = []probe.DNSRecord{{Name: w.Name, Type: "A", Data: fmt.Sprintf("10.88.0.%d", a.As16()[15])}}
			}
		case probe.BadAnswer:
			r.DNS.Rcode, r.DNS.Times = "SERVFAIL", repeat(ms(900), n)
		case probe.Failed:
			r.DNS.Rcode = "NXDOMAIN"
		}
	case probe.KindTLS, probe.KindHTTP, probe.KindHTTP3:
		r.TLS = &probe.TLS{Problem: "expired", Handshake: ms(3000), ConnectRTT: ms(5)}
		r.HTTP = &probe.HTTP{URL: w.Target, Status: 503, AltSvcH3: ":443"}
	}
	return r
}

// Whatever comes back, the questions end: an agent without a clock would stop.
func TestPlanTerminates(t *testing.T) {
	outcomes := []probe.Outcome{
		probe.OK, probe.Timeout, probe.Refused, probe.Reset, probe.Unreachable, probe.Prohibited, probe.TTLExceeded, probe.TooBig, probe.NoRoute,
		probe.LocalDrop, probe.SendFailed, probe.NoPort, probe.Failed, probe.BadAnswer, "", "error",
	}
	const rounds = 12
	for _, o := range outcomes {
		for _, share := range []float64{0, 0.7, 1} {
			w := newWorld(dualStack, twoResolvers, addLink(secondCard, "10.7.0.2/24"), addRoute(defaultVia("10.7.0.1", "eth1", 50)),
				asking(httpTarget(webURLTLS), tcpTarget("10.0.9.20", 22), tcpTarget(neighbour77, 22), Target{Raw: webAddr, Host: webAddr}, Target{Raw: "db", Host: "db"},
					Target{Raw: "udp://10.0.9.9:99", Scheme: "udp", Host: webAddr, Port: 99}, Target{Raw: "dns://10.0.9.9", Scheme: "dns", Host: webAddr, Port: 53}),
				question(func(q *Question) { q.Anchors = []netip.Addr{ip(anchorAddr)} }),
				host(func(h *facts.Host) { h.Resolver.Search = []string{"a.test", "b.test"} }),
				later(func(h *facts.Host) {
					l := linkOf(h, "eth0")
					l.CarrierChanges++
					l.Stats.RxCRCErrors++
					h.Sockets.Listeners[0].RecvQ = 500
				}))
			n := 0
			for ; ; n++ {
				ws := Pending(w.e)
				if n > rounds {
					t.Errorf("outcome %q, %.0f %% answered: after %d rounds still %v", o, share*100, n, keys(ws))
					break
				}
				for _, x := range ws {
					switch {
					case x.Kind == KindLookup:
						w.e.Lookups = append(w.e.Lookups, w.lookup(ip(x.Target)))
					case o == "error" || x.Kind == KindWindow:
						w.e.Measured = append(w.e.Measured, Measured{Want: x, Error: "cannot"})
					default:
						r := generic(x, o, share)
						w.e.Measured = append(w.e.Measured, Measured{Want: x, Result: &r})
					}
				}
				if len(ws) == 0 {
					if w.e.After != nil {
						break
					}
					w.e.After = w.after
				}
			}
			if len(w.e.Measured) > 600 {
				t.Errorf("outcome %q, %.0f %% answered: %d measurements for seven targets", o, share*100, len(w.e.Measured))
			}
			if _, failure := exercise(t, w.e); failure != "" {
				t.Errorf("outcome %q: %s", o, failure)
			}
		}
	}
}

// sentTo lists the addresses that something was sent to in a finished run.
func sentTo(e *Evidence) map[netip.Addr][]string {
	out := map[netip.Addr][]string{}
	for _, m := range e.Measured {
		if a := wantAddr(m.Want); a.IsValid() {
			out[a.WithZone("")] = append(out[a.WithZone("")], m.Want.Key())
		}
	}
	return out
}

// Passive: nothing but to the named targets, and to resolvers only for their names.
func TestPassiveSendsToTargetsOnly(t *testing.T) {
	passive := question(func(q *Question) { q.Passive, q.Anchors = true, []netip.Addr{ip(anchorAddr)} })
	for _, c := range []struct {
		name    string
		opts    []option
		allowed []string
	}{
		{"nothing asked", nil, nil},
		{"an address", opts(askTCP(webAddr, 22)), []string{webAddr}},
		{"an address that loses packets", opts(askTCP(webAddr, 22), lossFrom(3, 0.1)), []string{webAddr}},
		{"an address whose delay varies", opts(askAddr(webAddr), jitter(webAddr, ms(60))), []string{webAddr}},
		{"an address that vanishes", opts(askTCP(webAddr, 22), vanishAfter(webAddr, 1)), []string{webAddr}},
		{"a neighbour", opts(askTCP(neighbour77, 22)), []string{neighbour77}},
		{"a name", opts(askURL(webURL)), []string{webAddr, dns1}},
		{"a name and a resolver that is slow and fails", opts(askURL(webURL), slowDNS(dns1, 900, every), dnsAnswer(dns1, func(d *probe.DNS) { d.Rcode = "SERVFAIL" })), []string{webAddr, dns1}},
	} {
		e := evidence(t, append(opts(passive), c.opts...)...)
		for a, what := range sentTo(e) {
			if !slices.Contains(c.allowed, a.String()) {
				t.Errorf("%s: sent to %s: %s", c.name, a, strings.Join(what, "; "))
			}
			if a == ip(dns1) && slices.ContainsFunc(what, func(k string) bool { return strings.HasPrefix(k, "icmp") }) {
				t.Errorf("%s: the resolver was pinged: %v", c.name, what)
			}
		}
	}
}

func TestOneFamilyOnly(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		e := evidence(t, askURL(webURL), dualStack, question(func(q *Question) { q.V4Only, q.V6Only = !v6, v6 }))
		for a, what := range sentTo(e) {
			if a.Is6() != v6 && a != ip(dns1) {
				t.Errorf("asked for %s only: sent to %s: %v", map[bool]string{false: "IPv4", true: "IPv6"}[v6], a, what)
			}
		}
		for _, m := range e.Measured {
			if m.Want.Kind == probe.KindDNS && (m.Want.Type == "AAAA" && !v6 || m.Want.Type == "A" && v6 && m.Want.Name != cannotExist) {
				t.Errorf("V6Only %v: asked for %s", v6, m.Want.Key())
			}
		}
		want := map[bool]string{false: webAddr, true: v6Web}[v6]
		if !slices.ContainsFunc(e.Measured, func(m Measured) bool { return m.Want.Kind == probe.KindHTTP && m.Want.Pin.Addr() == ip(want) }) {
			t.Errorf("V6Only %v: the page at %s was not fetched", v6, want)
		}
	}
}

func TestGateways(t *testing.T) {
	gws := func(o ...option) (out []string) {
		for _, g := range newWorld(o...).e.Gateways() {
			out = append(out, g.Addr.String()+" "+g.Link)
		}
		return out
	}
	r := defaultVia
	multi := facts.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Type: "unicast", Table: mainTable, NextHops: []facts.NextHop{{Gateway: ip("10.0.0.9"), Link: "eth0"}, {Gateway: ip("10.7.0.1"), Link: "eth1"}}}
	only := func(rs ...facts.Route) option { return host(func(h *facts.Host) { h.Routes = rs }) }
	other := r("10.7.0.9", "eth1", 0)
	other.Table = 100
	dead := r("10.7.0.8", "eth1", 0)
	dead.Type = "unreachable"
	for _, c := range []struct {
		name string
		got  []string
		want []string
	}{
		{"one", gws(), []string{"10.0.0.1 eth0"}},
		{"none", gws(only()), nil},
		{"the better metric", gws(only(r(gwAddr, "eth0", 100), r("10.7.0.1", "eth1", 50))), []string{"10.7.0.1 eth1"}},
		{"the better metric, listed first", gws(only(r("10.7.0.1", "eth1", 50), r(gwAddr, "eth0", 100))), []string{"10.7.0.1 eth1"}},
		{"equal metrics", gws(only(r("10.7.0.1", "eth1", 50), r(gwAddr, "eth0", 50))), []string{"10.0.0.1 eth0", "10.7.0.1 eth1"}},
		{"multipath", gws(only(multi)), []string{"10.0.0.9 eth0", "10.7.0.1 eth1"}},
		{"one of each family", gws(dualStack), []string{"10.0.0.1 eth0", "fe80::1 eth0"}},
		{"IPv6 only", gws(dualStack, question(func(q *Question) { q.V6Only = true })), []string{"fe80::1 eth0"}},
		{"through one interface", gws(only(r(gwAddr, "eth0", 1), r("10.7.0.1", "eth1", 50)), question(func(q *Question) { q.Link = "eth1" })), []string{"10.7.0.1 eth1"}},
		{"through one interface of a multipath route", gws(only(multi), question(func(q *Question) { q.Link = "eth1" })), []string{"10.7.0.1 eth1"}},
		{"other tables and refusing routes do not count", gws(only(other, dead)), nil},
		{"the same route twice", gws(only(r(gwAddr, "eth0", 1), r(gwAddr, "eth0", 1))), []string{"10.0.0.1 eth0"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
	e := evidence(t, dualStack)
	if !slices.ContainsFunc(e.Measured, func(m Measured) bool { return m.Want.Kind == probe.KindICMP && m.Want.Target == "fe80::1%eth0" }) {
		t.Error("the link-local gateway was not asked with its zone")
	}
}

// A long name is measured at a bounded number of addresses.
func TestManyAddressesAreBounded(t *testing.T) {
	var as []string
	for i := range 40 {
		as = append(as, fmt.Sprintf("10.0.9.%d", i+1))
	}
	e := evidence(t, askURL(webURL), named(webFQDN, as...))
	if n := len(e.TargetAddrs(e.Question.Targets[0])); n != maxAddrs {
		t.Errorf("%d addresses are measured, want %d", n, maxAddrs)
	}
}

// A healthy host is judged within few rounds and few packets: users wait for it.
func TestAHealthyHostCostsLittle(t *testing.T) {
	w := newWorld(askURL(webURLTLS), dualStack)
	w.maxRounds = 6 // lookups, names, addresses, what their routes allow, the second snapshot
	w.play(t)
	if n := len(w.e.Measured); n > 40 {
		t.Errorf("%d measurements for one healthy page", n)
	}
	var longest sample.Duration
	for _, m := range w.e.Measured {
		if m.Want.Kind == probe.KindICMP {
			longest = max(longest, m.Want.Every*sample.Duration(m.Want.Count))
		}
	}
	if longest > ms(2500) {
		t.Errorf("a series of %s does not fit a healthy verdict of three seconds", longest)
	}
}
