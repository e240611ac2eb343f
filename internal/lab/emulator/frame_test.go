package emulator

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"testing"
)

// udpFrame is an Ethernet frame with an IPv4 UDP datagram of n zero bytes and
// correct checksums.
func udpFrame(src, dst uint16, dscp byte, n int) []byte {
	n = max(0, n)
	b := make([]byte, 42+n)
	copy(b, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00")
	ip := b[14:]
	ip[0], ip[1], ip[8], ip[9] = 0x45, dscp<<2, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+n))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip[:20]))
	u := ip[20:]
	binary.BigEndian.PutUint16(u, src)
	binary.BigEndian.PutUint16(u[2:], dst)
	binary.BigEndian.PutUint16(u[4:], uint16(8+n))
	binary.BigEndian.PutUint16(u[6:], pseudo(ip))
	completeChecksum(b, 34, 6)
	return b
}

// pseudo is the folded sum of the IPv4 pseudo-header, as a kernel leaves it in
// the checksum field for its hardware.
func pseudo(ip []byte) uint16 {
	p := append(append([]byte{}, ip[12:20]...), 0, ip[9], 0, 0)
	binary.BigEndian.PutUint16(p[10:], binary.BigEndian.Uint16(ip[2:])-20)
	return onesSum(p)
}

// checksumOK sums the transport part with its pseudo-header.
func checksumOK(b []byte) bool {
	ip := b[14:]
	p := append(append([]byte{}, ip[12:20]...), 0, ip[9], 0, 0)
	binary.BigEndian.PutUint16(p[10:], binary.BigEndian.Uint16(ip[2:])-20)
	return onesSum(append(p, ip[20:binary.BigEndian.Uint16(ip[2:])]...)) == 0xffff
}

func slowSum(b []byte) uint16 {
	s := uint32(0)
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		if s += w; s > 0xffff {
			s -= 0xffff
		}
	}
	return uint16(s)
}

func TestOnesSumAgainstTheSlowWay(t *testing.T) {
	s := mustShaper(t, Config{})
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(s.rng.Uint32() | 0xc0)
		}
		if got, want := onesSum(b), slowSum(b); got != want {
			t.Fatalf("%d bytes: %04x, want %04x", n, got, want)
		}
	}
}

func TestChecksumCompletion(t *testing.T) {
	for n := range 30 {
		if b := udpFrame(1000, 2000, 0, n); !checksumOK(b) {
			t.Errorf("%d bytes of payload: checksum wrong", n)
		}
	}
	padded := append(udpFrame(1, 2, 0, 4), 0xff, 0xff, 0xff) // Ethernet padding is not summed
	binary.BigEndian.PutUint16(padded[40:], pseudo(padded[14:]))
	completeChecksum(padded, 34, 6)
	if !checksumOK(padded) {
		t.Error("padding changed the checksum")
	}
	if completeChecksum(padded, 60, 6) {
		t.Error("checksum beyond the frame accepted")
	}
}

func TestFlipBit(t *testing.T) {
	s := mustShaper(t, Config{})
	for _, fix := range []bool{false, true} {
		for n := 1; n < 60; n++ {
			orig := udpFrame(1000, 2000, 0, n)
			b := bytes.Clone(orig)
			if !flipBit(b, s.rng.Uint64(), fix) {
				t.Fatalf("nothing flipped with %d bytes", n)
			}
			diff := 0
			for i := range b {
				d := bits.OnesCount8(b[i] ^ orig[i])
				if i < 42 && i != 40 && i != 41 && d != 0 {
					t.Fatalf("header byte %d changed", i)
				}
				if i >= 42 {
					diff += d
				}
			}
			if diff != 1 || checksumOK(b) != fix {
				t.Fatalf("fix %t: %d payload bits changed, checksum ok %t", fix, diff, checksumOK(b))
			}
		}
	}
	if flipBit(udpFrame(1, 2, 0, 0), 5, true) {
		t.Error("flipped with fix though there is no payload")
	}
	if b := udpFrame(1, 2, 0, 0); !flipBit(b, 5, false) || !bytes.Equal(b[:34], udpFrame(1, 2, 0, 0)[:34]) {
		t.Error("without payload the transport header is the place")
	}
}

func TestMatch(t *testing.T) {
	ef, zero := 46, 0
	f := udpFrame(1000, 53, 46, 100) // IP length 128
	arp := append(make([]byte, 12), 0x08, 0x06, 0, 1)
	for _, c := range []struct {
		name     string
		m        Match
		udp, arp bool
	}{
		{"everything", Match{}, true, true},
		{"nothing", Match{Not: true}, false, false},
		{"udp", Match{Protocol: "udp"}, true, false},
		{"17", Match{Protocol: "17"}, true, false},
		{"not tcp", Match{Protocol: "tcp", Not: true}, true, true},
		{"arp", Match{EtherType: "arp"}, false, true},
		{"EF", Match{DSCP: &ef}, true, false},
		{"best effort", Match{DSCP: &zero}, false, false},
		{"port", Match{DstPort: 53}, true, false},
		{"wrong port", Match{SrcPort: 53}, false, false},
		{"size", Match{MinSize: 128, MaxSize: 128}, true, false},
		{"too small", Match{MaxSize: 127}, false, true},
		{"prefix", Match{Src: "10.0.0.0/30", Dst: "10.0.0.2"}, true, false},
		{"wrong way", Match{Src: "10.0.0.2"}, false, false},
	} {
		k, err := c.m.compile()
		if err != nil {
			t.Fatal(c.name, err)
		}
		if got := k.fits(f, parseFrame(f)); got != c.udp {
			t.Errorf("%s: udp frame %t", c.name, got)
		}
		if got := k.fits(arp, parseFrame(arp)); got != c.arp {
			t.Errorf("%s: arp frame %t", c.name, got)
		}
	}
}

