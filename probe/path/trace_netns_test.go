package path

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"fathom/internal/testkit"
	"fathom/probe"
)

// families runs f for IPv4 and IPv6.
func families(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Run("v4", func(t *testing.T) { f(t, false) })
	t.Run("v6", func(t *testing.T) { f(t, true) })
}

func TestHealthyChainEveryWay(t *testing.T) {
	l := newLab(t, 3)
	l.in(0, "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range")
	for _, tc := range []struct {
		proto  string
		nobody bool
		method string
		quoted bool // this way tells the quoted header
		kernel bool // round trips by the kernel's clock
	}{
		{"icmp", false, "raw icmp socket", true, true},
		{"icmp", true, "icmp datagram socket", false, true},
		{"udp", false, "raw icmp socket and udp socket", true, true},
		{"udp", true, "udp socket with error queue", false, true},
		{"tcp", false, "raw sockets", true, false},
		{"tcp", true, "tcp connect with error queue", false, false},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s nobody=%v v6=%v", tc.proto, tc.nobody, v6), func(t *testing.T) {
				res := l.run(job{Target: l.target(v6), Trace: &Config{Protocol: tc.proto, Timeout: 3 * time.Second}, Nobody: tc.nobody})
				if res.Outcome != probe.OK || !res.Path.Reached || list(res.Path) != l.want(v6) {
					t.Fatalf("outcome %s (%s), hops %s, want %s", res.Outcome, res.Detail, list(res.Path), l.want(v6))
				}
				if !strings.HasPrefix(res.Method, tc.method) || res.Path.Protocol != tc.proto || res.Path.LoopAt != 0 {
					t.Errorf("method %q, protocol %s, loop at %d", res.Method, res.Path.Protocol, res.Path.LoopAt)
				}
				for _, h := range res.Path.Hops[:3] {
					if h.Target || (h.QuotedTTL == 1) != tc.quoted || h.Received == 0 || h.RTTs[0] <= 0 {
						t.Errorf("hop %+v", h)
					}
					if tc.proto != "tcp" && h.ReplyTTL != 65-h.TTL {
						t.Errorf("hop %d: reply ttl %d", h.TTL, h.ReplyTTL)
					}
				}
				if !res.Path.Hops[3].Target || (res.RTT != nil && (res.RTT.Clock == "kernel") != tc.kernel) {
					t.Errorf("target %+v, rtt %+v", res.Path.Hops[3], res.RTT)
				}
			})
		}
	}
}

// Without any ICMP socket an ordinary user still gets a path, by udp.
func TestNoICMPSocketFallsBackToUDP(t *testing.T) {
	l := newLab(t, 1)
	l.in(0, "echo '1 0' > /proc/sys/net/ipv4/ping_group_range")
	res := l.run(job{Target: l.target(false), Trace: &Config{}, Nobody: true})
	if res.Path.Protocol != "udp" || list(res.Path) != l.want(false) {
		t.Errorf("protocol %s, hops %s", res.Path.Protocol, list(res.Path))
	}
}

func TestTCPToAListener(t *testing.T) {
	l := newLab(t, 1)
	python := testkit.NeedTool(t, "python3")
	srv := exec.Command(python, "-c",
		"import socket\ns=socket.create_server(('10.77.1.2',8080))\nprint('up',flush=True)\nwhile 1: s.accept()")
	out, err := srv.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.nodes[2].Do(srv.Start); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = srv.Process.Kill(); _ = srv.Wait() }()
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	for _, nobody := range []bool{false, true} {
		res := l.run(job{Target: l.target(false), Trace: &Config{Protocol: "tcp", Port: 8080}, Nobody: nobody})
		if res.Outcome != probe.OK || list(res.Path) != l.want(false) || res.Path.Hops[1].Unreach != nil {
			t.Errorf("nobody=%v: %s, hops %s", nobody, res.Outcome, list(res.Path))
		}
	}
}

func TestSilentRouter(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	l.nft(2, "output", "icmp type time-exceeded drop; icmpv6 type time-exceeded drop;")
	families(t, func(t *testing.T, v6 bool) {
		want := strings.Replace(l.want(v6), l.addr(2, v6), "*", 1)
		for _, nobody := range []bool{false, true} {
			res := l.run(job{Target: l.target(v6), Trace: &Config{Protocol: "udp"}, Nobody: nobody})
			if res.Outcome != probe.OK || list(res.Path) != want || res.Path.Hops[1].Sent != 3 {
				t.Errorf("nobody=%v: %s, hops %s", nobody, res.Outcome, list(res.Path))
			}
		}
	})
}

