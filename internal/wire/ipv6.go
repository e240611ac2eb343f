package wire

import "net/netip"

// IPv6HeaderLen is the length of the fixed IPv6 header, in bytes.
const IPv6HeaderLen = 40

// maxExtensions bounds the chain of extension headers that is followed. Honest
// packets have at most one of each of the seven kinds.
const maxExtensions = 10

// Extension headers (IANA "IPv6 Extension Header Types"); ESP hides what
// follows and therefore counts as the upper layer.
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extAH       = 51
	extDstOpts  = 60
	extMobility = 135
	extHIP      = 139
	extShim6    = 140
)

// IPv6 is an IPv6 header with its extension headers skipped (RFC 8200).
type IPv6 struct {
	HeaderLen    int // bytes, extension headers included
	TrafficClass uint8
	FlowLabel    uint32
	PayloadLen   int   // bytes after the fixed header by its own word; 0 for jumbograms
	NextHeader   uint8 // as in the fixed header
	Protocol     uint8 // upper-layer protocol after the extension headers
	HopLimit     uint8
	Fragmented   bool // has a fragment header
	MF           bool // more fragments follow
	FragOffset   int  // bytes
	FragID       uint32
	Src, Dst     netip.Addr // without zone
}

// Fragment reports whether the packet is a part of a larger one other than its
// first: no upper-layer header follows then.
func (h IPv6) Fragment() bool { return h.FragOffset > 0 }

// ParseIPv6 reads a header and skips extension headers up to the upper layer
// or to the end of a non-first fragment's headers. As with [ParseIPv4] the
// payload is cut at the packet's own length and may be shorter. When the input
// ends inside the extension headers, h is filled as far as known and the error
// wraps [ErrShort].
func ParseIPv6(b []byte) (h IPv6, payload []byte, err error) {
	if len(b) < IPv6HeaderLen {
		return h, nil, short("ipv6 header", len(b), IPv6HeaderLen)
	}
	if v := int(b[0] >> 4); v != 6 {
		return h, nil, invalid("ipv6 header", "version", v)
	}
	vtf := be.Uint32(b)
	h = IPv6{
		HeaderLen: IPv6HeaderLen, TrafficClass: uint8(vtf >> 20), FlowLabel: vtf & 0xfffff,
		PayloadLen: int(be.Uint16(b[4:])), NextHeader: b[6], Protocol: b[6], HopLimit: b[7],
		Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
	}
	if end := IPv6HeaderLen + h.PayloadLen; h.PayloadLen > 0 && end < len(b) {
		b = b[:end]
	}
	if err := h.skipExtensions(b); err != nil {
		return h, nil, err
	}
	return h, b[h.HeaderLen:], nil
}

// skipExtensions moves HeaderLen and Protocol past the extension headers.
func (h *IPv6) skipExtensions(b []byte) error {
	for range maxExtensions {
		rest, n := b[h.HeaderLen:], 0
		switch h.Protocol {
		default:
			return nil
		case extFragment:
			n = 8
		case extHopByHop, extRouting, extDstOpts, extMobility, extHIP, extShim6, extAH:
			if len(rest) < 2 {
				return short("ipv6 extension header", len(rest), 8)
			}
			n = int(rest[1])*8 + 8
			if h.Protocol == extAH { // counts in 4-byte units, RFC 4302 §2.2
				n = int(rest[1])*4 + 8
			}
		}
		if len(rest) < n {
			return short("ipv6 extension header", len(rest), n)
		}
		if h.Protocol == extFragment {
			off := be.Uint16(rest[2:])
			h.Fragmented, h.MF, h.FragOffset, h.FragID = true, off&1 != 0, int(off&^7), be.Uint32(rest[4:])
		}
		h.Protocol = rest[0]
		h.HeaderLen += n
		if h.FragOffset > 0 {
			return nil
		}
	}
	return invalid("ipv6 header", "more extension headers than", maxExtensions)
}

// Append writes the fixed header for a payload of payloadLen bytes of Protocol;
// extension headers are not written. Addresses that are not IPv6 are written as ::.
func (h IPv6) Append(b []byte, payloadLen int) []byte {
	b = be.AppendUint32(b, 6<<28|uint32(h.TrafficClass)<<20|h.FlowLabel&0xfffff)
	b = be.AppendUint16(b, uint16(payloadLen))
	b = append(b, h.Protocol, h.HopLimit)
	return append6(append6(b, h.Src), h.Dst)
}
