package link

import (
	"context"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"
	"fathom/internal/testkit/netns"
	"fathom/sample"

	"github.com/google/go-cmp/cmp"
)

// ipLink is what we compare of `ip -j -s -d link`.
type ipLink struct {
	Ifindex                            int
	Ifname, Operstate, Master, Address string
	MTU                                int
	Txqlen                             int
	Flags                              []string
	Link                               string
	Stats64                            struct{ Rx, Tx map[string]uint64 }
}

func snapshot(t *testing.T) *facts.Host {
	t.Helper()
	h := &facts.Host{}
	if err := Collect(t.Context(), h); err != nil {
		t.Error(err)
	}
	return h
}

func build(t *testing.T) {
	netns.IP(
		t, "link add v0 type veth peer name v1", "link set v0 up", "link set v1 up", "addr add 10.9.0.1/24 dev v0",
		"link add br0 type bridge", "link add brx type bridge", "link set v1 master br0", "link set br0 up",
		"tuntap add tap0 mode tap", "link set tap0 up mtu 1400 txqueuelen 77", "link add ifb9 type ifb",
	)
	netns.Cmd(t, "ethtool -s tap0 speed 10 duplex half")
}

func TestAgainstIP(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		h := snapshot(t)
		var want []ipLink
		if err := json.Unmarshal([]byte(netns.Cmd(t, "ip -j -s -d link")), &want); err != nil {
			t.Error(err)
		}
		if len(want) != len(h.Links) || len(want) < 7 {
			t.Errorf("%d links, ip has %d", len(h.Links), len(want))
			return
		}
		for _, w := range want {
			l, _ := h.LinkByName(w.Ifname)
			got := ipLink{Ifindex: l.Index, Ifname: l.Name, Operstate: strings.ToUpper(l.OperState), Master: l.Master, MTU: l.MTU, Txqlen: l.TxQueue, Address: l.MAC}
			flags := map[string]bool{}
			for _, f := range l.Flags {
				flags[strings.ToUpper(f)] = true
			}
			wantFlags := map[string]bool{}
			for _, f := range w.Flags {
				if f != "NO-CARRIER" && f != "M-DOWN" {
					wantFlags[f] = true
				}
			}
			delete(flags, "RUNNING") // ip leaves it out
			if !maps.Equal(flags, wantFlags) {
				t.Errorf("%s: flags %v, want %v", l.Name, flags, wantFlags)
			}
			w.Flags, w.Link = nil, ""
			if w.Address == "00:00:00:00:00:00" {
				w.Address = ""
			}
			rx, tx := w.Stats64.Rx, w.Stats64.Tx
			w.Stats64.Rx, w.Stats64.Tx = nil, nil
			if d := cmp.Diff(w, got); d != "" {
				t.Error(d)
			}
			s := l.Stats
			// v0, v1 and br0 still talk (IPv6 neighbour discovery); the rest holds still.
			if l.Name == "lo" || l.Name == "ifb9" || l.Name == "brx" {
				for _, c := range []struct{ got, want uint64 }{
					{s.RxBytes, rx["bytes"]},
					{s.RxPackets, rx["packets"]},
					{s.TxBytes, tx["bytes"]},
					{s.TxPackets, tx["packets"]},
					{s.RxErrors, rx["errors"]},
					{s.TxDropped, tx["dropped"]},
					{s.Multicast, rx["multicast"]},
					{s.Collisions, tx["collisions"]},
				} {
					if c.got != c.want {
						t.Errorf("%s: counters %+v, want %v %v", l.Name, s, rx, tx)
					}
				}
			}
		}
		checkKinds(t, h)
	})
}

func checkKinds(t *testing.T, h *facts.Host) {
	get := func(name string) facts.Link { l, _ := h.LinkByName(name); return l }
	for name, kind := range map[string]string{"lo": "loopback", "v0": "veth", "br0": "bridge", "tap0": "tun", "ifb9": "ifb"} {
		if got := get(name).Kind; got != kind {
			t.Errorf("%s is a %q, want %q", name, got, kind)
		}
	}
	tap := get("tap0")
	if tap.SpeedMbps != 10 || tap.Duplex != "half" || tap.Driver != "tun" || tap.Carrier || !tap.Up {
		t.Errorf("tap0: %+v", tap)
	}
	v := get("v0")
	if v.SpeedMbps != 10000 || v.Duplex != "full" || v.Autoneg == nil || *v.Autoneg || !v.Carrier || v.Parent != "" || v.CarrierChanges == 0 {
		t.Errorf("v0: %+v", v)
	}
	if get("br0").Ports != 1 || get("brx").Ports != 0 || get("v1").Master != "br0" {
		t.Errorf("ports: %+v %+v", get("br0"), get("brx"))
	}
	if lo := get("lo"); lo.SpeedMbps != 0 || lo.Duplex != "" || !lo.Carrier || lo.MAC != "" {
		t.Errorf("lo: %+v", lo)
	}
}

