package http3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
	"fathom/probe"
	"fathom/probe/tls"
)

// udpConn is a connected UDP socket in the form quic-go wants. Connected, so that
// the kernel tells us of ICMP errors; it shows quic-go no raw descriptor, so
// that quic-go neither tunes buffers nor writes to the log about them.
type udpConn struct {
	c      *net.UDPConn
	remote *net.UDPAddr
	local  netip.AddrPort
	got    atomic.Int64 // datagrams read

	mu   sync.Mutex
	icmp *probe.ICMPError
	err  error // the first error of the kernel about the path
}

// dialUDP opens the socket. A *tls.LocalError says that this host cannot do what
// was asked; other errors are the kernel's about the way to at.
func dialUDP(ctx context.Context, at netip.AddrPort, source netip.Addr, ifname string) (*udpConn, error) {
	var d net.Dialer
	if source.IsValid() {
		if source.Unmap().Is4() != at.Addr().Is4() {
			return nil, tls.NewLocalError(fmt.Errorf("udp to %s from %s: not the same address family", at, source))
		}
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(source.Unmap(), 0))
	}
	var local *tls.LocalError
	d.Control = func(_, _ string, rc syscall.RawConn) error {
		if err := tls.BindToDevice(rc, ifname); err != nil {
			errors.As(err, &local)
			return err
		}
		var err error // all ICMP errors, not only port unreachable
		if cerr := rc.Control(func(fd uintptr) { err = ipsock.SetErrors(int(fd), at.Addr().Is6(), true) }); cerr != nil {
			return cerr
		}
		return err
	}
	c, err := d.DialContext(ctx, "udp", at.String())
	if local != nil {
		return nil, local
	}
	var call *os.SyscallError
	if errors.As(err, &call) && (call.Syscall == "bind" || call.Syscall == "socket") {
		return nil, tls.NewLocalError(fmt.Errorf("udp to %s from %v: %w (is it an address of this host?)", at, source, call))
	}
	if err != nil {
		return nil, err
	}
	u := &udpConn{c: c.(*net.UDPConn), remote: net.UDPAddrFromAddrPort(at)}
	u.local, _ = netip.ParseAddrPort(c.LocalAddr().String())
	u.local = netip.AddrPortFrom(u.local.Addr().Unmap(), u.local.Port())
	return u, nil
}

// ReadFrom hides that a datagram did not fit somewhere on the path: the kernel
// remembers the smaller MTU and QUIC sends again.
func (u *udpConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, err := u.c.Read(b)
		if err == nil {
			u.got.Add(1)
			return n, u.remote, nil
		}
		if u.note(err) {
			return 0, nil, err
		}
	}
}

func (u *udpConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	for {
		n, err := u.c.Write(b)
		if err == nil || u.note(err) {
			return n, err
		}
		if errors.Is(err, unix.EMSGSIZE) {
			return len(b), nil // lost, as far as QUIC is concerned
		}
	}
}

// note keeps an error of the kernel and what the error queue says of it. It
// returns false for an error that does not end anything.
func (u *udpConn) note(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) || errors.Is(err, net.ErrClosed) {
		return true // a deadline, or closed by us
	}
	icmp := u.queued()
	if errno == unix.EMSGSIZE {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err, u.icmp = err, icmp
	}
	return true
}

// queued takes one message from the socket's error queue, nil if it is no ICMP error.
func (u *udpConn) queued() *probe.ICMPError {
	rc, err := u.c.SyscallConn()
	if err != nil {
		return nil
	}
	var icmp *probe.ICMPError
	_ = rc.Control(func(fd uintptr) {
		if c, ok := ipsock.TakeError(int(fd)); ok && c.IsICMP() && c.Offender.IsValid() {
			icmp = probe.NewICMPError(c.Origin == ipsock.ICMP6, c.Offender, c.Type, c.Code, c.MTU())
		}
	})
	return icmp
}

// fault returns what the kernel said about the path, if it said something.
func (u *udpConn) fault() (*probe.ICMPError, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.icmp, u.err
}

func (u *udpConn) received() int64 { return u.got.Load() }

func (u *udpConn) Close() error                       { return u.c.Close() }
func (u *udpConn) LocalAddr() net.Addr                { return u.c.LocalAddr() }
func (u *udpConn) SetDeadline(t time.Time) error      { return u.c.SetDeadline(t) }
func (u *udpConn) SetReadDeadline(t time.Time) error  { return u.c.SetReadDeadline(t) }
func (u *udpConn) SetWriteDeadline(t time.Time) error { return u.c.SetWriteDeadline(t) }

// SetReadBuffer and SetWriteBuffer are what quic-go looks for before it complains
// in the log. The kernel's default holds more than one small request needs.
func (u *udpConn) SetReadBuffer(int) error  { return nil }
func (u *udpConn) SetWriteBuffer(int) error { return nil }
