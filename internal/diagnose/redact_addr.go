package diagnose

import (
	"bytes"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"

	"fathom/internal/facts"
)

// This file holds the part of Redact that deals with addresses.

// addr keeps special ranges special and changes the rest bit by bit, each bit
// by what stands before it (as Crypto-PAn does, Xu et al. 2002).
func (r *redactor) addr(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return a
	}
	if a.Is4In6() {
		b := r.addr(a.Unmap()).As4()
		return netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}).WithZone(a.Zone())
	}
	if out, ok := r.addrs[a]; ok {
		return out
	}
	in := a.WithZone("").AsSlice()
	out := bytes.Clone(in)
	for bit := range a.BitLen() {
		p, _ := a.WithZone("").Prefix(bit)
		if frozen(p) {
			continue
		}
		h := sha256.New()
		h.Write(r.key[:])
		b, _ := p.MarshalText()
		h.Write(b)
		out[bit/8] ^= (h.Sum(nil)[0] & 1) << (7 - bit%8)
	}
	m, _ := netip.AddrFromSlice(out)
	m = m.WithZone(a.Zone())
	r.addrs[a] = m
	return m
}

// special are the ranges that mean something (IANA's special-purpose registries).
// Those of whole are kept to the last bit, of the others the prefix.
var special = []struct {
	prefix netip.Prefix
	whole  bool
}{
	{netip.MustParsePrefix("0.0.0.0/8"), true},
	{netip.MustParsePrefix("127.0.0.0/8"), true},
	{netip.MustParsePrefix("224.0.0.0/4"), true},
	{netip.MustParsePrefix("240.0.0.0/4"), true},
	{netip.MustParsePrefix("10.0.0.0/8"), false},
	{netip.MustParsePrefix("172.16.0.0/12"), false},
	{netip.MustParsePrefix("192.168.0.0/16"), false},
	{netip.MustParsePrefix("169.254.0.0/16"), false},
	{netip.MustParsePrefix("100.64.0.0/10"), false},
	{netip.MustParsePrefix("192.0.0.0/24"), false},
	{netip.MustParsePrefix("192.0.2.0/24"), false},
	{netip.MustParsePrefix("198.51.100.0/24"), false},
	{netip.MustParsePrefix("203.0.113.0/24"), false},
	{netip.MustParsePrefix("198.18.0.0/15"), false},
	{netip.MustParsePrefix("192.88.99.0/24"), false},
	{netip.MustParsePrefix("::/64"), true},
	{netip.MustParsePrefix("ff00::/8"), true},
	{netip.MustParsePrefix("fe80::/64"), false},
	{netip.MustParsePrefix("fd00::/8"), false},
	{netip.MustParsePrefix("fc00::/8"), false},
	{netip.MustParsePrefix("2001:db8::/32"), false},
	{netip.MustParsePrefix("2001::/32"), false},
	{netip.MustParsePrefix("2002::/16"), false},
	{netip.MustParsePrefix("64:ff9b::/96"), false},
	{netip.MustParsePrefix("64:ff9b:1::/48"), false},
	{netip.MustParsePrefix("2000::/3"), false},
}

// frozen reports whether the bit behind p stays: the address would leave or
// enter a special range, or is in one that stays whole.
func frozen(p netip.Prefix) bool {
	for _, s := range special {
		if s.prefix.Addr().Is4() != p.Addr().Is4() {
			continue
		}
		if s.prefix.Bits() > p.Bits() && p.Contains(s.prefix.Addr()) || s.whole && s.prefix.Bits() <= p.Bits() && s.prefix.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// prefix keeps host bits that are all zero so: a network stays a network.
func (r *redactor) prefix(p netip.Prefix) netip.Prefix {
	if !p.IsValid() {
		return p
	}
	out := netip.PrefixFrom(r.addr(p.Addr()), p.Bits())
	if p == p.Masked() {
		return out.Masked()
	}
	return out
}

// match rewrites the addresses a firewall rule compares with. Pseudonyms have
// another order, so that ranges become the prefixes they consist of.
func (r *redactor) match(m facts.FWMatch) facts.FWMatch {
	fields := strings.Split(m.Field, " . ")
	out := facts.FWMatch{Field: m.Field, Op: m.Op}
	for _, v := range m.Values {
		parts := strings.Split(v, " . ")
		tuples := []string{""}
		for i, p := range parts {
			alternatives := []string{p}
			if i < len(fields) && (fields[i] == "saddr" || fields[i] == "daddr") {
				alternatives = r.matchValue(p, m.Op)
			} else if len(fields) == 1 && !ordinaryValue(p) {
				alternatives = []string{r.text(p)}
			}
			var next []string
			for _, t := range tuples {
				for _, a := range alternatives {
					if i > 0 {
						a = t + " . " + a
					}
					next = append(next, a)
				}
			}
			tuples = next
		}
		out.Values = append(out.Values, tuples...)
	}
	addresses := slices.Contains(fields, "saddr") || slices.Contains(fields, "daddr")
	if addresses && len(out.Values) > 0 {
		switch m.Op {
		case "<", ">", "<=", ">=":
			out.Op = "in"
		case "==", "!=":
			if len(out.Values) != len(m.Values) {
				out.Op = map[string]string{"==": "in", "!=": "not in"}[m.Op]
			}
		}
	}
	return out
}

func (r *redactor) matchValue(s, op string) []string {
	if p, err := netip.ParsePrefix(s); err == nil {
		return []string{r.prefix(p).String()}
	}
	lo, hi, ranged := rangeOf(s, op)
	if !ranged {
		if a, err := netip.ParseAddr(s); err == nil {
			return []string{r.addr(a).String()}
		}
		return []string{r.text(s)}
	}
	var out []string
	for _, p := range prefixes(lo, hi) {
		out = append(out, r.prefix(p).String())
	}
	return out
}

// rangeOf reads "a-b", or what "< a" and its like mean. An empty range ("< 0.0.0.0") is not one.
func rangeOf(s, op string) (lo, hi netip.Addr, ok bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		whole, _ := a.Prefix(0)
		lo, hi = whole.Addr(), last(whole)
		switch op {
		case "<":
			hi = a.Prev()
		case "<=":
			hi = a
		case ">":
			lo = a.Next()
		case ">=":
			lo = a
		default:
			return lo, hi, false
		}
		return lo, hi, lo.IsValid() && hi.IsValid()
	}
	from, to, dash := strings.Cut(s, "-")
	lo, err1 := netip.ParseAddr(from)
	hi, err2 := netip.ParseAddr(to)
	return lo, hi, dash && err1 == nil && err2 == nil && lo.Is4() == hi.Is4()
}

// prefixes are the fewest that make up lo to hi, both included.
func prefixes(lo, hi netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for lo.IsValid() && lo.Compare(hi) <= 0 {
		bits := lo.BitLen()
		for bits > 0 {
			p, _ := lo.Prefix(bits - 1)
			if p.Addr() != lo || last(p).Compare(hi) > 0 {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(lo, bits)
		out = append(out, p)
		lo = last(p).Next()
	}
	return out
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
