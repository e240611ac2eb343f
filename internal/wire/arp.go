package wire

import "net/netip"

// ARP operations (RFC 826).
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARPLen is the length of an Ethernet/IPv4 ARP packet in bytes.
const ARPLen = 28

// ARP is an ARP packet for IPv4 over Ethernet (RFC 826).
type ARP struct {
	Op        uint16
	SenderMAC MAC
	SenderIP  netip.Addr
	TargetMAC MAC
	TargetIP  netip.Addr
}

// Announcement reports whether the sender states its own address unasked
// (gratuitous ARP, RFC 5227 §3).
func (a ARP) Announcement() bool { return a.SenderIP == a.TargetIP }

// ParseARP reads an ARP packet; other hardware or protocol kinds are [ErrInvalid].
func ParseARP(b []byte) (ARP, error) {
	if len(b) < ARPLen {
		return ARP{}, short("arp", len(b), ARPLen)
	}
	if hw := be.Uint16(b); hw != 1 {
		return ARP{}, invalid("arp", "hardware type", int(hw))
	}
	if p := be.Uint16(b[2:]); p != EtherIPv4 {
		return ARP{}, invalid("arp", "protocol type", int(p))
	}
	if b[4] != 6 || b[5] != 4 {
		return ARP{}, invalid("arp", "address lengths", int(b[4])<<8|int(b[5]))
	}
	return ARP{
		Op:        be.Uint16(b[6:]),
		SenderMAC: MAC(b[8:14]), SenderIP: netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC: MAC(b[18:24]), TargetIP: netip.AddrFrom4([4]byte(b[24:28])),
	}, nil
}

// Append writes the packet; addresses that are not IPv4 are written as 0.0.0.0.
func (a ARP) Append(b []byte) []byte {
	b = append(b, 0, 1, 8, 0, 6, 4)
	b = be.AppendUint16(b, a.Op)
	b = append4(append(b, a.SenderMAC[:]...), a.SenderIP)
	return append4(append(b, a.TargetMAC[:]...), a.TargetIP)
}
