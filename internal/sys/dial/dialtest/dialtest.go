// Package dialtest gives tests a network of their own: the test runs once more
// as a child process in a fresh network namespace, where it may break what it
// likes. The namespaces have no names and vanish with their processes.
package dialtest

import (
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fathom/internal/sys/dial"
	"fathom/internal/testkit"
)

const inside = "FATHOM_DIALTEST_NS"

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

// Own reports whether the test is in its own namespace and may go on. Otherwise
// it has run the test there as a child, taken over its verdict, and the caller returns.
func Own(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		Run(t, "ip link set lo up")
		return true
	}
	testkit.NeedRoot(t)
	testkit.NeedTool(t, "ip")
	testkit.NeedTool(t, "nft")
	testkit.NeedTool(t, "nsenter")
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

// Run runs commands, one per line, and fails the test when one fails.
func Run(t *testing.T, script string) {
	t.Helper()
	run(t, exec.Command("sh", "-e"), script)
}

func run(t *testing.T, cmd *exec.Cmd, script string) {
	t.Helper()
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v: %s", script, err, out)
	}
}

// Peer is another namespace.
type Peer struct{ pid int }

// Router puts a router into a namespace of its own beyond a veth pair.
func Router(t *testing.T) Peer {
	t.Helper()
	// cat ends when its standard input does: after DropRoot nobody may kill it,
	// and the pipe closes even when this process is killed.
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = hold.Close()
		_ = cmd.Wait()
	})
	p := Peer{cmd.Process.Pid}
	// Without duplicate address detection IPv6 works at once instead of after a second.
	const quick = "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0\n"
	p.Run(t, quick)
	Run(t, quick+`ip link add veth0 type veth peer name veth1 netns `+strconv.Itoa(p.pid)+`
ip addr add 10.99.0.2/24 dev veth0
ip addr add fd99::2/64 dev veth0 nodad
ip link set veth0 up
ip route add default via 10.99.0.1`)
	p.Run(t, `ip link set lo up
ip addr add 10.99.0.1/24 dev veth1
ip addr add fd99::1/64 dev veth1 nodad
ip link set veth1 up
ip link add far type veth peer name nobody
ip link set nobody up
ip link set far up
ip addr add 10.99.8.1/24 dev far
ip addr add fd99:8::1/64 dev far nodad
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0`)
	Run(t, `ip -6 route add default via fd99::1`)
	ready(t, Router4)
	ready(t, Router6)
	return p
}

// ready waits until the router refuses a datagram to its discard port: IPv6
// starts on a new veth only when the kernel's linkwatch says so, up to a second late.
func ready(t *testing.T, a netip.Addr) {
	t.Helper()
	to := netip.AddrPortFrom(a, 9)
	for range 100 {
		if refused(t, to) {
			return
		}
	}
	t.Fatalf("%s does not answer", a)
}

func refused(t *testing.T, to netip.AddrPort) bool {
	u, err := dial.OpenUDP(to, true, dial.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if _, err := u.Send(nil, netip.AddrPort{}); err != nil {
		return false
	}
	until := time.Now().Add(100 * time.Millisecond)
	for {
		ev, err := u.Recv(t.Context(), until, make([]byte, 1))
		if err != nil || ev.ICMP != nil {
			return err == nil
		}
	}
}

// Run runs commands in the peer's namespace.
func (p Peer) Run(t *testing.T, script string) {
	t.Helper()
	run(t, exec.Command("nsenter", "-t", strconv.Itoa(p.pid), "-n", "sh", "-e"), script)
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
