package diagnose

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

// A world is a small healthy network that answers every want, so that a test
// says only what is broken. The loop of the agent is played to its end: a rule
// that forgets to ask for what it needs finds nothing here either.
//
//	this host 10.0.0.2 (eth0) ── gw 10.0.0.1 ── 10.0.2.1 ── 10.0.3.1 ── everything else
//	                          └─ resolvers 10.0.0.53, 10.0.0.54, neighbours 10.0.0.x
type world struct {
	e         *Evidence
	after     *facts.Host                    // what the second snapshot will show
	names     map[string][]string            // zone: FQDN → addresses; a name that is missing does not exist
	lookups   map[netip.Addr]facts.Lookup    // instead of the routing table's answer
	edits     []func(w Want, m *Measured)    // what is broken, in order
	finish    []func(e *Evidence)            // changes once all is measured
	onTheWay  []netip.Addr                   // routers behind the gateway
	rtt       map[netip.Addr]sample.Duration // one per address; 10 ms otherwise
	maxRounds int
}

type option func(*world)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	webAddr = "10.0.9.9"
	gwAddr  = "10.0.0.1"
	hop2    = "10.0.2.1"
	hop3    = "10.0.3.1"
	dns1    = "10.0.0.53"
	dns2    = "10.0.0.54"
	v6Web   = "fd00:9::9"
	v6GW    = "fe80::1"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func ms(x float64) sample.Duration { return sample.Duration(x * 1e6) }

// evidence plays a world and returns all that was measured in it, in canonical order.
func evidence(t testing.TB, opts ...option) *Evidence {
	t.Helper()
	w := newWorld(opts...)
	w.play(t)
	return w.e
}

func newWorld(opts ...option) *world {
	h := healthyHost()
	w := &world{
		e:     &Evidence{Schema: EvidenceSchema, Version: "test", Started: t0, Finished: t0.Add(3 * time.Second), Before: h},
		after: healthyHost(), lookups: map[netip.Addr]facts.Lookup{}, rtt: map[netip.Addr]sample.Duration{},
		names:    map[string][]string{"web.lab.test.": {webAddr}},
		onTheWay: []netip.Addr{ip(hop2), ip(hop3)}, maxRounds: 20,
	}
	w.after.Taken = t0.Add(2 * time.Second)
	s := &w.link(w.after, "eth0").Stats
	s.RxPackets, s.TxPackets, s.RxBytes, s.TxBytes = s.RxPackets+2000, s.TxPackets+1500, s.RxBytes+1_500_000, s.TxBytes+200_000
	for _, o := range opts {
		o(w)
	}
	return w
}

