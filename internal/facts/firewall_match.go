package facts

import (
	"net/netip"
	"strconv"
	"strings"
)

// match decides one condition.
func (e *fwEval) match(m FWMatch) fwHit {
	fields := strings.Split(m.Field, " . ")
	have := make([]string, len(fields))
	for i, f := range fields {
		v, ok, exists := e.p.field(f)
		if !exists {
			return fwNo // the packet has no such field: nft's load breaks the rule, whatever the operator
		}
		if !ok {
			return fwUnknown
		}
		have[i] = v
	}
	in := fwNo
	switch m.Op {
	case "<", ">", "<=", ">=":
		return compare(m, have)
	case "==", "in", "!=", "not in":
	default:
		return fwUnknown
	}
	for _, want := range m.Values {
		switch h := tuple(fields, have, want); {
		case h == fwYes:
			in = fwYes
		case h == fwUnknown && in == fwNo:
			in = fwUnknown
		}
	}
	if in != fwUnknown && (m.Op == "!=" || m.Op == "not in") {
		return fwYes - in
	}
	return in
}

func compare(m FWMatch, have []string) fwHit {
	if len(m.Values) != 1 || len(have) != 1 {
		return fwUnknown
	}
	c, ok := order(have[0], m.Values[0])
	if !ok {
		return fwUnknown
	}
	if m.Op == "<" && c < 0 || m.Op == ">" && c > 0 || m.Op == "<=" && c <= 0 || m.Op == ">=" && c >= 0 {
		return fwYes
	}
	return fwNo
}

// order compares two numbers or two addresses.
func order(a, b string) (int, bool) {
	x, err1 := strconv.ParseUint(a, 10, 64)
	y, err2 := strconv.ParseUint(b, 10, 64)
	if err1 == nil && err2 == nil {
		switch {
		case x < y:
			return -1, true
		case x > y:
			return 1, true
		}
		return 0, true
	}
	p, err1 := netip.ParseAddr(a)
	q, err2 := netip.ParseAddr(b)
	if err1 != nil || err2 != nil || p.Is4() != q.Is4() {
		return 0, false
	}
	return p.Compare(q), true
}

// tuple compares "10.0.0.1 . 80" part by part.
func tuple(fields, have []string, want string) fwHit {
	if want == "*" {
		return fwYes
	}
	parts := strings.Split(want, " . ")
	if len(parts) != len(have) {
		return fwUnknown
	}
	hit := fwYes
	for i := range parts {
		switch value(fields[i], have[i], parts[i]) {
		case fwNo:
			return fwNo
		case fwUnknown:
			hit = fwUnknown
		}
	}
	return hit
}

// value compares one value with a pattern: equal, prefix, from-to, name*.
func value(field, have, want string) fwHit {
	yes := func(b bool) fwHit {
		if b {
			return fwYes
		}
		return fwNo
	}
	if want == have || want == "*" {
		return fwYes
	}
	switch field {
	case "iif", "oif":
		begin, wild := strings.CutSuffix(want, "*")
		return yes(wild && strings.HasPrefix(have, begin))
	case "saddr", "daddr":
		return address(have, want)
	}
	lo, hi, ranged := strings.Cut(want, "-")
	if !ranged {
		return fwNo
	}
	a, ok1 := order(have, lo)
	b, ok2 := order(have, hi)
	if !ok1 || !ok2 {
		return fwNo // a name with a hyphen
	}
	return yes(a >= 0 && b <= 0)
}

func address(have, want string) fwHit {
	a, err := netip.ParseAddr(have)
	if err != nil {
		return fwUnknown
	}
	in := false
	if p, err := netip.ParsePrefix(want); err == nil {
		in = p.Contains(a)
	} else if lo, hi, ok := strings.Cut(want, "-"); ok {
		x, err1 := netip.ParseAddr(lo)
		y, err2 := netip.ParseAddr(hi)
		if err1 != nil || err2 != nil {
			return fwUnknown
		}
		in = x.Is4() == a.Is4() && a.Compare(x) >= 0 && a.Compare(y) <= 0
	} else if b, err := netip.ParseAddr(want); err == nil {
		in = a == b
	} else {
		return fwUnknown
	}
	if in {
		return fwYes
	}
	return fwNo
}

// field gives a field of the packet in the words of FWMatch.Values. known is
// false when the Packet5 does not tell; exists is false when a packet of this
// kind cannot have the field.
func (p Packet5) field(name string) (v string, known, exists bool) {
	switch name {
	case "nfproto":
		return map[int]string{4: "ipv4", 6: "ipv6"}[p.Family], p.Family != 0, true
	case "protocol":
		return map[int]string{4: "ip", 6: "ip6"}[p.Family], p.Family != 0, true
	case "l4proto":
		return p.Proto, p.Proto != "", true
	case "saddr":
		return p.Src.String(), p.Src.IsValid(), true
	case "daddr":
		return p.Dst.String(), p.Dst.IsValid(), true
	case "sport":
		return strconv.Itoa(int(p.SPort)), p.SPort != 0, p.ported()
	case "dport":
		return strconv.Itoa(int(p.DPort)), p.DPort != 0, p.ported()
	case "iif":
		return p.IIF, p.IIF != "", true
	case "oif":
		return p.OIF, p.OIF != "", true
	case "ct_state":
		return p.CTState, p.CTState != "", true
	case "icmp_type":
		return strconv.Itoa(p.ICMPType), p.ICMPType >= 0, p.Proto == "" || p.Proto == "icmp" || p.Proto == "icmpv6"
	case "length":
		return strconv.Itoa(p.Length), p.Length != 0, true
	}
	return "", false, true
}

func (p Packet5) ported() bool { return p.Proto != "icmp" && p.Proto != "icmpv6" }
