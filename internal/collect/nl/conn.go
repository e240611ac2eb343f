// Package nl is the little netlink that the collectors share: a socket that
// honours contexts, dumps that stream instead of piling up a full routing
// table in memory, and a bounded attribute walker. It sits on mdlayher/socket
// and not on mdlayher/netlink because that one returns a dump only whole.
package nl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// bufSize holds the largest datagram the kernel builds for one recvmsg: 32 KiB
// for dumps (netlink_dump in net/netlink/af_netlink.c), 64 KiB attributes.
const bufSize = 1 << 16

// ErrStop ends a dump without an error when the function given to Dump returns it.
var ErrStop = errors.New("stop")

// errInterrupted is a dump during which the table changed (NLM_F_DUMP_INTR).
var errInterrupted = errors.New("the table changed while it was read")

// Conn is a netlink socket. It must not be used by two goroutines at a time.
// It belongs to the network namespace of the thread that dialled.
type Conn struct {
	s     *socket.Conn
	proto int
	seq   uint32
	buf   []byte
	open  bool // an unfinished dump still sits in the socket: dial again before the next request
}

var lastSeq atomic.Uint32

// Dial opens a socket of a netlink protocol: unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER.
func Dial(proto int) (*Conn, error) {
	s, err := dial(proto)
	if err != nil {
		return nil, err
	}
	return &Conn{s: s, proto: proto, seq: lastSeq.Add(1 << 8), buf: make([]byte, bufSize)}, nil
}

func dial(proto int) (*socket.Conn, error) {
	s, err := socket.Socket(unix.AF_NETLINK, unix.SOCK_RAW, proto, "netlink", nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket of protocol %d: %w", proto, err)
	}
	// Extended acks carry the kernel's own words (Linux 4.12); older kernels go without.
	_ = s.SetsockoptInt(unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	if err := s.Bind(&unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.Close()
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	return s, nil
}

// Join subscribes the socket to multicast groups (unix.RTNLGRP_…).
func (c *Conn) Join(groups ...int) error {
	for _, g := range groups {
		if err := c.s.SetsockoptInt(unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return fmt.Errorf("join netlink group %d: %w", g, err)
		}
	}
	return nil
}

// SetReadBuffer asks for a receive buffer in bytes; the kernel may give less.
func (c *Conn) SetReadBuffer(n int) { _ = c.s.SetReadBuffer(n) }

// Close closes the socket.
func (c *Conn) Close() error { return c.s.Close() }

// Dump sends a dump request and gives each answer's type and body (without the
// netlink header) to fn. The body is only valid during the call. An error of
// fn ends the dump and is returned, ErrStop as nil. A table that changes while
// it is read may show an entry twice or not at all: Dump answers with an error
// for which Interrupted is true, after fn has seen everything.
func (c *Conn) Dump(ctx context.Context, typ uint16, body []byte, fn func(typ uint16, body []byte) error) error {
	if err := c.send(ctx, typ, unix.NLM_F_DUMP, body); err != nil {
		return err
	}
	interrupted := false
	c.open = true
	for {
		b, err := c.recv(ctx)
		if err != nil {
			return err
		}
		done, intr, err := walk(b, c.seq, fn)
		interrupted = interrupted || intr
		switch {
		case errors.Is(err, ErrStop):
			return nil
		case err != nil:
			c.open = !done
			return err
		case done:
			c.open = false
			if interrupted {
				return errInterrupted
			}
			return nil
		}
	}
}

// Interrupted reports whether err says that a table changed during its dump.
func Interrupted(err error) bool { return errors.Is(err, errInterrupted) }

// DumpStable is Dump, repeated up to three times when the table changed while
// it was read. begin is called before each try, to forget what the last one
// found. A table that never holds still is taken as it is.
func (c *Conn) DumpStable(ctx context.Context, typ uint16, body []byte, begin func(), fn func(typ uint16, body []byte) error) error {
	var err error
	for range 3 {
		begin()
		if err = c.Dump(ctx, typ, body, fn); !Interrupted(err) {
			return err
		}
	}
	return nil
}

// Get sends a request that has one answer and returns a copy of its body. The
// kernel's refusal is a unix.Errno for errors.As.
func (c *Conn) Get(ctx context.Context, typ uint16, body []byte) ([]byte, error) {
	if err := c.send(ctx, typ, 0, body); err != nil {
		return nil, err
	}
	for {
		b, err := c.recv(ctx)
		if err != nil {
			return nil, err
		}
		var answer []byte
		done, _, err := walk(b, c.seq, func(_ uint16, body []byte) error {
			answer = append([]byte{}, body...)
			return ErrStop
		})
		switch {
		case answer != nil:
			return answer, nil
		case err != nil:
			return nil, err
		case done:
			return nil, errors.New("netlink: an empty answer")
		}
	}
}

// Next waits for multicast messages and gives each to fn. It returns
// unix.ENOBUFS when the kernel had to throw some away.
func (c *Conn) Next(ctx context.Context, fn func(typ uint16, body []byte)) error {
	b, err := c.recv(ctx)
	if err != nil {
		return err
	}
	_, _, err = walk(b, anySeq, func(typ uint16, body []byte) error { fn(typ, body); return nil })
	return err
}

func (c *Conn) send(ctx context.Context, typ, flags uint16, body []byte) error {
	if c.open {
		s, err := dial(c.proto)
		if err != nil {
			return err
		}
		c.s.Close()
		c.s, c.open = s, false
	}
	if c.seq++; c.seq == anySeq {
		c.seq++
	}
	n := unix.NLMSG_HDRLEN + len(body)
	b := make([]byte, unix.NLMSG_HDRLEN, n)
	binary.NativeEndian.PutUint32(b[0:], uint32(n))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(b[8:], c.seq)
	if err := c.s.Sendto(ctx, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send netlink request: %w", err)
	}
	return nil
}

// recv reads one datagram of the kernel's; other processes may send to our
// port too, and are not listened to.
//
// mdlayher/socket obeys either a context's deadline or its cancelation: with a
// deadline set, an earlier cancel goes unnoticed until then.
func (c *Conn) recv(ctx context.Context) ([]byte, error) {
	for {
		n, from, err := c.s.Recvfrom(ctx, c.buf, unix.MSG_TRUNC)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("read netlink answer: %w", err)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue
		}
		if n > len(c.buf) {
			return nil, fmt.Errorf("read netlink answer: %d bytes are more than a message may have", n)
		}
		return c.buf[:n], nil
	}
}
