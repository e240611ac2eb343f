package nl

import (
	"encoding/binary"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"
)

// anySeq matches messages whatever their sequence number.
const anySeq = 0

// Error is a refusal by the kernel.
type Error struct {
	Errno unix.Errno
	Text  string // the kernel's own words (extended ack), often empty
}

func (e *Error) Error() string {
	if e.Text != "" {
		return e.Errno.Error() + " (" + e.Text + ")"
	}
	return e.Errno.Error()
}

// Unwrap gives the errno to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Errno }

// walk gives the messages of a datagram to fn. done: the answer is complete;
// intr: the table changed while it was dumped. Messages with another sequence
// number belong to an earlier request and are passed over.
func walk(b []byte, seq uint32, fn func(typ uint16, body []byte) error) (done, intr bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			return false, intr, fmt.Errorf("netlink: a message of %d bytes in %d", n, len(b))
		}
		typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		mine := seq == anySeq || binary.NativeEndian.Uint32(b[8:]) == seq
		body := b[unix.NLMSG_HDRLEN:n]
		b = b[min(align(n), len(b)):]
		if !mine {
			continue
		}
		intr = intr || flags&unix.NLM_F_DUMP_INTR != 0
		switch typ {
		case unix.NLMSG_NOOP:
		case unix.NLMSG_OVERRUN:
			return false, intr, unix.ENOBUFS
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			return true, intr, parseError(body, flags, typ)
		default:
			if err := fn(typ, body); err != nil {
				return false, intr, err
			}
		}
	}
	return false, intr, nil
}

// parseError reads struct nlmsgerr, or the errno that ends a dump
// (include/uapi/linux/netlink.h). nil is an acknowledgement.
func parseError(b []byte, flags, typ uint16) error {
	if len(b) < 4 {
		if typ == unix.NLMSG_DONE {
			return nil
		}
		return fmt.Errorf("netlink: an error message of %d bytes", len(b))
	}
	code := int32(binary.NativeEndian.Uint32(b))
	if code >= 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(-code)}
	if flags&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	skip := 4
	if typ == unix.NLMSG_ERROR {
		skip += unix.NLMSG_HDRLEN
		if flags&unix.NLM_F_CAPPED == 0 && len(b) >= 8 {
			skip = 4 + align(int(binary.NativeEndian.Uint32(b[4:])))
		}
	}
	if skip < 0 || skip > len(b) {
		return e
	}
	for typ, v := range Attrs(b[skip:]) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			e.Text = Str(v)
		}
	}
	return e
}

// nlaTypeMask is NLA_TYPE_MASK of include/uapi/linux/netlink.h.
const nlaTypeMask = 0x3fff

func align(n int) int { return (n + 3) &^ 3 }

// Attrs walks netlink attributes (struct nlattr). The flags in the upper two
// bits of the type are taken off. It ends at the first malformed one.
func Attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
			if !yield(typ, b[4:n:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

// AppendAttr appends an attribute with its padding.
func AppendAttr(b []byte, typ uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// The readers of numbers give 0 when there are too few bytes: an attribute
// that a kernel does not have is then the same as one that it cut short.

// U8 reads a byte.
func U8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

// U16 reads a number in host byte order.
func U16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}

// U32 reads a number in host byte order.
func U32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// U64 reads a number in host byte order.
func U64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(b)
}

// U32At reads a number of a struct; 0 behind its end.
func U32At(b []byte, off int) uint32 {
	if off < 0 || off > len(b) {
		return 0
	}
	return U32(b[off:])
}

// U32BE reads a number in network byte order (nftables).
func U32BE(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// U64BE reads a number in network byte order (nftables).
func U64BE(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// Str reads a string up to its NUL.
func Str(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
