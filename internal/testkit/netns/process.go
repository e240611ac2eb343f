package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"fathom/internal/testkit"
)

const inside = "FATHOM_TEST_NETNS"

// Addresses of the little network that Router builds.
var (
	Client4 = netip.MustParseAddr("10.99.0.2")
	Client6 = netip.MustParseAddr("fd99::2")
	Router4 = netip.MustParseAddr("10.99.0.1")
	Router6 = netip.MustParseAddr("fd99::1")
	// Far4 and Far6 lie behind the router, where nobody is.
	Far4 = netip.MustParseAddr("10.99.8.8")
	Far6 = netip.MustParseAddr("fd99:8::8")
)

// Own reports whether the test's process is in its own namespace, where it may
// break what it likes, and may go on. Otherwise it has run the test there as a
// child, taken over its verdict, and the caller returns.
func Own(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		Script(t, "ip link set lo up")
		return true
	}
	testkit.NeedRoot(t)
	testkit.NeedTool(t, "ip")
	testkit.NeedTool(t, "nft")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in its own namespace: %v\n%s", err, out)
	} else if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("the child did not pass:\n%s", out)
	}
	return false
}

// Script runs shell commands in the namespace of the process until one fails,
// which fails the test.
func Script(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-e")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v: %s", script, err, out)
	}
}

// Router puts a router into a namespace beyond a veth pair. Change what it does
// before DropRoot: nobody may enter it afterwards.
func Router(t *testing.T) *NS {
	t.Helper()
	// Without duplicate address detection IPv6 works at once instead of after a second.
	const quick = "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0\n"
	r := New(t)
	r.Script(quick)
	Script(t, quick)
	Veth(t, Here(t), "veth0", Client4.String()+"/24", r, "veth1", Router4.String()+"/24")
	Script(t, `ip addr add fd99::2/64 dev veth0 nodad
ip route add default via 10.99.0.1`)
	r.Script(`ip addr add fd99::1/64 dev veth1 nodad
ip link add far type veth peer name nobody
ip link set nobody up
ip link set far up
ip addr add 10.99.8.1/24 dev far
ip addr add fd99:8::1/64 dev far nodad
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0`)
	Script(t, `ip -6 route add default via fd99::1`)
	ready(t, Router4)
	ready(t, Router6)
	return r
}

// ready waits until the router refuses a datagram to its discard port: IPv6
// starts on a new veth only when the kernel's linkwatch says so, up to a second late.
func ready(t *testing.T, a netip.Addr) {
	t.Helper()
	to := netip.AddrPortFrom(a, 9).String()
	for range 100 {
		if refused(t, to) {
			return
		}
	}
	t.Fatalf("%s does not answer", a)
}

func refused(t *testing.T, to string) bool {
	t.Helper()
	c, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(nil); err != nil {
		return false
	}
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, err = c.Read(make([]byte, 1))
	return errors.Is(err, syscall.ECONNREFUSED)
}

// DropRoot makes the whole process an ordinary user without groups.
func DropRoot(t *testing.T) {
	t.Helper()
	for _, err := range []error{syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}
