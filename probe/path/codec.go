package path

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"fathom/internal/wire"
)

// codec writes the probes of one flow and recognises them in what comes back.
type codec interface {
	// encode gives transport header and payload of a probe.
	encode(p packet) []byte
	// quoted finds the probe that an ICMP error quotes.
	quoted(q wire.Quote) (id int, ok bool)
}

// ipHeaderLen is the IP header in front of our probes, in bytes.
func ipHeaderLen(v6 bool) int {
	if v6 {
		return wire.IPv6HeaderLen
	}
	return wire.IPv4HeaderLen
}

// payloadLen is what remains of an IP packet of size bytes behind its headers,
// at least what the codec needs to tell probes apart.
func payloadLen(size int, v6 bool, header, least int) int {
	return max(size-ipHeaderLen(v6)-header, least)
}

// echoCodec makes ICMP echo requests. The probe's ID is the sequence number;
// the first two payload bytes are its complement, so the checksum, on which some
// routers balance, stays the same for all probes of one size.
type echoCodec struct {
	v6    bool
	id    uint16 // ICMP identifier
	anyID bool   // the socket's own identifier is used and only our own errors come
}

// echoIDs counts identifiers from a random start, so that traces of this process
// never share one, and hardly ever one with another process.
var echoIDs = func() *atomic.Uint32 {
	var v atomic.Uint32
	v.Store(rand.Uint32())
	return &v
}()

func newEchoCodec(v6 bool) *echoCodec {
	return &echoCodec{v6: v6, id: uint16(echoIDs.Add(1))}
}

// echoLeast is the complement and two spare bytes.
const echoLeast = 4

func (c *echoCodec) encode(p packet) []byte {
	payload := make([]byte, payloadLen(p.Size, c.v6, wire.ICMPHeaderLen, echoLeast))
	binary.BigEndian.PutUint16(payload, ^uint16(p.ID))
	return wire.AppendEchoRequest(nil, c.v6, netip.Addr{}, netip.Addr{}, c.id, uint16(p.ID), payload)
}

func (c *echoCodec) quoted(q wire.Quote) (int, bool) {
	typ, proto := uint8(wire.ICMPEchoRequest), uint8(wire.ProtoICMP)
	if c.v6 {
		typ, proto = wire.ICMP6EchoRequest, wire.ProtoICMPv6
	}
	if q.Proto != proto || q.TransportLen < wire.ICMPHeaderLen || q.Offset != 0 ||
		q.ICMPType != typ || q.ICMPCode != 0 || (!c.anyID && q.ICMPID != c.id) {
		return 0, false
	}
	return int(q.ICMPSeq), true
}

// reply finds the probe that an echo reply, b beginning at the ICMP header, answers.
func (c *echoCodec) reply(b []byte) (id int, ok bool) {
	typ := uint8(wire.ICMPEchoReply)
	if c.v6 {
		typ = wire.ICMP6EchoReply
	}
	if len(b) < wire.ICMPHeaderLen || b[0] != typ || b[1] != 0 {
		return 0, false
	}
	if !c.anyID && binary.BigEndian.Uint16(b[4:]) != c.id {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(b[6:])), true
}

// udpCodec makes UDP payloads that begin with the probe's ID and a mark. Where a
// router quotes only eight bytes of transport, the UDP checksum, which differs
// with the ID, still tells.
type udpCodec struct {
	v6       bool
	src, dst netip.AddrPort
	mark     uint16
}

func newUDPCodec(src, dst netip.AddrPort) *udpCodec {
	return &udpCodec{v6: dst.Addr().Is6(), src: src, dst: dst, mark: uint16(rand.N(0x10000))}
}

// udpLeast is ID and mark.
const udpLeast = 4

func (c *udpCodec) encode(p packet) []byte {
	b := make([]byte, payloadLen(p.Size, c.v6, wire.UDPHeaderLen, udpLeast))
	binary.BigEndian.PutUint16(b, uint16(p.ID))
	binary.BigEndian.PutUint16(b[2:], c.mark)
	return b
}

func (c *udpCodec) quoted(q wire.Quote) (int, bool) {
	if q.Proto != wire.ProtoUDP || q.SrcPort != c.src.Port() || q.DstPort != c.dst.Port() || q.TransportLen < wire.UDPHeaderLen {
		return 0, false
	}
	if q.TransportLen >= wire.UDPHeaderLen+udpLeast {
		return c.payload(q.Transport[wire.UDPHeaderLen:])
	}
	// The sum over the packet is that of ID 0 plus the ID (RFC 1071).
	sum := uint32(^q.UDPChecksum) + uint32(c.checksumZero(q))
	id := int(uint16(sum + sum>>16))
	return id, id >= 1 && id <= maxID
}

// checksumZero is the checksum that a probe of the quoted length with ID 0 would carry.
func (c *udpCodec) checksumZero(q wire.Quote) uint16 {
	if int(q.UDPLength) < wire.UDPHeaderLen+udpLeast {
		return 0
	}
	b := make([]byte, q.UDPLength)
	binary.BigEndian.PutUint16(b, c.src.Port())
	binary.BigEndian.PutUint16(b[2:], c.dst.Port())
	binary.BigEndian.PutUint16(b[4:], q.UDPLength)
	binary.BigEndian.PutUint16(b[10:], c.mark)
	return wire.PseudoChecksum(c.src.Addr().WithZone(""), c.dst.Addr().WithZone(""), wire.ProtoUDP, b)
}

// payload finds the probe by what it carried.
func (c *udpCodec) payload(b []byte) (int, bool) {
	if len(b) < udpLeast || binary.BigEndian.Uint16(b[2:]) != c.mark {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(b)), true
}

// tcpCodec makes SYNs. The probe's ID is added to the initial sequence number,
// which routers quote and which the target acknowledges.
type tcpCodec struct {
	src, dst netip.AddrPort
	isn      uint32
}

func newTCPCodec(src, dst netip.AddrPort) *tcpCodec {
	return &tcpCodec{src: src, dst: dst, isn: rand.Uint32()}
}

func (c *tcpCodec) encode(p packet) []byte {
	h := wire.TCP{
		SrcPort: c.src.Port(), DstPort: c.dst.Port(), Seq: c.isn + uint32(p.ID),
		Flags: wire.TCPSyn, Window: 64240, MSS: 1460,
	}
	b := h.Append(nil)
	sum := wire.PseudoChecksum(c.src.Addr().WithZone(""), c.dst.Addr().WithZone(""), wire.ProtoTCP, b)
	binary.BigEndian.PutUint16(b[16:], sum)
	return b
}

func (c *tcpCodec) quoted(q wire.Quote) (int, bool) {
	if q.Proto != wire.ProtoTCP || q.SrcPort != c.src.Port() || q.DstPort != c.dst.Port() || q.TransportLen < 8 {
		return 0, false
	}
	return c.byOffset(q.TCPSeq - c.isn)
}

// reply finds the probe that a segment, b beginning at the TCP header, answers:
// SYN-ACK or RST of the target.
func (c *tcpCodec) reply(b []byte) (int, bool) {
	h, _, err := wire.ParseTCP(b)
	if err != nil || h.SrcPort != c.dst.Port() || h.DstPort != c.src.Port() ||
		!h.Has(wire.TCPAck) || (!h.Has(wire.TCPSyn) && !h.Has(wire.TCPRst)) {
		return 0, false
	}
	return c.byOffset(h.Ack - 1 - c.isn)
}

func (c *tcpCodec) byOffset(off uint32) (int, bool) {
	return int(off), off >= 1 && off <= maxID
}
