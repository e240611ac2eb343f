package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var lo4, lo6 = netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()

func closedPort(t *testing.T, network, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.ListenPacket(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestConnect(t *testing.T) {
	for _, a := range []netip.Addr{lo4, lo6} {
		l, err := net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		to := l.Addr().(*net.TCPAddr).AddrPort()
		at, err := Connect(t.Context(), to, 5*time.Second, Options{Source: a, Interface: "lo", TTL: 9})
		if err != nil || at.Err != nil || at.Conn == nil {
			t.Fatalf("%s: %v, %v", to, err, at.Err)
		}
		if rtt, ok := at.KernelRTT(); !ok || rtt <= 0 || rtt > at.Took {
			t.Errorf("%s: kernel round trip %v, %v; want one within the connect time %v", to, rtt, ok, at.Took)
		}
		if at.Local.Addr() != a || at.Local.Port() == 0 || at.Info.State != tcpEstablished {
			t.Errorf("%s: local %s, state %d", to, at.Local, at.Info.State)
		}
		if err := at.Conn.Aborted(t.Context(), time.Millisecond); err != nil {
			t.Errorf("%s: a healthy connection was called broken: %v", to, err)
		}
		if err := at.Conn.Close(true); err != nil {
			t.Error(err)
		}
		l.Close()
		at, err = Connect(t.Context(), to, 5*time.Second, Options{})
		if err != nil || !errors.Is(at.Err, syscall.ECONNREFUSED) || at.ICMP != nil || at.Conn != nil {
			t.Errorf("closed port: %v, %+v; want ECONNREFUSED by RST", err, at)
		}
	}
}

func TestConnectBadOptionsAreErrors(t *testing.T) {
	to := netip.AddrPortFrom(lo4, 1)
	for name, o := range map[string]Options{
		"other family":      {Source: lo6},
		"not our address":   {Source: netip.MustParseAddr("192.0.2.1")},
		"no such interface": {Interface: "nosuch0"},
		"ttl":               {TTL: 300},
	} {
		if _, err := Connect(t.Context(), to, time.Second, o); err == nil {
			t.Errorf("%s: accepted by Connect", name)
		}
		if _, err := OpenUDP(to, true, o); err == nil {
			t.Errorf("%s: accepted by OpenUDP", name)
		}
	}
	if _, err := Connect(t.Context(), netip.MustParseAddrPort("[fe80::1%nosuch0]:1"), time.Second, Options{}); err == nil {
		t.Error("unknown zone accepted")
	}
}

func TestUDPRefusedAndStamped(t *testing.T) {
	for _, a := range []netip.Addr{lo4, lo6} {
		for _, connected := range []bool{true, false} {
			to := closedPort(t, "udp", netip.AddrPortFrom(a, 0).String())
			u, err := OpenUDP(to, connected, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			dst := to
			if connected {
				dst = netip.AddrPort{}
			}
			if _, err := u.Send([]byte("x"), dst); err != nil {
				t.Fatal(err)
			}
			var sent bool
			for {
				ev, err := u.Recv(t.Context(), time.Now().Add(5*time.Second), make([]byte, 64))
				if err != nil {
					t.Fatal(err)
				}
				if ev.Sent && !ev.Stamp.IsZero() {
					sent = true
				}
				if ev.ICMP == nil {
					continue
				}
				if ev.ICMP.From != a || ev.ICMP.V6 != a.Is6() || ev.ICMP.Errno != syscall.ECONNREFUSED {
					t.Errorf("%+v", ev.ICMP)
				}
				break
			}
			if u.Stamps() && !sent {
				t.Error("no send stamp before the error")
			}
			// The next send must not fail for the sake of the first.
			if _, err := u.Send([]byte("y"), dst); err != nil {
				t.Errorf("second send: %v", err)
			}
		}
	}
}

func TestRecvEndsWithDeadlineAndContext(t *testing.T) {
	u, err := OpenUDP(netip.AddrPortFrom(lo4, 9), false, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if _, err := u.Recv(t.Context(), time.Now().Add(time.Millisecond), make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := u.Recv(ctx, time.Now().Add(time.Hour), make([]byte, 8))
		got <- err
	}()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// What a probe hands on to package net is an ordinary connection: with the error
// queue left on, a stray ICMP message would break it.
func TestNetConnIsOrdinary(t *testing.T) {
	for _, a := range []netip.Addr{lo4, lo6} {
		l, err := net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		at, err := Connect(t.Context(), l.Addr().(*net.TCPAddr).AddrPort(), 5*time.Second, Options{})
		if err != nil || at.Err != nil {
			t.Fatal(err, at.Err)
		}
		c, err := at.Conn.NetConn()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := at.Conn.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the old descriptor is still open: %v", err)
		}
		if c.LocalAddr().String() != at.Local.String() {
			t.Errorf("local address %s, want %s", c.LocalAddr(), at.Local)
		}
		level, recverr := unix.IPPROTO_IP, unix.IP_RECVERR
		if a.Is6() {
			level, recverr = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		}
		rc, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = rc.Control(func(fd uintptr) {
			for _, o := range []struct {
				name             string
				level, opt, want int
			}{{"error queue", level, recverr, 0}, {"no delay", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {"keep-alive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0}} {
				if got, err := unix.GetsockoptInt(int(fd), o.level, o.opt); err != nil || got != o.want {
					t.Errorf("%s: %s is %d (%v), want %d", a, o.name, got, err, o.want)
				}
			}
		})
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if n, err := peer.Read(make([]byte, 2)); n != 1 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
}
