// Package ipsock holds what all IP sockets of fathom have in common, whoever
// waits on them: how they are opened and set up, and what the kernel tells about
// them in control messages: time stamps, TTLs, and ICMP errors from the error
// queue (IP_RECVERR). Descriptors belong to the caller.
package ipsock

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Options are what may be set on an IP socket. The zero value of each field
// leaves the kernel's default.
type Options struct {
	Interface string     // SO_BINDTODEVICE, free to all since Linux 5.7
	Source    netip.Addr // bind
	TTL       int        // or hop limit
	TOS       int        // or traffic class; -1 sets 0
	Mark      uint32     // SO_MARK, needs CAP_NET_ADMIN
	// DF sets the don't-fragment bit with IP_PMTUDISC_PROBE: the kernel neither
	// splits the packet nor holds it back for a path MTU it remembers.
	DF bool
	// Fragment clears DF (IP_PMTUDISC_DONT): routers may split the packet.
	Fragment bool
	Stamps   bool // kernel time stamps for sending and receiving
	Errors   bool // ICMP errors come through the error queue
	RecvTTL  bool // packets come with their TTL or hop limit
	// LatePort leaves the choice of a port to connect(2), when the whole four-tuple
	// counts: otherwise a series from a fixed address runs out of ports 28,000
	// times sooner.
	LatePort bool
}

// StampFlags ask for software stamps of sending and receiving; the send stamps
// come by the error queue with a packet number and without the packet
// (Documentation/networking/timestamping.rst).
const StampFlags = unix.SOF_TIMESTAMPING_SOFTWARE | unix.SOF_TIMESTAMPING_TX_SOFTWARE |
	unix.SOF_TIMESTAMPING_RX_SOFTWARE | unix.SOF_TIMESTAMPING_OPT_ID |
	unix.SOF_TIMESTAMPING_OPT_TSONLY | unix.SOF_TIMESTAMPING_OPT_CMSG

// Open makes a non-blocking socket with its options set; what names it in errors.
func Open(v6 bool, typ, proto int, what string, o Options) (fd int, stamps bool, err error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return -1, false, fmt.Errorf("open %s: %w", what, err)
	}
	if stamps, err = Configure(fd, v6, o); err != nil {
		_ = unix.Close(fd) // the first error is the one that tells
		return -1, false, err
	}
	return fd, stamps, nil
}

// Configure sets the options of a fresh socket and binds it. Old kernels and
// sandboxes refuse time stamps; that is no error: stamps tells.
func Configure(fd int, v6 bool, o Options) (stamps bool, err error) {
	if o.Source.IsValid() && o.Source.Unmap().Is4() == v6 {
		return false, fmt.Errorf("source address %s is not of the target's address family", o.Source)
	}
	if err := BindToDevice(fd, o.Interface); err != nil {
		return false, err
	}
	if err := setIP(fd, v6, o); err != nil {
		return false, err
	}
	if o.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark)); err != nil {
			return false, fmt.Errorf("set mark %#x: %w%s", o.Mark, err, hint(err, os.ErrPermission, " (needs CAP_NET_ADMIN)"))
		}
	}
	stamps = o.Stamps && SetStamps(fd, StampFlags) == nil
	if o.Source.IsValid() {
		if err := Bind(fd, netip.AddrPortFrom(o.Source.Unmap(), 0)); err != nil {
			return false, fmt.Errorf("bind socket to %s: %w%s", o.Source, err, hint(err, unix.EADDRNOTAVAIL, " (it is not an address of this host)"))
		}
	}
	return stamps, nil
}

// BindToDevice binds a socket to an interface; "" does nothing. Since Linux 5.7
// this needs no privilege on a socket that is not bound yet (net/core/sock.c,
// sock_bindtoindex_locked).
func BindToDevice(fd int, ifname string) error {
	if ifname == "" {
		return nil
	}
	err := unix.BindToDevice(fd, ifname)
	if err == nil {
		return nil
	}
	return fmt.Errorf("bind socket to interface %s: %w%s%s", ifname, err,
		hint(err, os.ErrPermission, " (needs CAP_NET_RAW before Linux 5.7)"),
		hint(err, unix.ENODEV, " (no such interface)"))
}

func hint(err, is error, text string) string {
	if errors.Is(err, is) {
		return text
	}
	return ""
}

// SetStamps switches time stamps; 0 is off.
func SetStamps(fd, flags int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, flags)
}

// SetErrors switches the error queue. Off also empties it.
func SetErrors(fd int, v6, on bool) error {
	val := 0
	if on {
		val = 1
	}
	return set(fd, v6, option{true, "error queue", unix.IP_RECVERR, unix.IPV6_RECVERR, val, val})
}

// SetTTL sets TTL or hop limit of what is sent from now on.
func SetTTL(fd int, v6 bool, ttl int) error {
	return set(fd, v6, option{true, "ttl", unix.IP_TTL, unix.IPV6_UNICAST_HOPS, ttl, ttl})
}

// option is one that differs by family.
type option struct {
	on         bool
	what       string
	v4, v6     int // option numbers, 0: none
	val4, val6 int
}

func setIP(fd int, v6 bool, o Options) error {
	tos := max(o.TOS, 0)
	for _, x := range []option{
		{o.RecvTTL, "receive ttl", unix.IP_RECVTTL, unix.IPV6_RECVHOPLIMIT, 1, 1},
		{o.TTL != 0, "ttl", unix.IP_TTL, unix.IPV6_UNICAST_HOPS, o.TTL, o.TTL},
		{o.TOS != 0, "tos", unix.IP_TOS, unix.IPV6_TCLASS, tos, tos},
		{o.Errors, "error queue", unix.IP_RECVERR, unix.IPV6_RECVERR, 1, 1},
		{o.DF, "path mtu discovery", unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, unix.IPV6_PMTUDISC_PROBE},
		{o.DF, "dont fragment", 0, unix.IPV6_DONTFRAG, 0, 1},
		{o.Fragment && !o.DF, "path mtu discovery", unix.IP_MTU_DISCOVER, 0, unix.IP_PMTUDISC_DONT, 0},
	} {
		if err := set(fd, v6, x); err != nil {
			return err
		}
	}
	if o.LatePort && o.Source.IsValid() { // of level IPPROTO_IP for both families
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return fmt.Errorf("delay the choice of a port: %w", err)
		}
	}
	return nil
}

func set(fd int, v6 bool, x option) error {
	level, name, val := unix.IPPROTO_IP, x.v4, x.val4
	if v6 {
		level, name, val = unix.IPPROTO_IPV6, x.v6, x.val6
	}
	if !x.on || name == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, level, name, val); err != nil {
		return fmt.Errorf("set socket option %s to %d: %w", x.what, val, err)
	}
	return nil
}
