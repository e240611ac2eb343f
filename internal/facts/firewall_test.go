package facts

import (
	"net/netip"
	"testing"
)

func rule(handle uint64, verdict string, m ...FWMatch) FWRule {
	return FWRule{Handle: handle, Verdict: verdict, Matches: m, Text: verdict}
}

func is(field, value string) FWMatch { return FWMatch{field, "==", []string{value}} }

func chain(hook string, prio int, policy string, rules ...FWRule) FWChain {
	return FWChain{Family: "inet", Table: "f", Name: hook, Hook: hook, Priority: prio, Policy: policy, Rules: rules}
}

func sub(name string, rules ...FWRule) FWChain {
	return FWChain{Family: "inet", Table: "f", Name: name, Rules: rules}
}

func partial(r FWRule) FWRule { r.Partial = true; return r }
func opaque(r FWRule) FWRule  { r.Opaque = true; return r }

var packet = Packet5{
	Family: 4, Proto: "tcp", Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("192.0.2.7"),
	SPort: 40000, DPort: 443, OIF: "eth0", CTState: "new", ICMPType: -1, Length: 60,
}

func TestFirewallVerdict(t *testing.T) {
	https := is("dport", "443")
	unknown := is("mark", "5")
	nat := rule(9, "accept")
	nat.Rewrite = "dnat"
	natChain := chain("output", -100, "accept", nat)
	natChain.Type, natChain.Name = "nat", "nat"
	late := chain("output", 10, "accept", rule(8, "drop", https))
	late.Name = "late"
	tests := []struct {
		name    string
		chains  []FWChain
		outcome string
		handle  uint64
	}{
		{"no chain", nil, FWAccept, 0},
		{"another hook", []FWChain{chain("input", 0, "drop")}, FWAccept, 0},
		{"policy", []FWChain{chain("output", 0, "drop", rule(1, "accept", is("dport", "80")))}, FWDrop, 0},
		{"rule", []FWChain{chain("output", 0, "accept", rule(1, "drop", https, is("l4proto", "tcp")))}, FWDrop, 1},
		{"reject", []FWChain{chain("output", 0, "accept", rule(1, "reject"))}, FWReject, 1},
		{"the first that hits decides", []FWChain{chain("output", 0, "accept", rule(1, "accept", https), rule(2, "drop"))}, FWAccept, 1},
		{"an accept does not save from a later chain", []FWChain{late, chain("output", 0, "accept", rule(1, "accept"))}, FWDrop, 8},
		{"jump and return", []FWChain{chain("output", 0, "accept", rule(1, "jump s"), rule(2, "drop")), sub("s", rule(3, "return", https), rule(4, "accept"))}, FWDrop, 2},
		{"jump into a drop", []FWChain{chain("output", 0, "accept", rule(1, "jump s"), rule(2, "accept")), sub("s", rule(3, "drop"))}, FWDrop, 3},
		{"goto does not come back", []FWChain{chain("output", 0, "accept", rule(1, "goto s"), rule(2, "drop")), sub("s")}, FWAccept, 0},
		{"goto comes back to the caller of the jump", []FWChain{chain("output", 0, "accept", rule(1, "jump a"), rule(2, "drop")), sub("a", rule(3, "goto b"), rule(4, "accept")), sub("b")}, FWDrop, 2},
		{"jump to nowhere", []FWChain{chain("output", 0, "accept", rule(1, "jump gone"))}, FWUnknown, 1},
		{"a loop", []FWChain{chain("output", 0, "accept", rule(1, "jump s")), sub("s", rule(2, "jump s"))}, FWUnknown, 2},
		{"limit on a drop", []FWChain{chain("output", 0, "accept", partial(rule(1, "drop")))}, FWMaybe, 1},
		{"limit on an accept before a drop", []FWChain{chain("output", 0, "drop", partial(rule(1, "accept")))}, FWMaybe, 1},
		{"limit on a drop before a drop", []FWChain{chain("output", 0, "drop", partial(rule(1, "drop")))}, FWDrop, 0},
		{"opaque drop", []FWChain{chain("output", 0, "accept", opaque(rule(1, "drop")))}, FWUnknown, 1},
		{"opaque, but another condition fails", []FWChain{chain("output", 0, "accept", opaque(rule(1, "drop", is("dport", "80"))))}, FWAccept, 0},
		{"opaque accept before an accept", []FWChain{chain("output", 0, "accept", opaque(rule(1, "accept")))}, FWAccept, 0},
		{"a condition we cannot know", []FWChain{chain("output", 0, "accept", rule(1, "drop", unknown))}, FWUnknown, 1},
		{"doubtful return before a drop", []FWChain{chain("output", 0, "drop", partial(rule(1, "return")), rule(2, "accept"))}, FWMaybe, 1},
		{"doubtful jump", []FWChain{chain("output", 0, "accept", partial(rule(1, "jump s"))), sub("s", rule(2, "drop"))}, FWMaybe, 2},
		{"a drop in a later chain beats a doubt", []FWChain{late, chain("output", 0, "accept", partial(rule(1, "drop")))}, FWDrop, 8},
		{"queue", []FWChain{chain("output", 0, "accept", rule(1, "queue"))}, FWUnknown, 1},
		{"counter only", []FWChain{chain("output", 0, "accept", rule(1, ""), rule(2, "drop"))}, FWDrop, 2},
		{"rewritten before a filter", []FWChain{natChain, late}, FWUnknown, 9},
		{"rewritten and nothing after", []FWChain{natChain}, FWAccept, 9},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			f := &Firewall{Chains: c.chains}
			if got := f.Verdict("output", packet); got.Outcome != c.outcome || got.Handle != c.handle {
				t.Errorf("%+v, want %s by %d", got, c.outcome, c.handle)
			}
		})
	}
	f := &Firewall{Legacy: []string{"ip filter"}}
	if v := f.Verdict("output", packet); v.Outcome != FWUnknown {
		t.Errorf("legacy tables: %+v", v)
	}
	if v := (*Firewall)(nil).Verdict("output", packet); v.Outcome != FWUnknown {
		t.Errorf("not read: %+v", v)
	}
	established := packet
	established.CTState = "established"
	if v := (&Firewall{Chains: []FWChain{natChain, late}}).Verdict("output", established); v.Outcome != FWDrop {
		t.Errorf("an established connection does not see nat chains: %+v", v)
	}
	v6 := chain("output", 0, "drop")
	v6.Family = "ip6"
	if v := (&Firewall{Chains: []FWChain{v6}}).Verdict("output", packet); v.Outcome != FWAccept {
		t.Errorf("an ip6 chain decided about IPv4: %+v", v)
	}
}

