package icmp

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"fathom/internal/testkit"
	"fathom/internal/testkit/netns"
	"fathom/probe"
)

// quick is a series over virtual links: microseconds away.
func quick() Config {
	return Config{Count: 4, Interval: 5 * time.Millisecond, Timeout: 400 * time.Millisecond}
}

func measure(t *testing.T, cfg Config, target string) probe.Result {
	t.Helper()
	r, err := New(cfg).Probe(t.Context(), target)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return r
}

func dump(r probe.Result) string { b, _ := json.Marshal(r); return string(b) }

func wantOK(t *testing.T, r probe.Result, method string) {
	t.Helper()
	if e := r.Echo; r.Outcome != probe.OK || e.Received != 4 || e.Sent != 4 || e.Loss() != 0 || e.ReplyTTL == 0 || len(e.RTTs) != 4 || r.Method != method || !r.Source.IsValid() {
		t.Errorf("%s", dump(r))
	}
	// The first stamps may come before the kernel has switched them on everywhere.
	if r.RTT == nil || r.RTT.Value <= 0 || r.RTT.Value > r.Elapsed {
		t.Errorf("rtt: %s", dump(r))
	}
}

func TestLoopback(t *testing.T) {
	testkit.NeedRoot(t)
	for _, addr := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"} {
		cfg := quick()
		cfg.ForceRaw = true
		wantOK(t, measure(t, cfg, addr), methodRaw)
	}
}

func TestDatagramSocketAsUser(t *testing.T) {
	ns := netns.New(t)
	ns.IP("link add dummy type bridge")
	ns.IP("link set dummy up")
	ns.IP("addr add 10.9.0.1/24 dev dummy")
	ns.InAsNobody(func() {
		_, err := New(quick()).Probe(t.Context(), "127.0.0.1")
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "needs CAP_NET_RAW or a wider net.ipv4.ping_group_range") {
			t.Errorf("a closed door must be named: %v", err)
		}
	})
	ns.Sysctl("net.ipv4.ping_group_range", "0 2147483647")
	ns.InAsNobody(func() {
		for _, addr := range []string{"127.0.0.1", "::1", "10.9.0.1"} {
			r := measure(t, quick(), addr)
			wantOK(t, r, methodDatagram)
			if r.RTT == nil || r.RTT.Clock != "kernel" {
				t.Errorf("clock: %s", dump(r))
			}
		}
		cfg := quick()
		cfg.ForceRaw = true
		if _, err := New(cfg).Probe(t.Context(), "127.0.0.1"); !errors.Is(err, os.ErrPermission) {
			t.Errorf("raw without capability: %v", err)
		}
	})
}

// chain is client – router – server, over both protocols, MTU 1400 behind the router.
func chain(t *testing.T) (c, r, s *netns.NS) {
	c, r, s = netns.New(t), netns.New(t), netns.New(t)
	c.Veth("eth0", r, "r0")
	r.Veth("r1", s, "eth0")
	c.IP("addr add 10.1.0.2/24 dev eth0")
	c.IP("addr add fd01::2/64 dev eth0 nodad")
	r.IP("addr add 10.1.0.1/24 dev r0")
	r.IP("addr add fd01::1/64 dev r0 nodad")
	r.IP("addr add 10.2.0.1/24 dev r1")
	r.IP("addr add fd02::1/64 dev r1 nodad")
	s.IP("addr add 10.2.0.2/24 dev eth0")
	s.IP("addr add fd02::2/64 dev eth0 nodad")
	r.IP("link set r1 mtu 1400")
	s.IP("link set eth0 mtu 1400") // veth drops what is larger than the other end's MTU
	r.Sysctl("net.ipv4.ip_forward", "1")
	r.Sysctl("net.ipv6.conf.all.forwarding", "1")
	for _, x := range []struct {
		ns     *netns.NS
		v4, v6 string
	}{{c, "10.1.0.1", "fd01::1"}, {s, "10.2.0.1", "fd02::1"}} {
		x.ns.IP("route add default via " + x.v4)
		x.ns.IP("route add default via " + x.v6)
	}
	c.Sysctl("net.ipv4.ping_group_range", "0 2147483647")
	for _, ns := range []*netns.NS{c, r, s} { // many errors in a short time
		ns.Sysctl("net.ipv4.icmp_ratemask", "0") // icmp_ratelimit 0 would starve ip_error of its tokens
		ns.Sysctl("net.ipv6.icmp.ratelimit", "0")
	}
	return c, r, s
}