func healthyHost() *facts.Host {
	yes := true
	h := &facts.Host{
		Taken: t0, Hostname: "lab", Kernel: "6.1.0", Privilege: facts.Privilege{NetRaw: true, NetAdmin: true, Ptrace: true, Init: true},
		Links: []facts.Link{
			{Index: 1, Name: "lo", Kind: "loopback", Up: true, Carrier: true, MTU: 65536},
			{
				Index: 2, Name: "eth0", Kind: "device", Flags: []string{"up", "broadcast"}, Up: true, Carrier: true, OperState: "up", MTU: 1500,
				MAC: "02:00:00:00:00:02", SpeedMbps: 1000, Duplex: "full", SupportedMbps: 1000, PartnerMbps: 1000, Autoneg: &yes, CarrierChanges: 2,
				Stats: facts.LinkStats{RxPackets: 1e6, TxPackets: 1e6, RxBytes: 1e9, TxBytes: 1e9}, DriverStats: map[string]uint64{"rx_csum_good": 7},
			},
		},
		Addrs: []facts.Addr{
			{Link: "lo", Prefix: netip.MustParsePrefix("127.0.0.1/8"), Scope: "host"},
			{Link: "eth0", Prefix: netip.MustParsePrefix("10.0.0.2/24"), Scope: "global"},
			{Link: "eth0", Prefix: netip.MustParsePrefix("fe80::2/64"), Scope: "link"},
		},
		Routes: []facts.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: ip(gwAddr), Link: "eth0", Type: "unicast", Protocol: "dhcp", Table: mainTable},
			{Dst: netip.MustParsePrefix("10.0.0.0/24"), Link: "eth0", Type: "unicast", Protocol: "kernel", Table: mainTable},
			{Dst: netip.MustParsePrefix("fe80::/64"), Link: "eth0", Type: "unicast", Protocol: "kernel", Table: mainTable},
		},
		Neighbours: []facts.Neighbour{
			{Link: "eth0", Address: ip(gwAddr), MAC: "02:00:00:00:00:01", State: "reachable"},
			{Link: "eth0", Address: ip(dns1), MAC: "02:00:00:00:00:53", State: "reachable"},
		},
		NeighTables: []facts.NeighTable{{Name: "arp_cache", Entries: 4, Thresh1: 128, Thresh2: 512, Thresh3: 1024}},
		Qdiscs:      []facts.Qdisc{{Link: "eth0", Kind: "fq_codel", Handle: "0:", Parent: "root", Limit: 10240, Packets: 1e6}},
		Resolver:    &facts.Resolver{Servers: []netip.AddrPort{netip.AddrPortFrom(ip(dns1), 53)}, NDots: 1, TimeoutS: 5, Attempts: 2, Path: "/etc/resolv.conf"},
		Counters: map[string]uint64{
			"Tcp.OutSegs": 1e6, "Tcp.RetransSegs": 10, "TcpExt.ListenOverflows": 3, "TcpExt.ListenDrops": 3,
			"Udp.RcvbufErrors": 2, "Udp6.RcvbufErrors": 0, "Udp.InDatagrams": 1e5,
		},
		Softnet:   []facts.Softnet{{CPU: 0, Processed: 1e6}},
		Conntrack: &facts.Conntrack{Count: 120, Max: 65536},
		Sockets: &facts.Sockets{
			States: map[string]int{"ESTABLISHED": 3, "TIME_WAIT": 3000, "CLOSE_WAIT": 2, "LISTEN": 1}, Total: 3006, Method: "sock_diag", Procs: true,
			Listeners:    []facts.Socket{{Proto: "tcp", Local: netip.MustParseAddrPort("0.0.0.0:22"), SendQ: 128, Inode: 11, Process: "sshd[500]"}},
			UDP:          []facts.Socket{{Proto: "udp", Local: netip.MustParseAddrPort("0.0.0.0:514"), RcvBuf: 212992, Inode: 12, Process: "rsyslogd[600]", Drops: 100}},
			CloseWait:    []facts.SocketGroup{{Process: "app[700]", Count: 2, MedianAge: ms(20), OldestAge: ms(40)}},
			Destinations: []facts.Destination{{Remote: netip.MustParseAddrPort("10.0.9.9:443"), Local: ip("10.0.0.2"), Ports: 3000, TimeWait: 3000}},
		},
		Sysctls:  map[string]string{"net.ipv4.ip_local_port_range": "32768\t60999", "net.core.netdev_max_backlog": "1000"},
		Firewall: &facts.Firewall{Chains: []facts.FWChain{{Family: "inet", Table: "filter", Name: "output", Hook: "output", Type: "filter", Policy: "accept"}}},
	}
	return h
}

// --- what a question and a host are made of ---

func asking(ts ...Target) option { return func(w *world) { w.e.Question.Targets = ts } }

func askAddr(a string) option { return asking(Target{Raw: a, Host: a}) }

func tcpTarget(a string, port uint16) Target {
	return Target{Raw: netip.AddrPortFrom(ip(a), port).String(), Host: a, Port: port}
}

func askTCP(a string, port uint16) option { return asking(tcpTarget(a, port)) }

func httpTarget(url string) Target {
	scheme, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	port := uint16(80)
	if scheme == "https" {
		port = 443
	}
	return Target{Raw: url, Scheme: scheme, Host: host, Port: port, URL: url}
}

func askURL(url string) option { return asking(httpTarget(url)) }

const (
	webURL      = "http://web.lab.test/"
	webURLTLS   = "https://web.lab.test/"
	literalURL  = "http://10.0.9.9/"
	webName     = "web.lab.test"
	webFQDN     = "web.lab.test."
	anchorAddr  = "10.0.99.1"
	neighbour77 = "10.0.0.77"
)

