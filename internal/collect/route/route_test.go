package route

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"
	"fathom/internal/testkit/netns"

	"github.com/google/go-cmp/cmp"
)

func build(t testing.TB) {
	netns.IP(
		t, "link add v0 type veth peer name v1", "link set v0 up", "link set v1 up",
		"addr add 10.9.0.1/24 dev v0", "addr add 10.9.7.1 peer 10.9.7.2/32 dev v0", "addr add 10.9.1.1/24 dev v1",
		"-6 addr add 2001:db8::1/64 dev v0 nodad", "-6 addr add 2001:db8:9::1/64 dev v1 preferred_lft 0 nodad",
		"route add default via 10.9.0.9 metric 100 proto dhcp", "route add default via 10.9.1.9 metric 50 proto static",
		"route add 192.0.2.0/24 via 10.9.0.9 mtu 1300 src 10.9.0.1", "route add 192.0.2.0/25 dev v1",
		"route add unreachable 198.51.100.0/26", "route add blackhole 198.51.100.64/26", "route add prohibit 198.51.100.128/26", "route add throw 198.51.100.192/26",
		"route add 203.0.113.0/24 nexthop via 10.9.0.9 weight 3 nexthop via 10.9.1.9", "route add 172.16.0.0/12 via 10.9.0.8 table 1000",
		"route add 10.77.0.0/16 via inet6 2001:db8::77 dev v0",
		"-6 route add default via 2001:db8::9 metric 33", "-6 route add unreachable 2001:db8:dead::/48", "-6 route add prohibit 2001:db8:bad::/48", "-6 route add blackhole 2001:db8:b1ac::/48",
		"rule add from 10.9.1.0/24 lookup 1000 prio 100", "rule add fwmark 0x10/0xff lookup 1000 prio 101",
		"rule add uidrange 5-6 ipproto tcp dport 80-90 lookup main suppress_prefixlength 0 prio 103",
		"-6 rule add to 2001:db8:5::/48 prohibit prio 77",
	)
}

func snapshot(t testing.TB) *facts.Host {
	h := &facts.Host{}
	if err := Collect(t.Context(), h); err != nil {
		t.Error(err)
	}
	return h
}

type ipRoute struct {
	Type, Dst, Gateway, Dev, Protocol, Prefsrc string
	Via                                        struct{ Host string }
	Table                                      json.RawMessage
	Metric                                     int
	Metrics                                    []struct{ Mtu int }
	Flags                                      []string
	Nexthops                                   []struct {
		Gateway, Dev string
		Weight       int
		Flags        []string
	}
}

// text brings both forms to one line each, to compare them as sets.
func (r ipRoute) text(v6 bool) string {
	if r.Type == "" {
		r.Type = "unicast"
	}
	if r.Dst == "default" {
		r.Dst = map[bool]string{false: "0.0.0.0/0", true: "::/0"}[v6]
	}
	if !strings.Contains(r.Dst, "/") {
		r.Dst += map[bool]string{false: "/32", true: "/128"}[v6]
	}
	table := strings.Trim(string(r.Table), `"`)
	if table == "" || table == "main" {
		table = "254"
	}
	if r.Via.Host != "" {
		r.Gateway = r.Via.Host
	}
	mtu := 0
	if len(r.Metrics) > 0 {
		mtu = r.Metrics[0].Mtu
	}
	var hops []facts.NextHop
	for _, h := range r.Nexthops {
		g, _ := netip.ParseAddr(h.Gateway)
		hops = append(hops, facts.NextHop{Gateway: g, Link: h.Dev, Weight: h.Weight, Dead: slices.Contains(h.Flags, "dead"), LinkDown: slices.Contains(h.Flags, "linkdown")})
	}
	return line(r.Type, r.Dst, r.Gateway, r.Dev, r.Protocol, r.Prefsrc, table, r.Metric, mtu, slices.Contains(r.Flags, "linkdown"), slices.Contains(r.Flags, "dead"), hops)
}

