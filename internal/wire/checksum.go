package wire

import "net/netip"

// Checksum is the Internet checksum of RFC 1071 over b. Over data that already
// holds a right checksum it gives 0.
func Checksum(b []byte) uint16 { return ^fold(sum(0, b)) }

// PseudoChecksum is the checksum of an upper-layer packet with the IPv4 or IPv6
// pseudo header (RFC 9293 §3.1, RFC 8200 §8.1) of src, dst and proto before it.
// Addresses of different or no family give the checksum without pseudo header;
// an IPv4-mapped address counts as IPv6, unmap it first when IPv4 is meant.
func PseudoChecksum(src, dst netip.Addr, proto uint8, b []byte) uint16 {
	var s uint64
	switch {
	case src.Is4() && dst.Is4():
		x, y := src.As4(), dst.As4()
		s = sum(sum(uint64(proto)+uint64(len(b)), x[:]), y[:])
	case src.Is6() && dst.Is6():
		x, y := src.As16(), dst.As16()
		s = sum(sum(uint64(proto)+uint64(len(b)), x[:]), y[:])
	}
	return ^fold(sum(s, b))
}

// sum adds the 16-bit words of b to s; an odd last byte is padded with zero.
// 64 bits cannot overflow for any slice that fits into memory.
func sum(s uint64, b []byte) uint64 {
	for len(b) >= 4 {
		s += uint64(be.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(be.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
