package neighbour

import (
	"encoding/json"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

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
	return h
}

func build(t testing.TB) {
	netns.IP(
		t, "link add v0 type veth peer name v1", "link set v0 up", "link set v1 up", "addr add 10.9.0.1/24 dev v0",
		"neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent", "neigh add 10.9.0.3 lladdr 02:00:00:00:00:03 dev v0 nud reachable",
		"neigh add 10.9.0.4 lladdr 02:00:00:00:00:04 dev v0 nud stale", "neigh add 10.9.0.5 lladdr 02:00:00:00:00:05 dev v0 nud noarp",
		"-6 neigh add fe80::9 lladdr 02:00:00:00:00:09 dev v0 nud permanent router",
	)
}

func TestAgainstIP(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		var want []struct {
			Dst, Dev, Lladdr string
			State            []string
			Router           json.RawMessage
		}
		if err := json.Unmarshal([]byte(netns.Cmd(t, "ip -j neigh show nud all")), &want); err != nil {
			t.Error(err)
		}
		got := map[string]facts.Neighbour{}
		for _, n := range snapshot(t).Neighbours {
			got[n.Link+" "+n.Address.String()] = n
		}
		if len(want) < 5 || len(want) > len(got) {
			t.Errorf("%d entries, ip has %d", len(got), len(want))
		}
		for _, w := range want {
			g := got[w.Dev+" "+w.Dst]
			if w.Lladdr == "00:00:00:00:00:00" {
				w.Lladdr = g.MAC
			}
			if len(w.State) != 1 || strings.ToLower(w.State[0]) != g.State || w.Lladdr != g.MAC || (w.Router != nil) != g.Router {
				t.Errorf("%+v, ip says %+v", g, w)
			}
		}
	})
}

func TestTables(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		check := func(h *facts.Host) {
			if len(h.NeighTables) != 2 || h.NeighTables[0].Name != "arp_cache" || h.NeighTables[1].Name != "ndisc_cache" {
				t.Errorf("%+v", h.NeighTables)
				return
			}
			for i, family := range []string{"ipv4", "ipv6"} {
				table := h.NeighTables[i]
				for j, got := range []int{table.Thresh1, table.Thresh2, table.Thresh3} {
					// The limits are one for all namespaces; their sysctls exist in the first only.
					b, err := os.ReadFile("/proc/1/root/proc/sys/net/" + family + "/neigh/default/gc_thresh" + strconv.Itoa(j+1))
					if err == nil && strings.TrimSpace(string(b)) != strconv.Itoa(got) {
						t.Errorf("%s: threshold %d is %d, sysctl says %s", table.Name, j+1, got, b)
					}
					if got == 0 {
						t.Errorf("%+v", table)
					}
				}
			}
			if h.NeighTables[0].Entries < 3 {
				t.Errorf("entries: %+v", h.NeighTables[0])
			}
			// This is not the initial namespace: the proc files are missing, and nothing needs them.
			if len(h.Gaps) != 0 {
				t.Errorf("%+v", h.Gaps)
			}
		}
		check(snapshot(t))
		netns.AsNobody(t, func() { check(snapshot(t)) })
	})
	h := snapshot(t) // the namespace that the test runs in
	if _, err := os.Stat("/proc/net/stat/arp_cache"); err == nil && len(h.Gaps) != 0 {
		t.Errorf("%+v", h.Gaps)
	}
}

func TestFailedEntryAndResFailed(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		netns.IP(t, "neigh change 10.9.0.4 dev v0 nud failed")
		for _, n := range snapshot(t).Neighbours {
			if n.Address == netip.MustParseAddr("10.9.0.4") && n.State != "failed" {
				t.Errorf("%+v", n)
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
		if out, truncated, err := entries(t.Context(), c, nl.Names{}, 2); len(out) != 2 || !truncated || err != nil {
			t.Error(len(out), truncated, err)
		}
	})
}

func TestApplyProcStats(t *testing.T) {
	// cat /proc/net/stat/arp_cache, Linux 6.1, two CPUs
	text := `entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast periodic_gc_runs forced_gc_runs unresolved_discards table_fulls
0000000a 0000001f 00000010 00000001 00000abc 00000aa0 00000002 00000000 00000000 00000100 00000000 00000011 00000003
0000000a 0000001f 00000010 00000001 00000abc 00000aa0 00000010 00000000 00000000 00000100 00000000 000000ff 00000000
`
	got := facts.NeighTable{Name: "arp_cache", Entries: 10, TableFulls: 9}
	applyProcStats(&got, text)
	if d := cmp.Diff(facts.NeighTable{Name: "arp_cache", Entries: 10, TableFulls: 9, ResFailed: 18, UnresolvedDiscards: 0x110}, got); d != "" {
		t.Error(d)
	}
}

func FuzzDecode(f *testing.F) {
	entry := append([]byte{2, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 1}, nl.AppendAttr(nl.AppendAttr(nil, 1, []byte{10, 0, 0, 1}), 2, make([]byte, 6))...)
	f.Add(entry)
	f.Add(append([]byte{2, 0, 0, 0}, nl.AppendAttr(nl.AppendAttr(nil, 1, []byte("arp_cache\x00")), 5, make([]byte, 32))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, _, ok := decode(b); ok && !n.Address.IsValid() {
			t.Fatal("no address")
		}
		table, _ := decodeTable(b)
		applyProcStats(&table, string(b))
	})
}