func TestCountersCount(t *testing.T) {
	netns.Run(t, func() {
		before := snapshot(t)
		netns.Cmd(t, "ping -c 3 -i 0.01 -q 127.0.0.1")
		after := snapshot(t)
		a, _ := before.LinkByName("lo")
		b, _ := after.LinkByName("lo")
		if d := b.Stats.Sub(a.Stats); d.RxPackets != 6 || d.TxPackets != 6 || d.TxBytes != 6*84 {
			t.Errorf("three pings over lo: %+v", d)
		}
	})
}

func TestNobodySeesTheSame(t *testing.T) {
	netns.Run(t, func() {
		build(t)
		root := snapshot(t)
		netns.AsNobody(t, func() {
			h := snapshot(t)
			for i := range root.Links { // these two still move
				root.Links[i].Stats, root.Links[i].DriverStats, h.Links[i].Stats, h.Links[i].DriverStats = facts.LinkStats{}, nil, facts.LinkStats{}, nil
			}
			if d := cmp.Diff(root, h); d != "" {
				t.Error(d)
			}
		})
	})
}

// wait returns the next event of a kind about a subject.
func wait(t *testing.T, ch <-chan sample.Event, kind, name string) {
	t.Helper()
	deadline := time.After(10 * time.Second) // a hang guard, not a measurement
	var seen []string
	for {
		select {
		case e, ok := <-ch:
			if !ok {
				t.Errorf("the channel closed before %s %s", kind, name)
				return
			}
			if e.Kind == kind && e.Subject.Name == name {
				return
			}
			seen = append(seen, e.Kind+" "+e.Subject.Name)
		case <-deadline:
			t.Errorf("no %s %s, only %v", kind, name, seen)
			return
		}
	}
}

func TestWatch(t *testing.T) {
	netns.Run(t, func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		netns.IP(t, "link add v0 type veth peer name v1", "link set v0 up")
		ch, err := Watch(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		netns.IP(t, "link set v1 up")
		wait(t, ch, "link.up", "v0")
		netns.IP(t, "addr add 10.9.0.1/24 dev v0")
		wait(t, ch, "address.added", "10.9.0.1")
		netns.IP(t, "route add default via 10.9.0.9 metric 5")
		wait(t, ch, "route.added", "0.0.0.0/0")
		netns.IP(t, "route del default")
		wait(t, ch, "route.removed", "0.0.0.0/0")
		netns.IP(t, "-6 route add 2001:db8::/64 nexthop dev v0 via fe80::2 nexthop dev v1 via fe80::3")
		wait(t, ch, "route.added", "2001:db8::/64")
		netns.IP(t, "link set v1 down")
		wait(t, ch, "link.down", "v0")
		netns.IP(t, "link add dum type bridge")
		wait(t, ch, "link.added", "dum")
		netns.IP(t, "link del v0")
		wait(t, ch, "link.removed", "v0")
		cancel()
		for range ch { // closes: a hang here fails the test by its time-out
		}
	})
}

// A reader that is behind loses events, is told once, and blocks nobody.
func TestWatchOverflow(t *testing.T) {
	w := &watcher{ch: make(chan sample.Event, 2), links: map[int]known{}, now: time.Now}
	for range 5 {
		w.emit("x", sample.Subject{}, "")
	}
	<-w.ch
	<-w.ch
	w.emit("y", sample.Subject{}, "")
	if a, b := <-w.ch, <-w.ch; a.Kind != "overflow" || b.Kind != "y" || w.lost {
		t.Error(a, b, w.lost)
	}
}

func TestResolveBondAndVLAN(t *testing.T) {
	attr := nl.AppendAttr
	link := func(index byte, name string, more ...[]byte) []byte {
		b := make([]byte, 16)
		b[4] = index
		b = attr(b, 3, []byte(name+"\x00"))
		for _, m := range more {
			b = append(b, m...)
		}
		return b
	}
	bond := attr(attr(nil, 1, []byte("bond\x00")), 2, attr(attr(nil, 1, []byte{1}), 2, []byte{3, 0, 0, 0}))
	member := func(up, failures byte) []byte {
		return attr(attr(nil, 4, []byte("bond\x00")), 5, attr(attr(nil, 2, []byte{up}), 3, []byte{failures, 0, 0, 0}))
	}
	vlan := attr(attr(nil, 1, []byte("vlan\x00")), 2, attr(nil, 1, []byte{100, 0}))
	var in []decoded
	for _, b := range [][]byte{
		link(5, "bond0.100", attr(nil, 5, []byte{2, 0, 0, 0}), attr(nil, 18, vlan)),
		link(2, "bond0", attr(nil, 18, bond)),
		link(3, "eth0", attr(nil, 10, []byte{2, 0, 0, 0}), attr(nil, 18, member(0, 0))),
		link(4, "eth1", attr(nil, 10, []byte{2, 0, 0, 0}), attr(nil, 18, member(2, 7))),
	} {
		d, ok := decode(b)
		if !ok {
			t.Fatal("not decoded")
		}
		in = append(in, d)
	}
	got := resolve(in)
	want := &facts.Bond{Mode: "active-backup", Active: "eth0", Members: []facts.BondMember{{Name: "eth0", Up: true}, {Name: "eth1", Failures: 7}}}
	if d := cmp.Diff(want, got[0].Bond); d != "" || got[0].Ports != 2 || got[1].Master != "bond0" {
		t.Error(d, got)
	}
	if got[3].VLAN != 100 || got[3].Parent != "bond0" || got[3].Kind != "vlan" {
		t.Errorf("%+v", got[3])
	}
}

