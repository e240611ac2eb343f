package tcp

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

	"golang.org/x/sys/unix"

	"fathom/internal/sys/dial"
	"fathom/internal/testkit/netns"
	"fathom/probe"
)

func listen(t testing.TB, addr string) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().String()
}

func measure(t *testing.T, c Config, target string) probe.Result {
	t.Helper()
	r, err := New(c).Probe(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestListenerAndClosedPort(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, target := listen(t, addr)
		r := measure(t, Config{Count: 5, Interval: time.Millisecond, Timeout: 20 * time.Second}, target)
		ap := netip.MustParseAddrPort(target)
		if r.Outcome != probe.OK || r.TCP.Connected != 5 || len(r.TCP.Connects) != 5 || r.Address != ap.Addr() || r.Port != ap.Port() {
			t.Errorf("%s: %+v %+v", target, r, r.TCP)
		}
		if r.TCP.SYNRetrans != 0 || r.TCP.MSS == 0 || r.TCP.LocalPort == 0 || r.Source != ap.Addr() || r.TCP.MinRTT <= 0 {
			t.Errorf("%s: %+v, source %s", target, r.TCP, r.Source)
		}
		if d, ok := r.PhaseNamed("connect"); !ok || d <= 0 || r.RTT == nil || r.RTT.Value > d || r.RTT.Clock != "tcp_info" || r.RTT.Error <= 0 {
			t.Errorf("%s: connect phase %v, rtt %+v", target, d, r.RTT)
		}
		l.Close()
		r = measure(t, Config{Count: 2, Interval: time.Millisecond}, target)
		if r.Outcome != probe.Refused || r.TCP.Refused != 2 || len(r.TCP.Connects) != 2 || r.Errno != "ECONNREFUSED" ||
			r.ICMP != nil || !strings.Contains(r.Detail, "RST") || r.RTT == nil {
			t.Errorf("%s closed: %+v %+v", target, r, r.TCP)
		}
	}
}

func TestResetAfterAccept(t *testing.T) {
	l, target := listen(t, "127.0.0.1:0")
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}()
	p := New(Config{})
	// The reset takes its time on a busy machine; what is tested is that it is
	// seen, so the connection is handed over only when it has arrived.
	p.connect = func(ctx context.Context, to netip.AddrPort, d time.Duration, o dial.Options) (dial.Attempt, error) {
		a, err := dial.Connect(ctx, to, d, o)
		<-done
		return a, err
	}
	r, err := p.Probe(t.Context(), target) // the reset comes before or after connect has been seen to succeed
	if err != nil || r.Outcome != probe.Reset || r.Errno != "ECONNRESET" || r.TCP.Connected != 1 || r.TCP.ResetAfter != 1 {
		t.Errorf("%v %+v %+v", err, r, r.TCP)
	}
}

// TestFullAcceptQueue: with a backlog of 0 the kernel queues one connection and
// drops the SYNs of the next, which are then retransmitted after a second.
func TestFullAcceptQueue(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	target := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port)).String()
	filler, err := net.Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	r := measure(t, Config{Count: 2, Interval: time.Millisecond, Timeout: 1300 * time.Millisecond}, target)
	if r.Outcome != probe.Timeout || r.TCP.TimedOut != 2 || r.TCP.Retried != 2 || r.TCP.SYNRetrans < 2 || r.RTT != nil || len(r.TCP.Connects) != 0 {
		t.Errorf("%+v %+v", r, r.TCP)
	}
	if !strings.Contains(r.Detail, "sent 2 times") {
		t.Errorf("detail %q", r.Detail)
	}
	// Room is made while the next attempt waits: it gets through with its second SYN.
	p := New(Config{Timeout: 20 * time.Second})
	p.connect = func(ctx context.Context, to netip.AddrPort, d time.Duration, o dial.Options) (dial.Attempt, error) {
		first, err := dial.Connect(ctx, to, 100*time.Millisecond, o)
		if err != nil || first.Err == nil {
			t.Errorf("the queue is not full: %v, %v", err, first.Err)
		}
		timer := time.AfterFunc(300*time.Millisecond, func() {
			if c, _, err := unix.Accept(fd); err == nil {
				unix.Close(c)
			}
		})
		defer timer.Stop()
		return dial.Connect(ctx, to, d, o)
	}
	r, err = p.Probe(t.Context(), target)
	if err != nil || r.Outcome != probe.OK || r.TCP.Slow != 1 || r.TCP.Retried != 1 || r.TCP.SYNRetrans < 1 {
		t.Errorf("%v %+v %+v", err, r, r.TCP)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := New(Config{Count: 3, Interval: time.Hour})
	p.connect = func(ctx context.Context, _ netip.AddrPort, _ time.Duration, _ dial.Options) (dial.Attempt, error) {
		cancel()
		<-ctx.Done()
		return dial.Attempt{Err: ctx.Err()}, nil
	}
	if r, err := p.Probe(ctx, "127.0.0.1:9"); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v; a cancelled attempt is no measurement", r, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	p.connect = func(context.Context, netip.AddrPort, time.Duration, dial.Options) (dial.Attempt, error) {
		defer cancel()
		return dial.Attempt{Err: syscall.ECONNREFUSED}, nil
	}
	r, err := p.Probe(ctx, "127.0.0.1:9")
	if err != nil || r.TCP.Attempts != 1 || !strings.Contains(r.Detail, "1 of 3 attempts") {
		t.Errorf("%+v, %v; what was measured before must be kept", r, err)
	}
}

