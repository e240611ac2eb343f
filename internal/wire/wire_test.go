package wire

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Packets as tcpdump -xx shows them.
const (
	hexIPv4  = `4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7` // the textbook example of the header checksum
	hexARP   = `0001 0800 0604 0001 0200 5e10 0001 c000 0201 0000 0000 0000 c000 0207`
	hexSYN   = `c350 0050 0102 0304 0000 0000 8002 faf0 0000 0000 0204 05b4 0101 0402 0103 0307`
	hexSolct = `8700 0000 0000 0000 2001 0db8 0000 0000 0000 0000 0000 0007 0101 0200 5e10 0001`
)

func TestChecksum(t *testing.T) {
	// RFC 1071 §3: 0001 f203 f4f5 f6f7 sums to ddf2.
	if got := Checksum(unhex(t, "0001 f203 f4f5 f6f7")); got != ^uint16(0xddf2) {
		t.Errorf("RFC 1071 example: %#x", got)
	}
	if got := Checksum([]byte{0xab}); got != ^uint16(0xab00) {
		t.Errorf("one byte: %#x", got)
	}
	if got := Checksum(nil); got != 0xffff {
		t.Errorf("nothing: %#x", got)
	}
	if !IPv4Valid(unhex(t, hexIPv4)) {
		t.Error("the textbook header is not valid")
	}
	// UDP over IPv4, from a capture of dig: checksum verified by tcpdump -vv.
	src, dst := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	seg := UDP{SrcPort: 1000, DstPort: 53}.Append(nil, 3)
	seg = append(seg, "abc"...)
	be.PutUint16(seg[6:], PseudoChecksum(src, dst, ProtoUDP, seg))
	if PseudoChecksum(src, dst, ProtoUDP, seg) != 0 {
		t.Error("a right checksum does not verify")
	}
	seg[9] ^= 1
	if PseudoChecksum(src, dst, ProtoUDP, seg) == 0 {
		t.Error("a damaged segment verifies")
	}
}

func TestParseKnownPackets(t *testing.T) {
	ip, _, err := ParseIPv4(unhex(t, hexIPv4))
	if err != nil || ip.TTL != 64 || ip.Protocol != ProtoUDP || !ip.DF || ip.Total != 115 || ip.Src.String() != "192.168.0.1" {
		t.Errorf("ipv4: %+v, %v", ip, err)
	}
	a, err := ParseARP(unhex(t, hexARP))
	if err != nil || a.SenderMAC.String() != "02:00:5e:10:00:01" || a.TargetIP.String() != "192.0.2.7" || a.Op != ARPRequest {
		t.Errorf("arp: %+v, %v", a, err)
	}
	tcp, rest, err := ParseTCP(unhex(t, hexSYN))
	if err != nil || tcp.SrcPort != 50000 || tcp.DstPort != 80 || !tcp.Has(TCPSyn) || tcp.Has(TCPSyn|TCPAck) || tcp.MSS != 1460 || len(rest) != 0 {
		t.Errorf("tcp: %+v, %v", tcp, err)
	}
	n, err := ParseNeighbour(unhex(t, hexSolct))
	if err != nil || n.Advert || n.Target.String() != "2001:db8::7" || n.MAC.String() != "02:00:5e:10:00:01" {
		t.Errorf("solicitation: %+v, %v", n, err)
	}
	group, mac := SolicitedNode(netip.MustParseAddr("2001:db8::1234:5678%eth0"))
	if group.String() != "ff02::1:ff34:5678" || mac.String() != "33:33:ff:34:56:78" {
		t.Errorf("solicited node: %s %s", group, mac)
	}
}

func TestPayloadIsCutAtThePacketsOwnLength(t *testing.T) {
	b := IPv4{TTL: 1, Protocol: ProtoUDP}.Append(nil, 4)
	b = append(b, "datapadding"...)
	if _, p, err := ParseIPv4(b); err != nil || string(p) != "data" {
		t.Errorf("ipv4: %q, %v", p, err)
	}
	if _, p, err := ParseIPv4(b[:22]); err != nil || string(p) != "da" {
		t.Errorf("quoted ipv4: %q, %v", p, err)
	}
	b = append(IPv6{Protocol: ProtoUDP}.Append(nil, 4), "datapadding"...)
	if _, p, err := ParseIPv6(b); err != nil || string(p) != "data" {
		t.Errorf("ipv6: %q, %v", p, err)
	}
	b = append(UDP{}.Append(nil, 4), "datapadding"...)
	if _, p, err := ParseUDP(b); err != nil || string(p) != "data" {
		t.Errorf("udp: %q, %v", p, err)
	}
}

