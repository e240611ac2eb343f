package http3

import (
	"context"
	"encoding/binary"
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

	"fathom/internal/wire"
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
		return reportErrors(rc, at.Addr().Is6())
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

// reportErrors asks for all ICMP errors, not only port unreachable (ip(7), IP_RECVERR).
func reportErrors(rc syscall.RawConn, v6 bool) error {
	var err error
	if cerr := rc.Control(func(fd uintptr) {
		if v6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		}
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
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
		data, oob := make([]byte, 64), make([]byte, 512)
		_, n, _, _, err := unix.Recvmsg(int(fd), data, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == nil {
			icmp = parseErrQueue(oob[:n])
		}
	})
	return icmp
}

// Origins of an extended error (include/uapi/linux/errqueue.h).
const (
	originICMP  = 2
	originICMP6 = 3
)

// parseErrQueue finds an ICMP error in the control messages of an error queue read:
// struct sock_extended_err followed by the sockaddr of who sent it.
func parseErrQueue(oob []byte) *probe.ICMPError {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < 16 {
			continue
		}
		d := m.Data
		origin, from := d[4], d[16:]
		e := &probe.ICMPError{Type: d[5], Code: d[6]}
		switch {
		case origin == originICMP && len(from) >= 8 && binary.NativeEndian.Uint16(from) == unix.AF_INET:
			e.From = netip.AddrFrom4([4]byte(from[4:8]))
		case origin == originICMP6 && len(from) >= 24 && binary.NativeEndian.Uint16(from) == unix.AF_INET6:
			e.From = netip.AddrFrom16([16]byte(from[8:24]))
		default:
			continue
		}
		e.Text = wire.ICMPText(origin == originICMP6, e.Type, e.Code)
		return e
	}
	return nil
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
