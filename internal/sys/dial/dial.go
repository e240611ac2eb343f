// Package dial opens TCP and UDP sockets for probes and keeps all the evidence
// the kernel has: the ICMP error with its sender (IP_RECVERR, the error queue),
// TCP_INFO of an attempt that failed as well as of one that succeeded, and
// software send and receive stamps. The standard library's dialer closes the
// socket before any of this can be read.
//
// Nothing here needs a privilege.
package dial

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
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
func open(typ int, to netip.Addr, o Options) (fd int, err error) {
	v6 := to.Is6()
	if o.Source.IsValid() && o.Source.Unmap().Is4() == v6 {
		return -1, fmt.Errorf("source address %s and target %s are not of the same family", o.Source, to)
	}
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	if err := set(fd, v6, o); err != nil {
		_ = unix.Close(fd) // the first error is the one that tells
		return -1, err
	}
	return fd, nil
}

func set(fd int, v6 bool, o Options) error {
	level, recverr, ttl := unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL
	if v6 {
		level, recverr, ttl = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS
	}
	if err := unix.SetsockoptInt(fd, level, recverr, 1); err != nil {
		return fmt.Errorf("ask for icmp errors: %w", err)
	}
	if o.TTL != 0 {
		if err := unix.SetsockoptInt(fd, level, ttl, o.TTL); err != nil {
			return fmt.Errorf("set ttl %d: %w", o.TTL, err)
		}
	}
	if o.Interface != "" {
		if err := unix.BindToDevice(fd, o.Interface); err != nil {
			return fmt.Errorf("bind to interface %s: %w", o.Interface, err)
		}
	}
	if !o.Source.IsValid() {
		return nil
	}
	// The port is chosen at connect time, when the whole four-tuple counts:
	// otherwise a series from a fixed address runs out of ports 28,000 times sooner.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("delay the choice of a port: %w", err)
	}
	sa, err := sockaddr(netip.AddrPortFrom(o.Source.Unmap(), 0))
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("bind to source address %s: %w", o.Source, err)
	}
	return nil
}

func sockaddr(ap netip.AddrPort) (unix.Sockaddr, error) {
	a := ap.Addr()
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: a.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: a.As16()}
	if z := a.Zone(); z != "" {
		if n, err := strconv.ParseUint(z, 10, 32); err == nil {
			sa.ZoneId = uint32(n)
		} else {
			ifi, err := net.InterfaceByName(z)
			if err != nil {
				return nil, fmt.Errorf("zone of %s: no interface %q", a, z)
			}
			sa.ZoneId = uint32(ifi.Index)
		}
	}
	return sa, nil
}

// addrPort is the inverse of sockaddr; the zone is a number.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			a = a.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func localAddr(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}
