package firewall

import (
	"encoding/binary"
	"fmt"

	"fathom/internal/collect/nl"

	"golang.org/x/sys/unix"
)

// iptables-nft keeps some of its matches as the kernel's xt structs inside
// nftables rules. The few that most rulesets consist of are decoded.

func (d *decoder) xtMatch(e rawExpr) {
	name, info, rev := nl.Str(e.attr[unix.NFTA_MATCH_NAME]), e.attr[unix.NFTA_MATCH_INFO], e.u32(unix.NFTA_MATCH_REV)
	ok := false
	switch name {
	case "comment":
		ok = true
		d.say(fmt.Sprintf("xt comment %q", nl.Str(info)))
	case "tcp", "udp":
		ok = d.xtPorts(name, info)
	case "conntrack":
		ok = rev >= 1 && rev <= 3 && d.xtConntrack(info, rev)
	}
	if !ok {
		d.opaque("xt match " + name)
	}
}

// xtPorts reads struct xt_tcp or xt_udp (include/uapi/linux/netfilter/xt_tcpudp.h):
// source and destination port ranges in host order, for tcp option and flags,
// and what is inverted.
func (d *decoder) xtPorts(proto string, b []byte) bool {
	inverted := 8
	if proto == "tcp" {
		inverted = 11
	}
	if len(b) <= inverted {
		return false
	}
	if proto == "tcp" && (b[8] != 0 || b[9] != 0) {
		return false // an option or a flag mask
	}
	d.l4 = proto
	for i, name := range []string{"sport", "dport"} {
		lo, hi := binary.NativeEndian.Uint16(b[4*i:]), binary.NativeEndian.Uint16(b[4*i+2:])
		op := "=="
		if b[inverted]>>i&1 != 0 {
			op = "!="
		}
		if lo == 0 && hi == 0xffff && op == "==" {
			continue
		}
		v := fmt.Sprint(lo)
		if lo != hi {
			v = fmt.Sprintf("%d-%d", lo, hi)
		}
		d.match(field{name: name, len: 2}, op, []string{v})
	}
	return true
}

// xtConntrack reads struct xt_conntrack_mtinfo1 to 3 (xt_conntrack.h) when
// only the state is asked for.
func (d *decoder) xtConntrack(b []byte, rev uint32) bool {
	const flagsAt, stateBit = 146, 1
	if len(b) < 154 || binary.NativeEndian.Uint16(b[flagsAt:]) != stateBit {
		return false
	}
	mask := uint32(binary.NativeEndian.Uint16(b[150:]))
	if rev == 1 {
		mask = uint32(b[150])
	}
	words, ok := ctStateWords(mask)
	op := "in"
	if binary.NativeEndian.Uint16(b[148:])&stateBit != 0 {
		op = "not in"
	}
	if ok {
		d.match(field{name: "ct_state", len: 4}, op, words)
	}
	return ok
}

func (d *decoder) xtTarget(e rawExpr) {
	switch name := nl.Str(e.attr[unix.NFTA_TARGET_NAME]); name {
	case "REJECT":
		d.rule.Verdict = "reject"
		d.say("reject")
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE", "CT", "TCPMSS":
		d.say("xt " + name)
	case "MASQUERADE", "SNAT", "DNAT", "REDIRECT":
		d.rewrite(map[string]string{"MASQUERADE": "masquerade", "SNAT": "snat", "DNAT": "dnat", "REDIRECT": "redirect"}[name])
	default:
		d.opaque("xt target " + name)
	}
}