func TestAdminProhibited(t *testing.T) {
	l := newLab(t, 2)
	// Eight traces in a row would exhaust what the router may say.
	l.in(2, "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit")
	l.nft(2, "forward", "meta nfproto ipv4 reject with icmp type admin-prohibited; meta nfproto ipv6 reject with icmpv6 type admin-prohibited;")
	families(t, func(t *testing.T, v6 bool) {
		for _, nobody := range []bool{false, true} {
			for _, proto := range []string{"udp", "tcp"} {
				res := l.run(job{Target: l.target(v6), Trace: &Config{Protocol: proto}, Nobody: nobody})
				if res.Outcome != probe.Prohibited || res.ICMP == nil || res.ICMP.From.String() != l.addr(2, v6) || res.Path.Reached {
					t.Errorf("%s nobody=%v: %s, %+v, hops %s", proto, nobody, res.Outcome, res.ICMP, list(res.Path))
				}
			}
		}
	})
}

// A router whose neighbour is missing says so after three seconds.
func TestHostUnreachable(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	families(t, func(t *testing.T, v6 bool) {
		target := map[bool]string{false: "10.77.1.99", true: "fd77:b::99"}[v6]
		for _, nobody := range []bool{false, true} {
			res := l.run(job{Target: target, Trace: &Config{Protocol: "udp", Linger: 8 * time.Second}, Nobody: nobody})
			if res.Outcome != probe.Unreachable || res.ICMP == nil || res.ICMP.From.String() != l.addr(1, v6) {
				t.Errorf("nobody=%v: %s (%s), hops %s", nobody, res.Outcome, res.Detail, list(res.Path))
			}
		}
		res := l.run(job{Target: target, Trace: &Config{Protocol: "udp"}})
		if res.Outcome != probe.Timeout {
			t.Errorf("without patience: %s", res.Outcome)
		}
	})
}

// Our own kernel finds no neighbour: it says so itself, and there is no hop.
func TestMissingNeighbourOfOurOwn(t *testing.T) {
	t.Parallel()
	l := newLab(t, 0)
	families(t, func(t *testing.T, v6 bool) {
		target := map[bool]string{false: "10.77.0.99", true: "fd77:a::99"}[v6]
		for _, nobody := range []bool{false, true} {
			res := l.run(job{Target: target, Trace: &Config{Protocol: "udp", Linger: 8 * time.Second}, Nobody: nobody})
			if res.Outcome != probe.Unreachable || !strings.Contains(res.Detail, "our own host") || strings.Trim(list(res.Path), "* ") != "" {
				t.Errorf("nobody=%v: %s (%s), hops %s", nobody, res.Outcome, res.Detail, list(res.Path))
			}
		}
	})
}

func TestSourceAndInterface(t *testing.T) {
	l := newLab(t, 1)
	l.in(0, "ip addr add 10.77.0.7/24 dev r0; ip link add other type veth peer name other2; ip link set other up; ip link set other2 up")
	source := netip.MustParseAddr("10.77.0.7")
	for _, nobody := range []bool{false, true} {
		for _, proto := range []string{"udp", "tcp"} {
			res := l.run(job{Target: l.target(false), Trace: &Config{Protocol: proto, Source: source, Interface: "r0"}, Nobody: nobody})
			if res.Source != source || list(res.Path) != l.want(false) {
				t.Errorf("%s nobody=%v: source %s, hops %s", proto, nobody, res.Source, list(res.Path))
			}
			res, err := l.try(job{Target: l.target(false), Trace: &Config{Protocol: proto, Interface: "other"}, Nobody: nobody})
			if err == nil && res.Path.Reached {
				t.Errorf("%s nobody=%v: reached the target through the wrong interface", proto, nobody)
			}
			if _, err := l.try(job{Target: l.target(false), Trace: &Config{Protocol: proto, Interface: "nonesuch"}, Nobody: nobody}); err == nil {
				t.Errorf("%s nobody=%v: no error for an interface that does not exist", proto, nobody)
			}
		}
	}
}