// host changes both snapshots, later only the second, earlier only the first.
func host(f func(h *facts.Host)) option {
	return func(w *world) { f(w.e.Before); f(w.after) }
}
func later(f func(h *facts.Host)) option { return func(w *world) { f(w.after) } }

func (w *world) link(h *facts.Host, name string) *facts.Link { return linkOf(h, name) }

func linkOf(h *facts.Host, name string) *facts.Link {
	for i := range h.Links {
		if h.Links[i].Name == name {
			return &h.Links[i]
		}
	}
	panic("no link " + name)
}

func eth0(f func(l *facts.Link)) option { return host(func(h *facts.Host) { f(linkOf(h, "eth0")) }) }

func eth0Later(f func(l *facts.Link)) option {
	return later(func(h *facts.Host) { f(linkOf(h, "eth0")) })
}

func addLink(l facts.Link, addrs ...string) option {
	return host(func(h *facts.Host) {
		l.Index = len(h.Links) + 1
		h.Links = append(h.Links, l)
		for _, a := range addrs {
			h.Addrs = append(h.Addrs, facts.Addr{Link: l.Name, Prefix: netip.MustParsePrefix(a), Scope: "global"})
		}
	})
}

func addRoute(r facts.Route) option {
	return host(func(h *facts.Host) {
		if r.Type == "" {
			r.Type = "unicast"
		}
		if r.Table == 0 {
			r.Table = mainTable
		}
		h.Routes = append(h.Routes, r)
	})
}

func noRoutes(h *facts.Host) { h.Routes = nil }

func dualStack(w *world) {
	host(func(h *facts.Host) {
		h.Addrs = append(h.Addrs, facts.Addr{Link: "eth0", Prefix: netip.MustParsePrefix("fd00::2/64"), Scope: "global"})
		h.Routes = append(h.Routes,
			facts.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: ip(v6GW), Link: "eth0", Type: "unicast", Protocol: "ra", Table: mainTable},
			facts.Route{Dst: netip.MustParsePrefix("fd00::/64"), Link: "eth0", Type: "unicast", Protocol: "kernel", Table: mainTable})
	})(w)
	w.names[webFQDN] = []string{webAddr, v6Web}
}

func twoResolvers(w *world) {
	host(func(h *facts.Host) {
		h.Resolver.Servers = append(h.Resolver.Servers, netip.AddrPortFrom(ip(dns2), 53))
	})(w)
}

func named(fqdn string, addrs ...string) option {
	return func(w *world) {
		if len(addrs) == 1 && addrs[0] == "" {
			addrs = nil
		}
		w.names[fqdn] = addrs
	}
}

func roundTrip(a string, d sample.Duration) option { return func(w *world) { w.rtt[ip(a)] = d } }

func question(f func(q *Question)) option { return func(w *world) { f(&w.e.Question) } }

func lookup(l facts.Lookup) option { return func(w *world) { w.lookups[l.Destination] = l } }

func witnessed(flows ...facts.WireFlow) option {
	return func(w *world) { w.e.Witness, w.e.Wire = true, append(w.e.Wire, flows...) }
}

func finally(f func(e *Evidence)) option { return func(w *world) { w.finish = append(w.finish, f) } }

// --- what is broken: edits of answers ---

type match func(Want) bool

func kind(kinds ...string) match { return func(w Want) bool { return slices.Contains(kinds, w.Kind) } }

// to matches what is sent to an address, whatever the kind says it in.
func to(addr string) match { return func(w Want) bool { return wantAddr(w) == ip(addr) } }

func both(ms ...match) match {
	return func(w Want) bool {
		for _, m := range ms {
			if !m(w) {
				return false
			}
		}
		return true
	}
}

func portIs(p uint16) match { return func(w Want) bool { return wantPort(w) == p } }

func wantAddr(w Want) netip.Addr {
	if w.Pin.IsValid() {
		return w.Pin.Addr()
	}
	if ap, err := netip.ParseAddrPort(w.Target); err == nil {
		return ap.Addr()
	}
	a, _ := netip.ParseAddr(w.Target)
	return a
}

func wantPort(w Want) uint16 {
	if w.Pin.IsValid() {
		return w.Pin.Port()
	}
	ap, _ := netip.ParseAddrPort(w.Target)
	return ap.Port()
}

