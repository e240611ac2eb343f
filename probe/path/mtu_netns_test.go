package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"fathom/probe"
)

// narrow sets the MTU of the link between node i and i+1.
func (l *lab) narrow(i, mtu int) {
	l.in(i, fmt.Sprintf("ip link set r%d mtu %d", i, mtu))
	l.in(i+1, fmt.Sprintf("ip link set l%d mtu %d", i+1, mtu))
}

func (l *lab) hops(v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, s := range strings.Fields(l.want(v6)) {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// ways runs f as root and as an ordinary user, for both families.
func (l *lab) ways(t *testing.T, f func(t *testing.T, v6, nobody bool)) {
	l.in(0, "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range")
	for _, nobody := range []bool{false, true} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%v nobody=%v", v6, nobody), func(t *testing.T) { f(t, v6, nobody) })
		}
	}
}

func TestMTUOfHealthyPath(t *testing.T) {
	l := newLab(t, 1)
	l.ways(t, func(t *testing.T, v6, nobody bool) {
		res := l.run(job{Target: l.target(v6), MTU: &MTUConfig{Hops: l.hops(v6)}, Nobody: nobody})
		if m := res.MTU; res.Outcome != probe.OK || m.Works != 1500 || m.Fails != 0 || m.Signalled || m.FirstBad.IsValid() {
			t.Errorf("%s (%s) %+v", res.Outcome, res.Detail, m)
		}
	})
}

func TestMTUSignalled(t *testing.T) {
	l := newLab(t, 3)
	l.narrow(2, 1400)
	l.ways(t, func(t *testing.T, v6, nobody bool) {
		res := l.run(job{Target: l.target(v6), MTU: &MTUConfig{Hops: l.hops(v6)}, Nobody: nobody})
		m := res.MTU
		if res.Outcome != probe.OK || m.Works != 1400 || m.Fails != 1401 || !m.Signalled || m.SignalMTU != 1400 ||
			m.By.String() != l.addr(2, v6) || m.FirstBad.IsValid() {
			t.Errorf("%s (%s) %+v", res.Outcome, res.Detail, m)
		}
	})
}

func TestMTUBlackHole(t *testing.T) {
	l := newLab(t, 3)
	l.narrow(2, 1397) // not a usual size
	l.nft(2, "output", "icmp type destination-unreachable drop; icmpv6 type packet-too-big drop;")
	l.ways(t, func(t *testing.T, v6, nobody bool) {
		res := l.run(job{Target: l.target(v6), MTU: &MTUConfig{Hops: l.hops(v6)}, Nobody: nobody})
		m := res.MTU
		if res.Outcome != probe.OK || m.Works != 1397 || m.Fails != 1398 || m.Signalled {
			t.Errorf("%s (%s) %+v", res.Outcome, res.Detail, m)
		}
		if m.LastGood.String() != l.addr(2, v6) || m.LastGoodTTL != 2 || m.FirstBad.String() != l.addr(3, v6) || m.FirstBadTTL != 3 {
			t.Errorf("located between %s (%d) and %s (%d)", m.LastGood, m.LastGoodTTL, m.FirstBad, m.FirstBadTTL)
		}
	})
}

// Our own interface is smaller than what the caller believed.
func TestMTULargerThanOurLink(t *testing.T) {
	l := newLab(t, 1)
	l.ways(t, func(t *testing.T, v6, nobody bool) {
		res := l.run(job{Target: l.target(v6), MTU: &MTUConfig{LinkMTU: 9000}, Nobody: nobody})
		if m := res.MTU; res.Outcome != probe.OK || m.Works != 1500 || m.Fails != 1501 || m.Signalled {
			t.Errorf("%s (%s) %+v", res.Outcome, res.Detail, m)
		}
	})
}

func TestMTUOfSilentTarget(t *testing.T) {
	l := newLab(t, 1)
	l.nft(2, "input", "icmp type echo-request drop; icmpv6 type echo-request drop;")
	l.ways(t, func(t *testing.T, v6, nobody bool) {
		res := l.run(job{Target: l.target(v6), MTU: &MTUConfig{}, Nobody: nobody})
		if res.Outcome != probe.Timeout || res.MTU.Works != 0 || !strings.Contains(res.Detail, "cannot judge") {
			t.Errorf("%s (%s) %+v", res.Outcome, res.Detail, res.MTU)
		}
	})
}

func TestMTUNeedsAnICMPSocket(t *testing.T) {
	l := newLab(t, 0)
	l.in(0, "echo '1 0' > /proc/sys/net/ipv4/ping_group_range")
	_, err := l.try(job{Target: l.target(false), MTU: &MTUConfig{}, Nobody: true})
	if err == nil || !strings.Contains(err.Error(), "ping_group_range") {
		t.Errorf("error %v does not say what helps", err)
	}
}
