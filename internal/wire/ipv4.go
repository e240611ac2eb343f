package wire

import "net/netip"

// IPv4HeaderLen is the length of an IPv4 header without options, in bytes.
const IPv4HeaderLen = 20

// IPv4 is an IPv4 header (RFC 791 §3.1). Options are skipped.
type IPv4 struct {
	HeaderLen  int   // bytes, options included
	TOS        uint8 // DSCP and ECN
	Total      int   // bytes by the header's own word; 0 in captures of BIG TCP
	ID         uint16
	DF, MF     bool
	FragOffset int // bytes
	TTL        uint8
	Protocol   uint8
	Checksum   uint16
	Src, Dst   netip.Addr
}

// Fragment reports whether the packet is a part of a larger one other than its
// first: no upper-layer header follows then.
func (h IPv4) Fragment() bool { return h.FragOffset > 0 }

// ParseIPv4 reads a header. The payload is cut at the packet's own length, so
// that link-layer padding is left out; it is shorter than the header says when
// the input is (a quoted or snapped packet). The checksum is not verified: on
// packet sockets it may not have been computed yet, and routers spoil it in
// quotes; use [IPv4Valid] where it matters.
func ParseIPv4(b []byte) (h IPv4, payload []byte, err error) {
	if len(b) < IPv4HeaderLen {
		return h, nil, short("ipv4 header", len(b), IPv4HeaderLen)
	}
	if v := int(b[0] >> 4); v != 4 {
		return h, nil, invalid("ipv4 header", "version", v)
	}
	n := int(b[0]&15) * 4
	if n < IPv4HeaderLen {
		return h, nil, invalid("ipv4 header", "header length", n)
	}
	if len(b) < n {
		return h, nil, short("ipv4 options", len(b), n)
	}
	flags := be.Uint16(b[6:])
	h = IPv4{
		HeaderLen: n, TOS: b[1], Total: int(be.Uint16(b[2:])), ID: be.Uint16(b[4:]),
		DF: flags&0x4000 != 0, MF: flags&0x2000 != 0, FragOffset: int(flags&0x1fff) * 8,
		TTL: b[8], Protocol: b[9], Checksum: be.Uint16(b[10:]),
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
	}
	end := len(b)
	switch {
	case h.Total == 0:
	case h.Total < n:
		return h, nil, invalid("ipv4 header", "total length", h.Total)
	case h.Total < end:
		end = h.Total
	}
	return h, b[n:end], nil
}

// IPv4Valid reports whether the header checksum is right.
func IPv4Valid(b []byte) bool {
	if len(b) < IPv4HeaderLen {
		return false
	}
	n := int(b[0]&15) * 4
	return n >= IPv4HeaderLen && n <= len(b) && Checksum(b[:n]) == 0
}

// Append writes the header without options, with checksum, for a payload of
// payloadLen bytes. HeaderLen, Total and Checksum of h are ignored. Invalid
// addresses are written as 0.0.0.0.
func (h IPv4) Append(b []byte, payloadLen int) []byte {
	at := len(b)
	flags := uint16(h.FragOffset/8) & 0x1fff
	if h.DF {
		flags |= 0x4000
	}
	if h.MF {
		flags |= 0x2000
	}
	b = append(b, 0x45, h.TOS)
	b = be.AppendUint16(b, uint16(IPv4HeaderLen+payloadLen))
	b = be.AppendUint16(b, h.ID)
	b = be.AppendUint16(b, flags)
	b = append(b, h.TTL, h.Protocol, 0, 0)
	b = append4(append4(b, h.Src), h.Dst)
	be.PutUint16(b[at+10:], Checksum(b[at:]))
	return b
}

func append4(b []byte, a netip.Addr) []byte {
	a = a.Unmap()
	if !a.Is4() {
		return append(b, 0, 0, 0, 0)
	}
	x := a.As4()
	return append(b, x[:]...)
}

func append6(b []byte, a netip.Addr) []byte {
	var x [16]byte
	if a.Is6() {
		x = a.As16()
	}
	return append(b, x[:]...)
}
