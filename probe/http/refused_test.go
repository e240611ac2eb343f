package http

import (
	"testing"

	"fathom/internal/testkit/netns"
	"fathom/probe"
)

// A firewall that says no to an https connection is named in the result.
func TestProhibitedByARouter(t *testing.T) {
	if !netns.Own(t) {
		return
	}
	router := netns.Router(t)
	router.Script(`nft -f - <<EOF
table inet t { chain through { type filter hook forward priority 0; tcp dport 443 reject with icmpx admin-prohibited; }; }
EOF`)
	for target, from := range map[string]string{
		"https://" + netns.Far4.String() + "/":   netns.Router4.String(),
		"https://[" + netns.Far6.String() + "]/": netns.Router6.String(),
	} {
		r, err := New(Config{}).Probe(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome != probe.Prohibited || r.ICMP == nil || r.ICMP.From.String() != from || !r.Source.IsValid() {
			t.Errorf("%s: %s %q from %s, icmp %+v; want prohibited by %s", target, r.Outcome, r.Detail, r.Source, r.ICMP, from)
		}
	}
}
