package wire

import "net/netip"

// ICMP message types that fathom handles. Those of ICMPv6 carry a 6.
const (
	ICMPEchoReply       = 0
	ICMPUnreachable     = 3
	ICMPRedirect        = 5
	ICMPEchoRequest     = 8
	ICMPTimeExceeded    = 11
	ICMPParamProblem    = 12
	ICMP6Unreachable    = 1
	ICMP6TooBig         = 2
	ICMP6TimeExceeded   = 3
	ICMP6ParamProblem   = 4
	ICMP6EchoRequest    = 128
	ICMP6EchoReply      = 129
	ICMP6RouterSolicit  = 133
	ICMP6RouterAdvert   = 134
	ICMP6NeighbourSol   = 135
	ICMP6NeighbourAdv   = 136
	ICMP6Redirect       = 137
	ICMPCodeFragNeeded  = 4 // of ICMPUnreachable
	ICMPCodePort        = 3 // of ICMPUnreachable
	ICMP6CodePort       = 4 // of ICMP6Unreachable
	ICMPHeaderLen       = 8
	icmpChecksumOffset  = 2
	icmpIdentifierBegin = 4
)

// ICMP is the common header of ICMP (RFC 792) and ICMPv6 (RFC 4443) messages.
type ICMP struct {
	Type, Code uint8
	Checksum   uint16
	Rest       uint32 // second word: identifier and sequence, next-hop MTU, pointer, …
}

// ParseICMP reads the eight bytes that every ICMP message begins with; body is
// what follows: payload of an echo, quoted packet of an error.
func ParseICMP(b []byte) (h ICMP, body []byte, err error) {
	if len(b) < ICMPHeaderLen {
		return h, nil, short("icmp header", len(b), ICMPHeaderLen)
	}
	return ICMP{b[0], b[1], be.Uint16(b[2:]), be.Uint32(b[4:])}, b[ICMPHeaderLen:], nil
}

// ID is the identifier of an echo message.
func (h ICMP) ID() uint16 { return uint16(h.Rest >> 16) }

// Seq is the sequence number of an echo message.
func (h ICMP) Seq() uint16 { return uint16(h.Rest) }

// IsError reports whether the message reports a fault and quotes the packet.
func (h ICMP) IsError(v6 bool) bool {
	if v6 {
		return h.Type < 128
	}
	return h.Type == ICMPUnreachable || h.Type == ICMPTimeExceeded || h.Type == ICMPParamProblem || h.Type == icmpSourceQuench
}

// NextHopMTU is the MTU that a frag-needed (RFC 1191 §4) or packet-too-big
// (RFC 4443 §3.2) message names, in bytes; 0 when it names none.
func (h ICMP) NextHopMTU(v6 bool) int {
	switch {
	case v6 && h.Type == ICMP6TooBig:
		return int(min(h.Rest, 1<<31-1))
	case !v6 && h.Type == ICMPUnreachable && h.Code == ICMPCodeFragNeeded:
		return int(h.Rest & 0xffff)
	}
	return 0
}

// Append writes the message with checksum. src and dst are needed for ICMPv6
// (its checksum has a pseudo header) and make the message one when they are
// IPv6 addresses; zero Addrs write an ICMPv4 message.
func (h ICMP) Append(b []byte, src, dst netip.Addr, body []byte) []byte {
	at := len(b)
	b = append(b, h.Type, h.Code, 0, 0)
	b = be.AppendUint32(b, h.Rest)
	b = append(b, body...)
	var sum uint16
	if src.Is6() && dst.Is6() {
		sum = PseudoChecksum(src, dst, ProtoICMPv6, b[at:])
	} else {
		sum = Checksum(b[at:])
	}
	be.PutUint16(b[at+icmpChecksumOffset:], sum)
	return b
}

// AppendEchoRequest writes an echo request with checksum; see [ICMP.Append] for
// src and dst. For ICMPv6 sockets, where the kernel computes the checksum, v6
// may be true with zero addresses.
func AppendEchoRequest(b []byte, v6 bool, src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	typ := uint8(ICMPEchoRequest)
	if v6 {
		typ = ICMP6EchoRequest
	}
	return ICMP{Type: typ, Rest: uint32(id)<<16 | uint32(seq)}.Append(b, src, dst, payload)
}

// SetEchoSeq rewrites the sequence number of an ICMPv4 echo message in place
// and mends its checksum incrementally (RFC 1624), so that a hot path need not
// sum the payload again. Messages shorter than a header are left alone.
func SetEchoSeq(msg []byte, seq uint16) {
	if len(msg) < ICMPHeaderLen {
		return
	}
	old := be.Uint16(msg[icmpIdentifierBegin+2:])
	sum := be.Uint16(msg[icmpChecksumOffset:])
	s := fold(uint64(^sum) + uint64(^old) + uint64(seq))
	be.PutUint16(msg[icmpChecksumOffset:], ^s)
	be.PutUint16(msg[icmpIdentifierBegin+2:], seq)
}