func line(v ...any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func ours(r facts.Route) string {
	addr := func(a netip.Addr) string {
		if a.IsValid() {
			return a.String()
		}
		return ""
	}
	return line(r.Type, r.Dst.String(), addr(r.Gateway), r.Link, r.Protocol, addr(r.Source), strconv.Itoa(r.Table), r.Metric, r.MTU, r.LinkDown, r.Dead, r.NextHops)
}

func TestRoutesAgainstIP(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		netns.IP(t, "link add lone type veth peer name lone2", "link set lone up", "addr add 10.44.0.1/24 dev lone", "link set v1 down", "link set v1 up")
		var want, got []string
		for _, f := range []string{"-4", "-6"} {
			var rs []ipRoute
			if err := json.Unmarshal([]byte(netns.Cmd(t, "ip -j -d "+f+" route show table all")), &rs); err != nil {
				t.Error(err)
			}
			for _, r := range rs {
				if string(r.Table) != `"local"` {
					want = append(want, r.text(f == "-6"))
				}
			}
		}
		for _, r := range snapshot(t).Routes {
			got = append(got, ours(r))
		}
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" || len(got) < 20 {
			t.Error(d)
		}
	})
}

func TestAddressesAndRules(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		netns.IP(t, "rule add not to 10.0.0.0/8 iif v0 unreachable prio 102")
		h := snapshot(t)
		find := func(p string) facts.Addr {
			for _, a := range h.Addrs {
				if a.Prefix.String() == p {
					return a
				}
			}
			t.Errorf("no %s in %+v", p, h.Addrs)
			return facts.Addr{}
		}
		if a := find("10.9.0.1/24"); a.Link != "v0" || a.Scope != "global" || !slices.Contains(a.Flags, "permanent") || a.Peer.IsValid() {
			t.Errorf("%+v", a)
		}
		if a := find("10.9.7.1/32"); a.Peer != netip.MustParseAddr("10.9.7.2") {
			t.Errorf("peer: %+v", a)
		}
		if a := find("127.0.0.1/8"); a.Scope != "host" {
			t.Errorf("%+v", a)
		}
		if a := find("2001:db8:9::1/64"); !slices.Contains(a.Flags, "deprecated") {
			t.Errorf("%+v", a)
		}
		want := []facts.PolicyRule{
			{Priority: 0, Family: 4, FromText: "all", Table: 255, Action: "lookup"},
			{Priority: 100, Family: 4, FromText: "10.9.1.0/24", Table: 1000, Action: "lookup"},
			{Priority: 101, Family: 4, FromText: "all", Mark: 16, Mask: 255, Table: 1000, Action: "lookup"},
			{Priority: 102, Family: 4, FromText: "all", ToText: "10.0.0.0/8", IIF: "v0", Invert: true, Action: "unreachable"},
			{Priority: 103, Family: 4, FromText: "all", Table: 254, Action: "lookup", Other: []string{"suppress_prefixlength 0", "uidrange 5-6", "ipproto tcp", "dport 80-90"}},
			{Priority: 32766, Family: 4, FromText: "all", Table: 254, Action: "lookup"},
			{Priority: 32767, Family: 4, FromText: "all", Table: 253, Action: "lookup"},
			{Priority: 0, Family: 6, FromText: "all", Table: 255, Action: "lookup"},
			{Priority: 77, Family: 6, FromText: "all", ToText: "2001:db8:5::/48", Action: "prohibit"},
			{Priority: 32766, Family: 6, FromText: "all", Table: 254, Action: "lookup"},
		}
		for i := range h.Rules {
			slices.Sort(h.Rules[i].Other)
		}
		slices.Sort(want[4].Other)
		if d := cmp.Diff(want, h.Rules); d != "" {
			t.Error(d)
		}
	})
}

