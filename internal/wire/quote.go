package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// maxQuotedHeaders bounds the walk over IPv6 extension headers of a quote. Our
// own probes carry none; a router may have inserted a hop-by-hop header.
const maxQuotedHeaders = 8

// ErrQuote is wrapped by every error about a quoted packet or an extension
// structure that cannot be read. It wraps [ErrInvalid].
var ErrQuote = fmt.Errorf("bad icmp quote: %w", ErrInvalid)

// Quote is the beginning of a packet as an ICMP error returned it: what the
// sender of the error saw of our probe. Fields beyond what was quoted are zero;
// TransportLen says how much there was.
type Quote struct {
	Version  int // 4 or 6
	Src, Dst netip.Addr
	Proto    uint8 // transport protocol, behind IPv6 extension headers
	TTL      uint8 // hop limit for IPv6, as it stood when the packet died
	TOS      uint8 // traffic class for IPv6
	ID       uint16
	DF       bool
	Offset   int    // fragment offset in bytes; other than 0 there are no ports
	Length   int    // total length in bytes by the header, not what was quoted
	Checksum uint16 // of the IPv4 header

	TransportLen int    // bytes quoted from the transport header on
	SrcPort      uint16 // UDP, TCP
	DstPort      uint16 // UDP, TCP
	UDPLength    uint16
	UDPChecksum  uint16
	TCPSeq       uint32
	ICMPType     uint8
	ICMPCode     uint8
	ICMPChecksum uint16
	ICMPID       uint16 // echo
	ICMPSeq      uint16 // echo

	// Transport is all that was quoted from the transport header on. It is part
	// of the parsed buffer, not a copy.
	Transport []byte
}

// ErrorMessage is an ICMP error: destination unreachable, time exceeded,
// parameter problem, source quench, redirect or packet too big.
type ErrorMessage struct {
	Type, Code uint8
	MTU        int // next-hop MTU of frag-needed (RFC 1191) or packet too big (RFC 4443 §3.2), 0 when not told
	Quote      Quote
	Extensions Extensions // zero when there are none or they are damaged
}

