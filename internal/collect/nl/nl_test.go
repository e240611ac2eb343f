package nl

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func msg(typ, flags uint16, seq uint32, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(binary.NativeEndian.AppendUint32(b, 0), body...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func errno(e unix.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, -uint32(e)) }

func TestWalk(t *testing.T) {
	count := func(b []byte) (n int, done, intr bool, err error) {
		done, intr, err = walk(b, 7, func(uint16, []byte) error { n++; return nil })
		return
	}
	data := msg(100, 0, 7, []byte{1, 2, 3})
	if n, done, _, err := count(append(data, data...)); n != 2 || done || err != nil {
		t.Error("two messages, unaligned body:", n, done, err)
	}
	if n, _, _, _ := count(msg(100, 0, 6, nil)); n != 0 {
		t.Error("an answer to an earlier request was taken")
	}
	if _, done, intr, err := count(msg(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 7, errno(0))); !done || !intr || err != nil {
		t.Error("done after a change:", done, intr, err)
	}
	full := append(errno(unix.EPERM), make([]byte, 16)...)
	text := AppendAttr(full, unix.NLMSGERR_ATTR_MSG, []byte("not you\x00"))
	_, done, _, err := count(msg(unix.NLMSG_ERROR, unix.NLM_F_CAPPED|unix.NLM_F_ACK_TLVS, 7, text))
	if !done || !errors.Is(err, unix.EPERM) || err.Error() != "operation not permitted (not you)" {
		t.Error("refusal:", done, err)
	}
	if _, _, _, err := count([]byte{255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}); err == nil {
		t.Error("a length beyond the datagram passed")
	}
}

func TestAttrs(t *testing.T) {
	b := AppendAttr(nil, 1|unix.NLA_F_NESTED, []byte("abc"))
	b = AppendAttr(b, 2, nil)
	b = append(b, 3, 0, 3, 0) // length 3 is less than its own header
	var got []uint16
	for typ, v := range Attrs(b) {
		got = append(got, typ, uint16(len(v)))
	}
	if len(got) != 4 || got[0] != 1 || got[1] != 3 || got[2] != 2 || got[3] != 0 {
		t.Error(got)
	}
}

func FuzzWalk(f *testing.F) {
	f.Add(msg(100, 0, 7, AppendAttr(nil, 3, []byte("x"))))
	f.Add(msg(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, 7, append(errno(unix.EINVAL), 20, 0, 0, 0, 1, 2)))
	f.Add(msg(unix.NLMSG_DONE, unix.NLM_F_ACK_TLVS, 7, errno(unix.EINVAL)))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		_, _, _ = walk(b, anySeq, func(_ uint16, body []byte) error {
			for _, v := range Attrs(body) {
				total += len(v)
			}
			return nil
		})
		if total > len(b) {
			t.Fatal("more bytes out than in")
		}
	})
}

// Loopback exists everywhere and needs no privilege.
func TestAgainstTheKernel(t *testing.T) {
	c, err := Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	names, err := c.LinkNames(t.Context())
	if err != nil || names[1] != "lo" {
		t.Fatal(names, err)
	}
	if got := names.Of(99999999); got != "if99999999" {
		t.Error(got)
	}
	// A dump that is given up must not leave its rest to the next request.
	stopped := 0
	if err := c.Dump(t.Context(), unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(uint16, []byte) error { stopped++; return ErrStop }); err != nil || stopped != 1 {
		t.Fatal(stopped, err)
	}
	if names, err = c.LinkNames(t.Context()); err != nil || names[1] != "lo" {
		t.Fatal(names, err)
	}
	// 192.0.2.1 from a source that is not ours: refused with an errno.
	req := []byte{unix.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	req = AppendAttr(req, unix.RTA_DST, []byte{127, 0, 0, 1})
	req = AppendAttr(req, unix.RTA_SRC, []byte{192, 0, 2, 99})
	var e unix.Errno
	if _, err := c.Get(t.Context(), unix.RTM_GETROUTE, req); !errors.As(err, &e) {
		t.Errorf("a source that is not ours: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.LinkNames(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