// rejecting is the client of a chain whose router and server reject some.
func rejecting(t *testing.T) *netns.NS {
	c, r, s := chain(t)
	r.Nft("forward", "ip daddr 10.2.0.66 reject with icmp type admin-prohibited", "ip6 daddr fd02::66 reject with icmpv6 type admin-prohibited")
	s.Nft("input", "ip daddr 10.2.0.2 meta length 300 reject with icmp type port-unreachable")
	return c
}

func TestThroughARouter(t *testing.T) {
	c := rejecting(t)
	for _, raw := range []bool{false, true} {
		c.In(func() { throughARouter(t, raw, func(target string) string { return wayTo(target, raw) }) })
	}
}

func TestThroughARouterAsUser(t *testing.T) {
	c := rejecting(t)
	c.InAsNobody(func() { throughARouter(t, false, func(string) string { return methodDatagram }) })
}

// wayTo is the method root uses to an address when the datagram socket is open.
func wayTo(target string, raw bool) string {
	if raw || strings.Contains(target, ":") {
		return methodRaw
	}
	return methodDatagram
}

func throughARouter(t *testing.T, raw bool, method func(target string) string) {
	base := quick()
	base.ForceRaw = raw
	with := func(edit func(*Config)) Config { cfg := base; edit(&cfg); return cfg }
	for _, x := range []struct {
		name, target string
		cfg          Config
		outcome      probe.Outcome
		from         string // who sent the ICMP error
		mtu          int
		errno        string
	}{
		{"v4 answers", "10.2.0.2", base, probe.OK, "", 0, ""},
		{"v6 answers", "fd02::2", base, probe.OK, "", 0, ""},
		{"v4 fits", "10.2.0.2", with(func(c *Config) { c.Size, c.DF = 1400, true }), probe.OK, "", 0, ""},
		{"v4 too big", "10.2.0.2", with(func(c *Config) { c.Size, c.DF = 1401, true }), probe.TooBig, "10.1.0.1", 1400, ""},
		{"v4 too big again, whatever is cached", "10.2.0.2", with(func(c *Config) { c.Size, c.DF = 1500, true }), probe.TooBig, "10.1.0.1", 1400, ""},
		{"v4 in fragments", "10.2.0.2", with(func(c *Config) { c.Size = 1500 }), probe.OK, "", 0, ""},
		{"v4 larger than our link", "10.2.0.2", with(func(c *Config) { c.Size, c.DF = 1501, true }), probe.TooBig, "", 0, "EMSGSIZE"},
		{"v6 fits", "fd02::2", with(func(c *Config) { c.Size, c.DF = 1400, true }), probe.OK, "", 0, ""},
		{"v6 too big", "fd02::2", with(func(c *Config) { c.Size, c.DF = 1401, true }), probe.TooBig, "fd01::1", 1400, ""},
		{"v6 too big again", "fd02::2", with(func(c *Config) { c.Size, c.DF = 1500, true }), probe.TooBig, "fd01::1", 1400, ""},
		{"v6 larger than our link", "fd02::2", with(func(c *Config) { c.Size, c.DF = 1501, true }), probe.TooBig, "", 0, "EMSGSIZE"},
		{"v4 ttl", "10.2.0.2", with(func(c *Config) { c.TTL = 1 }), probe.TTLExceeded, "10.1.0.1", 0, ""},
		{"v6 hop limit", "fd02::2", with(func(c *Config) { c.TTL = 1 }), probe.TTLExceeded, "fd01::1", 0, ""},
		{"v4 prohibited", "10.2.0.66", base, probe.Prohibited, "10.1.0.1", 0, ""},
		{"v6 prohibited", "fd02::66", base, probe.Prohibited, "fd01::1", 0, ""},
		{"v4 refused", "10.2.0.2", with(func(c *Config) { c.Size = 300 }), probe.Refused, "10.2.0.2", 0, ""},
		{"v4 no network", "10.77.0.1", base, probe.Unreachable, "10.1.0.1", 0, ""},
		{"v6 no network", "fd77::1", base, probe.Unreachable, "fd01::1", 0, ""},
		{"link-local", "fe80::1%nolink", base, "", "", 0, ""},
	} {
		r, err := New(x.cfg).Probe(t.Context(), x.target)
		if x.outcome == "" {
			if err == nil {
				t.Errorf("%s: no error", x.name)
			}
			continue
		}
		if err != nil || r.Outcome != x.outcome || r.Method != method(x.target) || r.Errno != x.errno {
			t.Errorf("%s: %s %v", x.name, dump(r), err)
			continue
		}
		from := ""
		if r.ICMP != nil {
			from = r.ICMP.From.String()
			if r.ICMP.MTU != x.mtu {
				t.Errorf("%s: mtu %d, want %d", x.name, r.ICMP.MTU, x.mtu)
			}
		}
		if from != x.from {
			t.Errorf("%s: error from %q, want %q: %s", x.name, from, x.from, dump(r))
		}
		if x.errno == "EMSGSIZE" && !strings.Contains(r.Detail, "MTU 1500") && !strings.Contains(r.Detail, "MTU 1400") {
			t.Errorf("%s: the path MTU is missing: %s", x.name, r.Detail)
		}
	}
}

