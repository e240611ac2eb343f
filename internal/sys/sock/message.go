package sock

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
)

// Origin says where a message came from.
type Origin = ipsock.Origin

// The origins, see ipsock.
const (
	Data  = ipsock.Data
	Local = ipsock.Local
	ICMP4 = ipsock.ICMP4
	ICMP6 = ipsock.ICMP6
	Stamp = ipsock.Stamp
	Other = ipsock.Other
)

// Message is what came: a packet, or a message from the error queue.
type Message struct {
	ipsock.Control            // Origin, Kernel, TTL; Errno, ICMP and stamp of the error queue
	Data           []byte     // packet; of an ICMP error: the quoted packet from its ICMP/UDP header on
	From           netip.Addr // sender; of an ICMP error: the destination of the quoted packet
	Port           uint16     // sender's port, where there is one
	User           time.Time  // when this process had read it
	Truncated      bool       // Data is shorter than the packet
	Link           LinkLayer  // packet sockets only
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
	m := Message{User: time.Now(), Truncated: c.hdr.Flags&unix.MSG_TRUNC != 0}
	m.Control = ipsock.ParseControl(c.oob[:min(int(c.hdr.Controllen), len(c.oob))])
	if queue && m.Origin == Data {
		m.Origin = Other
	}
	m.Data = c.in[:min(max(n, 0), len(c.in))]
	c.source(&m)
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
