package ipsock

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Origin says where a message came from.
type Origin uint8

// The origins (linux/errqueue.h SO_EE_ORIGIN_*).
const (
	Data  Origin = 0                              // the socket itself: a packet
	Local Origin = unix.SO_EE_ORIGIN_LOCAL        // our own kernel refused a packet (EMSGSIZE)
	ICMP4 Origin = unix.SO_EE_ORIGIN_ICMP         // an ICMP error about a packet of this socket
	ICMP6 Origin = unix.SO_EE_ORIGIN_ICMP6        // the same for ICMPv6
	Stamp Origin = unix.SO_EE_ORIGIN_TIMESTAMPING // when a packet of this socket was sent
	Other Origin = 255                            // another message of the error queue
)

// Control is what the control messages of one recvmsg say.
type Control struct {
	Origin   Origin
	Kernel   time.Time     // kernel's stamp of arrival (of sending for Stamp), wall clock; zero when there is none
	TTL      int           // or hop limit, -1 when not known
	Errno    syscall.Errno // error queue: what send or recv would have given
	Type     uint8         // ICMP type
	Code     uint8         // ICMP code
	Info     uint32        // ICMP: next-hop MTU. Stamp: 0 is the driver's stamp
	Key      uint32        // Stamp: number of the packet, counted from 0 since stamps were switched on
	Offender netip.Addr    // who sent the ICMP error
}

// IsICMP reports whether it is an ICMP error.
func (c Control) IsICMP() bool { return c.Origin == ICMP4 || c.Origin == ICMP6 }

// MTU is the next-hop MTU in bytes that an ICMP error tells, 0 when it tells none.
// Only frag-needed and packet too big become EMSGSIZE (net/ipv4/icmp.c
// icmp_err_convert, net/ipv6/icmp.c icmpv6_err_convert).
func (c Control) MTU() int {
	const most = 65535
	if !c.IsICMP() || c.Errno != syscall.EMSGSIZE || c.Info > most {
		return 0
	}
	return int(c.Info)
}

var ne = binary.NativeEndian

// ParseControl reads control messages (cmsg(3)). It is written for bytes from
// the kernel, but trusts no length: what is short or unknown is skipped.
func ParseControl(b []byte) Control {
	const word = int(unsafe.Sizeof(uintptr(0)))
	const head = word + 8
	c := Control{TTL: -1}
	for len(b) >= head {
		size := uint64(ne.Uint32(b))
		if word == 8 {
			size = ne.Uint64(b)
		}
		if size < uint64(head) || size > uint64(len(b)) {
			break
		}
		level, typ := int32(ne.Uint32(b[word:])), int32(ne.Uint32(b[word+4:]))
		c.message(int(level), int(typ), b[head:size])
		b = b[min((int(size)+word-1)&^(word-1), len(b)):]
	}
	return c
}

func (c *Control) message(level, typ int, d []byte) {
	switch {
	case level == unix.SOL_SOCKET && typ == unix.SCM_TIMESTAMPING:
		c.Kernel = stampOf(d)
	case level == unix.SOL_IP && typ == unix.IP_RECVERR,
		level == unix.SOL_IPV6 && typ == unix.IPV6_RECVERR,
		level == unix.SOL_PACKET && typ == unix.PACKET_TX_TIMESTAMP:
		c.extended(d)
	case level == unix.SOL_IP && typ == unix.IP_TTL,
		level == unix.SOL_IPV6 && typ == unix.IPV6_HOPLIMIT:
		if len(d) >= 4 {
			c.TTL = int(ne.Uint32(d) & 0xff)
		}
	}
}

// stampOf reads struct scm_timestamping: software, deprecated, hardware. Only
// the software stamp is asked for. Three pairs of 64 bits, or of 32 bits on
// 32-bit systems.
func stampOf(d []byte) time.Time {
	var s, n int64
	switch {
	case len(d) >= 48:
		s, n = int64(ne.Uint64(d)), int64(ne.Uint64(d[8:]))
	case len(d) >= 24:
		s, n = int64(int32(ne.Uint32(d))), int64(int32(ne.Uint32(d[4:])))
	}
	if s == 0 && n == 0 {
		return time.Time{}
	}
	return time.Unix(s, n)
}

// extended reads struct sock_extended_err and the offender's address behind it
// (linux/errqueue.h).
func (c *Control) extended(d []byte) {
	const size = 16
	if len(d) < size {
		return
	}
	c.Errno = syscall.Errno(ne.Uint32(d))
	c.Type, c.Code = d[5], d[6]
	c.Info, c.Key = ne.Uint32(d[8:]), ne.Uint32(d[12:])
	switch o := Origin(d[4]); o {
	case Local, ICMP4, ICMP6, Stamp:
		c.Origin = o
	default:
		c.Origin = Other
	}
	d = d[size:]
	if len(d) < 2 {
		return
	}
	switch family := ne.Uint16(d); {
	case family == unix.AF_INET && len(d) >= 8:
		c.Offender = netip.AddrFrom4([4]byte(d[4:8]))
	case family == unix.AF_INET6 && len(d) >= 24:
		c.Offender = netip.AddrFrom16([16]byte(d[8:24])).Unmap()
	}
}

// TakeError takes one message off a socket's error queue; ok is false when it is
// empty. Of our own packet quoted there nothing is kept.
func TakeError(fd int) (c Control, ok bool) {
	var data [64]byte
	var oob [512]byte
	for {
		_, n, _, _, err := unix.Recvmsg(fd, data[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		switch err {
		case nil:
			c = ParseControl(oob[:n])
			if c.Origin == Data {
				c.Origin = Other
			}
			return c, true
		case unix.EINTR:
			continue
		}
		return Control{}, false
	}
}

// TakeICMP looks for an ICMP error among the first few messages of the error queue.
func TakeICMP(fd int) (icmp Control, ok bool) {
	for range 8 {
		c, more := TakeError(fd)
		if !more {
			break
		}
		if c.IsICMP() && !ok { // the first is the one that ended it
			icmp, ok = c, true
		}
	}
	return icmp, ok
}
