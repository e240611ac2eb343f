package wire

// UDPHeaderLen is the length of a UDP header in bytes.
const UDPHeaderLen = 8

// UDP is a UDP header (RFC 768).
type UDP struct {
	SrcPort, DstPort uint16
	Length           int // bytes, header included, by its own word; 0 for jumbograms
	Checksum         uint16
}

// ParseUDP reads a header; the payload is cut at the datagram's own length and
// may be shorter when the input is.
func ParseUDP(b []byte) (h UDP, payload []byte, err error) {
	if len(b) < UDPHeaderLen {
		return h, nil, short("udp header", len(b), UDPHeaderLen)
	}
	h = UDP{be.Uint16(b), be.Uint16(b[2:]), int(be.Uint16(b[4:])), be.Uint16(b[6:])}
	end := len(b)
	switch {
	case h.Length == 0:
	case h.Length < UDPHeaderLen:
		return h, nil, invalid("udp header", "length", h.Length)
	case h.Length < end:
		end = h.Length
	}
	return h, b[UDPHeaderLen:end], nil
}

// Append writes the header for a payload of payloadLen bytes; Length of h is
// ignored, Checksum is written as given (0: none, not allowed over IPv6).
func (h UDP) Append(b []byte, payloadLen int) []byte {
	b = be.AppendUint16(b, h.SrcPort)
	b = be.AppendUint16(b, h.DstPort)
	b = be.AppendUint16(b, uint16(UDPHeaderLen+payloadLen))
	return be.AppendUint16(b, h.Checksum)
}
