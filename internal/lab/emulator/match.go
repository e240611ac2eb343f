package emulator

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// matcher is a Match made ready for speed.
type matcher struct {
	m         Match
	etherType uint16
	protos    []uint8
	src, dst  netip.Prefix
}

func (m Match) validate() error { _, err := m.compile(); return err }

func (m Match) compile() (matcher, error) {
	k := matcher{m: m}
	var err error
	if k.etherType, err = parseEtherType(m.EtherType); err != nil {
		return k, err
	}
	if k.protos, err = parseProtocol(m.Protocol); err != nil {
		return k, err
	}
	if k.src, err = parsePrefix(m.Src); err != nil {
		return k, err
	}
	if k.dst, err = parsePrefix(m.Dst); err != nil {
		return k, err
	}
	if m.DSCP != nil && (*m.DSCP < 0 || *m.DSCP > 63) {
		return k, fmt.Errorf("match dscp %d: want 0…63", *m.DSCP)
	}
	if f := m.Flow; f != nil {
		if f.Of < 1 || len(f.Is) == 0 || slices.Min(f.Is) < 0 || slices.Max(f.Is) >= f.Of {
			return k, fmt.Errorf("match flow {of: %d, is: %v}: want of ≥ 1 and is within 0…of-1", f.Of, f.Is)
		}
	}
	if m.MinSize < 0 || m.MaxSize < 0 || m.SrcPort < 0 || m.SrcPort > 65535 || m.DstPort < 0 || m.DstPort > 65535 {
		return k, fmt.Errorf("match: sizes must not be negative and ports must be 1…65535")
	}
	return k, nil
}

func parseEtherType(s string) (uint16, error) {
	switch strings.ToLower(s) {
	case "":
		return 0, nil
	case "ip", "ip4", "ipv4":
		return etherIPv4, nil
	case "ip6", "ipv6":
		return etherIPv6, nil
	case "arp":
		return etherARP, nil
	}
	n, err := strconv.ParseUint(s, 0, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("match ethertype %q: want ip, ip6, arp or a number such as 0x88cc", s)
	}
	return uint16(n), nil
}

func parseProtocol(s string) ([]uint8, error) {
	switch strings.ToLower(s) {
	case "":
		return nil, nil
	case "icmp":
		return []uint8{protoICMP, protoICMPv6}, nil
	case "tcp":
		return []uint8{protoTCP}, nil
	case "udp":
		return []uint8{protoUDP}, nil
	}
	n, err := strconv.ParseUint(s, 0, 8)
	if err != nil {
		return nil, fmt.Errorf("match protocol %q: want icmp, tcp, udp or a number 0…255", s)
	}
	return []uint8{uint8(n)}, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("match address %q: want an address or a prefix", s)
	}
	return p.Masked(), nil
}

// fits reports whether the packet is one that the match means.
func (k matcher) fits(b []byte, f frameInfo) bool { return k.fitsParts(b, f) != k.m.Not }

func (k matcher) fitsParts(b []byte, f frameInfo) bool {
	m := k.m
	if k.etherType != 0 && f.etherType != k.etherType {
		return false
	}
	if k.protos != nil && !(f.isIP() && slices.Contains(k.protos, f.proto)) {
		return false
	}
	if m.DSCP != nil && !(f.isIP() && int(f.dscp) == *m.DSCP) {
		return false
	}
	if n := f.ipLen(); n < m.MinSize || m.MaxSize > 0 && n > m.MaxSize {
		return false
	}
	if m.SrcPort != 0 || m.DstPort != 0 {
		s, d := f.ports(b)
		if m.SrcPort != 0 && int(s) != m.SrcPort || m.DstPort != 0 && int(d) != m.DstPort {
			return false
		}
	}
	if k.src.IsValid() || k.dst.IsValid() {
		half := len(f.addrs) / 2
		s, _ := netip.AddrFromSlice(f.addrs[:half])
		d, _ := netip.AddrFromSlice(f.addrs[half:])
		if k.src.IsValid() && !k.src.Contains(s) || k.dst.IsValid() && !k.dst.Contains(d) {
			return false
		}
	}
	if m.Flow != nil {
		return f.isIP() && slices.Contains(m.Flow.Is, int(f.flowHash(b, m.Flow.Salt)%uint64(m.Flow.Of)))
	}
	return true
}
