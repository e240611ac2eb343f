package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var (
	quoteSrc4 = netip.MustParseAddr("198.51.100.7")
	quoteDst4 = netip.MustParseAddr("203.0.113.9")
	quoteSrc6 = netip.MustParseAddr("2001:db8::7")
	quoteDst6 = netip.MustParseAddr("2001:db8:9::9")
)

// quoted4 is an IPv4 packet with TTL 1, TOS 0x28 and the given transport bytes.
func quoted4(proto uint8, transport []byte) []byte {
	b := make([]byte, 20, 20+len(transport))
	b[0], b[1], b[8], b[9] = 0x45, 0x28, 1, proto
	binary.BigEndian.PutUint16(b[2:], 60)
	binary.BigEndian.PutUint16(b[4:], 0xbeef)
	binary.BigEndian.PutUint16(b[6:], 0x4000)
	binary.BigEndian.PutUint16(b[10:], 0x1234)
	copy(b[12:], quoteSrc4.AsSlice())
	copy(b[16:], quoteDst4.AsSlice())
	return append(b, transport...)
}

func quoted6(proto uint8, rest []byte) []byte {
	b := make([]byte, 40, 40+len(rest))
	b[0], b[1], b[6], b[7] = 0x62, 0x80, proto, 1 // traffic class 0x28
	binary.BigEndian.PutUint16(b[4:], 20)
	copy(b[8:], quoteSrc6.AsSlice())
	copy(b[24:], quoteDst6.AsSlice())
	return append(b, rest...)
}

var quotedUDP = []byte{0x82, 0x9b, 0x82, 0x9c, 0, 40, 0xab, 0xcd}

// mplsExtension is a structure with one MPLS object of two labels, checksum right.
func mplsExtension() []byte {
	b := []byte{
		0x20, 0, 0, 0, 0, 12, 1, 1,
		0x05, 0xdc, 0x10, 0x01, // label 24001, tc 0, ttl 1
		0x00, 0x01, 0x0b, 0xfe, // label 16, tc 5, bottom, ttl 254
	}
	binary.BigEndian.PutUint16(b[2:], ^extensionSum(b))
	return b
}

func timeExceeded4(lengthWords uint8, body []byte) []byte {
	return append([]byte{11, 0, 0, 0, 0, lengthWords, 0, 0}, body...)
}

func pad(b []byte, n int) []byte { return append(b, make([]byte, n-len(b))...) }

func TestParseError4Fields(t *testing.T) {
	m, err := ParseError4(timeExceeded4(0, quoted4(17, quotedUDP)))
	if err != nil {
		t.Fatal(err)
	}
	q := m.Quote
	if q.Src != quoteSrc4 || q.Dst != quoteDst4 || q.TTL != 1 || q.TOS != 0x28 || q.ID != 0xbeef ||
		!q.DF || q.Length != 60 || q.Checksum != 0x1234 || q.Proto != 17 {
		t.Errorf("IP fields: %+v", q)
	}
	if q.SrcPort != 0x829b || q.DstPort != 0x829c || q.UDPLength != 40 || q.UDPChecksum != 0xabcd || q.TransportLen != 8 {
		t.Errorf("UDP fields: %+v", q)
	}
}

func TestParseQuoteTransports(t *testing.T) {
	q, err := ParseQuote(quoted4(6, []byte{0, 80, 1, 187, 0xde, 0xad, 0xbe, 0xef}))
	if err != nil || q.SrcPort != 80 || q.DstPort != 443 || q.TCPSeq != 0xdeadbeef {
		t.Errorf("TCP: %+v, %v", q, err)
	}
	q, err = ParseQuote(quoted4(1, []byte{8, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66}))
	if err != nil || q.ICMPType != 8 || q.ICMPChecksum != 0x1122 || q.ICMPID != 0x3344 || q.ICMPSeq != 0x5566 {
		t.Errorf("ICMP: %+v, %v", q, err)
	}
	frag := quoted4(17, quotedUDP)
	binary.BigEndian.PutUint16(frag[6:], 185)
	if q, err = ParseQuote(frag); err != nil || q.Offset != 1480 || q.SrcPort != 0 {
		t.Errorf("a later fragment has no ports: %+v, %v", q, err)
	}
	if q, err = ParseQuote(quoted4(17, quotedUDP[:3])); err != nil || q.TransportLen != 3 {
		t.Errorf("short transport: %+v, %v", q, err)
	}
}

