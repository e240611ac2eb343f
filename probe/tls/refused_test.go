package tls

import (
	"net/netip"
	"testing"

	"fathom/internal/testkit/netns"
	"fathom/probe"
)

// Who refuses the connection, as the kernel's error queue tells it, to an ordinary user.
func TestRefusedByFirewalls(t *testing.T) {
	if !netns.Own(t) {
		return
	}
	router := netns.Router(t)
	router.Script(`nft -f - <<EOF
table inet t {
  chain inbound { type filter hook input priority 0; tcp dport 443 reject with icmpx admin-prohibited; }
  chain through { type filter hook forward priority 0; tcp dport 443 reject with icmpx admin-prohibited; tcp dport 444 reject with icmpx port-unreachable; }
}
EOF`)
	netns.Script(t, `nft -f - <<EOF
table inet t { chain outbound { type filter hook output priority 0; tcp dport 445 reject with icmpx admin-prohibited; }; }
EOF`)
	netns.DropRoot(t)
	near4, near6, far4, far6 := netns.Router4, netns.Router6, netns.Far4, netns.Far6
	for _, c := range []struct {
		name      string
		to        netip.Addr
		port      uint16
		want      probe.Outcome
		from      netip.Addr
		typ, code uint8
	}{
		{"the target prohibits", near4, 443, probe.Prohibited, near4, 3, 13},
		{"the target prohibits v6", near6, 443, probe.Prohibited, near6, 1, 1},
		{"a router prohibits", far4, 443, probe.Prohibited, near4, 3, 13},
		{"a router prohibits v6", far6, 443, probe.Prohibited, near6, 1, 1},
		{"a router refuses", far4, 444, probe.Refused, near4, 3, 3},
		{"our own firewall", far4, 445, probe.LocalDrop, netns.Client4, 3, 13},
		{"our own firewall v6", far6, 445, probe.LocalDrop, netns.Client6, 1, 1},
	} {
		r, err := New(Config{}).Probe(t.Context(), netip.AddrPortFrom(c.to, c.port).String())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if r.Outcome != c.want || r.ICMP == nil || r.ICMP.From != c.from || r.ICMP.Type != c.typ || r.ICMP.Code != c.code {
			t.Errorf("%s: %s %q, icmp %+v; want %s, type %d code %d from %s", c.name, r.Outcome, r.Detail, r.ICMP, c.want, c.typ, c.code, c.from)
		}
		t.Logf("%s: %s, %s", c.name, r.Outcome, r.Detail)
	}
}
