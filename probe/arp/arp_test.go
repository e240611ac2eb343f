package arp

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"fathom/internal/testkit/netns"
	"fathom/probe"
)

// station is a namespace on a bridge, with its hardware address.
func station(t *testing.T, hub *netns.NS, port, mac string, addrs ...string) *netns.NS {
	t.Helper()
	ns := netns.New(t)
	ns.Veth("eth0", hub, port)
	hub.IP("link set " + port + " master br0")
	ns.IP("link set eth0 address " + mac)
	for _, a := range addrs {
		ns.IP("addr add " + a + " dev eth0 nodad")
	}
	return ns
}

const (
	macA = "02:00:00:00:00:0a"
	macB = "02:00:00:00:00:0b"
	macC = "02:00:00:00:00:0c"
	macD = "02:00:00:00:00:0d"
)

// segment is one bridge with A (.1), B and C that both claim .7, and D
// that claims the address of A.
func segment(t *testing.T) (a *netns.NS) {
	hub := netns.New(t)
	hub.IP("link add br0 type bridge")
	hub.IP("link set br0 up")
	a = station(t, hub, "p1", macA, "192.0.2.1/24", "fd00::1/64")
	station(t, hub, "p2", macB, "192.0.2.7/24", "fd00::7/64")
	station(t, hub, "p3", macC, "192.0.2.7/24", "fd00::7/64")
	station(t, hub, "p4", macD, "192.0.2.1/24", "fd00::1/64")
	return a
}

func TestWhoAnswers(t *testing.T) {
	a := segment(t)
	a.In(func() {
		for _, x := range []struct {
			name, target string
			own          bool
			outcome      probe.Outcome
			macs         []string
		}{
			{"two stations with one address", "192.0.2.7", false, probe.OK, []string{macB, macC}},
			{"two stations with one address, v6", "fd00::7", false, probe.OK, []string{macB, macC}},
			{"nobody", "192.0.2.99", false, probe.Timeout, nil},
			{"nobody, v6", "fd00::99", false, probe.Timeout, nil},
			{"our own address is taken", "192.0.2.1", true, probe.OK, []string{macD}},
			{"our own address is taken, v6", "fd00::1", true, probe.OK, []string{macD}},
			{"an address we might take is free", "192.0.2.50", true, probe.Timeout, nil},
			{"an address we might take is free, v6", "fd00::50", true, probe.Timeout, nil},
		} {
			r, err := New(Config{Interface: "eth0", Wait: 150 * time.Millisecond, Own: x.own}).Probe(t.Context(), x.target)
			if err != nil {
				t.Errorf("%s: %v", x.name, err)
				continue
			}
			macs := slices.Sorted(slices.Values(r.ARP.MACs))
			if r.Outcome != x.outcome || !slices.Equal(macs, x.macs) || r.ARP.Sent != 3 || r.ARP.Own != x.own || r.ARP.Interface != "eth0" {
				t.Errorf("%s: %s %v %+v", x.name, r.Outcome, macs, r.ARP)
			}
			if (r.RTT != nil) != (x.outcome == probe.OK) {
				t.Errorf("%s: rtt %+v", x.name, r.RTT)
			}
		}
	})
}

// Asking for our own address must not make others believe it is ours or not.
func TestOwnProbeLeavesCachesAlone(t *testing.T) {
	hub := netns.New(t)
	hub.IP("link add br0 type bridge")
	hub.IP("link set br0 up")
	a := station(t, hub, "p1", macA, "192.0.2.1/24")
	b := station(t, hub, "p2", macB, "192.0.2.7/24")
	b.IP("neigh add 192.0.2.1 lladdr " + macC + " dev eth0 nud stale")
	a.In(func() {
		if _, err := New(Config{Interface: "eth0", Wait: 60 * time.Millisecond, Own: true}).Probe(t.Context(), "192.0.2.1"); err != nil {
			t.Fatal(err)
		}
	})
	b.Exec("sh", "-c", "ip neigh show 192.0.2.1 | grep -q "+macC)
}

// Two own interfaces on one segment answer for each other (arp_ignore 0): that
// is no conflict.
func TestOwnOtherInterfaceIsNoConflict(t *testing.T) {
	hub := netns.New(t)
	hub.IP("link add br0 type bridge")
	hub.IP("link set br0 up")
	a := station(t, hub, "p1", macA, "192.0.2.1/24")
	a.Veth("eth1", hub, "p2")
	hub.IP("link set p2 master br0")
	a.IP("addr add 192.0.2.2/24 dev eth1")
	a.In(func() {
		r, err := New(Config{Interface: "eth0", Wait: 90 * time.Millisecond, Own: true}).Probe(t.Context(), "192.0.2.2")
		if err != nil || r.Outcome != probe.Timeout || len(r.ARP.MACs) != 0 {
			t.Errorf("%s %+v %v", r.Outcome, r.ARP, err)
		}
	})
}

func TestErrors(t *testing.T) {
	a := segment(t)
	a.In(func() {
		for name, x := range map[string]struct{ link, target string }{
			"no interface": {"", "192.0.2.7"}, "unknown interface": {"nolink", "192.0.2.7"}, "a name": {"eth0", "host"},
			"multicast": {"eth0", "224.0.0.1"}, "loopback has no neighbours": {"lo", "127.0.0.1"},
		} {
			if _, err := New(Config{Interface: x.link}).Probe(t.Context(), x.target); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	})
	a.InAsNobody(func() {
		_, err := New(Config{Interface: "eth0"}).Probe(t.Context(), "192.0.2.7")
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "needs CAP_NET_RAW") {
			t.Errorf("without capability: %v", err)
		}
	})
	a.IP("link set eth0 down")
	a.In(func() {
		r, err := New(Config{Interface: "eth0", Wait: 50 * time.Millisecond}).Probe(t.Context(), "192.0.2.7")
		if err == nil {
			t.Errorf("link down: %+v", r)
		}
	})
}
