package wire

// TCPHeaderLen is the length of a TCP header without options, in bytes.
const TCPHeaderLen = 20

// TCP flags (RFC 9293 §3.1).
const (
	TCPFin = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
	TCPUrg
	TCPEce
	TCPCwr
)

// TCP is a TCP header; of its options only the MSS is read.
type TCP struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	HeaderLen        int // bytes, options included
	Flags            uint8
	Window           uint16
	Checksum         uint16
	MSS              uint16 // option of a SYN, 0 when absent
}

// Has reports whether all given flags are set.
func (h TCP) Has(flags uint8) bool { return h.Flags&flags == flags }

// ParseTCP reads a whole header. Options that are cut off are ignored: packet
// sockets snap them. For the eight bytes of a quoted packet use [ParsePorts]
// and [ParseTCPSeq].
func ParseTCP(b []byte) (h TCP, payload []byte, err error) {
	if len(b) < TCPHeaderLen {
		return h, nil, short("tcp header", len(b), TCPHeaderLen)
	}
	n := int(b[12]>>4) * 4
	if n < TCPHeaderLen {
		return h, nil, invalid("tcp header", "header length", n)
	}
	h = TCP{
		SrcPort: be.Uint16(b), DstPort: be.Uint16(b[2:]), Seq: be.Uint32(b[4:]), Ack: be.Uint32(b[8:]),
		HeaderLen: n, Flags: b[13], Window: be.Uint16(b[14:]), Checksum: be.Uint16(b[16:]),
	}
	end := min(n, len(b))
	h.MSS = mssOption(b[TCPHeaderLen:end])
	return h, b[end:], nil
}

// mssOption walks the options (RFC 9293 §3.2); a malformed one ends the walk.
func mssOption(o []byte) uint16 {
	for len(o) > 0 {
		switch o[0] {
		case 0: // end of options
			return 0
		case 1: // no-operation
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return 0
		}
		if o[0] == 2 && o[1] == 4 {
			return be.Uint16(o[2:])
		}
		o = o[o[1]:]
	}
	return 0
}

// Append writes the header, with an MSS option when MSS is not 0. HeaderLen is
// ignored; Checksum is written as given: compute it over the whole segment with
// [PseudoChecksum] and put it at offset 16.
func (h TCP) Append(b []byte) []byte {
	words := byte(TCPHeaderLen / 4)
	if h.MSS != 0 {
		words++
	}
	b = be.AppendUint16(b, h.SrcPort)
	b = be.AppendUint16(b, h.DstPort)
	b = be.AppendUint32(b, h.Seq)
	b = be.AppendUint32(b, h.Ack)
	b = append(b, words<<4, h.Flags)
	b = be.AppendUint16(b, h.Window)
	b = be.AppendUint16(b, h.Checksum)
	b = append(b, 0, 0)
	if h.MSS != 0 {
		b = append(b, 2, 4)
		b = be.AppendUint16(b, h.MSS)
	}
	return b
}

// ParsePorts reads the source and destination port with which TCP, UDP, SCTP
// and DCCP headers begin; ok is false when b is shorter than four bytes.
func ParsePorts(b []byte) (src, dst uint16, ok bool) {
	if len(b) < 4 {
		return 0, 0, false
	}
	return be.Uint16(b), be.Uint16(b[2:]), true
}

// ParseTCPSeq reads the sequence number, which is the last thing a quoted
// packet of eight payload bytes still holds.
func ParseTCPSeq(b []byte) (seq uint32, ok bool) {
	if len(b) < 8 {
		return 0, false
	}
	return be.Uint32(b[4:]), true
}