func edit(m match, f func(w Want, x *Measured)) option {
	return func(wd *world) {
		wd.edits = append(wd.edits, func(w Want, x *Measured) {
			if m(w) {
				f(w, x)
			}
		})
	}
}

func change(m match, f func(r *probe.Result)) option {
	return edit(m, func(_ Want, x *Measured) {
		if x.Result != nil {
			f(x.Result)
		}
	})
}

// silent: nothing comes back. A trace keeps the routers on the way.
func silent(m match) option { return change(m, func(r *probe.Result) { silence(r) }) }

func silence(r *probe.Result) {
	r.Outcome, r.RTT, r.Phases, r.Detail = probe.Timeout, nil, nil, "no answer"
	switch r.Kind {
	case probe.KindICMP:
		lose(r, r.Echo.Sent)
	case probe.KindTCP:
		*r.TCP = probe.TCP{Attempts: r.TCP.Attempts, TimedOut: r.TCP.Attempts, SYNRetrans: 2 * r.TCP.Attempts, Retried: r.TCP.Attempts}
	case probe.KindPath:
		r.Path.Hops = slices.DeleteFunc(r.Path.Hops, func(h probe.Hop) bool { return h.Target })
		r.Path.Reached = false
		pad(r.Path)
	case probe.KindDNS:
		r.DNS.Rcode, r.DNS.Answers, r.DNS.Flags, r.DNS.Times, r.DNS.Lost = "", nil, nil, nil, r.DNS.Tries
	case probe.KindTLS:
		r.TLS = nil
	case probe.KindHTTP, probe.KindHTTP3:
		r.TLS, r.HTTP = nil, &probe.HTTP{URL: r.Target}
	case probe.KindMTU:
		r.MTU.Works = 0
	case probe.KindARP:
		r.ARP.MACs = nil
	}
}

// pad appends the silent hops that a trace tries before it gives up.
func pad(p *probe.Path) {
	for range 5 {
		p.Hops = append(p.Hops, probe.Hop{TTL: len(p.Hops) + 1, Sent: 3})
	}
}

// lose drops n of a series' answers, spread evenly.
func lose(r *probe.Result, n int) {
	e := r.Echo
	e.Received = max(e.Sent-n, 0)
	e.Lost = nil
	for i := range n {
		e.Lost = append(e.Lost, i*e.Sent/max(n, 1))
	}
	e.RTTs = e.RTTs[:e.Received]
	if e.Received == 0 {
		r.Outcome, r.RTT, e.ReplyTTL = probe.Timeout, nil, 0
	}
}

// lossy loses a share of the echo series to an address.
func lossy(addr string, share float64) option {
	return change(both(kind(probe.KindICMP), to(addr)), func(r *probe.Result) { lose(r, int(share*float64(r.Echo.Sent))) })
}

// vanishAfter: everything to addr is lost behind the hop with the given TTL.
func vanishAfter(addr string, ttl int) option {
	return change(to(addr), func(r *probe.Result) {
		silence(r)
		if r.Kind == probe.KindPath {
			r.Path.Hops = slices.DeleteFunc(r.Path.Hops, func(h probe.Hop) bool { return h.TTL > ttl })
			pad(r.Path)
		}
	})
}

// says: an ICMP error comes back for everything that matches.
func says(m match, from string, typ, code uint8) option {
	return change(m, func(r *probe.Result) {
		silence(r)
		x := &probe.ICMPError{From: ip(from), Type: typ, Code: code, Text: fmt.Sprintf("type %d code %d", typ, code)}
		r.ICMP, r.Detail = x, ""
		r.Outcome = probe.OutcomeOfICMP(r.Address.Is6(), typ, code)
		if r.Kind == probe.KindPath {
			for i := range r.Path.Hops {
				if r.Path.Hops[i].Address == x.From {
					r.Path.Hops[i].Unreach = x
				}
			}
		}
	})
}

func refused(m match) option {
	return change(both(m, kind(probe.KindTCP, probe.KindUDP, probe.KindDNS, probe.KindTLS, probe.KindHTTP)), func(r *probe.Result) {
		n := 0
		if r.TCP != nil {
			n = r.TCP.Attempts
		}
		silence(r)
		r.Outcome, r.Detail = probe.Refused, "connection refused"
		if r.TCP != nil {
			*r.TCP = probe.TCP{Attempts: n, Refused: n, Connects: repeat(ms(10), n)}
		}
	})
}