func TestParseBonding(t *testing.T) {
	// drivers/net/bonding/bond_procfs.c, shortened.
	got := parseBonding(`Ethernet Channel Bonding Driver: v5.10
Bonding Mode: fault-tolerance (active-backup)
Currently Active Slave: eth1
MII Status: up

Slave Interface: eth0
MII Status: down
Link Failure Count: 3
Permanent HW addr: 52:54:00:00:00:01

Slave Interface: eth1
MII Status: up
Link Failure Count: 0
`)
	want := facts.Bond{Mode: "active-backup", Active: "eth1", Members: []facts.BondMember{{Name: "eth0", Failures: 3}, {Name: "eth1", Up: true}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestApplySettings(t *testing.T) {
	b := make([]byte, 48+3*4*3)
	b[4], b[5] = 100, 0 // 100 Mbit/s
	b[8], b[11] = 0, 1
	b[48] = 1<<5 | 1<<3 // supported: 1000baseT full, 100baseT full
	b[48+24] = 1 << 3   // partner: 100baseT full
	var l facts.Link
	applySettings(&l, b, 3)
	if l.SpeedMbps != 100 || l.Duplex != "half" || !*l.Autoneg || l.SupportedMbps != 1000 || l.PartnerMbps != 100 {
		t.Errorf("%+v", l)
	}
	b[4], b[5], b[6], b[7], b[8], b[11] = 255, 255, 255, 255, 255, 255
	b[48+2*4+2] = 1 << 5 // bit 85: 400000baseKR4
	l = facts.Link{}
	applySettings(&l, b, 3)
	if l.SpeedMbps != 0 || l.Duplex != "" || l.Autoneg != nil || l.SupportedMbps != 400000 {
		t.Errorf("unknown: %+v", l)
	}
}

func TestKeepStats(t *testing.T) {
	var all []stat
	for i := range 300 {
		all = append(all, stat{"rx_queue_" + string(rune('a'+i%26)) + string(rune('a'+i/26)) + "_packets", uint64(i)})
	}
	all = append(all, stat{"rx_crc_errors", 0}, stat{"tx_dropped", 4}, stat{"quiet", 0})
	got := keepStats(all)
	if v, ok := got["rx_crc_errors"]; !ok || v != 0 || got["tx_dropped"] != 4 || len(got) != maxDriverStats {
		t.Error(len(got), got)
	}
	if _, ok := got["quiet"]; ok {
		t.Error("a zero that is no error was kept")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(append(make([]byte, 16), nl.AppendAttr(nl.AppendAttr(nil, 3, []byte("eth0\x00")), 23, make([]byte, 200))...))
	f.Add(append(make([]byte, 16), nl.AppendAttr(nl.AppendAttr(nil, 3, []byte("b\x00")), 18, nl.AppendAttr(nl.AppendAttr(nil, 1, []byte("bond\x00")), 2, []byte{5, 0, 1, 0, 99}))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, ok := decode(b); ok && len(resolve([]decoded{d, d})) != 1 {
			t.Fatal("one link became two")
		}
		var l facts.Link
		applySettings(&l, b, len(b)%130)
		keepStats(statPairs(b, b, len(b)))
		parseBonding(string(b))
	})
}

func BenchmarkCollect(b *testing.B) {
	for b.Loop() {
		if err := Collect(b.Context(), &facts.Host{}); err != nil {
			b.Fatal(err)
		}
	}
}

// After a loss in the kernel's queue the watcher tells what it missed.
func TestWatchSyncTellsWhatWasMissed(t *testing.T) {
	netns.Run(t, func() {
		netns.IP(t, "link add v0 type veth peer name v1", "link set v0 up", "link set v1 up")
		c, err := nl.Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		w := &watcher{state: c, now: time.Now}
		if first, err := w.sync(t.Context()); err != nil || len(first) != 0 {
			t.Error(first, err)
		}
		l := snapshot(t)
		v0, _ := l.LinkByName("v0")
		v1, _ := l.LinkByName("v1")
		w.links[v0.Index], w.links[v1.Index], w.links[999] = known{"v0", false}, known{"v1", true}, known{"gone", true}
		events, err := w.sync(t.Context())
		var got []string
		for _, e := range events {
			got = append(got, e.Kind+" "+e.Subject.Name)
		}
		if d := cmp.Diff([]string{"link.up v0", "link.removed gone"}, got); d != "" || err != nil {
			t.Error(d, err)
		}
	})
}