func TestFirewallMatch(t *testing.T) {
	v6 := Packet5{Family: 6, Proto: "icmpv6", Dst: netip.MustParseAddr("2001:db8::1"), ICMPType: 135}
	tests := []struct {
		p    Packet5
		m    FWMatch
		want fwHit
	}{
		{packet, FWMatch{"daddr", "==", []string{"192.0.2.0/24"}}, fwYes},
		{packet, FWMatch{"daddr", "!=", []string{"192.0.2.0/24"}}, fwNo},
		{packet, FWMatch{"daddr", "in", []string{"10.0.0.0/8", "192.0.2.1-192.0.2.9"}}, fwYes},
		{packet, FWMatch{"daddr", "not in", []string{"10.0.0.0/8", "192.0.2.8"}}, fwYes},
		{packet, FWMatch{"daddr", "==", []string{"2001:db8::/32"}}, fwNo},
		{packet, FWMatch{"dport", "in", []string{"22", "400-500"}}, fwYes},
		{packet, FWMatch{"dport", ">", []string{"443"}}, fwNo},
		{packet, FWMatch{"dport", ">=", []string{"443"}}, fwYes},
		{packet, FWMatch{"dport", "<", []string{"1000"}}, fwYes},
		{packet, FWMatch{"oif", "==", []string{"eth*"}}, fwYes},
		{packet, FWMatch{"oif", "==", []string{"eth1"}}, fwNo},
		{packet, FWMatch{"iif", "==", []string{"eth1"}}, fwUnknown},
		{packet, FWMatch{"ct_state", "in", []string{"established", "new"}}, fwYes},
		{packet, FWMatch{"saddr . dport", "in", []string{"10.0.0.1 . 80", "10.0.0.0/24 . 440-450"}}, fwYes},
		{packet, FWMatch{"saddr . dport", "in", []string{"10.0.0.1 . 80"}}, fwNo},
		{packet, FWMatch{"mark . dport", "in", []string{"1 . 80"}}, fwUnknown},
		{packet, FWMatch{"dport", "in", []string{"*"}}, fwYes},
		{packet, FWMatch{"dport", "in", nil}, fwNo},
		{packet, FWMatch{"icmp_type", "==", []string{"8"}}, fwNo},
		{packet, FWMatch{"length", "<=", []string{"60"}}, fwYes},
		{packet, FWMatch{"what", "==", []string{"1"}}, fwUnknown},
		{packet, FWMatch{"dport", "~", []string{"1"}}, fwUnknown},
		{v6, FWMatch{"icmp_type", "in", []string{"133", "135"}}, fwYes},
		{v6, FWMatch{"dport", "!=", []string{"80"}}, fwNo},
		{v6, FWMatch{"daddr", "<=", []string{"2001:db8::2"}}, fwYes},
		{v6, FWMatch{"saddr", "==", []string{"::/0"}}, fwUnknown},
		{v6, FWMatch{"nfproto", "==", []string{"ipv6"}}, fwYes},
	}
	for _, c := range tests {
		if got := (&fwEval{p: c.p}).match(c.m); got != c.want {
			t.Errorf("%+v: %v, want %v", c.m, got, c.want)
		}
	}
}

// Chains that call each other many times must not cost more than the budget.
func TestFirewallBudget(t *testing.T) {
	names := []string{"output", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	var chains []FWChain
	for i, n := range names {
		c := sub(n)
		if i == 0 {
			c = chain("output", 0, "accept")
		}
		for range 10 {
			if i+1 < len(names) {
				c.Rules = append(c.Rules, rule(1, "jump "+names[i+1]))
			}
		}
		chains = append(chains, c)
	}
	if v := (&Firewall{Chains: chains}).Verdict("output", packet); v.Outcome != FWUnknown {
		t.Errorf("%+v", v)
	}
}

func BenchmarkFirewallVerdict(b *testing.B) {
	c := chain("output", 0, "accept")
	for range 2000 {
		c.Rules = append(c.Rules, rule(1, "drop", is("l4proto", "tcp"), is("dport", "1")))
	}
	f := &Firewall{Chains: []FWChain{c}}
	for b.Loop() {
		f.Verdict("output", packet)
	}
}
