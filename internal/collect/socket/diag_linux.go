package socket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"fathom/internal/sys/inetdiag"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// diagConn is a NETLINK_SOCK_DIAG socket. Answers are read into one buffer of
// its own: the library's receive path allocates and copies each datagram.
type diagConn struct {
	nl   *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
	stop func() bool
}

// dialDiag opens the socket in the calling thread's network namespace. It is
// closed by Close; when ctx ends, reads end.
func dialDiag(ctx context.Context) (*diagConn, error) {
	nl, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	raw, err := nl.SyscallConn()
	if err != nil {
		_ = nl.Close()
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	c := &diagConn{nl: nl, raw: raw, buf: make([]byte, inetdiag.MaxDatagram)}
	c.stop = context.AfterFunc(ctx, func() { _ = nl.SetReadDeadline(time.Unix(1, 0)) })
	return c, nil
}

// Close frees the socket.
func (c *diagConn) Close() {
	c.stop()
	_ = c.nl.Close()
}

func (c *diagConn) each(ctx context.Context, req inetdiag.Request, f func(*inetdiag.Msg)) error {
	sent, err := c.nl.Send(netlink.Message{
		Header: netlink.Header{Type: inetdiag.TypeSockDiag, Flags: inetdiag.FlagRequest | inetdiag.FlagDump},
		Data:   req.AppendPayload(nil),
	})
	if err != nil {
		return fmt.Errorf("ask sock_diag: %w", err)
	}
	var m inetdiag.Msg
	for {
		b, err := c.read()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read sock_diag: %w", err)
		}
		done, err := datagram(b, sent.Header.Sequence, &m, f)
		if done || err != nil {
			return err
		}
	}
}

func (c *diagConn) read() ([]byte, error) {
	var n int
	var err error
	if e := c.raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), c.buf)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	}); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, os.NewSyscallError("read", err)
	}
	return c.buf[:n], nil
}

// datagram hands each socket of a datagram to f; done after the last datagram of a dump.
func datagram(b []byte, seq uint32, m *inetdiag.Msg, f func(*inetdiag.Msg)) (done bool, err error) {
	for len(b) > 0 {
		h, payload, rest, err := inetdiag.Next(b)
		if err != nil {
			return true, err
		}
		b = rest
		if h.Seq != seq {
			continue // left over from a dump that was given up
		}
		switch h.Type {
		case inetdiag.TypeDone, inetdiag.TypeError:
			if e := inetdiag.Errno(payload); e != 0 {
				return true, explain(syscall.Errno(e))
			}
			return true, nil
		case inetdiag.TypeSockDiag:
			if err := m.Parse(payload); err != nil {
				return true, err
			}
			f(m)
		}
	}
	return false, nil
}

func explain(e syscall.Errno) error {
	if e == unix.ENOENT {
		return fmt.Errorf("sock_diag: %w (the kernel has no tcp_diag/udp_diag module loaded and could not load it)", e)
	}
	return fmt.Errorf("sock_diag: %w", e)
}
