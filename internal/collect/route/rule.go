package route

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// Attributes and flags of include/uapi/linux/fib_rules.h that x/sys/unix lacks by name.
const (
	fraGoto       = 4
	fibRuleInvert = 2 // FIB_RULE_INVERT
	sizeofRuleHdr = 12
)

func rules(ctx context.Context, c *nl.Conn) ([]facts.PolicyRule, error) {
	var out []facts.PolicyRule
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		start := len(out)
		req := make([]byte, sizeofRuleHdr)
		req[0] = family
		err := c.DumpStable(ctx, unix.RTM_GETRULE, req, func() { out = out[:start] }, func(typ uint16, b []byte) error {
			if r, ok := decodeRule(b); ok && typ == unix.RTM_NEWRULE {
				out = append(out, r)
			}
			return nil
		})
		if err != nil && family == unix.AF_INET {
			return out, fmt.Errorf("read policy rules: %w", err)
		}
		// A kernel without policy routing for IPv6 refuses; it then looks up main alone.
	}
	slices.SortStableFunc(out, func(a, b facts.PolicyRule) int {
		if a.Family != b.Family {
			return a.Family - b.Family
		}
		return a.Priority - b.Priority
	})
	return out, nil
}

// decodeRule reads the body of an RTM_NEWRULE: struct fib_rule_hdr and attributes.
func decodeRule(b []byte) (r facts.PolicyRule, ok bool) {
	if len(b) < sizeofRuleHdr {
		return r, false
	}
	switch b[0] {
	case unix.AF_INET:
		r.Family = 4
	case unix.AF_INET6:
		r.Family = 6
	default:
		return r, false
	}
	dstLen, srcLen := int(b[1]), int(b[2])
	r.Table, r.Action = int(b[4]), ruleAction(b[7])
	r.Invert = nl.U32(b[8:])&fibRuleInvert != 0
	r.FromText, r.ToText = "all", ""
	if b[3] != 0 {
		r.Other = append(r.Other, fmt.Sprintf("tos 0x%02x", b[3]))
	}
	for typ, v := range nl.Attrs(b[sizeofRuleHdr:]) {
		switch typ {
		case unix.FRA_DST:
			r.ToText = netip.PrefixFrom(nl.Addr(v), dstLen).String()
		case unix.FRA_SRC:
			r.FromText = netip.PrefixFrom(nl.Addr(v), srcLen).String()
		case unix.FRA_IIFNAME:
			r.IIF = nl.Str(v)
		case unix.FRA_OIFNAME:
			r.OIF = nl.Str(v)
		case unix.FRA_PRIORITY:
			r.Priority = int(nl.U32(v))
		case unix.FRA_FWMARK:
			r.Mark = nl.U32(v)
		case unix.FRA_FWMASK:
			r.Mask = nl.U32(v)
		case unix.FRA_TABLE:
			r.Table = int(nl.U32(v))
		default:
			r.Other = append(r.Other, otherCondition(typ, v)...)
		}
	}
	if r.Mark == 0 && r.Mask == 0xffffffff {
		r.Mask = 0
	}
	return r, true
}

func ruleAction(v uint8) string {
	words := [...]string{"unspec", "lookup", "goto", "nop", "4", "5", "blackhole", "unreachable", "prohibit"}
	if int(v) < len(words) {
		return words[v]
	}
	return strconv.Itoa(int(v))
}

// otherCondition puts the rarer selectors into ip's words. Attributes that do
// not select (protocol, padding) give nothing.
func otherCondition(typ uint16, v []byte) []string {
	switch typ {
	case fraGoto:
		return []string{fmt.Sprintf("goto %d", nl.U32(v))}
	case unix.FRA_SUPPRESS_PREFIXLEN:
		if n := int32(nl.U32(v)); n >= 0 {
			return []string{fmt.Sprintf("suppress_prefixlength %d", n)}
		}
	case unix.FRA_SUPPRESS_IFGROUP:
		if n := int32(nl.U32(v)); n >= 0 {
			return []string{fmt.Sprintf("suppress_ifgroup %d", n)}
		}
	case unix.FRA_L3MDEV:
		if nl.U8(v) != 0 {
			return []string{"l3mdev"}
		}
	case unix.FRA_TUN_ID:
		return []string{fmt.Sprintf("tun_id %d", nl.U64BE(v))}
	case unix.FRA_UID_RANGE:
		return []string{fmt.Sprintf("uidrange %d-%d", nl.U32At(v, 0), nl.U32At(v, 4))}
	case unix.FRA_IP_PROTO:
		return []string{"ipproto " + ipProto(nl.U8(v))}
	case unix.FRA_SPORT_RANGE:
		return []string{"sport " + portRange(v)}
	case unix.FRA_DPORT_RANGE:
		return []string{"dport " + portRange(v)}
	}
	return nil
}

func ipProto(v uint8) string {
	switch v {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	}
	return strconv.Itoa(int(v))
}

// portRange reads struct fib_rule_port_range, in host byte order.
func portRange(v []byte) string {
	if len(v) < 4 {
		return "?"
	}
	lo, hi := binary.NativeEndian.Uint16(v), binary.NativeEndian.Uint16(v[2:])
	if lo == hi {
		return strconv.Itoa(int(lo))
	}
	return fmt.Sprintf("%d-%d", lo, hi)
}
