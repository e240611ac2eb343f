// Package dial opens TCP and UDP sockets for probes and keeps all the evidence
// the kernel has: the ICMP error with its sender (IP_RECVERR, the error queue),
// TCP_INFO of an attempt that failed as well as of one that succeeded, and
// software send and receive stamps. The standard library's dialer closes the
// socket before any of this can be read.
//
// Nothing here needs a privilege.
package dial

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
)

// Options are common to both protocols; the zero value leaves all to the kernel.
type Options struct {
	Source    netip.Addr // local address
	Interface string     // leave through this interface whatever the routes say (SO_BINDTODEVICE, free to all since Linux 5.7)
	TTL       int        // TTL or hop limit; 0 is the system's
}

// ICMP is an ICMP error about one of our own packets, as the error queue gives it.
type ICMP struct {
	From       netip.Addr // invalid when the kernel does not say
	V6         bool
	Type, Code uint8
	MTU        int // next-hop MTU of frag-needed and packet too big, bytes
	Errno      syscall.Errno
}

// open makes a non-blocking socket with error queue, device, source and TTL.
// The caller owns the descriptor.
func open(typ int, to netip.Addr, what string, o Options) (fd int, stamps bool, err error) {
	return ipsock.Open(to.Is6(), typ, 0, what, ipsock.Options{
		Source: o.Source, Interface: o.Interface, TTL: o.TTL, Errors: true, LatePort: true,
		Stamps: typ == unix.SOCK_DGRAM,
	})
}

// icmpOf is nil when c is no ICMP error.
func icmpOf(c ipsock.Control) *ICMP {
	if !c.IsICMP() {
		return nil
	}
	return &ICMP{From: c.Offender, V6: c.Origin == ipsock.ICMP6, Type: c.Type, Code: c.Code, MTU: c.MTU(), Errno: c.Errno}
}

func localAddr(fd int) netip.AddrPort {
	a, _ := ipsock.LocalAddr(fd) // an open socket has one; the zero value says that it could not be read
	return a
}
