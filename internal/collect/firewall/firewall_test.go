package firewall

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"
	"fathom/internal/testkit/netns"

	"github.com/google/go-cmp/cmp"
)

func snapshot(t testing.TB) *facts.Host {
	h := &facts.Host{}
	if err := Collect(t.Context(), h); err != nil {
		t.Error(err)
	}
	if h.Firewall == nil {
		h.Firewall = &facts.Firewall{}
	}
	return h
}

// Each rule of one chain, with the words and conditions we expect.
var cases = []struct {
	nft, text, verdict string
	flags              string // o opaque, p partial, c counted
	matches            string
}{
	{"tcp dport 443 drop", "tcp dport 443 drop", "drop", "", "l4proto == tcp; dport == 443"},
	{"udp sport 1000-2000 counter accept", "udp sport 1000-2000 counter accept", "accept", "c", "l4proto == udp; sport == 1000-2000"},
	{"tcp dport != { 22, 80, 8000-8080 } drop", "tcp dport != { 22, 80, 8000-8080 } drop", "drop", "", "l4proto == tcp; dport not in 22,80,8000-8080"},
	{"tcp dport { 22, 80 } accept", "tcp dport { 22, 80 } accept", "accept", "", "l4proto == tcp; dport in 22,80"},
	{"ip saddr 10.0.0.0/8 drop", "ip saddr 10.0.0.0/8 drop", "drop", "", "nfproto == ipv4; saddr == 10.0.0.0/8"},
	{"ip daddr 192.0.2.128/25 drop", "ip daddr 192.0.2.128/25 drop", "drop", "", "nfproto == ipv4; daddr == 192.0.2.128/25"},
	{"ip daddr 192.0.2.1-192.0.2.9 drop", "ip daddr 192.0.2.1-192.0.2.9 drop", "drop", "", "nfproto == ipv4; daddr == 192.0.2.1-192.0.2.9"},
	{"ip daddr { 10.0.0.0/8, 172.16.0.0/12, 192.0.2.5 } drop", "ip daddr { 10.0.0.0/8, 172.16.0.0/12, 192.0.2.5 } drop", "drop", "", "nfproto == ipv4; daddr in 10.0.0.0/8,172.16.0.0/12,192.0.2.5"},
	{"ip6 daddr 2001:db8::/32 reject", "ip6 daddr 2001:db8::/32 reject with icmpv6 port-unreachable", "reject", "", "nfproto == ipv6; daddr == 2001:db8::/32"},
	{"ip6 saddr 2001:db8::1 tcp dport 80 reject with tcp reset", "ip6 saddr 2001:db8::1 tcp dport 80 reject with tcp reset", "reject", "", "nfproto == ipv6; saddr == 2001:db8::1; l4proto == tcp; dport == 80"},
	{"reject with icmpx admin-prohibited", "reject with icmpx admin-prohibited", "reject", "", ""},
	{`iifname "eth*" oif lo accept`, "iifname eth* oif lo accept", "accept", "", "iif == eth*; oif == lo"},
	{`oifname { "wg0", "tun9" } drop`, "oifname { tun9, wg0 } drop", "drop", "", "oif in tun9,wg0"},
	{"ct state established,related accept", "ct state established,related accept", "accept", "", "ct_state in established,related"},
	{"ct state != new drop", "ct state != new drop", "drop", "", "ct_state != new"},
	{"ct state invalid counter drop", "ct state invalid counter drop", "drop", "c", "ct_state in invalid"},
	{"icmp type echo-request limit rate 10/second accept", "icmp type 8 limit rate 10/second accept", "accept", "p", "nfproto == ipv4; l4proto == icmp; icmp_type == 8"},
	{"icmpv6 type { 133, 135 } accept", "icmpv6 type { 133, 135 } accept", "accept", "", "nfproto == ipv6; l4proto == icmpv6; icmp_type in 133,135"},
	{"meta mark 0x10 drop", "meta mark 16 drop", "drop", "", "mark == 16"},
	{"meta length > 1400 drop", "meta length > 1400 drop", "drop", "", "length > 1400"},
	{"numgen random mod 100 < 30 drop", "numgen random mod 100 < 30 drop", "drop", "p", ""},
	{"quota over 5000 bytes drop", "quota over 5000 bytes drop", "drop", "p", ""},
	{"meta l4proto { tcp, udp } th dport 53 jump sub", "meta l4proto { tcp, udp } th dport 53 jump sub", "jump sub", "", "l4proto in tcp,udp; dport == 53"},
	{"meta nfproto ipv4 return", "meta nfproto ipv4 return", "return", "", "nfproto == ipv4"},
	{"ip saddr . tcp dport { 10.0.0.1 . 80, 10.0.0.2 . 443 } drop", "ip saddr . tcp dport { 10.0.0.1 . 80, 10.0.0.2 . 443 } drop", "drop", "", "nfproto == ipv4; l4proto == tcp; saddr . dport in 10.0.0.1 . 80,10.0.0.2 . 443"},
	{"ip daddr @bad drop", "ip daddr @bad drop", "drop", "", "nfproto == ipv4; daddr in 198.51.100.0/24,203.0.113.7"},
	{"tcp flags syn / syn,ack drop", "", "drop", "o", "l4proto == tcp"},
	{"meta cgroup 5 drop", "", "drop", "o", ""},
	{"fib daddr type local accept", "", "accept", "o", ""},
	{"ip saddr 127.0.0.1 fib daddr type local drop", "", "drop", "o", "nfproto == ipv4; saddr == 127.0.0.1"},
	{"ip saddr 127.0.0.1 rt classid 2 drop", "", "drop", "o", "nfproto == ipv4; saddr == 127.0.0.1"},
	{"meta length 100-200 drop", "meta length 100-200 drop", "drop", "", "length == 100-200"},
	{"meta length { 100-200, 1400 } drop", "meta length { 100-200, 1400 } drop", "drop", "", "length in 100-200,1400"},
	{"ip daddr != 192.0.2.1-192.0.2.9 drop", "ip daddr != 192.0.2.1-192.0.2.9 drop", "drop", "", "nfproto == ipv4; daddr != 192.0.2.1-192.0.2.9"},
	{"ip saddr & 255.0.255.0 == 10.0.1.0 drop", "", "drop", "o", "nfproto == ipv4"},
	{"meta mark & 0xff == 1 drop", "", "drop", "o", ""},
	{"ip6 daddr . udp dport { 2001:db8::/32 . 53, 2001:db8:1::5 . 100-200 } drop", "ip6 daddr . udp dport { 2001:db8::/32 . 53, 2001:db8:1::5 . 100-200 } drop", "drop", "", "nfproto == ipv6; l4proto == udp; daddr . dport in 2001:db8::/32 . 53,2001:db8:1::5 . 100-200"},
	{"limit rate over 3/minute drop", "limit rate over 3/minute drop", "drop", "p", ""},
	{"tcp dport 80 meta mark set 5 accept", "tcp dport 80 meta mark set accept", "accept", "", "l4proto == tcp; dport == 80"},
	{"ip protocol icmp icmp type 3 drop", "icmp type 3 drop", "drop", "", "nfproto == ipv4; l4proto == icmp; icmp_type == 3"},
	{"ip dscp set 5", "", "", "o", "nfproto == ipv4"},
	{"meta l4proto tcp tcp sport . tcp dport { 1 . 2 } drop", "tcp sport . tcp dport { 1 . 2 } drop", "drop", "", "l4proto == tcp; sport . dport in 1 . 2"},
	{`tcp dport 1 drop comment "why"`, `tcp dport 1 drop comment "why"`, "drop", "", "l4proto == tcp; dport == 1"},
	{`log prefix "x " accept`, `log prefix "x " accept`, "accept", "", ""},
}

