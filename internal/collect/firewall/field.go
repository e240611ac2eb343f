package firewall

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"fathom/internal/collect/nl"

	"golang.org/x/sys/unix"
)

// field is what an expression has loaded into a register.
type field struct {
	name string // of facts.FWMatch.Field; "" when not understood
	len  int    // bytes loaded
	full int    // bytes of the whole field: a shorter load of an address is a prefix
	host bool   // the register holds it in host byte order
	mask []byte // of a bitwise before the comparison
	luck bool   // numgen, random, hash: hits some packets
	text string // for luck and for what we do not name: its words
}

// metaField is meta's keys (enum nft_meta_keys).
func metaField(key uint32) field {
	switch key {
	case unix.NFT_META_LEN:
		return field{name: "length", len: 4, host: true}
	case unix.NFT_META_PROTOCOL:
		return field{name: "protocol", len: 2}
	case unix.NFT_META_MARK:
		return field{name: "mark", len: 4, host: true}
	case unix.NFT_META_IIF:
		return field{name: "iif", len: 4, host: true}
	case unix.NFT_META_OIF:
		return field{name: "oif", len: 4, host: true}
	case unix.NFT_META_IIFNAME:
		return field{name: "iif", len: 16, full: 16}
	case unix.NFT_META_OIFNAME:
		return field{name: "oif", len: 16, full: 16}
	case unix.NFT_META_SKUID:
		return field{name: "skuid", len: 4, host: true}
	case unix.NFT_META_SKGID:
		return field{name: "skgid", len: 4, host: true}
	case unix.NFT_META_NFPROTO:
		return field{name: "nfproto", len: 1}
	case unix.NFT_META_L4PROTO:
		return field{name: "l4proto", len: 1}
	case unix.NFT_META_PRANDOM:
		return field{luck: true, len: 4, text: "meta random"}
	}
	return field{text: fmt.Sprintf("meta key %d", key)}
}

func ctField(key uint32) field {
	switch key {
	case unix.NFT_CT_STATE:
		return field{name: "ct_state", len: 4, host: true}
	case unix.NFT_CT_STATUS:
		return field{name: "ct_status", len: 4, host: true}
	case unix.NFT_CT_MARK:
		return field{name: "ct_mark", len: 4, host: true}
	case unix.NFT_CT_DIRECTION:
		return field{name: "ct_direction", len: 1}
	}
	return field{text: fmt.Sprintf("ct key %d", key)}
}

// payloadField names header bytes. l3 is ip or ip6 as far as the rule has
// settled it, l4 the protocol's name.
func payloadField(base, off, size uint32, l3, l4 string) field {
	f := field{len: int(size), text: fmt.Sprintf("@%d,%d,%d", base, off*8, size*8)}
	type at struct{ off, size uint32 }
	var table map[at]string
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && l3 == "ip":
		switch {
		case off == 12 && size <= 4:
			f.name, f.full = "saddr", 4
		case off == 16 && size <= 4:
			f.name, f.full = "daddr", 4
		}
		table = map[at]string{{9, 1}: "l4proto", {2, 2}: "length", {8, 1}: "ttl", {6, 2}: "frag", {1, 1}: "tos"}
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && l3 == "ip6":
		switch {
		case off == 8 && size <= 16:
			f.name, f.full = "saddr", 16
		case off == 24 && size <= 16:
			f.name, f.full = "daddr", 16
		}
		table = map[at]string{{6, 1}: "l4proto", {7, 1}: "hoplimit"}
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && (l4 == "icmp" || l4 == "icmpv6"):
		table = map[at]string{{0, 1}: "icmp_type", {1, 1}: "icmp_code"}
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		table = map[at]string{{0, 2}: "sport", {2, 2}: "dport"}
		if l4 == "tcp" {
			table[at{13, 1}] = "tcp_flags"
		}
	}
	if name, ok := table[at{off, size}]; ok {
		f.name = name
	}
	return f
}

// value puts register bytes into the words of facts.FWMatch.
func (f field) value(b []byte, names nl.Names) string {
	switch f.name {
	case "saddr", "daddr":
		return addressValue(f, b)
	case "iif", "oif":
		if f.len == 4 {
			return names.Of(int(f.number(b)))
		}
		s := nl.Str(b)
		if len(b) < f.full && len(s) == len(b) { // the comparison ends before a NUL
			s += "*"
		}
		return s
	case "l4proto":
		return protoName(uint8(f.number(b)))
	case "nfproto":
		switch f.number(b) {
		case unix.NFPROTO_IPV4:
			return "ipv4"
		case unix.NFPROTO_IPV6:
			return "ipv6"
		}
	case "protocol":
		switch f.number(b) {
		case unix.ETH_P_IP:
			return "ip"
		case unix.ETH_P_IPV6:
			return "ip6"
		}
	}
	if len(b) > 8 {
		return fmt.Sprintf("0x%x", b)
	}
	return strconv.FormatUint(f.number(b), 10)
}

func addressValue(f field, b []byte) string {
	if len(b) < f.full {
		full := make([]byte, f.full)
		copy(full, b)
		return netip.PrefixFrom(nl.Addr(full), len(b)*8).String()
	}
	if n, ok := prefixLen(f.mask); ok {
		return netip.PrefixFrom(nl.Addr(b), n).String()
	}
	return nl.Addr(b).String()
}

func (f field) number(b []byte) uint64 {
	if f.host && len(b) == 4 {
		return uint64(binary.NativeEndian.Uint32(b))
	}
	var n uint64
	for _, c := range b[:min(len(b), 8)] {
		n = n<<8 | uint64(c)
	}
	return n
}

// prefixLen is the length of a netmask; ok is false for none and for masks with holes.
func prefixLen(mask []byte) (n int, ok bool) {
	if len(mask) == 0 {
		return 0, false
	}
	for i, c := range mask {
		ones := bits.LeadingZeros8(^c)
		n += ones
		if ones < 8 {
			return n, c<<ones == 0 && strings.Trim(string(mask[i+1:]), "\x00") == ""
		}
	}
	return n, true
}

// span writes a range, as a prefix when it is one.
func (f field) span(lo, hi []byte, names nl.Names) string {
	if hi == nil || string(lo) == string(hi) {
		return f.value(lo, names)
	}
	if f.name == "saddr" || f.name == "daddr" {
		if len(lo) == len(hi) && len(lo) == f.full {
			mask := make([]byte, len(lo))
			for i := range lo {
				mask[i] = ^(lo[i] ^ hi[i])
			}
			if n, ok := prefixLen(mask); ok && netip.PrefixFrom(nl.Addr(lo), n).Masked().Addr() == nl.Addr(lo) {
				return netip.PrefixFrom(nl.Addr(lo), n).String()
			}
		}
	}
	return f.value(lo, names) + "-" + f.value(hi, names)
}

func protoName(p uint8) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	}
	return strconv.Itoa(int(p))
}

// ctStates are the bits of NF_CT_STATE (include/uapi/linux/netfilter/nf_conntrack_common.h).
var ctStates = []struct {
	bit  uint32
	name string
}{{1, "invalid"}, {2, "established"}, {4, "related"}, {8, "new"}, {64, "untracked"}}

// ctStateWords names the bits; ok is false when there are others.
func ctStateWords(v uint32) (words []string, ok bool) {
	for _, s := range ctStates {
		if v&s.bit != 0 {
			words = append(words, s.name)
			v &^= s.bit
		}
	}
	return words, v == 0 && len(words) > 0
}