func TestIPv6ExtensionHeaders(t *testing.T) {
	chain := func(first byte, ext string) []byte {
		e := unhex(t, ext)
		b := IPv6{Protocol: first, HopLimit: 9}.Append(nil, len(e)+3)
		return append(append(b, e...), "abc"...)
	}
	for name, c := range map[string]struct {
		b       []byte
		proto   uint8
		payload string
		err     error
	}{
		"none":                      {chain(ProtoTCP, ""), ProtoTCP, "abc", nil},
		"hop by hop, destination":   {chain(extHopByHop, "3c00010400000000 0600010400000000"), ProtoTCP, "abc", nil},
		"authentication, 4-byte":    {chain(extAH, "3a04"+strings.Repeat("00", 22)), ProtoICMPv6, "abc", nil},
		"first fragment":            {chain(extFragment, "1100000100000007"), ProtoUDP, "abc", nil},
		"later fragment":            {chain(extFragment, "1100000900000007"), ProtoUDP, "abc", nil},
		"cut off":                   {chain(extRouting, "0609"), extRouting, "", ErrShort},
		"no next header":            {chain(59, ""), 59, "abc", nil},
		"endless chain":             {chain(extDstOpts, strings.Repeat("3c00010400000000", 40)), 0, "", ErrInvalid},
		"encrypted is upper layer":  {chain(50, ""), 50, "abc", nil},
		"extension length overflow": {chain(extHopByHop, "06ff"), 0, "", ErrShort},
	} {
		h, p, err := ParseIPv6(c.b)
		if !errors.Is(err, c.err) || string(p) != c.payload || c.err == nil && h.Protocol != c.proto {
			t.Errorf("%s: protocol %d, %q, %v", name, h.Protocol, p, err)
		}
	}
	h, _, err := ParseIPv6(chain(extFragment, "1100000900000007"))
	if err != nil || !h.Fragment() || h.FragOffset != 8 || !h.MF || h.FragID != 7 {
		t.Errorf("fragment: %+v, %v", h, err)
	}
}

func TestVLANTag(t *testing.T) {
	want := Ethernet{Dst: Broadcast, Src: MAC{2}, Type: EtherARP, Tagged: true, TCI: 0x6064}
	got, p, err := ParseEthernet(append(want.Append(nil), 1, 2))
	if err != nil || got != want || len(p) != 2 || got.VLAN() != 100 {
		t.Errorf("%+v, %v, %v", got, p, err)
	}
}

func TestEcho(t *testing.T) {
	msg := AppendEchoRequest(nil, false, netip.Addr{}, netip.Addr{}, 7, 8, []byte("odd"))
	h, body, err := ParseICMP(msg)
	if err != nil || h.Type != ICMPEchoRequest || h.ID() != 7 || h.Seq() != 8 || string(body) != "odd" || Checksum(msg) != 0 {
		t.Errorf("%+v %q %v", h, body, err)
	}
	for _, seq := range []uint16{0, 1, 255, 0x7fff, 0xffff, 8} {
		SetEchoSeq(msg, seq)
		if h, _, _ := ParseICMP(msg); h.Seq() != seq || Checksum(msg) != 0 {
			t.Errorf("sequence %d: got %d, checksum %#x", seq, h.Seq(), Checksum(msg))
		}
	}
	SetEchoSeq(nil, 1)
	a, b := netip.MustParseAddr("fe80::1%lo"), netip.MustParseAddr("::1")
	msg = AppendEchoRequest(nil, true, a, b, 7, 8, []byte("x"))
	if PseudoChecksum(a, b, ProtoICMPv6, msg) != 0 || msg[0] != ICMP6EchoRequest {
		t.Error("icmpv6 checksum")
	}
}

func TestNextHopMTU(t *testing.T) {
	if got := (ICMP{Type: 3, Code: 4, Rest: 0x12340578}).NextHopMTU(false); got != 1400 {
		t.Errorf("v4: %d", got)
	}
	if got := (ICMP{Type: 2, Rest: 1280}).NextHopMTU(true); got != 1280 {
		t.Errorf("v6: %d", got)
	}
	if got := (ICMP{Type: 3, Code: 1, Rest: 1400}).NextHopMTU(false); got != 0 {
		t.Errorf("host unreachable has no MTU: %d", got)
	}
}

func TestICMPText(t *testing.T) {
	for _, c := range []struct {
		v6        bool
		typ, code uint8
		want      string
	}{
		{false, 3, 13, "communication administratively prohibited"},
		{false, 3, 3, "port unreachable"},
		{false, 3, 99, "destination unreachable, code 99"},
		{false, 11, 0, "time to live exceeded in transit"},
		{false, 200, 3, "ICMP type 200, code 3"},
		{false, 0, 0, "echo reply"},
		{true, 1, 1, "communication administratively prohibited"},
		{true, 2, 0, "packet too big"},
		{true, 3, 0, "hop limit exceeded in transit"},
		{true, 250, 1, "ICMPv6 type 250, code 1"},
		{true, 4, 77, "parameter problem, code 77"},
	} {
		if got := ICMPText(c.v6, c.typ, c.code); got != c.want {
			t.Errorf("v6 %v %d/%d: %q, want %q", c.v6, c.typ, c.code, got, c.want)
		}
	}
	for _, v6 := range []bool{false, true} { // no pair is nameless, none panics
		for i := range 1 << 16 {
			typ, code := uint8(i>>8), uint8(i)
			if ICMPText(v6, typ, code) == "" {
				t.Fatalf("v6 %v %d/%d has no text", v6, typ, code)
			}
			isError := ICMP{Type: typ}.IsError(v6)
			if class := ICMPOutcome(v6, typ, code); isError != (class != ClassNone) {
				t.Fatalf("v6 %v %d/%d: error %v, class %d", v6, typ, code, isError, class)
			}
		}
	}
}

func TestMACText(t *testing.T) {
	if got := (MAC{0, 0x1b, 0xff, 0xa0, 9, 0x10}).String(); got != "00:1b:ff:a0:09:10" {
		t.Error(got)
	}
	if !Broadcast.IsGroup() || (MAC{2}).IsGroup() || !(MAC{}).IsZero() {
		t.Error("classes of addresses")
	}
}

func BenchmarkChecksum1500(b *testing.B) {
	buf := make([]byte, 1500)
	b.SetBytes(1500)
	for b.Loop() {
		Checksum(buf)
	}
}
