package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"fathom/internal/sys/dial"
	"fathom/internal/testkit/netns"
	"fathom/probe"
)

func listen(t testing.TB, addr string) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}

func echo(pc net.PacketConn) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = pc.WriteTo(b[:n], from)
	}
}

func measure(t *testing.T, c Config, target string) probe.Result {
	t.Helper()
	r, err := New(c).Probe(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnsweredAndClosed(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		pc := listen(t, addr)
		go echo(pc)
		target := pc.LocalAddr().String()
		for _, payload := range [][]byte{nil, {}, []byte("x")} {
			r := measure(t, Config{Count: 2, Interval: time.Millisecond, Timeout: 20 * time.Second, Payload: payload}, target)
			ap := netip.MustParseAddrPort(target)
			if r.Outcome != probe.OK || r.Address != ap.Addr() || r.Port != ap.Port() || r.Source != ap.Addr() ||
				r.RTT == nil || r.RTT.Value <= 0 || !strings.Contains(r.Detail, "2 of 2") {
				t.Errorf("%s: %+v %+v", target, r, r.RTT)
			}
		}
		pc.Close()
		r := measure(t, Config{Timeout: 20 * time.Second}, target)
		if r.Outcome != probe.Refused || r.ICMP == nil || r.ICMP.From != r.Address || r.Errno != "ECONNREFUSED" || r.RTT != nil {
			t.Errorf("%s closed: %+v %+v", target, r, r.ICMP)
		}
	}
}

func TestSilentAndCancelled(t *testing.T) {
	pc := listen(t, "127.0.0.1:0")
	target := pc.LocalAddr().String()
	r := measure(t, Config{Timeout: 50 * time.Millisecond}, target)
	if r.Outcome != probe.Timeout || !strings.Contains(r.Detail, "open or filtered") {
		t.Errorf("%+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		b := make([]byte, 64)
		_, _, _ = pc.ReadFrom(b) // of the first probe
		_, _, _ = pc.ReadFrom(b)
		cancel()
	}()
	if r, err := New(Config{Timeout: time.Hour}).Probe(ctx, target); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestBadArguments(t *testing.T) {
	for _, c := range []struct {
		c      Config
		target string
	}{
		{Config{}, "localhost:1"},
		{Config{}, "127.0.0.1:0"},
		{Config{Count: -1}, "127.0.0.1:1"},
		{Config{Payload: make([]byte, 1<<16)}, "127.0.0.1:1"},
		{Config{Interface: "nosuch0"}, "127.0.0.1:1"},
		{Config{Timeout: -1}, "127.0.0.1:1"},
	} {
		if r, err := New(c.c).Probe(t.Context(), c.target); err == nil {
			t.Errorf("%+v: %+v, want an error", c.c.Count, r)
		}
	}
}

func TestWhatSpeaksOutweighsSilence(t *testing.T) {
	ap := netip.MustParseAddrPort("192.0.2.1:9")
	silent := trip{err: os.ErrDeadlineExceeded}
	refused := trip{err: syscall.ECONNREFUSED, icmp: &dial.ICMP{From: ap.Addr(), Type: 3, Code: 3}}
	answered := trip{answered: true, took: time.Millisecond}
	for name, c := range map[string]struct {
		in   []trip
		want probe.Outcome
	}{
		"silence":                   {[]trip{silent}, probe.Timeout},
		"one refusal, rate limited": {[]trip{silent, refused, silent}, probe.Refused},
		"an answer among refusals":  {[]trip{refused, refused, answered}, probe.OK},
		"a refusal after an answer": {[]trip{answered, refused, refused}, probe.OK},
	} {
		if r := summarize("x", ap, c.in, 1); r.Outcome != c.want {
			t.Errorf("%s: %s, want %s", name, r.Outcome, c.want)
		}
	}
}

// TestFirewallsAndRouters as an ordinary user.
func TestFirewallsAndRouters(t *testing.T) {
	if !netns.Own(t) {
		return
	}
	router := netns.Router(t)
	router.Script(`nft -f - <<EOF
table inet t {
  chain inbound { type filter hook input priority 0; udp dport 1001 drop; udp dport 1003 reject with icmpx admin-prohibited; }
  chain through { type filter hook forward priority 0; udp dport 1004 reject with icmpx host-unreachable; udp dport 1005 reject with icmpx port-unreachable; }
}
EOF`)
	netns.Script(t, `nft -f - <<EOF
table inet t {
  chain outbound { type filter hook output priority 0; udp dport 1010 reject with icmpx port-unreachable; udp dport 1011 drop; }
}
EOF
ip route add prohibit 10.99.7.0/24
ip route add throw 10.99.4.0/24
sysctl -qw net.ipv4.ip_local_port_range="40000 40003"`)
	netns.DropRoot(t)
	near4, near6, far4, far6 := netns.Router4, netns.Router6, netns.Far4, netns.Far6
	check := func(name string, to netip.Addr, port uint16, want probe.Outcome, sender netip.Addr) {
		t.Helper()
		r := measure(t, Config{Timeout: 500 * time.Millisecond}, netip.AddrPortFrom(to, port).String())
		var from netip.Addr
		if r.ICMP != nil {
			from = r.ICMP.From
		}
		if r.Outcome != want || from != sender {
			t.Errorf("%s: %s %s %q from %v; want %s from %v", name, r.Outcome, r.Errno, r.Detail, from, want, sender)
		}
	}
	none := netip.Addr{}
	check("drop", near4, 1001, probe.Timeout, none)
	check("closed", near4, 1002, probe.Refused, near4)
	check("closed v6", near6, 1002, probe.Refused, near6)
	check("prohibited", near4, 1003, probe.Prohibited, near4)
	check("prohibited v6", near6, 1003, probe.Prohibited, near6)
	check("host unreachable", far4, 1004, probe.Unreachable, near4)
	check("refused by a router", far4, 1005, probe.Refused, near4)
	check("refused by a router v6", far6, 1005, probe.Refused, near6)
	check("own reject", near4, 1010, probe.LocalDrop, none) // sendmsg says EPERM before the ICMP error is read
	check("own drop", near4, 1011, probe.LocalDrop, none)
	check("own drop v6", near6, 1011, probe.LocalDrop, none)
	check("prohibit route", netip.MustParseAddr("10.99.7.1"), 1, probe.LocalDrop, none)
	check("no route", netip.MustParseAddr("10.99.4.1"), 1, probe.NoRoute, none)
	for range 4 {
		pc := listen(t, "0.0.0.0:0")
		defer pc.Close()
	}
	check("no port left", near4, 1002, probe.NoPort, none)
}

func BenchmarkProbe(b *testing.B) {
	pc := listen(b, "127.0.0.1:0")
	go echo(pc)
	p := New(Config{})
	b.ReportAllocs()
	for b.Loop() {
		if r, err := p.Probe(b.Context(), pc.LocalAddr().String()); err != nil || r.Outcome != probe.OK {
			b.Fatal(err, r)
		}
	}
}