func TestLinkLocalTarget(t *testing.T) {
	l := newLab(t, 0)
	l.in(1, "ip -6 addr add fe80::77/64 dev l1 nodad")
	l.in(0, "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range")
	for _, nobody := range []bool{false, true} {
		for _, proto := range []string{"icmp", "udp", "tcp"} {
			res := l.run(job{Target: "fe80::77%r0", Trace: &Config{Protocol: proto}, Nobody: nobody})
			if !res.Path.Reached || len(res.Path.Hops) != 1 {
				t.Errorf("%s nobody=%v: %s (%s), hops %s", proto, nobody, res.Outcome, res.Detail, list(res.Path))
			}
		}
		if res := l.run(job{Target: "fe80::77%r0", MTU: &MTUConfig{}, Nobody: nobody}); res.MTU.Works != 1500 {
			t.Errorf("nobody=%v: %s %+v", nobody, res.Detail, res.MTU)
		}
	}
}

func TestRoutingLoop(t *testing.T) {
	l := newLab(t, 3)
	l.in(3, "ip route replace default via 10.77.2.1; ip -6 route replace default via fd77:c::1")
	families(t, func(t *testing.T, v6 bool) {
		target := map[bool]string{false: "192.0.2.1", true: "2001:db8::1"}[v6]
		// In IPv6 node 2 answers from the interface by which the packet came, at first another one.
		first := map[bool]int{false: 2, true: 3}[v6]
		for _, nobody := range []bool{false, true} {
			res := l.run(job{Target: target, Trace: &Config{Protocol: "udp"}, Nobody: nobody})
			if res.Outcome != probe.TTLExceeded || res.Path.LoopAt != first {
				t.Errorf("nobody=%v: %s, loop at %d, hops %s", nobody, res.Outcome, res.Path.LoopAt, list(res.Path))
			}
		}
	})
}

func TestLocalRefusals(t *testing.T) {
	l := newLab(t, 0)
	l.in(0, "ip route del default; ip -6 route del default; ip route add prohibit 192.0.2.0/24; ip route add blackhole 198.51.100.0/24; ip route add unreachable 203.0.113.0/24")
	for target, want := range map[string]probe.Outcome{
		"8.8.8.8": probe.NoRoute, "2001:db8::1": probe.NoRoute, "192.0.2.1": probe.LocalDrop,
		"198.51.100.1": probe.NoRoute, "203.0.113.1": probe.NoRoute,
	} {
		if res := l.run(job{Target: target, Trace: &Config{}}); res.Outcome != want || res.Errno == "" {
			t.Errorf("%s: %s %s (%s), want %s", target, res.Outcome, res.Errno, res.Detail, want)
		}
	}
	l.nft(0, "output", "meta l4proto { icmp, udp } drop;")
	for _, nobody := range []bool{false, true} {
		for _, proto := range []string{"icmp", "udp"} {
			res := l.run(job{Target: l.target(false), Trace: &Config{Protocol: proto}, Nobody: nobody})
			if res.Outcome != probe.LocalDrop || res.Errno != "EPERM" {
				t.Errorf("firewalled %s nobody=%v: %s %s", proto, nobody, res.Outcome, res.Errno)
			}
		}
	}
}

var hopLine = regexp.MustCompile(`(?m)^\s*\d+[.|\- ]*\s+(\S+)`)

// The same hops as traceroute and mtr.
func TestAgreesWithTracerouteAndMTR(t *testing.T) {
	t.Parallel()
	traceroute, mtr := testkit.NeedTool(t, "traceroute"), testkit.NeedTool(t, "mtr")
	l := newLab(t, 3)
	l.nft(2, "output", "icmp type time-exceeded drop; icmpv6 type time-exceeded drop;")
	families(t, func(t *testing.T, v6 bool) {
		target := l.target(v6)
		ours := strings.ReplaceAll(list(l.run(job{Target: target, Trace: &Config{}}).Path), "*", "?")
		for name, args := range map[string][]string{
			"traceroute": {traceroute, "-n", "-I", "-q", "1", "-w", "1", target},
			"mtr":        {mtr, "-n", "-r", "-c", "2", "-i", "0.3", "-G", "1", target},
		} {
			var out []byte
			l.nodes[0].Must(t, func() (err error) {
				if out, err = exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
					return fmt.Errorf("%s: %w\n%s", name, err, out)
				}
				return nil
			})
			var hops []string
			for _, m := range hopLine.FindAllStringSubmatch(string(out), -1) {
				hops = append(hops, strings.NewReplacer("*", "?", "???", "?").Replace(m[1]))
			}
			if theirs := strings.Join(hops, " "); theirs != ours {
				t.Errorf("%s finds %s\nwe find %s\n%s", name, theirs, ours, out)
			}
		}
	})
}