func matches(r facts.FWRule) string {
	var w []string
	for _, m := range r.Matches {
		w = append(w, m.Field+" "+m.Op+" "+strings.Join(m.Values, ","))
	}
	return strings.Join(w, "; ")
}

func TestDecodeEachKindOfRule(t *testing.T) {
	netns.Run(t, func() {
		for _, c := range cases {
			netns.Nft(t, "flush ruleset\ntable inet filter {\nset bad { type ipv4_addr; flags interval; elements = { 198.51.100.0/24, 203.0.113.7 } }\nchain sub { }\nchain output { type filter hook output priority 5; policy drop; "+c.nft+"\n}\n}\n")
			chain := facts.FWChain{}
			for _, ch := range snapshot(t).Firewall.Chains {
				if ch.Name == "output" {
					chain = ch
				}
			}
			if chain.Hook != "output" || chain.Policy != "drop" || chain.Priority != 5 || chain.Family != "inet" || chain.Type != "filter" || len(chain.Rules) != 1 {
				t.Errorf("%s: chain %+v", c.nft, chain)
				continue
			}
			r := chain.Rules[0]
			flags := ""
			for f, on := range map[string]bool{"o": r.Opaque, "p": r.Partial, "c": r.Counted} {
				if on {
					flags += f
				}
			}
			if c.text == "" {
				r.Text = ""
			}
			if d := cmp.Diff([]string{c.text, c.verdict, c.flags, c.matches}, []string{r.Text, r.Verdict, flags, matches(r)}); d != "" {
				t.Errorf("%s: %s", c.nft, d)
			}
			if !strings.Contains(netns.Cmd(t, "nft -j -a list ruleset"), fmt.Sprintf(`"handle": %d, `, r.Handle)) {
				t.Errorf("%s: nft knows no rule with the handle %d", c.nft, r.Handle)
			}
		}
	})
}

