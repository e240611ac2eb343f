// Package netns makes throw-away network namespaces for tests that need root.
// They have no names, vanish with the test and leave nothing in /run/netns.
//
// There are three ways to be in one: [NS] for several namespaces side by side,
// which functions enter by turns; [Run] for one function in one namespace;
// [Own] for a whole test whose process is in a namespace of its own.
package netns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fathom/internal/testkit"
)

// NS is a network namespace that ends with the test.
type NS struct {
	t  testing.TB
	fd int
}

// New makes a namespace with its loopback up, and without duplicate address
// detection, which would make IPv6 addresses wait for a second. The test is
// skipped without root (see testkit).
func New(t testing.TB) *NS {
	t.Helper()
	testkit.NeedRoot(t)
	n := &NS{t: t, fd: -1}
	if err := thread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		n.fd, err = current()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(n.fd) })
	n.Up(t, "lo", "")
	n.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	n.Sysctl("net.ipv6.conf.all.accept_dad", "0")
	return n
}

// Here is the namespace of the calling thread.
func Here(t testing.TB) *NS {
	t.Helper()
	fd, err := current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &NS{t: t, fd: fd}
}

func current() (fd int, err error) {
	return unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// Do runs f on a thread of its own that is in the namespace: sockets that f
// opens and programs that it runs belong to it; goroutines that f starts are elsewhere.
func (n *NS) Do(f func() error) error {
	return thread(func() error {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Must is Do that ends the test on an error.
func (n *NS) Must(t testing.TB, f func() error) {
	t.Helper()
	switch err := n.Do(f); {
	case err == nil:
	case err != errEnded:
		t.Fatal(err)
	case t.Skipped():
		t.SkipNow()
	default:
		t.FailNow()
	}
}

// In is Do for an f that cannot fail or fails the test itself.
func (n *NS) In(f func()) {
	n.t.Helper()
	n.Must(n.t, func() error { f(); return nil })
}

// InAsNobody is In with the rights of user and group 65534, without capabilities.
func (n *NS) InAsNobody(f func()) {
	n.t.Helper()
	n.Must(n.t, func() error {
		if err := becomeNobody(); err != nil {
			return err
		}
		f()
		return nil
	})
}

// Exec runs a program in the namespace.
func (n *NS) Exec(argv ...string) {
	n.t.Helper()
	n.run(exec.Command(testkit.NeedTool(n.t, argv[0]), argv[1:]...))
}

// Script runs shell commands in the namespace until one fails, which fails the test.
func (n *NS) Script(script string) {
	n.t.Helper()
	cmd := exec.Command("sh", "-e")
	cmd.Stdin = strings.NewReader(script)
	n.run(cmd)
}

func (n *NS) run(cmd *exec.Cmd) {
	n.t.Helper()
	n.Must(n.t, func() error {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return nil
	})
}

// IP runs ip(8) in the namespace with the words of args.
func (n *NS) IP(args string) {
	n.t.Helper()
	n.Exec(append([]string{"ip"}, strings.Fields(args)...)...)
}

// Nft adds a base chain of family inet with nft(8): a hook and its rules, one
// a line.
func (n *NS) Nft(hook string, rules ...string) {
	n.t.Helper()
	n.Exec("nft", fmt.Sprintf("table inet t_%s {\nchain c {\ntype filter hook %s priority 0\n%s\n}\n}\n", hook, hook, strings.Join(rules, "\n")))
}

// Sysctl writes a setting in the namespace.
func (n *NS) Sysctl(name, value string) {
	n.t.Helper()
	n.Must(n.t, func() error {
		return os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
	})
}

// Veth joins two namespaces: interface a in n, b in o, both up.
func (n *NS) Veth(a string, o *NS, b string) {
	n.t.Helper()
	Veth(n.t, n, a, "", o, b, "")
}

// Veth joins two namespaces by a veth pair; the addresses ("10.0.0.1/24") may be
// empty. Both ends are up.
func Veth(t testing.TB, a *NS, nameA, addrA string, b *NS, nameB, addrB string) {
	t.Helper()
	a.Must(t, func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(b.fd)}
		if err := netlink.LinkAdd(v); err != nil {
			return fmt.Errorf("add veth %s-%s: %w", nameA, nameB, err)
		}
		return nil
	})
	a.Up(t, nameA, addrA)
	b.Up(t, nameB, addrB)
}

// Up gives an interface an address, unless empty, and sets it up.
func (n *NS) Up(t testing.TB, name, addr string) {
	t.Helper()
	n.Must(t, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if addr != "" {
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// Link reads an interface of the namespace.
func (n *NS) Link(t testing.TB, name string) *netlink.LinkAttrs {
	t.Helper()
	var attrs *netlink.LinkAttrs
	n.Must(t, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			attrs = l.Attrs()
		}
		return err
	})
	return attrs
}

// UDP opens a UDP socket in the namespace.
func (n *NS) UDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	n.Must(t, func() (err error) { c, err = net.ListenPacket("udp", addr); return })
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}