func TestBadArguments(t *testing.T) {
	for _, c := range []struct {
		c      Config
		target string
	}{
		{Config{}, "localhost:80"},
		{Config{}, "127.0.0.1"},
		{Config{}, "127.0.0.1:0"},
		{Config{Count: -1}, "127.0.0.1:1"},
		{Config{Count: 1 << 20}, "127.0.0.1:1"},
		{Config{TTL: 256}, "127.0.0.1:1"},
		{Config{Timeout: -1}, "127.0.0.1:1"},
		{Config{Interface: "nosuch0"}, "127.0.0.1:1"},
		{Config{Source: netip.MustParseAddr("::1")}, "127.0.0.1:1"},
	} {
		if r, err := New(c.c).Probe(t.Context(), c.target); err == nil {
			t.Errorf("%+v %q: %+v, want an error", c.c, c.target, r)
		}
	}
}

func TestResetBeforeWeLooked(t *testing.T) {
	p := New(Config{})
	p.connect = func(context.Context, netip.AddrPort, time.Duration, dial.Options) (dial.Attempt, error) {
		return dial.Attempt{Err: syscall.ECONNRESET, Took: time.Millisecond}, nil
	}
	r, err := p.Probe(t.Context(), "127.0.0.1:9")
	if err != nil || r.Outcome != probe.Reset || r.TCP.Connected != 1 || r.TCP.ResetAfter != 1 {
		t.Errorf("%v %+v %+v", err, r, r.TCP)
	}
}

func TestJudge(t *testing.T) {
	to, own, router := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("203.0.113.1")
	local := netip.AddrPortFrom(own, 4000)
	icmp := func(from netip.Addr, typ, code uint8, e syscall.Errno) attempt {
		return attempt{Attempt: dial.Attempt{Local: local, Err: e, ICMP: &dial.ICMP{From: from, Type: typ, Code: code, Errno: e}}}
	}
	errno := func(e error) attempt { return attempt{Attempt: dial.Attempt{Local: local, Err: e}} }
	for name, c := range map[string]struct {
		a    attempt
		want probe.Outcome
	}{
		"connected":                    {attempt{}, probe.OK},
		"reset at once":                {attempt{aborted: syscall.ECONNRESET}, probe.Reset},
		"silence":                      {errno(os.ErrDeadlineExceeded), probe.Timeout},
		"the kernel gave up":           {errno(syscall.ETIMEDOUT), probe.Timeout},
		"rst":                          {errno(syscall.ECONNREFUSED), probe.Refused},
		"port unreachable":             {icmp(to, 3, 3, syscall.ECONNREFUSED), probe.Refused},
		"port unreachable by a router": {icmp(router, 3, 3, syscall.ECONNREFUSED), probe.Refused},
		"port unreachable by ourself":  {icmp(own, 3, 3, syscall.ECONNREFUSED), probe.LocalDrop},
		"host unreachable by ourself":  {icmp(own, 3, 1, syscall.EHOSTUNREACH), probe.Unreachable},
		"prohibited":                   {icmp(router, 3, 13, syscall.EHOSTUNREACH), probe.Prohibited},
		"ttl":                          {icmp(router, 11, 0, syscall.EHOSTUNREACH), probe.TTLExceeded},
		"no route":                     {errno(syscall.ENETUNREACH), probe.NoRoute},
		"no port":                      {errno(syscall.EADDRNOTAVAIL), probe.NoPort},
		"local firewall":               {errno(syscall.EPERM), probe.LocalDrop},
	} {
		if got := judge(c.a, to); got.Outcome != c.want || (c.want != probe.OK && got.Detail == "") {
			t.Errorf("%s: %+v, want %s", name, got, c.want)
		}
	}
}

