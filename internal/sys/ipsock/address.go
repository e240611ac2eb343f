package ipsock

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Sockaddr is an address in the kernel's form. The error wraps ENODEV when the
// zone is no interface, EAFNOSUPPORT when there is no address.
func Sockaddr(to netip.AddrPort) (unix.Sockaddr, error) {
	a := to.Addr()
	switch {
	case a.Is4():
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: a.As4()}, nil
	case a.Is6():
		zone, err := zoneIndex(a.Zone())
		if err != nil {
			return nil, err
		}
		return &unix.SockaddrInet6{Port: int(to.Port()), ZoneId: zone, Addr: a.As16()}, nil
	}
	return nil, fmt.Errorf("address %v: %w", a, unix.EAFNOSUPPORT)
}

// AddrPort is the inverse of Sockaddr; zero for what is no IP address.
func AddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(withZone(netip.AddrFrom16(sa.Addr), sa.ZoneId), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// LocalAddr is the address and port a socket is bound to; for ICMP datagram sockets
// the port is the echo identifier.
func LocalAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read local address: %w", err)
	}
	return AddrPort(sa), nil
}

// Bind binds to an address, with a port or 0.
func Bind(fd int, at netip.AddrPort) error {
	sa, err := Sockaddr(at)
	if err != nil {
		return err
	}
	return unix.Bind(fd, sa)
}

// zoneIndex is the interface index of an IPv6 zone, which is a name or a number.
func zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index), nil
	}
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return uint32(n), nil
	}
	return 0, fmt.Errorf("zone %q: %w", zone, unix.ENODEV)
}

func withZone(a netip.Addr, index uint32) netip.Addr {
	if index == 0 {
		return a
	}
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		return a.WithZone(ifi.Name)
	}
	return a.WithZone(strconv.FormatUint(uint64(index), 10))
}