func repeat(d sample.Duration, n int) []sample.Duration {
	return slices.Repeat([]sample.Duration{d}, n)
}

func dnsAnswer(server string, f func(d *probe.DNS)) option {
	return change(both(kind(probe.KindDNS), to(server)), func(r *probe.Result) {
		if r.DNS.Rcode != "" {
			f(r.DNS)
			if r.DNS.Rcode != "NOERROR" && r.DNS.Rcode != "NXDOMAIN" {
				r.Outcome = probe.BadAnswer
			}
		}
	})
}

func certificate(f func(t *probe.TLS)) option {
	return change(func(Want) bool { return true }, func(r *probe.Result) {
		if r.TLS != nil {
			f(r.TLS)
		}
	})
}

func badCertificate(problem string, f func(c *probe.Certificate)) option {
	return certificate(func(t *probe.TLS) {
		t.Verified, t.Problem, t.ProblemText = false, problem, "x509: "+problem
		f(&t.Chain[0])
	})
}

func web(f func(r *probe.Result)) option { return change(kind(probe.KindHTTP), f) }

// --- the healthy answers ---

// play is the agent's loop without an agent.
func (w *world) play(t testing.TB) {
	t.Helper()
	for round := 0; ; round++ {
		ws := Pending(w.e)
		if len(ws) == 0 && w.e.After != nil {
			break
		}
		if round > w.maxRounds {
			t.Fatalf("still pending after %d rounds: %v", round, keys(ws))
		}
		for _, x := range ws {
			if x.Kind == KindLookup {
				w.e.Lookups = append(w.e.Lookups, w.lookup(ip(x.Target)))
				continue
			}
			w.e.Measured = append(w.e.Measured, w.answer(x))
		}
		if len(ws) == 0 {
			w.e.After = w.after
		}
	}
	for _, f := range w.finish {
		f(w.e)
	}
	w.e.Sort()
}

func keys(ws []Want) (out []string) {
	for _, w := range ws {
		out = append(out, w.Key())
	}
	return out
}

func (w *world) answer(x Want) Measured {
	m := Measured{Want: x}
	if x.Kind != KindWindow {
		r := w.healthy(x)
		m.Result = &r
	}
	for _, f := range w.edits {
		f(x, &m)
	}
	return m
}

// lookup is the routing table's answer: longest prefix, then metric.
func (w *world) lookup(a netip.Addr) facts.Lookup {
	if l, ok := w.lookups[a]; ok {
		return l
	}
	h := w.e.Before
	if h.HasAddr(a) || a.IsLoopback() {
		return facts.Lookup{Destination: a, Route: facts.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Link: "lo", Type: "local"}}
	}
	var cover []facts.Route
	for _, r := range h.Routes {
		if r.Dst.Contains(a.WithZone("")) {
			cover = append(cover, r)
		}
	}
	slices.SortStableFunc(cover, func(x, y facts.Route) int { return firstNonZero(y.Dst.Bits()-x.Dst.Bits(), x.Metric-y.Metric) })
	if len(cover) == 0 {
		return facts.Lookup{Destination: a, Error: "ENETUNREACH"}
	}
	r := cover[0]
	r.Dst = netip.PrefixFrom(a, a.BitLen())
	l := facts.Lookup{Destination: a, Route: r, Matched: &cover[0], Alternatives: cover[1:]}
	if r.Type != "unicast" {
		l.Error = "EHOSTUNREACH"
	}
	return l
}

// onLink reports whether nothing lies between this host and a.
func (w *world) onLink(a netip.Addr) bool {
	l := w.lookup(a)
	return l.Error == "" && !l.Route.Gateway.IsValid() || a.IsLinkLocalUnicast()
}

func (w *world) rttTo(a netip.Addr) sample.Duration {
	switch d, ok := w.rtt[a.WithZone("")]; {
	case ok:
		return d
	case w.onLink(a):
		return ms(0.3)
	}
	for i, h := range w.onTheWay {
		if h == a {
			return ms(float64(i+1) * 2)
		}
	}
	return ms(10)
}