func TestMajorityDecides(t *testing.T) {
	ap := netip.MustParseAddrPort("192.0.2.1:80")
	refused := attempt{Attempt: dial.Attempt{Err: syscall.ECONNREFUSED, Took: time.Millisecond}}
	silent := attempt{Attempt: dial.Attempt{Err: os.ErrDeadlineExceeded, Took: time.Second}}
	unreachable := attempt{Attempt: dial.Attempt{Err: syscall.EHOSTUNREACH, Took: time.Millisecond}}
	slow := attempt{Attempt: dial.Attempt{Took: slowConnect}}
	for name, c := range map[string]struct {
		in   []attempt
		want probe.Outcome
	}{
		"one of three connected": {[]attempt{silent, silent, slow}, probe.OK},
		"silence weighs least":   {[]attempt{silent, silent, refused}, probe.Refused},
		"all are silent":         {[]attempt{silent, silent}, probe.Timeout},
		"a tie: the first":       {[]attempt{refused, silent}, probe.Refused},
	} {
		r := summarize("x", ap, c.in)
		if r.Outcome != c.want {
			t.Errorf("%s: %s, want %s", name, r.Outcome, c.want)
		}
		if len(r.TCP.Connects)+r.TCP.TimedOut != len(c.in) {
			t.Errorf("%s: %+v", name, r.TCP)
		}
	}
	if r := summarize("x", ap, []attempt{silent, silent, silent, refused, unreachable, unreachable}); r.Outcome != probe.Unreachable {
		t.Errorf("most of the answers are unreachable: %s", r.Outcome)
	}
	if r := summarize("x", ap, []attempt{slow}); r.TCP.Slow != 1 || r.RTT == nil || r.RTT.Clock != "user" {
		t.Errorf("slow connect without tcp_info: %+v %+v", r.TCP, r.RTT)
	}
}

