package emulator

import (
	"encoding/binary"
	"math/bits"
)

// EtherTypes and protocol numbers of the IANA registries.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	etherHeader = 14
)

// frameInfo is where things are in an Ethernet frame. Offsets are from the
// frame's first byte; l4 and payload are 0 when there is no such part (not IP, a
// later fragment, cut short).
type frameInfo struct {
	etherType uint16 // of what the VLAN tags, if any, carry
	l3        int    // first byte after Ethernet and VLAN headers
	end       int    // end of the IP packet; after it comes padding
	proto     uint8
	dscp      uint8
	l4        int
	payload   int    // after the TCP or UDP header
	addrs     []byte // source and destination address, one after the other
}

// ipLen is the length that an MTU limits, in bytes.
func (f frameInfo) ipLen() int { return f.end - f.l3 }

func (f frameInfo) isIP() bool { return f.addrs != nil }

// parseFrame looks into an Ethernet frame. It never fails: what cannot be read is
// left out, as a cable forwards broken frames too.
func parseFrame(b []byte) frameInfo {
	var f frameInfo
	f.end = len(b)
	if len(b) < etherHeader {
		f.l3 = len(b)
		return f
	}
	f.etherType, f.l3 = binary.BigEndian.Uint16(b[12:]), etherHeader
	for range 2 { // a tag in a tag at most
		if (f.etherType != etherVLAN && f.etherType != etherQinQ) || len(b) < f.l3+4 {
			break
		}
		f.etherType = binary.BigEndian.Uint16(b[f.l3+2:])
		f.l3 += 4
	}
	switch f.etherType {
	case etherIPv4:
		f.parseIPv4(b)
	case etherIPv6:
		f.parseIPv6(b)
	}
	if f.l4 > 0 {
		f.findPayload(b)
	}
	return f
}

func (f *frameInfo) parseIPv4(b []byte) {
	ip := b[f.l3:]
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return
	}
	hlen, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if total == 0 { // TCP segmentation offload above 64 KiB
		total = len(ip)
	}
	if hlen < 20 || total < hlen || total > len(ip) {
		return
	}
	f.end, f.dscp, f.proto, f.addrs = f.l3+total, ip[1]>>2, ip[9], ip[12:20]
	if binary.BigEndian.Uint16(ip[6:])&0x1fff == 0 { // not a later fragment
		f.l4 = f.l3 + hlen
	}
}

func (f *frameInfo) parseIPv6(b []byte) {
	ip := b[f.l3:]
	if len(ip) < 40 || ip[0]>>4 != 6 {
		return
	}
	plen := int(binary.BigEndian.Uint16(ip[4:]))
	if plen == 0 || 40+plen > len(ip) { // jumbo or offload
		plen = len(ip) - 40
	}
	f.end, f.dscp, f.addrs = f.l3+40+plen, (ip[0]<<4|ip[1]>>4)>>2, ip[8:40]
	next, at := ip[6], f.l3+40
	for range 8 { // RFC 8200 §4.1 lists fewer headers than this
		switch next {
		case 0, 43, 60, 135: // hop-by-hop, routing, destination options, mobility
			if at+8 > f.end {
				return
			}
			next, at = b[at], at+8+int(b[at+1])*8
		case 44: // fragment
			if at+8 > f.end {
				return
			}
			later := binary.BigEndian.Uint16(b[at+2:])&0xfff8 != 0
			next, at = b[at], at+8
			if later {
				f.proto = next
				return
			}
		default:
			f.proto = next
			if at < f.end {
				f.l4 = at
			}
			return
		}
	}
}

func (f *frameInfo) findPayload(b []byte) {
	n := 0
	switch f.proto {
	case protoTCP:
		if f.l4+20 <= f.end {
			n = int(b[f.l4+12]>>4) * 4
		}
	case protoUDP, protoICMP, protoICMPv6:
		n = 8
	}
	if n >= 8 && f.l4+n < f.end {
		f.payload = f.l4 + n
	}
}

// ports gives the TCP or UDP ports, or 0, 0.
func (f frameInfo) ports(b []byte) (src, dst uint16) {
	if (f.proto != protoTCP && f.proto != protoUDP) || f.l4 == 0 || f.l4+4 > f.end {
		return 0, 0
	}
	return binary.BigEndian.Uint16(b[f.l4:]), binary.BigEndian.Uint16(b[f.l4+2:])
}