// The verdict map of nearly every modern ruleset becomes one rule per element.
func TestVerdictMapAndCounters(t *testing.T) {
	netns.Run(t, func() {
		netns.Nft(t, `table ip f { chain o { type filter hook output priority 0; policy accept;
			# the first ping is new, the others are established
			ct state vmap { established : accept, related : accept, invalid : drop }
			tcp dport vmap { 22 : accept, 100-200 : jump sub }
			icmp type echo-request counter
			}
			chain sub { reject; }
			}`)
		netns.Cmd(t, "ping -c 4 -i 0.01 -q 127.0.0.1")
		fw := snapshot(t).Firewall
		var got []string
		for _, c := range fw.Chains {
			for _, r := range c.Rules {
				got = append(got, fmt.Sprintf("%s: %s -> %s %d", c.Name, matches(r), r.Verdict, r.Packets))
			}
		}
		want := []string{
			"o: ct_state in invalid -> drop 0", "o: ct_state in established -> accept 0", "o: ct_state in related -> accept 0",
			"o: l4proto == tcp; dport in 22 -> accept 0", "o: l4proto == tcp; dport in 100-200 -> jump sub 0",
			"o: l4proto == icmp; icmp_type == 8 ->  1", "sub:  -> reject 0",
		}
		sortable := cmp.Transformer("set", func(s []string) map[string]int {
			m := map[string]int{}
			for _, x := range s {
				m[x]++
			}
			return m
		})
		if d := cmp.Diff(want, got, sortable); d != "" {
			t.Error(d)
		}
	})
}

