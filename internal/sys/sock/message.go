package sock

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

// Message is what came: a packet, or a message from the error queue.
type Message struct {
	Origin    Origin
	Data      []byte        // packet; of an ICMP error: the quoted packet from its ICMP/UDP header on
	From      netip.Addr    // sender; of an ICMP error: the destination of the quoted packet
	Port      uint16        // sender's port, where there is one
	Kernel    time.Time     // kernel's stamp of arrival (of sending for Stamp), zero when there is none
	User      time.Time     // when this process had read it
	TTL       int           // or hop limit, -1 when not known
	Truncated bool          // Data is shorter than the packet
	Link      LinkLayer     // packet sockets only
	Errno     syscall.Errno // error queue: what send or recv would have given
	Type      uint8         // ICMP type
	Code      uint8         // ICMP code
	Info      uint32        // ICMP: next-hop MTU. Stamp: 0 is the driver's stamp
	Key       uint32        // Stamp: number of the packet, counted from 0 since EnableStamps
	Offender  netip.Addr    // who sent the ICMP error
}

// LinkLayer is where a packet socket saw a packet.
type LinkLayer struct {
	Index    int    // interface
	Protocol uint16 // EtherType
	Type     uint8  // PACKET_HOST, PACKET_OUTGOING, …
	Addr     [8]byte
	AddrLen  uint8
}

// message reads what recvmsg left.
func (c *Conn) message(n int, queue bool) Message {
	m := Message{User: time.Now(), TTL: -1, Truncated: c.hdr.Flags&unix.MSG_TRUNC != 0}
	m.Data = c.in[:min(max(n, 0), len(c.in))]
	if queue {
		m.Origin = Other
	}
	c.source(&m)
	parseControl(&m, c.oob[:min(int(c.hdr.Controllen), len(c.oob))])
	return m
}

func (c *Conn) source(m *Message) {
	switch {
	case c.hdr.Namelen >= unix.SizeofSockaddrInet4 && c.name.Addr.Family == unix.AF_INET:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&c.name))
		m.From, m.Port = netip.AddrFrom4(sa.Addr), swap16(sa.Port)
	case c.hdr.Namelen >= unix.SizeofSockaddrInet6 && c.name.Addr.Family == unix.AF_INET6:
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&c.name))
		m.From, m.Port = netip.AddrFrom16(sa.Addr), swap16(sa.Port)
	case c.hdr.Namelen >= 12 && c.name.Addr.Family == unix.AF_PACKET:
		sa := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&c.name))
		m.Link = LinkLayer{Index: int(sa.Ifindex), Protocol: swap16(sa.Protocol), Type: sa.Pkttype, Addr: sa.Addr, AddrLen: min(sa.Halen, 8)}
	}
}

// swap16 turns a field in network order, read in native order, around.
func swap16(v uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], v)
	return binary.BigEndian.Uint16(b[:])
}

var ne = binary.NativeEndian

// parseControl reads the control messages (cmsg(3)) of b into m. It is written
// for bytes from the kernel, but trusts no length.
func parseControl(m *Message, b []byte) {
	const word = int(unsafe.Sizeof(uintptr(0)))
	const head = word + 8
	for len(b) >= head {
		size := uint64(ne.Uint32(b))
		if word == 8 {
			size = ne.Uint64(b)
		}
		if size < uint64(head) || size > uint64(len(b)) {
			return
		}
		level, typ := int32(ne.Uint32(b[word:])), int32(ne.Uint32(b[word+4:]))
		m.control(int(level), int(typ), b[head:size])
		b = b[min((int(size)+word-1)&^(word-1), len(b)):]
	}
}

func (m *Message) control(level, typ int, d []byte) {
	switch {
	case level == unix.SOL_SOCKET && typ == unix.SCM_TIMESTAMPING:
		m.Kernel = stampOf(d)
	case level == unix.SOL_IP && typ == unix.IP_RECVERR,
		level == unix.SOL_IPV6 && typ == unix.IPV6_RECVERR,
		level == unix.SOL_PACKET && typ == unix.PACKET_TX_TIMESTAMP:
		m.extended(d)
	case level == unix.SOL_IP && typ == unix.IP_TTL,
		level == unix.SOL_IPV6 && typ == unix.IPV6_HOPLIMIT:
		if len(d) >= 4 {
			m.TTL = int(ne.Uint32(d) & 0xff)
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
func (m *Message) extended(d []byte) {
	const size = 16
	if len(d) < size {
		return
	}
	m.Errno = syscall.Errno(ne.Uint32(d))
	m.Type, m.Code = d[5], d[6]
	m.Info, m.Key = ne.Uint32(d[8:]), ne.Uint32(d[12:])
	switch o := Origin(d[4]); o {
	case Local, ICMP4, ICMP6, Stamp:
		m.Origin = o
	default:
		m.Origin = Other
	}
	d = d[size:]
	if len(d) < 2 {
		return
	}
	switch family := ne.Uint16(d); {
	case family == unix.AF_INET && len(d) >= 8:
		m.Offender = netip.AddrFrom4([4]byte(d[4:8]))
	case family == unix.AF_INET6 && len(d) >= 24:
		m.Offender = netip.AddrFrom16([16]byte(d[8:24]))
	}
}
