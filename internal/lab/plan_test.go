package lab

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var macs = regexp.MustCompile(` 02:fa:[0-9a-f:]+`)

func TestPlanOrder(t *testing.T) {
	s := scenario(t, minimal+`
  r1: {type: router, loopback: [10.9.9.9/32]}
  sw: {type: bridge}
links:
  - {a: {iface: host/eth0, addresses: [10.0.1.2/24]}, b: sw/p1}
  - {a: {iface: r1/eth0, addresses: [10.0.1.1/24]}, b: sw/p2, impair: {both: {delay: 1ms}}}
  - {type: tap, a: {iface: r1/eth1, up: false}, b: sw/p3}
exclusive: true
global_sysctls: {net.netfilter.nf_conntrack_max: 5}
`)
	s.Nodes["host"].Routes = []string{"default via 10.0.1.1"}
	s.Nodes["host"].Nft = "table inet x {}"
	var got []string
	for _, st := range NewPlan(s).Steps {
		line := strings.TrimSpace(macs.ReplaceAllString(st.String(), ""))
		got = append(got, line)
	}
	want := []string{
		"namespace host", "namespace r1", "namespace sw", "namespace wire",
		"bridge sw/br0",
		"veth host/eth0 — sw/p1",
		"veth r1/eth0 — wire/w1a", "veth sw/p2 — wire/w1b", "emulate link 2",
		"tap r1/eth1", "tap sw/p3", "emulate link 3",
		"address host/eth0 10.0.1.2/24", "up host/eth0", "port sw/p1", "up sw/p1",
		"address r1/eth0 10.0.1.1/24", "up r1/eth0", "port sw/p2", "up sw/p2",
		"down r1/eth1", "port sw/p3", "up sw/p3",
		"up host/lo", "route host default via 10.0.1.1", "nft host",
		"address r1/lo 10.9.9.9/32", "up r1/lo",
		"up sw/lo", "up sw/br0",
		"global_sysctl net.netfilter.nf_conntrack_max=5",
		"ready",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("steps (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"bridge", "nft", "tun"}, NewPlan(s).Needs); d != "" {
		t.Errorf("needs: %s", d)
	}
}

func TestPlanIsTheSameEachTime(t *testing.T) {
	s := scenario(t, minimal+"  r1: {sysctls: {net.a: 1, net.b: 2, net.c: 3}}\nlinks:\n  - {a: host/e, b: r1/e}\n")
	a, b := NewPlan(s), NewPlan(s)
	for i := range a.Steps {
		if a.Steps[i].String() != b.Steps[i].String() || !slices.Equal(a.Steps[i].Sysctls, b.Steps[i].Sysctls) {
			t.Fatalf("step %d differs: %s, %s", i, a.Steps[i], b.Steps[i])
		}
	}
	veth := a.Steps[slices.IndexFunc(a.Steps, func(s Step) bool { return s.Op == OpVeth })]
	if veth.MAC[0]&3 != 2 || veth.MAC.String() == veth.PeerMAC.String() {
		t.Errorf("MACs %s, %s: want two local unicast ones", veth.MAC, veth.PeerMAC)
	}
}

func TestEmulatedWhenNeeded(t *testing.T) {
	base := minimal + "  r1: {}\nlinks:\n  - {a: host/e, b: r1/e%s}\n"
	for name, c := range map[string]struct {
		link, rest string
		want       bool
	}{
		"plain":        {"", "", false},
		"impaired":     {", impair: {both: {delay: 1ms}}", "", true},
		"marked":       {", emulated: true", "", true},
		"tap":          {", type: tap", "", true},
		"action":       {"", "actions: [{do: carrier_off, iface: r1/e}]\n", true},
		"other action": {"", "actions: [{do: link_down, iface: r1/e}]\n", false},
		"flap":         {"", "services: [{type: flap, iface: host/e, every: 1s, down: 1ms}]\n", true},
	} {
		s := scenario(t, strings.Replace(base, "%s", c.link, 1)+c.rest)
		if got := s.isEmulated(s.Links[0]); got != c.want {
			t.Errorf("%s: emulated %v", name, got)
		}
	}
}

func TestTimeline(t *testing.T) {
	s := scenario(t, minimal+`  r1: {}
links:
  - {a: host/e, b: r1/e}
services:
  - {node: host, type: close_wait_leak, count: 1, at: -1s}
actions:
  - {at: 1s, do: link_down, iface: host/e, every: 2s, times: 3}
  - {at: 2s, do: link_up, iface: host/e}
  - {at: -3s, do: link_up, iface: r1/e}
settle: 1s
`)
	var got []time.Duration
	for _, e := range s.timeline() {
		got = append(got, e.At)
	}
	if want := []time.Duration{-3 * time.Second, -1 * time.Second, time.Second, 2 * time.Second, 3 * time.Second, 5 * time.Second}; !slices.Equal(got, want) {
		t.Errorf("timeline %v, want %v", got, want)
	}
	if l := s.lead(s.timeline()); l != 3*time.Second {
		t.Errorf("lead %v", l)
	}
}

func TestParseRoute(t *testing.T) {
	p := netip.MustParsePrefix
	a := netip.MustParseAddr
	for text, want := range map[string]Route{
		"default via 10.0.1.1":                               {Type: "unicast", Dst: p("0.0.0.0/0"), Via: a("10.0.1.1")},
		"default via fd00::1":                                {Type: "unicast", Dst: p("::/0"), Via: a("fd00::1")},
		"blackhole 10.9.0.0/16":                              {Type: "blackhole", Dst: p("10.9.0.0/16")},
		"10.5.0.0/16 via 10.0.1.3 dev eth0 metric 5":         {Type: "unicast", Dst: p("10.5.0.0/16"), Via: a("10.0.1.3"), Dev: "eth0", Metric: 5},
		"10.5.0.1 dev eth0 table 7 src 10.0.0.1 mtu 1400":    {Type: "unicast", Dst: p("10.5.0.1/32"), Dev: "eth0", Table: 7, Src: a("10.0.0.1"), MTU: 1400},
		"::/0 dev eth0 table main onlink if_possible":        {Type: "unicast", Dst: p("::/0"), Dev: "eth0", Table: 254, OnLink: true, IfPossible: true},
		"default nexthop via fd00::1 nexthop dev x weight 2": {Type: "unicast", Dst: p("::/0"), Nexthops: []Nexthop{{Via: a("fd00::1"), Weight: 1}, {Dev: "x", Weight: 2}}},
	} {
		want.Text = text
		got, err := ParseRoute(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(want, got, cmp.Comparer(func(x, y netip.Addr) bool { return x == y }), cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
	for text, want := range map[string]string{
		"":                                     "no destination",
		"default":                              "needs via or dev",
		"10.0.0.1/8 via 10.0.0.2":              "10.0.0.0/8 is meant?",
		"10.0.0.0/8 via fd00::1":               "another family",
		"blackhole default via 10.0.0.1":       "no next hop",
		"10.0.0.0/8 via":                       "needs a value",
		"10.0.0.0/8 via 10.0.0.1 metric -1":    "metric",
		"10.0.0.0/8 dev e nexthop via 1.2.3.4": "choose one form",
		"10.0.0.0/99 dev e":                    "not a prefix",
	} {
		if _, err := ParseRoute(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseRuleAndNeighbour(t *testing.T) {
	r, err := ParseRule("from fd00::/64 table 100 priority 1000")
	if err != nil || !r.V6 || r.Table != 100 || r.Priority != 1000 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "from 10.0.0.0/8", "table 1 blackhole", "table x", "from 10.0.0.0/8 to fd00::/8 table 1", "fwmark q table 1"} {
		if _, err := ParseRule(bad); err == nil {
			t.Errorf("rule %q is accepted", bad)
		}
	}
	n, err := ParseNeighbour("10.0.1.1 lladdr 02:00:00:00:00:99 dev eth0 nud stale")
	if err != nil || n.State != "stale" || n.Dev != "eth0" {
		t.Errorf("%+v, %v", n, err)
	}
	for _, bad := range []string{"", "10.0.0.1", "10.0.0.1 dev e", "10.0.0.1 lladdr x dev e", "10.0.0.1 lladdr 02:00:00:00:00:99 dev e nud q"} {
		if _, err := ParseNeighbour(bad); err == nil {
			t.Errorf("neighbour %q is accepted", bad)
		}
	}
}