func (w *world) path(a netip.Addr) []netip.Addr {
	if w.onLink(a) {
		return []netip.Addr{a}
	}
	gw := w.lookup(a).Route.Gateway
	if a.Is6() {
		return []netip.Addr{ip("fd00::1"), ip("fd00:2::1"), ip("fd00:3::1"), a}
	}
	return append(append([]netip.Addr{gw}, w.onTheWay...), a)
}

func (w *world) healthy(x Want) probe.Result {
	a, port := wantAddr(x), wantPort(x)
	d := w.rttTo(a)
	r := probe.Result{
		Kind: x.Kind, Target: x.Target, Address: a, Port: port, Source: ip("10.0.0.2"), Start: t0, Elapsed: d, Outcome: probe.OK,
		RTT: &probe.RTT{Value: d, Error: ms(0.05), Clock: "kernel"},
	}
	if a.Is6() {
		r.Source = ip("fd00::2")
	}
	switch x.Kind {
	case probe.KindICMP:
		size := x.Size
		if size == 0 {
			size = 84
		}
		r.Echo = &probe.Echo{Sent: x.Count, Received: x.Count, Size: size, DF: x.DF, ReplyTTL: 65 - len(w.path(a)), RTTs: repeat(d, x.Count), Via: x.Via}
		if x.Via.IsValid() {
			lose(&r, x.Count) // other next hops lead nowhere unless a test says so
		}
	case probe.KindTCP:
		r.TCP = &probe.TCP{Attempts: x.Count, Connected: x.Count, Connects: repeat(d, x.Count), MinRTT: d, MSS: 1448}
	case probe.KindPath:
		r.Path = &probe.Path{Protocol: x.Protocol, Port: x.Port, Reached: true}
		for i, h := range w.path(a) {
			hop := probe.Hop{TTL: i + 1, Address: h, Sent: 3, Received: 3, RTTs: repeat(w.rttTo(h), 3), Target: h == a, QuotedTTL: 1}
			r.Path.Hops = append(r.Path.Hops, hop)
		}
	case probe.KindMTU:
		r.MTU = &probe.MTU{LinkMTU: 1500, Works: 1500, Tries: 3}
	case probe.KindARP:
		r.ARP = &probe.ARP{Interface: x.Link, Own: w.e.Before.HasAddr(a), Sent: x.Count}
		if !r.ARP.Own {
			b := a.As16()
			r.ARP.MACs = []string{fmt.Sprintf("02:00:00:00:%02x:%02x", b[14], b[15])}
		} else {
			r.Outcome = probe.Timeout
		}
	case probe.KindDNS:
		r.DNS = w.dns(x, d)
	case probe.KindTLS:
		r.Phases = []probe.Phase{{Name: "connect", Duration: d}, {Name: "tls", Duration: d}}
		r.TLS = goodTLS(x.Name, d)
	case probe.KindHTTP, probe.KindHTTP3:
		w.http(&r, x, d)
	}
	return r
}

func (w *world) dns(x Want, d sample.Duration) *probe.DNS {
	out := &probe.DNS{
		Server: x.Target, Transport: x.Protocol, Name: x.Name, Type: x.Type, Rcode: "NOERROR", Flags: []string{"qr", "rd", "ra"},
		EDNS: true, Tries: x.Count, Times: repeat(d+ms(1), x.Count),
	}
	as, exists := w.names[x.Name]
	switch {
	case x.Name == rootName:
		out.Answers = []probe.DNSRecord{{Name: ".", Type: "NS", TTL: 518400, Data: "a.root-servers.net."}}
	case !exists:
		out.Rcode = "NXDOMAIN"
		out.Authority = []probe.DNSRecord{{Name: "lab.test.", Type: "SOA", TTL: 60, Data: "ns.lab.test. root.lab.test. 1 2 3 4 5"}}
	}
	for _, s := range as {
		if t := map[bool]string{false: "A", true: "AAAA"}[ip(s).Is6()]; t == x.Type {
			out.Answers = append(out.Answers, probe.DNSRecord{Name: x.Name, Type: t, TTL: 60, Data: s})
		}
	}
	return out
}