// What the evaluator says must be what the kernel does to a real datagram.
func TestVerdictAgainstTheKernel(t *testing.T) {
	rulesets := []string{
		"udp dport 5001 drop",
		"udp dport { 5000-5002 } ip saddr 127.0.0.0/8 drop",
		"udp dport != 5001 drop",
		"ip daddr 127.0.0.2 accept; udp dport 5001 reject; drop",
		"ip saddr . udp dport { 127.0.0.1 . 5001 } drop",
		"jump sub; drop",
		"goto sub; drop",
		"oifname != \"lo\" drop; udp dport vmap { 5001 : jump sub, 5002 : drop, * : accept }",
		"meta l4proto tcp drop; ip daddr @bad drop",
		"ct state established accept; ct state new udp dport 5003 drop",
		"icmp type 3 drop; meta length > 1000 drop; udp sport 5001 drop",
		"meta nfproto ipv6 drop; ip daddr != { 127.0.0.1 } drop",
	}
	netns.Run(t, func() {
		for _, rs := range rulesets {
			netns.Nft(t, "flush ruleset\ntable inet f {\nset bad { type ipv4_addr; flags interval; elements = { 127.0.0.2-127.0.0.9 } }\n"+
				"chain sub { udp dport 5001 return; ip daddr 127.0.0.1 accept; }\nchain o { type filter hook output priority 0; policy accept; "+rs+"\n}\n}\n"+
				"table ip late { chain o { type filter hook output priority 10; policy accept; udp dport 5004 drop\n}\n}\n")
			fw := snapshot(t).Firewall
			for _, dst := range []string{"127.0.0.1:5001", "127.0.0.1:5002", "127.0.0.2:5001", "127.0.0.2:5003", "127.0.0.1:5004"} {
				ap := netip.MustParseAddrPort(dst)
				sent, sport := delivered(t, ap)
				v := fw.Verdict("output", facts.Packet5{
					Family: 4, Proto: "udp", Src: netip.MustParseAddr("127.0.0.1"), Dst: ap.Addr(), SPort: sport, DPort: ap.Port(), OIF: "lo", CTState: "new", ICMPType: -1, Length: 29,
				})
				if want := sent; (v.Outcome == facts.FWAccept) != want || v.Outcome == facts.FWMaybe || v.Outcome == facts.FWUnknown {
					t.Errorf("%s to %s: delivered %v, we say %+v", rs, dst, want, v)
				}
			}
		}
	})
}

// delivered sends one datagram over loopback, where delivery is done when the
// send call is, and reports whether it came.
func delivered(t *testing.T, dst netip.AddrPort) (bool, uint16) {
	rx, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(dst))
	if err != nil {
		t.Error(err)
		return false, 0
	}
	defer rx.Close()
	tx, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Error(err)
		return false, 0
	}
	defer tx.Close()
	_, _ = tx.WriteToUDPAddrPort([]byte("x"), dst) // EPERM when dropped
	_ = rx.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, _, err = rx.ReadFromUDPAddrPort(make([]byte, 8))
	return err == nil, tx.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func TestNobodyGetsAGap(t *testing.T) {
	netns.Run(t, func() {
		netns.Nft(t, "table inet f { chain o { type filter hook output priority 0; drop; }; }")
		netns.AsNobody(t, func() {
			h := &facts.Host{}
			if err := Collect(t.Context(), h); err != nil || h.Firewall != nil || len(h.Gaps) != 1 || !strings.Contains(h.Gaps[0].Unlock, "CAP_NET_ADMIN") {
				t.Errorf("%v %+v", err, h)
			}
		})
		if h := snapshot(t); len(h.Firewall.Chains) != 1 || len(h.Gaps) != 0 {
			t.Errorf("as root: %+v", h)
		}
	})
}

func TestBound(t *testing.T) {
	netns.Run(t, func() {
		var b strings.Builder
		b.WriteString("table inet f { chain o { type filter hook output priority 0;\n")
		for i := range maxRules + 5 {
			fmt.Fprintf(&b, "tcp dport %d accept\n", i+1)
		}
		netns.Nft(t, b.String()+"}\n}\n")
		h := snapshot(t)
		if len(h.Firewall.Chains) == 0 {
			t.Error("no chain")
			return
		}
		if n := len(h.Firewall.Chains[0].Rules); n != maxRules+1 || len(h.Gaps) != 1 {
			t.Errorf("%d rules, gaps %v", n, h.Gaps)
		}
		v := h.Firewall.Verdict("output", facts.Packet5{Family: 4, Proto: "udp", DPort: 1})
		if v.Outcome != facts.FWUnknown {
			t.Errorf("rules that were not read count as accept: %+v", v)
		}
	})
}

