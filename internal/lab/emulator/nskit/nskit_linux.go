// Package nskit makes nameless network namespaces for tests of the lab's parts:
// they vanish with the test and leave nothing in /run/netns.
package nskit

import (
	"fmt"
	"net"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fathom/internal/testkit"
)

// NS is a network namespace.
type NS struct{ fd int }

// New makes a namespace with its loopback up. The test is skipped without root.
func New(t testing.TB) *NS {
	t.Helper()
	testkit.NeedRoot(t)
	n := &NS{fd: -1}
	errc := make(chan error, 1)
	go func() { // the thread is in the new namespace for good and is thrown away
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			errc <- fmt.Errorf("make network namespace: %w", err)
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		n.fd = fd
		errc <- err
	}()
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(n.fd) })
	n.Must(t, func() error { return up("lo") })
	return n
}

// Do runs f on a thread inside the namespace. It has the shape of InNS.
func (n *NS) Do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			errc <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		errc <- f()
	}()
	return <-errc
}

// Must is Do that ends the test on an error.
func (n *NS) Must(t testing.TB, f func() error) {
	t.Helper()
	if err := n.Do(f); err != nil {
		t.Fatal(err)
	}
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
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
		return up(name)
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
