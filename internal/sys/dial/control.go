package dial

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// control is what the control messages of one recvmsg say.
type control struct {
	icmp  *ICMP
	local syscall.Errno // an error our own kernel queued
	stamp time.Time     // software stamp, wall clock; zero when there is none
	sent  bool          // the stamp is of a packet we sent, number id
	id    uint32
}

var ne = binary.NativeEndian

// cmsgAlign is the alignment of control messages on every 64-bit Linux.
const cmsgAlign = 8

// parseControl walks control messages. It is total: what is short or unknown is skipped.
func parseControl(b []byte) control {
	var c control
	for len(b) >= unix.SizeofCmsghdr {
		n := ne.Uint64(b)
		if n < unix.SizeofCmsghdr || n > uint64(len(b)) {
			break
		}
		level, typ := int(ne.Uint32(b[8:])), int(ne.Uint32(b[12:]))
		data := b[unix.SizeofCmsghdr:n]
		switch {
		case level == unix.IPPROTO_IP && typ == unix.IP_RECVERR,
			level == unix.IPPROTO_IPV6 && typ == unix.IPV6_RECVERR:
			c.extendedErr(data)
		case level == unix.SOL_SOCKET && typ == unix.SO_TIMESTAMPING && len(data) >= 16:
			// struct scm_timestamping: the first of three is the software stamp.
			if s, ns := int64(ne.Uint64(data)), int64(ne.Uint64(data[8:])); s != 0 || ns != 0 {
				c.stamp = time.Unix(s, ns)
			}
		}
		b = b[min((n+cmsgAlign-1)&^(cmsgAlign-1), uint64(len(b))):]
	}
	return c
}

// extendedErr reads struct sock_extended_err (linux/errqueue.h), which the
// address of the offender follows.
func (c *control) extendedErr(b []byte) {
	const size = 16
	if len(b) < size {
		return
	}
	errno, origin := syscall.Errno(ne.Uint32(b)), b[4]
	info, data := ne.Uint32(b[8:]), ne.Uint32(b[12:])
	switch origin {
	case unix.SO_EE_ORIGIN_TIMESTAMPING:
		c.sent, c.id = true, data
	case unix.SO_EE_ORIGIN_LOCAL:
		c.local = errno
	case unix.SO_EE_ORIGIN_ICMP, unix.SO_EE_ORIGIN_ICMP6:
		c.icmp = &ICMP{
			From: offender(b[size:]), V6: origin == unix.SO_EE_ORIGIN_ICMP6,
			Type: b[5], Code: b[6], Errno: errno,
		}
		if errno == syscall.EMSGSIZE && info <= 0xffff {
			c.icmp.MTU = int(info)
		}
	}
}

// offender reads a sockaddr_in or sockaddr_in6; anything else is no address.
func offender(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	switch family := ne.Uint16(b); {
	case family == unix.AF_INET && len(b) >= 8:
		return netip.AddrFrom4([4]byte(b[4:8]))
	case family == unix.AF_INET6 && len(b) >= 24:
		return netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	}
	return netip.Addr{}
}

// errQueueOne takes one message off the error queue; ok is false when it is empty.
func errQueueOne(fd int) (c control, ok bool) {
	var data [256]byte // the head of our own packet, not needed
	var oob [512]byte
	for {
		_, n, _, _, err := unix.Recvmsg(fd, data[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		switch err {
		case nil:
			return parseControl(oob[:n]), true
		case unix.EINTR:
			continue
		}
		return control{}, false
	}
}
