package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sockopt is one integer socket option; a zero value is not set.
type sockopt struct{ level, name, value int }

// control sets options before bind or connect.
func control(opts []sockopt) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			for _, o := range opts {
				if o.value != 0 && err == nil {
					if err = unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil {
						err = fmt.Errorf("set socket option %d/%d: %w", o.level, o.name, err)
					}
				}
			}
		}); e != nil {
			return e
		}
		return err
	}
}

// listenTCP listens inside the namespace; backlog 0 is the kernel's somaxconn.
// Multipath TCP, Go's default for listeners, is off: it would show as another
// kind of socket.
func (b *base) listenTCP(addr string, backlog int, opts ...sockopt) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: control(opts), KeepAlive: -1}
	lc.SetMultipathTCP(false)
	var ln *net.TCPListener
	err := b.inNS(func() error {
		l, err := lc.Listen(b.ctx, "tcp", addr)
		if err != nil {
			return err
		}
		ln = l.(*net.TCPListener)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if backlog > 0 {
		rc, err := ln.SyscallConn()
		if err == nil {
			err2 := rc.Control(func(fd uintptr) { err = unix.Listen(int(fd), backlog) }) // a second listen only changes the backlog
			err = errors.Join(err, err2)
		}
		if err != nil {
			ln.Close()
			return nil, fmt.Errorf("set backlog of %s: %w", addr, err)
		}
	}
	if !b.keep(ln) {
		return nil, net.ErrClosed
	}
	b.listens(ln.Addr().String())
	return ln, nil
}

// listenUDP opens a UDP socket inside the namespace.
func (b *base) listenUDP(addr string, opts ...sockopt) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: control(opts)}
	var c *net.UDPConn
	err := b.inNS(func() error {
		p, err := lc.ListenPacket(b.ctx, "udp", addr)
		if err == nil {
			c = p.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !b.keep(c) {
		return nil, net.ErrClosed
	}
	return c, nil
}

// dialer connects to literal addresses only, so that the socket is made by the
// calling goroutine, on the thread that is in the namespace.
func dialer(timeout time.Duration, local net.Addr, opts ...sockopt) *net.Dialer {
	d := &net.Dialer{Timeout: timeout, LocalAddr: local, KeepAlive: -1, FallbackDelay: -1, Control: control(opts)}
	d.SetMultipathTCP(false)
	return d
}

// dialTCP connects inside the namespace.
func (b *base) dialTCP(to netip.AddrPort, timeout time.Duration, opts ...sockopt) (*net.TCPConn, error) {
	var c net.Conn
	err := b.inNS(func() (err error) {
		c, err = dialer(timeout, nil, opts...).DialContext(b.ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// dialUDP makes a connected UDP socket inside the namespace.
func (b *base) dialUDP(ctx context.Context, to netip.AddrPort, local net.Addr, opts ...sockopt) (*net.UDPConn, error) {
	var c net.Conn
	err := b.inNS(func() (err error) {
		c, err = dialer(0, local, opts...).DialContext(ctx, "udp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// reset closes a connection with RST.
func reset(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