func goodTLS(name string, d sample.Duration) *probe.TLS {
	return &probe.TLS{
		Version: "TLS 1.3", CipherSuite: "TLS_AES_128_GCM_SHA256", ALPN: "h2", ServerName: name, Handshake: d + ms(2), ConnectRTT: d, Verified: true,
		Chain: []probe.Certificate{
			{Subject: "CN=" + name, Issuer: "CN=Lab CA", Names: []string{name}, NotBefore: t0.AddDate(0, -1, 0), NotAfter: t0.AddDate(0, 2, 0), SHA256: "aa"},
		},
	}
}

func (w *world) http(r *probe.Result, x Want, d sample.Duration) {
	r.Phases = []probe.Phase{{Name: "connect", Duration: d}}
	https := strings.HasPrefix(x.Target, "https")
	if https {
		r.Phases = append(r.Phases, probe.Phase{Name: "tls", Duration: d})
		r.TLS = goodTLS(webName, d)
	}
	r.Phases = append(r.Phases, probe.Phase{Name: "request", Duration: ms(0.1)}, probe.Phase{Name: "first_byte", Duration: d + ms(5)}, probe.Phase{Name: "body", Duration: ms(1)})
	r.HTTP = &probe.HTTP{URL: x.Target, Proto: "HTTP/1.1", Status: 200, Bytes: 512, Date: t0, Server: "lab"}
	for range max(x.Count, 1) {
		r.HTTP.Repeats = append(r.HTTP.Repeats, probe.HTTPRepeat{Status: 200, FirstByte: d + ms(5), Total: d + ms(6)})
	}
}

// --- what is expected ---

// verdictOf is a case of a rule's table. Without a cause nothing may be found
// beyond what info allows.
type verdictOf struct {
	name     string
	opts     []option
	cause    string
	subject  string
	location string // part of it
	severity sample.Severity
	conf     Confidence // "" any
	masks    []string   // causes that must be among the explained ones
	info     []string   // of a near-miss: causes that may be told as information
	notes    string     // part of a note that must be there
	unknown  bool       // of a near-miss: the verdict may be (and must be) unknown, not healthy
	proof    string     // part of a proof
}

func opts(o ...option) []option { return o }

func judge(t *testing.T, cases []verdictOf) {
	t.Helper()
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			e := evidence(t, c.opts...)
			r := Decide(e)
			if c.cause == "" {
				c.expectNone(t, r)
			} else {
				c.expectOne(t, e, r)
			}
			if c.notes != "" && !strings.Contains(strings.Join(r.Notes, "\n"), c.notes) {
				t.Errorf("notes %q, want one with %q", r.Notes, c.notes)
			}
			checkReport(t, e, r)
		})
	}
}

func (c verdictOf) expectNone(t *testing.T, r Report) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Severity != sample.Info || !slices.Contains(c.info, f.Cause) {
			t.Errorf("harmless, yet found %s", describe(f))
		}
	}
	for _, cause := range c.info {
		if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Cause == cause }) {
			t.Errorf("want %s told as information", cause)
		}
	}
	want := Healthy
	if c.unknown {
		want = Unknown
	}
	if r.Verdict != want && len(r.Findings) == len(c.info) {
		t.Errorf("verdict %s (%s), want %s", r.Verdict, r.Headline, want)
	}
}

func (c verdictOf) expectOne(t *testing.T, e *Evidence, r Report) {
	t.Helper()
	if len(r.Findings) != 1 {
		t.Errorf("%d findings, want 1 (%s)", len(r.Findings), c.cause)
		for _, f := range r.Findings {
			t.Errorf("  %s", describe(f))
		}
		if len(r.Findings) == 0 {
			t.Logf("headline: %s; notes: %q", r.Headline, r.Notes)
			return
		}
	}
	f := r.Findings[0]
	if f.Cause != c.cause || f.Subject != c.subject || !strings.Contains(f.Location, c.location) || f.Severity != c.severity || c.conf != "" && f.Confidence != c.conf {
		t.Errorf("found %s\nwant %s about %q at %q, %s %s", describe(f), c.cause, c.subject, c.location, c.severity, c.conf)
	}
	for _, m := range c.masks {
		if !slices.ContainsFunc(f.Explains, func(x Explained) bool { return x.Cause == m }) {
			t.Errorf("%s explains %v, want %s among them", f.Cause, f.Explains, m)
		}
	}
	if c.proof != "" && !slices.ContainsFunc(f.Evidence, func(p Proof) bool { return strings.Contains(p.Text, c.proof) }) {
		t.Errorf("no proof says %q: %v", c.proof, f.Evidence)
	}
	if r.Verdict != Faulty && f.Severity != sample.Info {
		t.Errorf("verdict %s with a finding", r.Verdict)
	}
}