// TestFirewallsAndRouters plays every refusal there is, as an ordinary user.
func TestFirewallsAndRouters(t *testing.T) {
	if !netns.Own(t) {
		return
	}
	router := netns.Router(t)
	router.Script(`nft -f - <<EOF
table inet t {
  chain inbound { type filter hook input priority 0; tcp dport 1001 drop; tcp dport 1002 reject with tcp reset; tcp dport 1003 reject with icmpx admin-prohibited; }
  chain through { type filter hook forward priority 0; tcp dport 1004 reject with icmpx host-unreachable; tcp dport 1005 reject with icmpx port-unreachable; tcp dport 1003 reject with icmpx admin-prohibited; tcp dport 1006 drop; }
}
EOF`)
	netns.Script(t, `nft -f - <<EOF
table inet t {
  chain outbound { type filter hook output priority 0; tcp dport 1010 reject with icmpx admin-prohibited; tcp dport 1011 drop; }
}
EOF
ip route add prohibit 10.99.7.0/24
ip route add unreachable 10.99.6.0/24
ip route add blackhole 10.99.5.0/24
ip route add throw 10.99.4.0/24`)
	netns.DropRoot(t)
	near4, near6, far4, far6 := netns.Router4, netns.Router6, netns.Far4, netns.Far6
	own4, own6 := netns.Client4, netns.Client6
	a := netip.MustParseAddr
	for _, c := range []struct {
		name  string
		to    netip.Addr
		port  uint16
		ttl   int
		want  probe.Outcome
		from  netip.Addr // sender of the ICMP error
		errno string
	}{
		{"drop", near4, 1001, 0, probe.Timeout, netip.Addr{}, ""},
		{"drop v6", near6, 1001, 0, probe.Timeout, netip.Addr{}, ""},
		{"tcp reset", near4, 1002, 0, probe.Refused, netip.Addr{}, "ECONNREFUSED"},
		{"tcp reset v6", near6, 1002, 0, probe.Refused, netip.Addr{}, "ECONNREFUSED"},
		{"prohibited by the target", near4, 1003, 0, probe.Prohibited, near4, "EHOSTUNREACH"},
		{"prohibited by the target v6", near6, 1003, 0, probe.Prohibited, near6, "EACCES"},
		{"prohibited by a router", far4, 1003, 0, probe.Prohibited, near4, "EHOSTUNREACH"},
		{"prohibited by a router v6", far6, 1003, 0, probe.Prohibited, near6, "EACCES"},
		{"host unreachable", far4, 1004, 0, probe.Unreachable, near4, "EHOSTUNREACH"},
		{"host unreachable v6", far6, 1004, 0, probe.Unreachable, near6, "EHOSTUNREACH"},
		{"port unreachable by a router", far4, 1005, 0, probe.Refused, near4, "ECONNREFUSED"},
		{"port unreachable by a router v6", far6, 1005, 0, probe.Refused, near6, "ECONNREFUSED"},
		{"ttl", far4, 1006, 1, probe.TTLExceeded, near4, "EHOSTUNREACH"},
		{"hop limit v6", far6, 1006, 1, probe.TTLExceeded, near6, "EHOSTUNREACH"},
		{"own firewall rejects", near4, 1010, 0, probe.LocalDrop, own4, "EHOSTUNREACH"},
		{"own firewall rejects v6", near6, 1010, 0, probe.LocalDrop, own6, "EACCES"},
		{"own firewall drops", near4, 1011, 0, probe.Timeout, netip.Addr{}, ""},
		{"prohibit route", a("10.99.7.1"), 1, 0, probe.LocalDrop, netip.Addr{}, "EACCES"},
		{"unreachable route", a("10.99.6.1"), 1, 0, probe.Unreachable, netip.Addr{}, "EHOSTUNREACH"},
		{"no route", a("10.99.4.1"), 1, 0, probe.NoRoute, netip.Addr{}, "ENETUNREACH"},
	} {
		p := New(Config{TTL: c.ttl, Timeout: 1200 * time.Millisecond})
		if c.want != probe.Timeout {
			p.c.Timeout = 20 * time.Second
		}
		r, err := p.Probe(t.Context(), netip.AddrPortFrom(c.to, c.port).String())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var from netip.Addr
		if r.ICMP != nil {
			from = r.ICMP.From
		}
		if r.Outcome != c.want || from != c.from || r.Errno != c.errno {
			t.Errorf("%s: %s %s %q from %v; want %s %s from %v", c.name, r.Outcome, r.Errno, r.Detail, from, c.want, c.errno, c.from)
		}
		t.Logf("%s: %s, %s %v", c.name, r.Outcome, r.Detail, r.Elapsed)
	}
}

func TestNoNeighbourAndNoPort(t *testing.T) {
	if !netns.Own(t) {
		return
	}
	netns.Router(t)
	netns.Script(t, `sysctl -qw net.ipv4.ip_local_port_range="40000 40003"`)
	r := measure(t, Config{Timeout: 20 * time.Second}, "10.99.0.77:80")
	if r.Outcome != probe.Unreachable || r.Errno != "EHOSTUNREACH" {
		t.Errorf("no neighbour: %+v", r)
	}
	t.Logf("no neighbour: %s %+v", r.Detail, r.ICMP)
	_, target := listen(t, "127.0.0.1:30000")
	for range 4 {
		c, err := net.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	r = measure(t, Config{}, target)
	if r.Outcome != probe.NoPort || r.Errno != "EADDRNOTAVAIL" {
		t.Errorf("no port left: %+v", r)
	}
}

func BenchmarkProbe(b *testing.B) {
	l, target := listen(b, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	// A long series ends its connections with RST, as the benchmark must: its
	// closed ports would fill the table.
	p := New(Config{Count: politeCount + 1, Interval: 1})
	b.ReportAllocs()
	for b.Loop() {
		if r, err := p.Probe(b.Context(), target); err != nil || r.Outcome != probe.OK {
			b.Fatal(err, r)
		}
	}
}