// IsError4 reports whether an ICMPv4 type quotes a packet (RFC 792, RFC 1122 §3.2.2).
func IsError4(typ uint8) bool {
	switch typ {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// IsError6 reports whether an ICMPv6 type quotes a packet: types below 128 (RFC 4443 §2.1).
func IsError6(typ uint8) bool { return typ < 128 }

// ParseError4 reads an ICMPv4 error message, b beginning at the ICMP header.
// The checksum is not verified: the kernel has done so.
func ParseError4(b []byte) (ErrorMessage, error) {
	if len(b) < 8 {
		return ErrorMessage{}, fmt.Errorf("icmp error of %d bytes: %w", len(b), ErrQuote)
	}
	m := ErrorMessage{Type: b[0], Code: b[1]}
	if !IsError4(m.Type) {
		return ErrorMessage{}, fmt.Errorf("icmp type %d quotes no packet: %w", m.Type, ErrQuote)
	}
	if m.Type == 3 && m.Code == 4 {
		m.MTU = int(binary.BigEndian.Uint16(b[6:]))
	}
	claimed := 0
	if m.Type == 3 || m.Type == 11 || m.Type == 12 { // RFC 4884 §4: only these may be extended
		claimed = int(b[5]) * 4
	}
	return m.fill(b[8:], claimed, m.Type == 3 || m.Type == 11 || m.Type == 12)
}

// ParseError6 reads an ICMPv6 error message, b beginning at the ICMPv6 header.
func ParseError6(b []byte) (ErrorMessage, error) {
	if len(b) < 8 {
		return ErrorMessage{}, fmt.Errorf("icmpv6 error of %d bytes: %w", len(b), ErrQuote)
	}
	m := ErrorMessage{Type: b[0], Code: b[1]}
	if !IsError6(m.Type) {
		return ErrorMessage{}, fmt.Errorf("icmpv6 type %d quotes no packet: %w", m.Type, ErrQuote)
	}
	if m.Type == 2 {
		m.MTU = int(min(binary.BigEndian.Uint32(b[4:]), 1<<20))
	}
	claimed := 0
	if m.Type == 1 || m.Type == 3 {
		claimed = int(b[4]) * 8 // RFC 4884 §4.4: 64-bit words
	}
	return m.fill(b[8:], claimed, m.Type == 1 || m.Type == 3)
}

// fill parses what follows the eight bytes of ICMP header.
func (m ErrorMessage) fill(body []byte, claimed int, extensible bool) (ErrorMessage, error) {
	quoted := body
	if extensible {
		var ext []byte
		quoted, ext = splitExtensions(body, claimed)
		if e, err := ParseExtensions(ext); err == nil {
			m.Extensions = e
		} else {
			quoted = body
		}
	}
	q, err := ParseQuote(quoted)
	if err != nil {
		return ErrorMessage{}, err
	}
	m.Quote = q
	return m, nil
}

// ParseQuote reads a quoted packet, b beginning at its IP header. Transport
// fields are filled as far as bytes are there; fewer than eight are no error.
func ParseQuote(b []byte) (Quote, error) {
	if len(b) == 0 {
		return Quote{}, fmt.Errorf("nothing quoted: %w", ErrQuote)
	}
	switch b[0] >> 4 {
	case 4:
		return parseQuote4(b)
	case 6:
		return parseQuote6(b)
	}
	return Quote{}, fmt.Errorf("quoted ip version %d: %w", b[0]>>4, ErrQuote)
}

func parseQuote4(b []byte) (Quote, error) {
	hl := int(b[0]&0x0f) * 4
	if hl < 20 || len(b) < hl {
		return Quote{}, fmt.Errorf("quoted ipv4 header of %d bytes in %d: %w", hl, len(b), ErrQuote)
	}
	frag := binary.BigEndian.Uint16(b[6:])
	q := Quote{
		Version: 4, TOS: b[1], TTL: b[8], Proto: b[9],
		Length:   int(binary.BigEndian.Uint16(b[2:])),
		ID:       binary.BigEndian.Uint16(b[4:]),
		DF:       frag&0x4000 != 0,
		Offset:   int(frag&0x1fff) * 8,
		Checksum: binary.BigEndian.Uint16(b[10:]),
		Src:      netip.AddrFrom4([4]byte(b[12:16])),
		Dst:      netip.AddrFrom4([4]byte(b[16:20])),
	}
	q.transport(b[hl:])
	return q, nil
}

func parseQuote6(b []byte) (Quote, error) {
	if len(b) < 40 {
		return Quote{}, fmt.Errorf("quoted ipv6 header of %d bytes: %w", len(b), ErrQuote)
	}
	q := Quote{
		Version: 6, TOS: b[0]<<4 | b[1]>>4, TTL: b[7], Proto: b[6],
		Length: 40 + int(binary.BigEndian.Uint16(b[4:])),
		Src:    netip.AddrFrom16([16]byte(b[8:24])),
		Dst:    netip.AddrFrom16([16]byte(b[24:40])),
	}
	rest := b[40:]
	for range maxQuotedHeaders {
		n := 0
		switch q.Proto {
		case 0, 43, 60: // hop-by-hop, routing, destination options (RFC 8200 §4)
			if len(rest) >= 2 {
				n = 8 + int(rest[1])*8
			}
		case 44: // fragment
			if len(rest) >= 8 {
				n = 8
				q.Offset = int(binary.BigEndian.Uint16(rest[2:]) &^ 7)
			}
		}
		if n == 0 || n > len(rest) {
			break
		}
		q.Proto, rest = rest[0], rest[n:]
		if q.Offset != 0 {
			break
		}
	}
	q.transport(rest)
	return q, nil
}

// transport fills the fields that the quoted transport bytes give.
func (q *Quote) transport(b []byte) {
	q.Transport, q.TransportLen = b, len(b)
	if q.Offset != 0 || len(b) < 4 {
		return
	}
	u16 := func(i int) uint16 {
		if len(b) < i+2 {
			return 0
		}
		return binary.BigEndian.Uint16(b[i:])
	}
	switch q.Proto {
	case ProtoUDP:
		q.SrcPort, q.DstPort, q.UDPLength, q.UDPChecksum = u16(0), u16(2), u16(4), u16(6)
	case ProtoTCP:
		q.SrcPort, q.DstPort = u16(0), u16(2)
		q.TCPSeq = uint32(u16(4))<<16 | uint32(u16(6))
	case ProtoICMP, ProtoICMPv6:
		q.ICMPType, q.ICMPCode, q.ICMPChecksum, q.ICMPID, q.ICMPSeq = b[0], b[1], u16(2), u16(4), u16(6)
	}
}
