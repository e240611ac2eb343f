package nl

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Names maps interface indices to names.
type Names map[int]string

// Of returns the name, or "if7" for an interface that came or went while we read.
func (n Names) Of(index int) string {
	if s, ok := n[index]; ok {
		return s
	}
	if index == 0 {
		return ""
	}
	return "if" + strconv.Itoa(index)
}

// LinkNames reads the names of all interfaces, without their statistics.
func (c *Conn) LinkNames(ctx context.Context) (Names, error) {
	var names Names
	err := c.DumpStable(ctx, unix.RTM_GETLINK, IfInfoRequest(rtextFilterSkipStats), func() { names = Names{} }, func(typ uint16, b []byte) error {
		if typ != unix.RTM_NEWLINK || len(b) < unix.SizeofIfInfomsg {
			return nil
		}
		for t, v := range Attrs(b[unix.SizeofIfInfomsg:]) {
			if t == unix.IFLA_IFNAME {
				names[int(int32(U32(b[4:])))] = Str(v)
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read interface names: %w", err)
	}
	return names, nil
}

const rtextFilterSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS, include/uapi/linux/rtnetlink.h

// IfInfoRequest is the body of an RTM_GETLINK dump with an IFLA_EXT_MASK.
func IfInfoRequest(mask uint32) []byte {
	return AppendAttr(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, mask))
}

// Addr reads an address of 4 or 16 bytes; anything else gives the zero Addr.
func Addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