func TestHooksOfOtherFamilies(t *testing.T) {
	for _, c := range []struct {
		family uint8
		n      uint32
		want   string
	}{{1, 3, "output"}, {2, 0, "prerouting"}, {5, 0, "ingress"}, {5, 1, "egress"}, {3, 1, "output"}, {1, 5, "ingress"}, {1, 9, "hook9"}} {
		if got := hookName(c.family, c.n); got != c.want {
			t.Errorf("%d %d: %s", c.family, c.n, got)
		}
	}
}

func TestXT(t *testing.T) {
	info := make([]byte, 168)
	info[146], info[150] = 1, 2|4 // state: established, related
	d := &decoder{rule: facts.FWRule{}, l3part: -1, l4part: -1}
	if !d.xtConntrack(info, 3) || matches(d.rule) != "ct_state in established,related" {
		t.Error(matches(d.rule))
	}
	tcp := []byte{0, 0, 255, 255, 187, 1, 187, 1, 0, 0, 0, 0}
	d = &decoder{l3part: -1, l4part: -1}
	if !d.xtPorts("tcp", tcp) || matches(d.rule) != "dport == 443" {
		t.Error(matches(d.rule))
	}
	if (&decoder{}).xtPorts("tcp", []byte{0, 0, 255, 255, 187, 1, 187, 1, 0, 2, 2, 0}) {
		t.Error("a flag match was overlooked")
	}
}

func FuzzRule(f *testing.F) {
	// tcp dport 443 drop, as the kernel sends it, is built by hand: expressions in a list.
	be := func(v uint32) []byte { return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }
	ex := func(name string, attrs ...[]byte) []byte {
		var data []byte
		for i, a := range attrs {
			if a != nil {
				data = nl.AppendAttr(data, uint16(i+1), a)
			}
		}
		return nl.AppendAttr(nil, 1, nl.AppendAttr(nl.AppendAttr(nil, 1, append([]byte(name), 0)), 2, data))
	}
	var list []byte
	list = append(list, ex("meta", be(1), be(16))...)
	list = append(list, ex("cmp", be(1), be(0), nl.AppendAttr(nil, 1, []byte{6}))...)
	list = append(list, ex("payload", be(1), be(2), be(2), be(2))...)
	list = append(list, ex("lookup", []byte("s\x00"), be(1))...)
	list = append(list, ex("immediate", be(0), nl.AppendAttr(nil, 2, nl.AppendAttr(nil, 1, be(0))))...)
	f.Add(nl.AppendAttr(nl.AppendAttr(nil, 2, []byte("o\x00")), 4, list))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := splitRule(1, b)
		if !ok {
			return
		}
		s := &set{flags: setInterval, keyLen: len(b) % 40}
		s.addElems(b)
		s.join()
		sets := map[setKey]*set{}
		for _, name := range r.sets() {
			sets[setKey{1, r.table, name}] = s
		}
		fw := &facts.Firewall{}
		assemble(fw, []facts.FWChain{{Family: "inet", Table: r.table, Name: r.chain, Hook: "output"}}, []rawRule{r}, sets, nl.Names{})
		if _, err := json.Marshal(fw); err != nil {
			t.Fatal(err)
		}
		fw.Verdict("output", facts.Packet5{Family: 4, Proto: "tcp", Dst: netip.MustParseAddr("192.0.2.1"), DPort: 443, OIF: "eth0", CTState: "new"})
	})
}