func TestLookup(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		ask := func(dst string, o Options) facts.Lookup {
			l, err := Lookup(t.Context(), netip.MustParseAddr(dst), o)
			if err != nil {
				t.Errorf("%s: %v", dst, err)
			}
			return l
		}
		check := func(dst string, o Options, route, matched, errno string, alternatives ...string) {
			l := ask(dst, o)
			m := ""
			if l.Matched != nil {
				m = nl.RouteText(*l.Matched)
			}
			var alt []string
			for _, r := range l.Alternatives {
				alt = append(alt, nl.RouteText(r))
			}
			r := ""
			if l.Route.Dst.IsValid() {
				r = nl.RouteText(l.Route)
			}
			if d := cmp.Diff([]any{route, matched, errno, alternatives}, []any{r, m, l.Error, alt}); d != "" {
				t.Errorf("%s %+v: %s", dst, o, d)
			}
		}
		defaults := []string{"default via 10.9.1.9 dev v1 metric 50", "default via 10.9.0.9 dev v0 metric 100"}
		check("192.0.2.200", Options{}, "192.0.2.200/32 via 10.9.0.9 dev v0", "192.0.2.0/24 via 10.9.0.9 dev v0", "", defaults...)
		check("192.0.2.1", Options{}, "192.0.2.1/32 dev v1", "192.0.2.0/25 dev v1", "", append([]string{"192.0.2.0/24 via 10.9.0.9 dev v0"}, defaults...)...)
		check("9.9.9.9", Options{}, "9.9.9.9/32 via 10.9.1.9 dev v1", defaults[0], "", defaults[1])
		check("9.9.9.9", Options{Link: "v0"}, "9.9.9.9/32 via 10.9.0.9 dev v0", defaults[1], "", defaults[0])
		check("198.51.100.1", Options{}, "", "unreachable 198.51.100.0/26", "EHOSTUNREACH", defaults...)
		check("198.51.100.70", Options{}, "", "blackhole 198.51.100.64/26", "EINVAL", defaults...)
		check("198.51.100.130", Options{}, "", "prohibit 198.51.100.128/26", "EACCES", defaults...)
		table1000 := "172.16.0.0/12 via 10.9.0.8 dev v0 table 1000"
		check("172.16.1.1", Options{Mark: 0x10}, "172.16.1.1/32 via 10.9.0.8 dev v0 table 1000", table1000, "", defaults...)
		check("172.16.1.1", Options{Source: netip.MustParseAddr("10.9.1.1")}, "172.16.1.1/32 via 10.9.0.8 dev v0 table 1000", table1000, "", defaults...)
		check("172.16.1.1", Options{}, "172.16.1.1/32 via 10.9.1.9 dev v1", defaults[0], "", table1000, defaults[1])
		check("10.9.0.1", Options{}, "local 10.9.0.1/32 dev lo table 255", "local 10.9.0.1/32 dev v0 table 255", "", append([]string{"10.9.0.0/24 dev v0"}, defaults...)...)
		v6default := "default via 2001:db8::9 dev v0 metric 33"
		check("2001:db8:dead::1", Options{}, "", "unreachable 2001:db8:dead::/48 dev lo metric 1024", "EHOSTUNREACH", v6default)
		check("2001:db8:bad::1", Options{}, "", "prohibit 2001:db8:bad::/48 dev lo metric 1024", "EACCES", v6default)
		check("2001:db8:b1ac::1", Options{}, "", "blackhole 2001:db8:b1ac::/48 dev lo metric 1024", "EINVAL", v6default)
		check("2001:4860::1", Options{}, "2001:4860::1/128 via 2001:db8::9 dev v0 metric 33", v6default, "")
		if l := ask("203.0.113.5", Options{}); l.Matched == nil || len(l.Matched.NextHops) != 2 || len(l.Alternatives) != 2 {
			t.Errorf("multipath: %+v", l)
		}
		netns.IP(t, "route del default metric 50", "route del default metric 100")
		check("9.9.9.9", Options{}, "", "", "ENETUNREACH")
		check("::ffff:9.9.9.9", Options{}, "", "", "ENETUNREACH")
		// EINVAL, but not because of the blackhole below the more specific route.
		netns.IP(t, "route add blackhole 192.0.0.0/8")
		if l := ask("192.0.2.200", Options{Source: netip.MustParseAddr("192.0.2.77")}); l.Error != "EINVAL" && l.Error != "ENETUNREACH" || l.Matched != nil {
			t.Errorf("a source that is not ours: %+v", l)
		}
		netns.IP(t, "route del blackhole 192.0.0.0/8")
		if _, err := Lookup(t.Context(), netip.MustParseAddr("9.9.9.9"), Options{Link: "nope"}); err == nil {
			t.Error("an interface that is not there passed")
		}
		netns.AsNobody(t, func() {
			check("192.0.2.200", Options{}, "192.0.2.200/32 via 10.9.0.9 dev v0", "192.0.2.0/24 via 10.9.0.9 dev v0", "")
			if h := snapshot(t); len(h.Routes) < 15 || len(h.Rules) != 9 || len(h.Gaps) != 0 {
				t.Errorf("as nobody: %d routes, %d rules, %v", len(h.Routes), len(h.Rules), h.Gaps)
			}
		})
	})
}

