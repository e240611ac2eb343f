package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
)

// States of a TCP socket, include/net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpSynRecv     = 3
	tcpClose       = 7
)

// Attempt is one connect, successful or not, with its evidence.
type Attempt struct {
	Local netip.AddrPort
	Start time.Time
	Took  time.Duration // user space: from connect(2) until its end was seen; never shorter than the truth
	// Err is nil when connected, else wraps an errno, os.ErrDeadlineExceeded
	// (nothing came back) or the context's error (it was cancelled).
	Err  error
	ICMP *ICMP         // the ICMP error that ended the attempt
	Info *unix.TCPInfo // at the end of the attempt, nil when the kernel gave none
	Conn *TCP          // nil unless connected; the caller closes it
}

// Retransmitted is how many SYNs were sent again.
func (a Attempt) Retransmitted() int {
	if a.Info == nil {
		return 0
	}
	return int(a.Info.Total_retrans)
}

// KernelRTT is the round trip of SYN and SYN-ACK by the kernel's own clocks; ok
// is false when it has none (Karn: after a retransmission no sample is taken).
func (a Attempt) KernelRTT() (d time.Duration, ok bool) {
	if a.Info == nil || a.Err != nil || a.Info.Rtt == 0 || a.Info.Total_retrans != 0 {
		return 0, false
	}
	// With nothing sent but the SYN, the smoothed value is the first sample.
	return time.Duration(a.Info.Rtt) * time.Microsecond, true
}

// TCP is a connected socket.
type TCP struct {
	f  *os.File
	rc syscall.RawConn
}

// Connect makes one attempt. It ends at the timeout or when ctx does, whichever
// is first. A returned error means that no attempt was made: options or
// descriptors; how an attempt ended is in Attempt.Err.
func Connect(ctx context.Context, to netip.AddrPort, timeout time.Duration, o Options) (Attempt, error) {
	if err := ctx.Err(); err != nil {
		return Attempt{}, err
	}
	p, err := Start(to, o)
	if err != nil {
		return Attempt{}, err
	}
	return p.Wait(ctx, timeout), nil
}

// Pending is an attempt whose SYN the kernel was told to send.
type Pending struct {
	a Attempt
	c *TCP // nil when it is over already
}

// Start is the first half of Connect. The caller must call Wait, once.
func Start(to netip.AddrPort, o Options) (*Pending, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	sa, err := ipsock.Sockaddr(to)
	if err != nil {
		return nil, err
	}
	fd, _, err := open(unix.SOCK_STREAM, to.Addr(), "tcp socket", o)
	if err != nil {
		return nil, err
	}
	p := &Pending{a: Attempt{Start: time.Now()}}
	err = unix.Connect(fd, sa)
	p.a.Local = localAddr(fd)
	if err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		p.a.Took = time.Since(p.a.Start)
		p.a.Err = fmt.Errorf("connect: %w", err)
		p.a.evidence(fd)
		_ = unix.Close(fd)
		return p, nil
	}
	p.c, err = newTCP(fd)
	return p, err
}

// Wait waits for the end of the attempt: the timeout counts from its start.
func (p *Pending) Wait(ctx context.Context, timeout time.Duration) Attempt {
	a, c := p.a, p.c
	if c == nil {
		return a
	}
	a.wait(ctx, c, timeout)
	if a.Err != nil {
		_ = c.Close(true) // in SYN_SENT there is nothing to linger for
		return a
	}
	a.Conn = c
	return a
}

func newTCP(fd int) (*TCP, error) {
	f := os.NewFile(uintptr(fd), "tcp") // non-blocking: joins the netpoller
	rc, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("wait on socket: %w", err)
	}
	return &TCP{f: f, rc: rc}, nil
}

// wait blocks until the handshake has ended one way or the other.
func (a *Attempt) wait(ctx context.Context, c *TCP, timeout time.Duration) {
	_ = c.f.SetDeadline(a.Start.Add(timeout)) // cannot fail on a pollable file
	stop := context.AfterFunc(ctx, func() { _ = c.f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var state error
	err := c.rc.Write(func(fd uintptr) bool {
		done, err := handshakeState(int(fd))
		if done {
			a.Took = time.Since(a.Start)
			state = err
			a.evidence(int(fd))
		}
		return done
	})
	switch {
	case err == nil && state == nil:
	case err == nil:
		a.Err = fmt.Errorf("connect: %w", state)
	case ctx.Err() != nil:
		a.Err = ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		a.Err = os.ErrDeadlineExceeded
	default:
		a.Err = err
	}
	if err != nil {
		a.Took = time.Since(a.Start)
		_ = c.rc.Control(func(fd uintptr) { a.evidence(int(fd)) })
	}
}

// handshakeState asks the socket itself: a wake-up alone proves nothing, the
// netpoller reports a hang-up on every fresh socket.
func handshakeState(fd int) (done bool, err error) {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if errno != 0 {
		return true, syscall.Errno(errno)
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return true, err
	}
	switch info.State {
	case tcpSynSent, tcpSynRecv:
		return false, nil
	case tcpClose:
		// Connected and reset before we looked; SO_ERROR was read by then.
		return true, unix.ECONNRESET
	}
	return true, nil
}

// evidence reads what the kernel keeps after the end: the ICMP error and TCP_INFO.
func (a *Attempt) evidence(fd int) {
	if c, ok := ipsock.TakeICMP(fd); ok && a.ICMP == nil {
		a.ICMP = icmpOf(c)
	}
	if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
		a.Info = info
	}
}

// Aborted waits up to d for the peer to break the fresh connection and returns
// its errno (ECONNRESET), nil when it stays, sends or closes in good order.
// It reads nothing from the stream.
func (c *TCP) Aborted(ctx context.Context, d time.Duration) error {
	_ = c.f.SetDeadline(time.Now().Add(d))
	stop := context.AfterFunc(ctx, func() { _ = c.f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var broken error
	_ = c.rc.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch err {
		case unix.EAGAIN, unix.EINTR:
			return false
		case nil:
			return true
		}
		broken = err
		return true
	})
	return broken
}

// SetDeadline bounds Read and Write.
func (c *TCP) SetDeadline(t time.Time) error { return c.f.SetDeadline(t) }

// Read reads from the stream.
func (c *TCP) Read(b []byte) (int, error) { return c.f.Read(b) }

// Write writes to the stream.
func (c *TCP) Write(b []byte) (int, error) { return c.f.Write(b) }

// NetConn turns the connection into one of package net; c is closed. From then
// on ICMP errors are what they are to other programs, hints that TCP may outlive:
// with the error queue on, the first would break the connection
// (net/ipv4/tcp_ipv4.c tcp_v4_err). Keep-alive is off: a probe's connection does not live long enough.
func (c *TCP) NetConn() (net.Conn, error) {
	defer c.f.Close()
	var err error
	if cerr := c.rc.Control(func(fd uintptr) {
		err = ipsock.SetErrors(int(fd), !localAddr(int(fd)).Addr().Is4(), false)
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(c.f) // a second descriptor of the same socket
	if err != nil {
		return nil, fmt.Errorf("take over tcp socket: %w", err)
	}
	if tc, ok := conn.(*net.TCPConn); ok {
		_ = tc.SetKeepAlive(false)
	}
	return conn, nil
}

// Close closes the connection; abort sends RST instead of FIN (SO_LINGER 0) and
// leaves no TIME_WAIT behind.
func (c *TCP) Close(abort bool) error {
	if abort {
		_ = c.rc.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
	return c.f.Close()
}
