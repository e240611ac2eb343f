package wire

import "encoding/hex"

// EtherTypes (IEEE 802, linux/if_ether.h).
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherVLAN = 0x8100
	EtherIPv6 = 0x86dd
	EtherQinQ = 0x88a8
)

// EthernetHeaderLen is the length of an untagged Ethernet II header in bytes.
const EthernetHeaderLen = 14

// MAC is a 48-bit hardware address.
type MAC [6]byte

// Broadcast is the address of everybody on the link.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// String is the usual form, 02:00:5e:10:00:01.
func (m MAC) String() string {
	var b [17]byte
	for i, x := range m {
		if i > 0 {
			b[i*3-1] = ':'
		}
		hex.Encode(b[i*3:i*3+2], []byte{x})
	}
	return string(b[:])
}

// IsZero reports whether the address is not set.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsGroup reports whether it is a multicast or broadcast address.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// Ethernet is an Ethernet II header with at most one VLAN tag (IEEE 802.1Q).
type Ethernet struct {
	Dst, Src MAC
	Type     uint16 // of the payload, after the tag
	Tagged   bool
	TCI      uint16 // priority, DEI and VLAN id of the tag
}

// VLAN is the VLAN id of the tag.
func (h Ethernet) VLAN() int { return int(h.TCI & 0xfff) }

// ParseEthernet reads a header with none or one tag.
func ParseEthernet(b []byte) (h Ethernet, payload []byte, err error) {
	if len(b) < EthernetHeaderLen {
		return h, nil, short("ethernet header", len(b), EthernetHeaderLen)
	}
	h = Ethernet{Dst: MAC(b[:6]), Src: MAC(b[6:12]), Type: be.Uint16(b[12:])}
	b = b[EthernetHeaderLen:]
	if h.Type == EtherVLAN || h.Type == EtherQinQ {
		if len(b) < 4 {
			return h, nil, short("vlan tag", len(b), 4)
		}
		h.Tagged, h.TCI, h.Type = true, be.Uint16(b), be.Uint16(b[2:])
		b = b[4:]
	}
	return h, b, nil
}

// Append writes the header, with an 802.1Q tag when Tagged.
func (h Ethernet) Append(b []byte) []byte {
	b = append(append(b, h.Dst[:]...), h.Src[:]...)
	if h.Tagged {
		b = be.AppendUint16(b, EtherVLAN)
		b = be.AppendUint16(b, h.TCI)
	}
	return be.AppendUint16(b, h.Type)
}