// The kernel's FIB_MATCH and our own search must agree.
func TestFinishWithoutTheKernelsHelp(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		for _, dst := range []string{"192.0.2.200", "192.0.2.1", "9.9.9.9", "10.9.0.1", "203.0.113.5", "2001:db8::5", "2001:4860::1"} {
			l, err := Lookup(t.Context(), netip.MustParseAddr(dst), Options{})
			if err != nil || l.Matched == nil {
				t.Errorf("%s: %v %+v", dst, err, l)
				continue
			}
			c, err := nl.Dial(0)
			if err != nil {
				t.Error(err)
				return
			}
			names, _ := c.LinkNames(t.Context())
			entries, _ := covering(t.Context(), c, l.Destination, names)
			c.Close()
			own := facts.Lookup{Destination: l.Destination, Route: l.Route}
			finish(&own, entries)
			if own.Matched == nil || !same(*own.Matched, *l.Matched) {
				t.Errorf("%s: %+v, the kernel says %+v", dst, own.Matched, *l.Matched)
			}
		}
	})
}

func TestBound(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		c, err := nl.Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		got, truncated, err := routes(t.Context(), c, nl.Names{}, 4)
		defaults := 0
		for _, r := range got {
			if r.IsDefault() {
				defaults++
			}
		}
		// Two of each family, and the defaults of both although IPv6 lists its own last.
		if len(got) < 4 || len(got) > 7 || defaults != 3 || !truncated || err != nil {
			t.Error(got, truncated, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	route := append([]byte{2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0}, nl.AppendAttr(nl.AppendAttr(nil, 1, []byte{192, 0, 2, 0}), 9, []byte{8, 0, 1, 0, 2, 0, 0, 0, 4, 0, 0, 0})...)
	f.Add(route)
	f.Add(append([]byte{10, 64, 0, 0, 254, 3, 0, 7, 0, 0, 0, 0}, nl.AppendAttr(nil, 12, make([]byte, 32))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := nl.DecodeRoute(b, nl.Names{}.Of); ok {
			if !r.Dst.IsValid() || nl.RouteText(r) == "" {
				t.Fatalf("%+v", r)
			}
			l := facts.Lookup{Route: r}
			finish(&l, []facts.Route{r, r})
			answer{body: b}.read(nl.Names{})
		}
		if a, _, ok := nl.DecodeAddr(b); ok && !a.Prefix.IsValid() {
			t.Fatal("invalid prefix")
		}
		decodeRule(b)
	})
}

func BenchmarkLookup(b *testing.B) {
	for b.Loop() {
		if _, err := Lookup(b.Context(), netip.MustParseAddr("127.0.0.1"), Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
