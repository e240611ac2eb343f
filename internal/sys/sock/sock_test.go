package sock

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listener is a UDP socket on loopback.
func listener(t *testing.T) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.LocalAddr().(*net.UDPAddr).AddrPort()
}

func dial(t *testing.T, to netip.AddrPort, o Options) *Conn {
	t.Helper()
	c, err := UDP(to.Addr().Is6(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Connect(to); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil { // a bound for a broken test
		t.Fatal(err)
	}
	return c
}

func TestStampsAndTTL(t *testing.T) {
	l, to := listener(t)
	c := dial(t, to, Options{Stamps: true, Errors: true, TTL: 33})
	if !c.Stamps() {
		t.Fatal("no kernel time stamps")
	}
	buf := make([]byte, 100)
	for round := range 2 { // the second time after the numbers were restarted
		for key := range uint32(3) {
			before := time.Now()
			if err := c.Send([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			m, err := c.Recv(buf)
			if err != nil || m.Origin != Stamp || m.Key != key || m.Info != unix.SCM_TSTAMP_SND || m.Kernel.Before(before.Round(0)) || m.Kernel.After(time.Now()) {
				t.Fatalf("round %d: %+v %v", round, m, err)
			}
		}
		if err := c.RestartStamps(); err != nil {
			t.Fatal(err)
		}
	}
	n, from, err := l.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.WriteToUDPAddrPort(buf[:n], from); err != nil {
		t.Fatal(err)
	}
	m, err := c.Recv(buf)
	if err != nil || m.Origin != Data || string(m.Data) != "ping" || m.From != to.Addr() || m.Port != to.Port() || m.TTL != 64 || m.Truncated {
		t.Errorf("%+v %v", m, err)
	}
	if _, ok, err := c.TryRecv(buf); ok || err != nil {
		t.Errorf("nothing more was sent: %v %v", ok, err)
	}
}

func TestICMPErrorComesByTheQueue(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		a := netip.MustParseAddr(addr)
		c := dial(t, netip.AddrPortFrom(a, 9), Options{Errors: true}) // discard: nobody listens
		if err := c.Send([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		var m Message
		for {
			var err error
			if m, err = c.Recv(make([]byte, 100)); errors.Is(err, unix.ECONNREFUSED) {
				continue // the pending error, which is on the queue too
			} else if err != nil {
				t.Fatal(err)
			}
			break
		}
		want, typ, code := ICMP4, uint8(3), uint8(3)
		if a.Is6() {
			want, typ, code = ICMP6, 1, 4
		}
		if m.Origin != want || m.Type != typ || m.Code != code || m.Offender != a || m.Errno != unix.ECONNREFUSED || m.From != a {
			t.Errorf("%s: %+v", addr, m)
		}
	}
}

func TestDeadlineAndClose(t *testing.T) {
	_, to := listener(t)
	c := dial(t, to, Options{})
	if err := c.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Recv(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	context.AfterFunc(ctx, func() { c.Close() })
	go cancel()
	if _, err := c.Recv(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed while waiting: %v", err)
	}
	if err := c.Send(nil); err == nil {
		t.Error("sent on a closed socket")
	}
}

func TestAddresses(t *testing.T) {
	_, to := listener(t)
	c := dial(t, to, Options{Source: netip.MustParseAddr("127.0.0.9")})
	if a, err := c.LocalAddr(); err != nil || a.Addr().String() != "127.0.0.9" || a.Port() == 0 {
		t.Errorf("%v %v", a, err)
	}
	if mtu, err := c.PathMTU(); err != nil || mtu < 1500 {
		t.Errorf("path mtu %d, %v", mtu, err)
	}
	if _, err := UDP(false, Options{Source: netip.MustParseAddr("192.0.2.254")}); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("foreign source: %v", err)
	}
	if _, err := UDP(false, Options{Interface: "nolink9"}); err == nil {
		t.Error("unknown interface: no error")
	}
	if err := c.Connect(netip.AddrPort{}); err == nil {
		t.Error("no address: no error")
	}
	if err := c.Connect(netip.MustParseAddrPort("[fe80::1%nolink9]:1")); err == nil {
		t.Error("unknown zone: no error")
	}
}