func TestLocalRefusals(t *testing.T) {
	c, _, _ := chain(t)
	c.Nft("output", "ip daddr 10.2.0.5 drop", "ip6 daddr fd02::5 drop", "ip daddr 10.2.0.6 reject with icmp type admin-prohibited")
	c.IP("route add prohibit 10.3.0.0/24")
	c.IP("route add unreachable 10.4.0.0/24")
	c.IP("route add blackhole 10.5.0.0/24")
	c.IP("route del default")
	c.IP("route add 10.2.0.0/24 via 10.1.0.1")
	c.IP("-6 route del default")
	c.IP("-6 route add fd02::/64 via fd01::1")
	c.In(func() {
		for _, raw := range []bool{false, true} {
			for target, want := range map[string]struct {
				o     probe.Outcome
				errno string
			}{
				"10.2.0.5": {probe.LocalDrop, "EPERM"}, "fd02::5": {probe.LocalDrop, "EPERM"}, "10.2.0.6": {probe.LocalDrop, "EPERM"},
				"10.3.0.1": {probe.LocalDrop, "EACCES"}, "10.4.0.1": {probe.Unreachable, "EHOSTUNREACH"},
				"10.5.0.1": {probe.NoRoute, "EINVAL"}, "10.99.0.1": {probe.NoRoute, "ENETUNREACH"}, "fd99::1": {probe.NoRoute, "ENETUNREACH"},
			} {
				cfg := quick()
				cfg.ForceRaw = raw
				r := measure(t, cfg, target)
				if r.Outcome != want.o || r.Errno != want.errno || r.Echo.Sent != r.Echo.SendErrors || r.Echo.Sent == 0 || r.Echo.Loss() != 0 || r.Detail == "" {
					t.Errorf("raw %v, %s: %s", raw, target, dump(r))
				}
			}
		}
		cfg := quick()
		cfg.Source = netip.MustParseAddr("192.0.2.99")
		if _, err := New(cfg).Probe(t.Context(), "10.2.0.2"); err == nil || !strings.Contains(err.Error(), "not an address of this host") {
			t.Errorf("foreign source: %v", err)
		}
		cfg = quick()
		cfg.Interface = "nolink"
		if _, err := New(cfg).Probe(t.Context(), "10.2.0.2"); err == nil {
			t.Error("missing interface: no error")
		}
	})
}

func TestOwnAddressesAndZones(t *testing.T) {
	c, r, _ := chain(t)
	r.IP("addr add fe80::aa/64 dev r0 nodad")
	c.In(func() {
		for _, raw := range []bool{false, true} {
			cfg := quick()
			cfg.ForceRaw = raw
			for _, a := range []string{"10.1.0.2", "fd01::2", "10.1.0.1", "fe80::aa%eth0"} {
				wantOK(t, measure(t, cfg, a), wayTo(a, raw))
			}
			cfg.Interface = "eth0" // stands for the zone
			wantOK(t, measure(t, cfg, "fe80::aa"), methodRaw)
			cfg.Source = netip.MustParseAddr("10.1.0.2")
			res := measure(t, cfg, "10.2.0.2")
			wantOK(t, res, wayTo("10.2.0.2", raw))
			if res.Source != cfg.Source {
				t.Errorf("source %v", res.Source)
			}
		}
	})
}

