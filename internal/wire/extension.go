package wire

import (
	"encoding/binary"
	"fmt"
)

// Bounds of an extension structure: a message has at most a few objects; more
// is garbage or an attack on our memory.
const (
	maxExtensionObjects = 16
	maxMPLSLabels       = 32
)

// Classes of extension objects (IANA "ICMP Extension Object Classes").
const (
	ExtensionMPLS          = 1 // RFC 4950: label stack of the packet that died
	ExtensionInterfaceInfo = 2 // RFC 5837
	ExtensionInterfaceID   = 3 // RFC 8335
)

// Extensions is the extension structure behind a quoted packet (RFC 4884 §7).
type Extensions struct {
	MPLS    []MPLSLabel       // incoming label stack, top first
	Objects []ExtensionObject // all objects, the MPLS one included
}

// ExtensionObject is one object; Data is part of the parsed buffer, not a copy.
type ExtensionObject struct {
	Class, CType uint8
	Data         []byte
}

// MPLSLabel is one label stack entry (RFC 3032 §2.1).
type MPLSLabel struct {
	Label  uint32 // 20 bits
	TC     uint8  // traffic class, formerly EXP; 3 bits
	Bottom bool
	TTL    uint8
}

// String is the form of fathom's reports: "label=24001 tc=0 s=1 ttl=1".
func (l MPLSLabel) String() string {
	s := 0
	if l.Bottom {
		s = 1
	}
	return fmt.Sprintf("label=%d tc=%d s=%d ttl=%d", l.Label, l.TC, s, l.TTL)
}

// splitExtensions divides the body of an ICMP error into quoted packet and
// extension structure. claimed is the length attribute in bytes. Routers that
// predate RFC 4884 leave it zero and put the structure at byte 128 (§5.5);
// then only a valid checksum tells it from quoted payload.
func splitExtensions(body []byte, claimed int) (quoted, ext []byte) {
	switch {
	case claimed > 0 && claimed < len(body):
		return body[:claimed], body[claimed:]
	case claimed == 0 && len(body) >= 128+4:
		e := body[128:]
		if e[0]>>4 == 2 && binary.BigEndian.Uint16(e[2:]) != 0 && extensionSum(e) == 0xffff {
			return body[:128], e
		}
	}
	return body, nil
}

// extensionSum is the one's complement sum of b, 0xffff when its checksum is right.
func extensionSum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
		s = s&0xffff + s>>16
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// ParseExtensions reads an extension structure (RFC 4884 §7), b beginning at
// its header. Nothing at all gives zero Extensions. A wrong version or checksum
// is an error; objects after a damaged one are left out.
func ParseExtensions(b []byte) (Extensions, error) {
	var e Extensions
	if len(b) == 0 {
		return e, nil
	}
	if len(b) < 4 || b[0]>>4 != 2 {
		return e, fmt.Errorf("icmp extension header: %w", ErrQuote)
	}
	if binary.BigEndian.Uint16(b[2:]) != 0 && extensionSum(b) != 0xffff { // 0: not computed
		return e, fmt.Errorf("icmp extension checksum: %w", ErrQuote)
	}
	for b = b[4:]; len(b) >= 4 && len(e.Objects) < maxExtensionObjects; {
		n := int(binary.BigEndian.Uint16(b))
		if n < 4 || n > len(b) {
			break
		}
		o := ExtensionObject{Class: b[2], CType: b[3], Data: b[4:n]}
		e.Objects = append(e.Objects, o)
		if o.Class == ExtensionMPLS && o.CType == 1 {
			e.MPLS = appendMPLS(e.MPLS, o.Data)
		}
		b = b[n:]
	}
	return e, nil
}

func appendMPLS(out []MPLSLabel, b []byte) []MPLSLabel {
	for ; len(b) >= 4 && len(out) < maxMPLSLabels; b = b[4:] {
		v := binary.BigEndian.Uint32(b)
		out = append(out, MPLSLabel{Label: v >> 12, TC: uint8(v>>9) & 7, Bottom: v>>8&1 == 1, TTL: uint8(v)})
	}
	return out
}
