package dial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
)

// UDP is a datagram socket whose ICMP errors and stamps can be read.
type UDP struct {
	f      *os.File
	rc     syscall.RawConn
	local  netip.AddrPort
	oob    [512]byte
	stamps bool
}

// Event is one thing a UDP socket has to tell: exactly one of Data, ICMP, Local
// or Sent is set.
type Event struct {
	Data  []byte // a datagram, a slice of the caller's buffer; never nil, may be empty
	From  netip.AddrPort
	ICMP  *ICMP         // an ICMP error about one of our datagrams
	Local syscall.Errno // an error of our own kernel
	Sent  bool          // the stamp of datagram number ID, counted from 0, as it left

	ID    uint32
	Stamp time.Time // kernel, wall clock; zero when there is none
	Seen  time.Time // user space, monotonic
}

// ConnectError is the kernel's refusal to connect or bind a socket that was
// opened well: no route, no port, a prohibit route. It is an answer about the
// network, not a failure to measure.
type ConnectError struct{ Err error }

func (e *ConnectError) Error() string { return "connect: " + e.Err.Error() }
func (e *ConnectError) Unwrap() error { return e.Err }

// OpenUDP opens a socket to a target. A connected one hears only the target, and
// of ICMP errors those about it; an unconnected one hears everybody, which is how
// an answer from the wrong address is noticed.
func OpenUDP(to netip.AddrPort, connected bool, o Options) (*UDP, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	sa, err := ipsock.Sockaddr(to)
	if err != nil {
		return nil, err
	}
	fd, stamps, err := open(unix.SOCK_DGRAM, to.Addr(), "udp socket", o)
	if err != nil {
		return nil, err
	}
	u := &UDP{stamps: stamps}
	if connected {
		err = unix.Connect(fd, sa)
	} else {
		err = u.bindAny(fd, to.Addr())
	}
	if err != nil {
		_ = unix.Close(fd)
		if err == unix.EAGAIN || err == unix.EADDRINUSE {
			// What inet_autobind and udp_lib_get_port say when every port is
			// taken; TCP has the clearer word.
			err = unix.EADDRNOTAVAIL
		}
		return nil, &ConnectError{Err: err}
	}
	u.local = localAddr(fd)
	u.f = os.NewFile(uintptr(fd), "udp")
	if u.rc, err = u.f.SyscallConn(); err != nil {
		_ = u.f.Close()
		return nil, fmt.Errorf("wait on socket: %w", err)
	}
	return u, nil
}

// bindAny takes a random port now, so that the local port is known and running
// out of ports shows here.
func (u *UDP) bindAny(fd int, to netip.Addr) error {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 0)
	if localAddr(fd).Port() != 0 {
		return nil
	}
	at := localAddr(fd).Addr()
	if !at.IsValid() {
		at = netip.IPv6Unspecified()
		if to.Is4() {
			at = netip.IPv4Unspecified()
		}
	}
	return ipsock.Bind(fd, netip.AddrPortFrom(at, 0))
}

// Local is the local address and port; the address of an unconnected socket is
// unspecified unless a source was given.
func (u *UDP) Local() netip.AddrPort { return u.local }

// Stamps tells whether the kernel promised send and receive stamps.
func (u *UDP) Stamps() bool { return u.stamps }

// Send sends b; to must be zero on a connected socket. The error wraps the
// kernel's errno. An error that is only the echo of an earlier datagram's ICMP
// message is passed over by sending again: the message itself stays queued for Recv.
func (u *UDP) Send(b []byte, to netip.AddrPort) (at time.Time, err error) {
	var sa unix.Sockaddr
	if to.IsValid() {
		if sa, err = ipsock.Sockaddr(netip.AddrPortFrom(to.Addr().Unmap(), to.Port())); err != nil {
			return time.Time{}, err
		}
	}
	for range 4 {
		var serr error
		at = time.Now()
		if err = u.rc.Write(func(fd uintptr) bool {
			serr = unix.Sendmsg(int(fd), b, nil, sa, unix.MSG_DONTWAIT)
			return serr != unix.EAGAIN
		}); err != nil {
			return at, fmt.Errorf("send: %w", err)
		}
		switch serr {
		case nil:
			return at, nil
		case unix.EINTR, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.EHOSTDOWN:
			// sk_err of an earlier datagram is returned once, then cleared.
			err = serr
			continue
		}
		return at, fmt.Errorf("send: %w", serr)
	}
	return at, fmt.Errorf("send: %w", err)
}

// Recv returns the next event. It ends with os.ErrDeadlineExceeded at the
// deadline and with the context's error when ctx ends.
func (u *UDP) Recv(ctx context.Context, deadline time.Time, buf []byte) (Event, error) {
	if err := ctx.Err(); err != nil {
		return Event{}, err
	}
	_ = u.f.SetReadDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = u.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var ev Event
	err := u.rc.Read(func(fd uintptr) bool {
		var ok bool
		ev, ok = u.next(int(fd), buf)
		return ok
	})
	switch {
	case err == nil:
		return ev, nil
	case ctx.Err() != nil:
		return Event{}, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Event{}, os.ErrDeadlineExceeded
	}
	return Event{}, fmt.Errorf("receive: %w", err)
}

// next looks at the error queue first: a send stamp is always older than the
// answer, and an ICMP error explains the errno that a plain read would give.
func (u *UDP) next(fd int, buf []byte) (Event, bool) {
	for {
		c, ok := ipsock.TakeError(fd)
		if !ok {
			break
		}
		ev := Event{ICMP: icmpOf(c), Stamp: c.Kernel, Seen: time.Now()}
		switch {
		case ev.ICMP != nil:
			return ev, true
		case c.Origin == ipsock.Local && c.Errno != 0:
			ev.Local = c.Errno
			return ev, true
		case c.Origin == ipsock.Stamp:
			ev.Sent, ev.ID = true, c.Key
			return ev, true
		}
	}
	n, oobn, _, from, err := unix.Recvmsg(fd, buf, u.oob[:], unix.MSG_DONTWAIT)
	switch err {
	case nil:
		c := ipsock.ParseControl(u.oob[:oobn])
		return Event{Data: buf[:n:n], From: ipsock.AddrPort(from), Stamp: c.Kernel, Seen: time.Now()}, true
	case unix.EAGAIN, unix.EINTR:
		return Event{}, false
	}
	errno, _ := err.(syscall.Errno)
	return Event{Local: errno, Seen: time.Now()}, true
}

// Close closes the socket and ends a Recv under way.
func (u *UDP) Close() error { return u.f.Close() }

// SourceFor asks the kernel which local address it would use to reach to. No
// packet is sent.
func SourceFor(to netip.AddrPort, o Options) (netip.Addr, error) {
	if o.Source.IsValid() {
		return o.Source, nil
	}
	u, err := OpenUDP(to, true, o)
	if err != nil {
		return netip.Addr{}, err
	}
	defer u.Close()
	return u.local.Addr().WithZone(""), nil
}

// Between is the time between two kernel stamps. They are of the wall clock,
// which may be stepped in between, so it is believed only when it is positive
// and no longer than what user space saw; else it is 0.
func Between(sent, arrived time.Time, user time.Duration) time.Duration {
	if sent.IsZero() || arrived.IsZero() {
		return 0
	}
	if d := arrived.Sub(sent); d > 0 && d <= user {
		return d
	}
	return 0
}