func TestParseError6(t *testing.T) {
	hopByHop := append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, quotedUDP...)
	m, err := ParseError6(append([]byte{2, 0, 0, 0, 0, 0, 5, 0x78}, quoted6(0, hopByHop)...))
	if err != nil {
		t.Fatal(err)
	}
	q := m.Quote
	if m.MTU != 1400 || q.Src != quoteSrc6 || q.Dst != quoteDst6 || q.TTL != 1 || q.TOS != 0x28 || q.Length != 60 {
		t.Errorf("packet too big: %+v", m)
	}
	if q.Proto != 17 || q.DstPort != 0x829c {
		t.Errorf("behind the hop-by-hop header: %+v", q)
	}
}

func TestFragNeededMTU(t *testing.T) {
	m, err := ParseError4(append([]byte{3, 4, 0, 0, 0, 0, 5, 0x78}, quoted4(1, make([]byte, 8))...))
	if err != nil || m.MTU != 1400 {
		t.Errorf("MTU %d, %v; want 1400", m.MTU, err)
	}
}

func TestMPLS(t *testing.T) {
	body := append(pad(quoted4(17, quotedUDP), 128), mplsExtension()...)
	const want = "label=24001 tc=0 s=0 ttl=1|label=16 tc=5 s=1 ttl=254"
	labels := func(msg []byte) string {
		t.Helper()
		m, err := ParseError4(msg)
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, l := range m.Extensions.MPLS {
			s = append(s, l.String())
		}
		return strings.Join(s, "|")
	}
	if got := labels(timeExceeded4(32, body)); got != want {
		t.Errorf("with the length attribute: %q", got)
	}
	if got := labels(timeExceeded4(0, body)); got != want {
		t.Errorf("router older than RFC 4884: %q", got)
	}
	damaged := append([]byte(nil), body...)
	damaged[len(damaged)-1] ^= 1
	if got := labels(timeExceeded4(32, damaged)); got != "" {
		t.Errorf("wrong checksum was believed: %q", got)
	}
	v6 := append(pad(quoted6(17, quotedUDP), 128), mplsExtension()...)
	m, err := ParseError6(append([]byte{3, 0, 0, 0, 16, 0, 0, 0}, v6...))
	if err != nil || len(m.Extensions.MPLS) != 2 {
		t.Errorf("IPv6 counts 64-bit words: %+v, %v", m.Extensions, err)
	}
}

func TestQuoteRefusals(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":              {},
		"echo reply":         pad([]byte{0, 0}, 60),
		"no quote":           {11, 0, 0, 0, 0, 0, 0, 0},
		"header cut":         timeExceeded4(0, quoted4(17, nil)[:19]),
		"header length 16":   timeExceeded4(0, append([]byte{0x44}, make([]byte, 40)...)),
		"options cut":        timeExceeded4(0, append([]byte{0x4f}, make([]byte, 40)...)),
		"ip version 5":       timeExceeded4(0, append([]byte{0x55}, make([]byte, 40)...)),
		"ipv6 header is cut": timeExceeded4(0, quoted6(17, nil)[:39]),
	} {
		if _, err := ParseError4(b); !errors.Is(err, ErrQuote) {
			t.Errorf("%s: error %v, want ErrQuote", name, err)
		}
	}
}

func FuzzParseError(f *testing.F) {
	body := append(pad(quoted4(17, quotedUDP), 128), mplsExtension()...)
	f.Add(timeExceeded4(32, body), false)
	f.Add(timeExceeded4(0, body), false)
	f.Add(append([]byte{3, 0, 0, 0, 16, 0, 0, 0}, append(pad(quoted6(17, quotedUDP), 128), mplsExtension()...)...), true)
	f.Add(append([]byte{2, 0, 0, 0, 0, 0, 5, 0x78}, quoted6(44, append([]byte{6, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 20)...))...), true)
	f.Add(timeExceeded4(255, quoted6(0, pad([]byte{0, 255}, 64))), false)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		parse := ParseError4
		if v6 {
			parse = ParseError6
		}
		m, err := parse(b)
		if err != nil {
			if !errors.Is(err, ErrQuote) {
				t.Fatalf("error %v does not wrap ErrQuote", err)
			}
			return
		}
		if len(m.Extensions.Objects) > maxExtensionObjects || len(m.Extensions.MPLS) > maxMPLSLabels {
			t.Fatalf("unbounded: %d objects, %d labels", len(m.Extensions.Objects), len(m.Extensions.MPLS))
		}
		if m.Quote.TransportLen != len(m.Quote.Transport) || m.Quote.TransportLen > len(b) || !m.Quote.Src.IsValid() {
			t.Fatalf("impossible quote %+v of %d bytes", m.Quote, len(b))
		}
	})
}

func BenchmarkParseError4(b *testing.B) {
	msg := timeExceeded4(32, append(pad(quoted4(17, quotedUDP), 128), mplsExtension()...))
	for b.Loop() {
		if _, err := ParseError4(msg); err != nil {
			b.Fatal(err)
		}
	}
}
