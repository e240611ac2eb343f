package sock

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
)

// oobSize holds all control messages that any option here asks for: time
// stamps (64), extended error with offender (60), TTL, packet info, and air.
const oobSize = 512

// notPollableWait is how long Recv sleeps when the netpoller misreads an event
// of the error queue alone as a broken descriptor (see Recv).
const notPollableWait = time.Millisecond

// Conn is a socket. See the package comment for who may call what.
type Conn struct {
	file *os.File
	raw  syscall.RawConn
	v6   bool

	stamps int // SO_TIMESTAMPING flags, 0: off

	// Arguments and results of the callbacks below, which are made once so that
	// sending and receiving need no heap.
	recvFn, sendFn func(fd uintptr)
	waitFn         func(fd uintptr) bool
	out            []byte
	outTo          *unix.RawSockaddrLinklayer
	outErr         error
	in             []byte
	msg            Message
	msgErr         error
	name           unix.RawSockaddrAny
	oob            [oobSize]byte
	iov            unix.Iovec
	hdr            unix.Msghdr
}

// newConn takes over fd, which must be non-blocking.
func newConn(fd int, name string, v6 bool) (*Conn, error) {
	f := os.NewFile(uintptr(fd), name)
	if f == nil {
		return nil, os.NewSyscallError("newfile", unix.EBADF)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	c := &Conn{file: f, raw: raw, v6: v6}
	c.sendFn = c.send
	c.recvFn = func(fd uintptr) { c.receive(fd) }
	c.waitFn = c.receive
	return c, nil
}

// Close closes the socket; a waiting Recv returns an error that wraps os.ErrClosed.
func (c *Conn) Close() error { return c.file.Close() }

// SetReadDeadline bounds Recv, also one that is already waiting. The zero time
// means no bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.file.SetReadDeadline(t) }

// Control runs f with the descriptor, for options that have no function here.
func (c *Conn) Control(f func(fd int) error) error {
	var ferr error
	if err := c.raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return closedError(err)
	}
	return ferr
}

// Send sends to the connected or bound destination without waiting. The error
// is a syscall.Errno; EAGAIN and ENOBUFS say that a queue on this host is full.
// An errno may also be that of an ICMP error received for an earlier packet:
// drain the error queue (TryRecv) and try again to tell.
func (c *Conn) Send(b []byte) error { return c.sendTo(b, nil) }

// SendLink sends a whole frame out of an interface: packet sockets only.
func (c *Conn) SendLink(b []byte, ifindex int) error {
	to := unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(ifindex)}
	return c.sendTo(b, &to)
}

func (c *Conn) sendTo(b []byte, to *unix.RawSockaddrLinklayer) error {
	c.out, c.outTo = b, to
	err := c.raw.Control(c.sendFn)
	c.out, c.outTo = nil, nil
	if err != nil {
		return closedError(err)
	}
	return c.outErr
}

func (c *Conn) send(fd uintptr) {
	var base, to unsafe.Pointer
	var size uintptr
	if len(c.out) > 0 {
		base = unsafe.Pointer(&c.out[0])
	}
	if c.outTo != nil {
		to, size = unsafe.Pointer(c.outTo), unsafe.Sizeof(*c.outTo)
	}
	c.outErr = nil
	for range 10 { // EINTR cannot last with MSG_DONTWAIT; the bound is for certainty
		_, _, e := unix.Syscall6(unix.SYS_SENDTO, fd, uintptr(base), uintptr(len(c.out)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(to), size)
		if e == 0 {
			return
		}
		c.outErr = e
		if e != unix.EINTR {
			return
		}
	}
}

// Recv waits for the next message, from the error queue first, then from the
// socket, and reads its bytes into b. The message's Data is a part of b. The
// error wraps os.ErrDeadlineExceeded when the read deadline passed, os.ErrClosed
// after Close; a syscall.Errno is a pending error of the socket (an ICMP error
// that is also on the error queue) and is not the end of it.
func (c *Conn) Recv(b []byte) (Message, error) {
	for {
		c.in = b
		err := c.raw.Read(c.waitFn)
		c.in = nil
		switch {
		case err == nil:
			return c.msg, c.msgErr
		case isNotPollable(err):
			// The runtime takes an event of EPOLLERR alone (error queue filled while the
			// send buffer is full) for a descriptor that cannot be polled. It is not
			// true: look, and if nothing is there wait a little.
			if m, ok, err := c.TryRecv(b); ok || err != nil {
				return m, err
			}
			time.Sleep(notPollableWait)
		default:
			return Message{}, closedError(err)
		}
	}
}

// TryRecv is Recv without waiting; ok is false when there is nothing.
func (c *Conn) TryRecv(b []byte) (m Message, ok bool, err error) {
	c.in, c.msgErr = b, errNothing
	err = c.raw.Control(c.recvFn)
	c.in = nil
	switch {
	case err != nil:
		return Message{}, false, closedError(err)
	case c.msgErr == errNothing:
		return Message{}, false, nil
	}
	return c.msg, true, c.msgErr
}

var errNothing = errors.New("nothing to read")

// The errors of internal/poll have no exported names, and a RawConn does not
// translate them as os.File's own methods do.
func isNotPollable(err error) bool { return err.Error() == "not pollable" }

func closedError(err error) error {
	if err.Error() == "use of closed file" {
		return os.ErrClosed
	}
	return err
}

// receive tries both queues; false when both are empty.
func (c *Conn) receive(fd uintptr) bool {
	for _, queue := range [2]int{unix.MSG_ERRQUEUE, 0} {
		n, e := c.recvmsg(fd, queue)
		switch e {
		case 0:
			c.msg, c.msgErr = c.message(n, queue != 0), nil
			return true
		case unix.EAGAIN, unix.EINTR:
			continue
		}
		if queue == unix.MSG_ERRQUEUE {
			continue // no such queue on this kind of socket
		}
		c.msg, c.msgErr = Message{}, e
		return true
	}
	c.msgErr = errNothing
	return false
}

func (c *Conn) recvmsg(fd uintptr, flags int) (int, syscall.Errno) {
	c.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&c.name)), Namelen: unix.SizeofSockaddrAny, Control: &c.oob[0]}
	c.hdr.SetControllen(len(c.oob))
	if len(c.in) > 0 {
		c.iov.Base = &c.in[0]
		c.iov.SetLen(len(c.in))
		c.hdr.Iov = &c.iov
		c.hdr.SetIovlen(1)
	}
	n, _, e := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&c.hdr)), uintptr(flags|unix.MSG_DONTWAIT))
	c.iov.Base = nil
	return int(n), e
}

// LocalAddr is the address the socket is bound to, and its port; for ICMP
// datagram sockets the port is the echo identifier.
func (c *Conn) LocalAddr() (a netip.AddrPort, err error) {
	err = c.Control(func(fd int) error {
		a, err = ipsock.LocalAddr(fd)
		return err
	})
	return a, err
}

// PathMTU is what the kernel believes the path MTU of a connected socket to be, in bytes.
func (c *Conn) PathMTU() (mtu int, err error) {
	level, opt := unix.IPPROTO_IP, unix.IP_MTU
	if c.v6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	err = c.Control(func(fd int) error {
		mtu, err = unix.GetsockoptInt(fd, level, opt)
		return err
	})
	return mtu, err
}