// The kernel hides from IPv6 datagram sockets that a filter dropped the request
// (net/ipv6/ping.c ignores icmpv6_push_pending_frames); the missing send stamps
// are all there is.
func TestUserIsToldThatNothingLeft(t *testing.T) {
	c, _, _ := chain(t)
	c.Nft("output", "ip6 daddr fd02::5 drop", "ip daddr 10.2.0.5 drop")
	c.InAsNobody(func() {
		cfg := quick()
		cfg.Timeout = 30 * time.Millisecond
		if r := measure(t, cfg, "fd02::5"); r.Outcome != probe.Timeout || !strings.Contains(r.Detail, "4 of 4 requests have no send stamp") {
			t.Errorf("%s", dump(r))
		}
		if r := measure(t, cfg, "10.2.0.5"); r.Outcome != probe.LocalDrop || r.Errno != "EPERM" {
			t.Errorf("%s", dump(r))
		}
		cfg.TTL = 64
		if r := measure(t, cfg, "fd02::7777"); strings.Contains(r.Detail, "send stamp") {
			t.Errorf("it left, but: %s", dump(r))
		}
	})
}

// A neighbour that does not answer ARP: the kernel tells the socket after three
// seconds; before that it is silence.
func TestSilentNeighbour(t *testing.T) {
	c, _, _ := chain(t)
	c.Sysctl("net.ipv4.neigh.eth0.retrans_time_ms", "100")
	c.In(func() {
		cfg := quick()
		r := measure(t, cfg, "10.1.0.77")
		if r.Outcome != probe.Unreachable || r.ICMP == nil || r.ICMP.From != netip.MustParseAddr("10.1.0.2") {
			t.Errorf("%s", dump(r))
		}
		cfg.Count, cfg.Timeout = 1, 20*time.Millisecond
		if r := measure(t, cfg, "10.1.0.78"); r.Outcome != probe.Timeout || r.Echo.Loss() != 1 {
			t.Errorf("%s", dump(r))
		}
	})
}

// Two raw probers with the same target do not take each other's replies.
func TestManyAtTheSameTime(t *testing.T) {
	testkit.NeedRoot(t)
	p := New(Config{Count: 20, Interval: time.Millisecond, ForceRaw: true})
	type answer struct {
		r   probe.Result
		err error
	}
	answers := make(chan answer, 8)
	for range cap(answers) {
		go func() { r, err := p.Probe(t.Context(), "127.0.0.1"); answers <- answer{r, err} }()
	}
	for range cap(answers) {
		a := <-answers
		if e := a.r.Echo; a.err != nil || e.Received != 20 || e.Duplicates != 0 || e.Corrupt != 0 {
			t.Errorf("%s %v", dump(a.r), a.err)
		}
	}
}

func TestCancelledBeforeAndDuring(t *testing.T) {
	testkit.NeedRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	r, err := New(Config{Count: 1000, Interval: time.Millisecond, ForceRaw: true}).Probe(ctx, "127.0.0.1")
	if e := r.Echo; err != nil || e.Sent == 0 || e.Sent == 1000 || e.Received != e.Sent {
		t.Errorf("%s %v", dump(r), err)
	}
	if _, err := New(Config{}).Probe(ctx, "127.0.0.1"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a dead context: %v", err)
	}
}