// flowHash spreads flows evenly and always puts one flow in the same place.
func (f frameInfo) flowHash(b []byte, salt uint64) uint64 {
	h := mix(salt ^ 0x9e3779b97f4a7c15)
	for i := 0; i+4 <= len(f.addrs); i += 4 {
		h = mix(h ^ uint64(binary.BigEndian.Uint32(f.addrs[i:])))
	}
	h = mix(h ^ uint64(f.proto))
	if f.l4 > 0 && f.l4+8 <= f.end {
		switch f.proto {
		case protoTCP, protoUDP:
			h = mix(h ^ uint64(binary.BigEndian.Uint32(b[f.l4:])))
		case protoICMP, protoICMPv6:
			if t := b[f.l4]; t == 8 || t == 0 || t == 128 || t == 129 { // echo: its identifier
				h = mix(h ^ uint64(binary.BigEndian.Uint16(b[f.l4+4:])))
			}
		}
	}
	return h
}

// mix is the finaliser of splitmix64: every input bit moves every output bit.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// flipBit damages one bit beyond the IP header, in the transport payload where
// there is one, chosen by r. With fix the transport checksum is made to fit again.
// It reports whether a bit was flipped.
func flipBit(b []byte, r uint64, fix bool) bool {
	f := parseFrame(b)
	from := f.payload
	if from == 0 && !fix {
		if from = f.l4; from == 0 {
			if from = f.l3; f.isIP() {
				from = min(f.l3+20*(len(f.addrs)/8), f.end) // a later fragment: its data
			}
		}
	}
	if from <= 0 || from >= f.end {
		return false
	}
	at, bit := from+int(r%uint64(f.end-from)), byte(1)<<(r>>32&7)
	old := b[at]
	b[at] ^= bit
	if fix && !fixChecksum(b, f, at, old) {
		b[at] = old
		return false
	}
	return true
}

// fixChecksum updates the transport checksum for the byte at `at` that was old
// (RFC 1624).
func fixChecksum(b []byte, f frameInfo, at int, old byte) bool {
	off := 0
	switch f.proto {
	case protoTCP:
		off = f.l4 + 16
	case protoUDP:
		off = f.l4 + 6
	case protoICMP, protoICMPv6:
		off = f.l4 + 2
	default:
		return false
	}
	if f.l4 == 0 || off+2 > f.end || at < f.l4 {
		return false
	}
	sum := binary.BigEndian.Uint16(b[off:])
	if f.proto == protoUDP && sum == 0 { // no checksum in use
		return true
	}
	shift := 8 * uint(1-(at-f.l4)&1)
	s := uint32(^sum) + uint32(^(uint16(old) << shift)) + uint32(uint16(b[at])<<shift)
	s = s&0xffff + s>>16
	s = s&0xffff + s>>16
	binary.BigEndian.PutUint16(b[off:], ^uint16(s))
	return true
}

// completeChecksum writes the Internet checksum over b[start:] at start+offset,
// where the pseudo-header's sum already stands: what a network card does for a
// frame with CHECKSUM_PARTIAL. It reports whether the place is inside the frame.
func completeChecksum(b []byte, start, offset int) bool {
	if start < 0 || offset < 0 || start+offset+2 > len(b) {
		return false
	}
	end := len(b)
	if f := parseFrame(b); f.isIP() && f.end > start+offset+1 {
		end = f.end // padding does not count
	}
	sum := ^onesSum(b[start:end])
	if sum == 0 {
		sum = 0xffff // RFC 768: 0 would mean "none"; for TCP the two are the same number
	}
	binary.BigEndian.PutUint16(b[start+offset:], sum)
	return true
}

// onesSum is the ones' complement sum of RFC 1071.
func onesSum(b []byte) uint16 {
	var s, c uint64
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.BigEndian.Uint64(b), c)
		b = b[8:]
	}
	var tail [8]byte
	copy(tail[:], b)
	s, c = bits.Add64(s, binary.BigEndian.Uint64(tail[:]), c)
	s, c = bits.Add64(s, 0, c)
	s += c
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}