func TestParseVLANAndIPv6(t *testing.T) {
	plain := udpFrame(7, 8, 10, 3)
	tagged := append(append(bytes.Clone(plain[:12]), 0x81, 0, 0, 42), plain[12:]...)
	if f := parseFrame(tagged); f.l3 != 18 || f.dscp != 10 || f.payload != 46 || f.ipLen() != 31 {
		t.Errorf("vlan: %+v", f)
	}
	v6 := make([]byte, 14+40+8+8+5)
	v6[12], v6[13] = 0x86, 0xdd
	ip := v6[14:]
	ip[0], ip[1], ip[6] = 0x6b, 0x80, 60 // DSCP 46, destination options
	binary.BigEndian.PutUint16(ip[4:], 8+8+5)
	ip[40] = 17
	if f := parseFrame(v6); f.dscp != 46 || f.proto != 17 || f.l4 != 14+48 || f.payload != 14+56 || len(f.addrs) != 32 {
		t.Errorf("ipv6: %+v", f)
	}
}

func TestInsertVLAN(t *testing.T) {
	f := udpFrame(7, 8, 0, 3)
	s := slot{buf: append(make([]byte, headroom), f...), at: headroom, n: len(f)}
	s.vnet = vnetHeader{flags: vnetNeedsCsum, csumStart: 34, csumOffs: 6}
	binary.BigEndian.PutUint16(s.buf[headroom+40:], pseudo(f[14:]))
	s.insertVLAN(etherVLAN, 42)
	s.settle()
	got := s.frame()
	if len(got) != len(f)+4 || !bytes.Equal(got[12:16], []byte{0x81, 0, 0, 42}) || !bytes.Equal(got[16:], f[12:]) || !bytes.Equal(got[:12], f[:12]) {
		t.Errorf("% x", got)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(udpFrame(1, 2, 3, 4), uint64(1), 34, 6)
	f.Add([]byte{}, uint64(0), 0, 0)
	f.Add(udpFrame(1, 2, 3, 4)[:20], uint64(9), -1, 70000)
	v6 := make([]byte, 80)
	v6[12], v6[13], v6[14], v6[20] = 0x86, 0xdd, 0x60, 44
	f.Add(v6, uint64(1)<<40, 54, 0)
	ef := 46
	m, err := Match{Protocol: "udp", DSCP: &ef, Src: "10.0.0.0/8", DstPort: 1, Flow: &FlowMatch{Of: 3, Is: []int{1}}}.compile()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, r uint64, start, off int) {
		i := parseFrame(b)
		if i.l3 < 0 || i.end > len(b) || i.l3 > i.end || i.payload > i.end || i.l4 > i.end {
			t.Fatalf("%+v of %d bytes", i, len(b))
		}
		m.fits(b, i)
		before := bytes.Clone(b)
		if flipBit(b, r, r&1 == 1) == bytes.Equal(before, b) {
			t.Fatal("flipBit lies")
		}
		completeChecksum(b, start, off)
	})
}

// cmsg builds a control message as the kernel lays it out.
func cmsg(level, kind uint32, data []byte) []byte {
	b := binary.NativeEndian.AppendUint64(nil, uint64(16+len(data)))
	b = binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(b, level), kind)
	b = append(b, data...)
	return append(b, make([]byte, (8-len(b)%8)%8)...)
}

func TestAncillary(t *testing.T) {
	stamp := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, 3), 7)
	aux := make([]byte, 20)
	binary.NativeEndian.PutUint32(aux, 0x10) // TP_STATUS_VLAN_VALID
	binary.NativeEndian.PutUint16(aux[16:], 42)
	want := ancillary{stamp: 3_000_000_007, vlan: true, tpid: etherVLAN, tci: 42}
	if got := readAncillary(append(cmsg(1, 35, stamp), cmsg(263, 8, aux)...)); got != want {
		t.Errorf("%+v", got)
	}
	if got := readAncillary(cmsg(1, 35, stamp[:8])); got != (ancillary{}) {
		t.Errorf("short: %+v", got)
	}
}

func FuzzAuxdata(f *testing.F) {
	f.Add(make([]byte, ctlLen))
	f.Add([]byte{1, 2})
	f.Add(append(cmsg(1, 35, make([]byte, 16)), cmsg(263, 8, make([]byte, 20))...))
	f.Fuzz(func(_ *testing.T, b []byte) { readAncillary(b) })
}
