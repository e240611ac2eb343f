package wire

import "net/netip"

// Neighbour discovery options (RFC 4861 §4.6).
const (
	ndpSourceLL = 1
	ndpTargetLL = 2
)

// Flags of a neighbour advertisement (RFC 4861 §4.4), in the second ICMP word.
const (
	NDPRouter    = 1 << 31
	NDPSolicited = 1 << 30
	NDPOverride  = 1 << 29
)

// Neighbour is a neighbour solicitation or advertisement (RFC 4861 §4.3, §4.4).
type Neighbour struct {
	Advert bool       // advertisement, not solicitation
	Flags  uint32     // NDPRouter, NDPSolicited, NDPOverride; advertisements only
	Target netip.Addr // the address asked for or advertised
	MAC    MAC        // link-layer option: of the asker, or of the target; zero when absent
}

// ParseNeighbour reads an ICMPv6 message (its header included). Other message
// types are [ErrInvalid]. Malformed options end the walk over them.
func ParseNeighbour(msg []byte) (Neighbour, error) {
	h, b, err := ParseICMP(msg)
	if err != nil {
		return Neighbour{}, err
	}
	if (h.Type != ICMP6NeighbourSol && h.Type != ICMP6NeighbourAdv) || h.Code != 0 {
		return Neighbour{}, invalid("neighbour discovery", "icmpv6 type", int(h.Type))
	}
	if len(b) < 16 {
		return Neighbour{}, short("neighbour discovery", len(b), 16)
	}
	n := Neighbour{Advert: h.Type == ICMP6NeighbourAdv, Target: netip.AddrFrom16([16]byte(b[:16]))}
	want := byte(ndpSourceLL)
	if n.Advert {
		n.Flags, want = h.Rest&(NDPRouter|NDPSolicited|NDPOverride), ndpTargetLL
	}
	for o := b[16:]; len(o) >= 8; {
		size := int(o[1]) * 8
		if size == 0 || size > len(o) {
			break
		}
		if o[0] == want {
			n.MAC = MAC(o[2:8])
			break
		}
		o = o[size:]
	}
	return n, nil
}

// Append writes the ICMPv6 message with checksum for the given IPv6 addresses.
func (n Neighbour) Append(b []byte, src, dst netip.Addr) []byte {
	var body [24]byte
	t := append6(body[:0], n.Target)
	h, opt := ICMP{Type: ICMP6NeighbourSol}, byte(ndpSourceLL)
	if n.Advert {
		h, opt = ICMP{Type: ICMP6NeighbourAdv, Rest: n.Flags}, ndpTargetLL
	}
	if !n.MAC.IsZero() {
		t = append(append(t, opt, 1), n.MAC[:]...)
	}
	return h.Append(b, src, dst, t)
}

// SolicitedNode is the multicast group that the owner of an IPv6 address
// listens to (RFC 4291 §2.7.1), and the MAC it maps to (RFC 2464 §7). The zone
// is dropped.
func SolicitedNode(a netip.Addr) (netip.Addr, MAC) {
	var x [16]byte
	if a.Is6() {
		x = a.As16()
	}
	g := [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: x[13], 14: x[14], 15: x[15]}
	return netip.AddrFrom16(g), MAC{0x33, 0x33, 0xff, x[13], x[14], x[15]}
}