func describe(f Finding) string {
	b, _ := json.Marshal(f.Evidence)
	x, _ := json.Marshal(f.Explains)
	return fmt.Sprintf("%s (%s, %s) about %q at %q: %s\n    %s\n    explains %s", f.Cause, f.Severity, f.Confidence, f.Subject, f.Location, f.Summary, b, x)
}

// factNames are the sources that proofs may name beside wants.
var factNames = []string{
	"links", "counters", "addresses", "routes", "ethtool", "ethtool -S", "qdisc", "sockets", "firewall", "wire", "neighbours",
	"neighbour tables", "conntrack", "kernel log", "rtnetlink", "resolver", "sysctl",
}

// checkReport holds for every report: nothing impossible is printed, and every
// finding can be followed to a measurement that was made.
func checkReport(t testing.TB, e *Evidence, r Report) {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatalf("report: %v", err)
	}
	for _, bad := range []string{"%!", "invalid IP", "invalid Prefix", "invalid AddrPort", "NaN", "+Inf", "<nil>", "-0 ", "(, )", "0001-01-01 00:00"} {
		if strings.Contains(string(b), bad) {
			i := strings.Index(string(b), bad)
			t.Errorf("the report says %q: …%s…", bad, b[max(0, i-120):min(len(b), i+60)])
		}
	}
	for _, f := range r.Findings {
		checkFinding(t, e, r, f)
	}
	for _, x := range r.RuledOut {
		if RuleByID(x.Cause) == nil || x.Text == "" {
			t.Errorf("ruled out %+v: no such cause, or no text", x)
		}
		if slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Cause == x.Cause && f.Subject == x.Subject }) {
			t.Errorf("%s about %q is found and ruled out at once: %s", x.Cause, x.Subject, x.Text)
		}
	}
}

func checkFinding(t testing.TB, e *Evidence, r Report, f Finding) {
	t.Helper()
	rule := RuleByID(f.Cause)
	if rule == nil {
		t.Fatalf("finding of an unknown cause %q", f.Cause)
	}
	if f.Title == "" || f.Layer == "" || f.Subject == "" || f.SubjectKind == "" || f.Location == "" || f.Severity == "" || f.Confidence == "" || len(f.Remedy) == 0 || len(f.Validate) == 0 {
		t.Errorf("%s: something is missing in %+v", f.Cause, f)
	}
	if !strings.HasSuffix(f.Summary, ".") {
		t.Errorf("%s: summary %q is no sentence", f.Cause, f.Summary)
	}
	if len(f.Evidence) == 0 || !slices.ContainsFunc(f.Evidence, func(p Proof) bool { return strings.ContainsAny(p.Text, "0123456789") }) {
		t.Errorf("%s: no proof with a number: %v", f.Cause, f.Evidence)
	}
	if len(f.Sceptic) == 0 && rule.Sceptic == "" {
		t.Errorf("%s: nothing for a sceptic", f.Cause)
	}
	for _, s := range f.Sceptic {
		if strings.ContainsAny(s, "<>") && !strings.Contains(s, "</dev/null") {
			t.Errorf("%s: a place-holder is left in %q", f.Cause, s)
		}
	}
	for _, p := range f.Evidence {
		known := p.Measurement == "" || slices.Contains(factNames, p.Measurement) || strings.HasPrefix(p.Measurement, KindLookup+" ") ||
			slices.ContainsFunc(e.Measured, func(m Measured) bool { return strings.HasPrefix(m.Want.Key(), p.Measurement) })
		if !known {
			t.Errorf("%s: proof %q names %q, which was never measured", f.Cause, p.Text, p.Measurement)
		}
	}
}