// Via: two gateways; the routing table chooses the one that drops.
func TestViaTheOtherGateway(t *testing.T) {
	c, r, s := chain(t)
	good := netns.New(t)
	c.Veth("eth1", good, "g0")
	good.Veth("g1", s, "eth1")
	c.IP("addr add 10.6.0.2/24 dev eth1")
	c.IP("addr add fd06::2/64 dev eth1 nodad")
	good.IP("addr add 10.6.0.1/24 dev g0")
	good.IP("addr add fd06::1/64 dev g0 nodad")
	good.IP("addr add 10.7.0.1/24 dev g1")
	good.IP("addr add fd07::1/64 dev g1 nodad")
	s.IP("addr add 10.7.0.2/24 dev eth1")
	s.IP("addr add fd07::2/64 dev eth1 nodad")
	good.IP("route add 10.2.0.2 via 10.7.0.2")
	good.IP("route add fd02::2 via fd07::2")
	s.IP("route add 10.6.0.0/24 via 10.7.0.1")
	s.IP("route add fd06::/64 via fd07::1")
	good.Sysctl("net.ipv4.ip_forward", "1")
	good.Sysctl("net.ipv6.conf.all.forwarding", "1")
	r.Nft("forward", "drop")
	c.In(func() {
		for _, x := range []struct{ target, bad, good string }{{"10.2.0.2", "10.1.0.1", "10.6.0.1"}, {"fd02::2", "fd01::1", "fd06::1"}} {
			if r := measure(t, quick(), x.target); r.Outcome != probe.Timeout {
				t.Errorf("by the routing table: %s", dump(r))
			}
			cfg := quick()
			cfg.Via, cfg.ViaLink = netip.MustParseAddr(x.good), "eth1"
			res := measure(t, cfg, x.target)
			wantOK(t, res, methodVia)
			if res.Echo.Via != cfg.Via || res.RTT == nil || res.RTT.Clock != "kernel" {
				t.Errorf("%s", dump(res))
			}
			cfg.TTL = 1
			if res := measure(t, cfg, x.target); res.Outcome != probe.TTLExceeded || res.ICMP == nil || res.ICMP.From != cfg.Via {
				t.Errorf("%s", dump(res))
			}
			cfg.TTL, cfg.Via, cfg.ViaLink = 0, netip.MustParseAddr(x.bad), "eth0"
			if res := measure(t, cfg, x.target); res.Outcome != probe.Timeout || res.Echo.Received != 0 {
				t.Errorf("%s", dump(res))
			}
		}
		cfg := quick()
		cfg.Via, cfg.ViaLink = netip.MustParseAddr("10.6.0.99"), "eth1"
		if res := measure(t, cfg, "10.2.0.2"); res.Outcome != probe.Unreachable {
			t.Errorf("a next hop that is not there: %s", dump(res))
		}
	})
	c.InAsNobody(func() {
		cfg := quick()
		cfg.Via, cfg.ViaLink = netip.MustParseAddr("10.6.0.1"), "eth1"
		if _, err := New(cfg).Probe(t.Context(), "10.2.0.2"); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "needs CAP_NET_RAW") {
			t.Errorf("via without capability: %v", err)
		}
	})
}

// No descriptor stays open, whichever way a probe ends.
func TestNoDescriptorLeaks(t *testing.T) {
	c, _, _ := chain(t)
	c.IP("route add prohibit 10.3.0.0/24")
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	c.In(func() {
		dead, cancel := context.WithCancel(t.Context())
		cancel()
		run := func() {
			cfg := Config{Count: 1, Timeout: 10 * time.Millisecond}
			for _, target := range []string{"10.2.0.2", "10.3.0.1", "10.1.0.77", "fd02::2", "fe80::1%nolink"} {
				_, _ = New(cfg).Probe(t.Context(), target)
				_, _ = New(cfg).Probe(dead, target)
			}
			cfg.Via, cfg.ViaLink = netip.MustParseAddr("10.1.0.1"), "eth0"
			_, _ = New(cfg).Probe(t.Context(), "10.2.0.2")
			cfg.Interface, cfg.Via = "nolink", netip.Addr{}
			_, _ = New(cfg).Probe(t.Context(), "10.2.0.2")
		}
		run() // the runtime opens its poller once
		before := count()
		for range 3 {
			run()
		}
		if after := count(); after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

// The hot path: requests and replies over loopback, as fast as they go. One
// operation is one echo.
func BenchmarkEcho(b *testing.B) {
	testkit.NeedRoot(b)
	const perRun = 1000
	cfg := New(Config{Count: perRun, ForceRaw: true}).cfg
	cfg.Interval = 0
	dst := netip.MustParseAddr("127.0.0.1")
	l, err := openSocket(cfg, dst)
	if err != nil {
		b.Fatal(err)
	}
	defer l.conn.Close()
	s := newSeries(cfg, l, dst, 84)
	b.ReportAllocs()
	for n := b.N; n > 0; n -= len(s.shots) {
		s.shots = s.shots[:min(n, perRun)]
		clear(s.shots)
		s.next, s.oldest, s.keys = 0, 0, s.keys[:0]
		_ = l.conn.RestartStamps()
		if err := s.run(b.Context()); err != nil {
			b.Fatal(err)
		}
		if last := s.shots[len(s.shots)-1]; last.state != received {
			b.Fatalf("%+v", last)
		}
	}
}
