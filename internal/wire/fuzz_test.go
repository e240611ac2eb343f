package wire

import (
	"bytes"
	"net/netip"
	"testing"
)

func seeds(f *testing.F) {
	for _, s := range []string{hexIPv4, hexARP, hexSYN, hexSolct} {
		f.Add(unhex(f, s))
	}
	src, dst := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	echo := AppendEchoRequest(nil, true, src, dst, 1, 2, []byte("payload"))
	f.Add(append(IPv6{Protocol: ProtoICMPv6, HopLimit: 64, Src: src, Dst: dst}.Append(nil, len(echo)), echo...))
	f.Add(append(IPv6{Protocol: extHopByHop, HopLimit: 64, Src: src, Dst: dst}.Append(nil, 8), 59, 0, 1, 4, 0, 0, 0, 0))
	f.Add(Neighbour{Advert: true, Flags: NDPSolicited | NDPOverride, Target: src, MAC: MAC{2}}.Append(nil, src, dst))
	f.Add(append(Ethernet{Tagged: true, TCI: 5, Type: EtherIPv4}.Append(nil), unhex(f, hexIPv4)...))
	f.Add(UDP{SrcPort: 1, DstPort: 53}.Append(nil, 0))
}

// FuzzParsers: whatever is accepted, when written again, reads the same; no
// payload is longer than the input.
func FuzzParsers(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		fuzzIP(t, b)
		fuzzLink(t, b)
		if h, p, err := ParseTCP(b); err == nil {
			got, _, err := ParseTCP(h.Append(nil))
			h.HeaderLen, got.HeaderLen = 0, 0
			if err != nil || got != h || len(p) > len(b) {
				t.Fatalf("tcp %+v, then %+v, %v", h, got, err)
			}
		}
		if h, p, err := ParseUDP(b); err == nil {
			got, _, err := ParseUDP(append(h.Append(nil, len(p)), p...))
			h.Length, got.Length = 0, 0
			if err != nil || got != h {
				t.Fatalf("udp %+v, then %+v, %v", h, got, err)
			}
		}
		if h, p, err := ParseICMP(b); err == nil {
			out := h.Append(nil, netip.Addr{}, netip.Addr{}, p)
			got, _, err := ParseICMP(out)
			h.Checksum, got.Checksum = 0, 0
			if err != nil || got != h || Checksum(out) != 0 {
				t.Fatalf("icmp %+v, then %+v, %v", h, got, err)
			}
			SetEchoSeq(out, uint16(len(b))*257)
			if s := Checksum(out); s != 0 && s != 0xffff {
				t.Fatalf("sequence rewritten: checksum %#x", s)
			}
		}
		ParsePorts(b)
		ParseTCPSeq(b)
		IPv4Valid(b)
		if !bytes.Equal(b, before) {
			t.Fatal("a parser wrote to its input")
		}
	})
}

func fuzzIP(t *testing.T, b []byte) {
	if h, p, err := ParseIPv4(b); err == nil {
		out := h.Append(nil, len(p))
		got, _, err := ParseIPv4(append(out, p...))
		if len(p) <= 65535-IPv4HeaderLen && (err != nil || !IPv4Valid(out)) {
			t.Fatalf("ipv4 %+v: %v", h, err)
		}
		h.HeaderLen, h.Total, h.Checksum = got.HeaderLen, got.Total, got.Checksum
		if got != h {
			t.Fatalf("ipv4 %+v, then %+v", h, got)
		}
	}
	h, p, err := ParseIPv6(b)
	if err != nil {
		return
	}
	if h.HeaderLen+len(p) > len(b) || h.HeaderLen < IPv6HeaderLen {
		t.Fatalf("ipv6 %+v: payload of %d in %d bytes", h, len(p), len(b))
	}
	if h.HeaderLen == IPv6HeaderLen && len(p) > 0 && len(p) < 1<<16 {
		got, q, err := ParseIPv6(append(h.Append(nil, len(p)), p...))
		h.PayloadLen = got.PayloadLen
		if err != nil || got != h || !bytes.Equal(p, q) {
			t.Fatalf("ipv6 %+v, then %+v, %v", h, got, err)
		}
	}
}

func fuzzLink(t *testing.T, b []byte) {
	if h, p, err := ParseEthernet(b); err == nil {
		if got, _, err := ParseEthernet(append(h.Append(nil), p...)); err != nil || got != h {
			t.Fatalf("ethernet %+v, then %+v, %v", h, got, err)
		}
	}
	if a, err := ParseARP(b); err == nil {
		if got, err := ParseARP(a.Append(nil)); err != nil || got != a {
			t.Fatalf("arp %+v, then %+v, %v", a, got, err)
		}
	}
	if n, err := ParseNeighbour(b); err == nil {
		src := netip.IPv6Unspecified()
		if got, err := ParseNeighbour(n.Append(nil, src, src)); err != nil || got != n {
			t.Fatalf("neighbour %+v, then %+v, %v", n, got, err)
		}
	}
}
