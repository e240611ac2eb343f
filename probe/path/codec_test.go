package path

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"fathom/internal/wire"
)

var (
	codecSrc  = netip.MustParseAddr("198.51.100.7")
	codecSrc6 = netip.MustParseAddr("2001:db8::7")
	codecDst6 = netip.MustParseAddr("2001:db8::9")
)

func ports(v6 bool) (src, dst netip.AddrPort) {
	if v6 {
		return netip.AddrPortFrom(codecSrc6, 40000), netip.AddrPortFrom(codecDst6, 33434)
	}
	return netip.AddrPortFrom(codecSrc, 40000), netip.AddrPortFrom(simTarget, 33434)
}

// onWire is the transport part of a probe as it goes out: for UDP with the
// header that the kernel puts before our payload.
func onWire(c codec, p packet) (proto uint8, b []byte) {
	b = c.encode(p)
	switch c := c.(type) {
	case *udpCodec:
		h := make([]byte, wire.UDPHeaderLen, wire.UDPHeaderLen+len(b))
		binary.BigEndian.PutUint16(h, c.src.Port())
		binary.BigEndian.PutUint16(h[2:], c.dst.Port())
		binary.BigEndian.PutUint16(h[4:], uint16(len(b)+wire.UDPHeaderLen))
		h = append(h, b...)
		binary.BigEndian.PutUint16(h[6:], wire.PseudoChecksum(c.src.Addr(), c.dst.Addr(), wire.ProtoUDP, h))
		return wire.ProtoUDP, h
	case *tcpCodec:
		return wire.ProtoTCP, b
	case *echoCodec:
		if c.v6 {
			return wire.ProtoICMPv6, b
		}
	}
	return wire.ProtoICMP, b
}

// quoteOf is what a router quotes of a probe: n transport bytes.
func quoteOf(t testing.TB, v6 bool, proto uint8, transport []byte, n int) wire.Quote {
	t.Helper()
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 1, proto
	if v6 {
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, proto, 1
	}
	q, err := wire.ParseQuote(append(ip, transport[:min(n, len(transport))]...))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func codecs(v6 bool) map[string]codec {
	src, dst := ports(v6)
	return map[string]codec{"echo": newEchoCodec(v6), "udp": newUDPCodec(src, dst), "tcp": newTCPCodec(src, dst)}
}

func TestProbesAreToldApartByTheirQuotes(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for name, c := range codecs(v6) {
			for _, size := range []int{0, 60, 61, 1400} {
				for _, id := range []int{1, 2, 90, 4711, maxID} {
					proto, b := onWire(c, packet{ID: id, TTL: 3, Size: size})
					for _, quoted := range []int{8, 28, 2000} { // RFC 792, traceroute's, RFC 1812
						got, ok := c.quoted(quoteOf(t, v6, proto, b, quoted))
						if !ok || got != id {
							t.Errorf("%s, size %d, %d bytes quoted: probe %d taken for %d (%v)", name, size, quoted, id, got, ok)
						}
					}
				}
			}
		}
	})
}

// Routers that balance by flow look at ports, or at the first words of ICMP.
func TestProbesKeepOneFlow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for name, c := range codecs(v6) {
			_, first := onWire(c, packet{ID: 1, Size: 60})
			for id := 2; id < 1000; id++ {
				_, b := onWire(c, packet{ID: id, Size: 60})
				if string(b[:4]) != string(first[:4]) { // ports; ICMP type, code, checksum
					t.Fatalf("%s: probe %d has another flow: % x, first % x", name, id, b[:4], first[:4])
				}
				if name == "echo" && (string(b[4:6]) != string(first[4:6]) || (!v6 && wire.Checksum(b) != 0)) {
					t.Fatalf("%s: probe %d: identifier % x, checksum %#x", name, id, b[4:6], wire.Checksum(b))
				}
			}
		}
	})
}

func TestProbeSize(t *testing.T) {
	for v6, header := range map[bool]int{false: 20, true: 40} {
		for name, c := range codecs(v6) {
			if _, b := onWire(c, packet{ID: 1, Size: 1280}); name != "tcp" && len(b)+header != 1280 {
				t.Errorf("%s v6=%v: %d bytes, want 1280", name, v6, len(b)+header)
			}
		}
	}
}

func TestForeignPacketsAreNotOurs(t *testing.T) {
	for name, c := range codecs(false) {
		proto, b := onWire(c, packet{ID: 7, Size: 60})
		for what, spoil := range map[string]func(q *wire.Quote){
			"protocol":    func(q *wire.Quote) { q.Proto = 47 },
			"fragment":    func(q *wire.Quote) { *q = wire.Quote{Proto: proto, Offset: 1480} },
			"nothing":     func(q *wire.Quote) { q.TransportLen, q.Transport = 4, q.Transport[:4] },
			"source port": func(q *wire.Quote) { q.SrcPort++; q.ICMPID++ },
		} {
			q := quoteOf(t, false, proto, b, 100)
			spoil(&q)
			if id, ok := c.quoted(q); ok {
				t.Errorf("%s: other %s taken for probe %d", name, what, id)
			}
		}
	}
}

func TestTargetsSegments(t *testing.T) {
	src, dst := ports(false)
	c := newTCPCodec(src, dst)
	segment := func(flags uint8, ack uint32) []byte {
		return wire.TCP{SrcPort: dst.Port(), DstPort: src.Port(), Ack: ack, Flags: flags}.Append(nil)
	}
	for _, flags := range []uint8{wire.TCPSyn | wire.TCPAck, wire.TCPRst | wire.TCPAck} {
		if id, ok := c.reply(segment(flags, c.isn+5+1)); !ok || id != 5 {
			t.Errorf("flags %#x: probe %d, %v; want 5", flags, id, ok)
		}
	}
	for name, b := range map[string][]byte{
		"plain ack": segment(wire.TCPAck, c.isn+6), "other connection": segment(wire.TCPSyn|wire.TCPAck, c.isn-100),
		"cut": segment(wire.TCPRst|wire.TCPAck, c.isn+6)[:12],
	} {
		if id, ok := c.reply(b); ok {
			t.Errorf("%s taken for probe %d", name, id)
		}
	}
}

// FuzzReply gives whatever the network may send to all that reads it.
func FuzzReply(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, c := range codecs(v6) {
			_, b := onWire(c, packet{ID: 3, Size: 60})
			f.Add(append([]byte{11, 0, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 1, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, b...), v6)
			f.Add(b, v6)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		target := simTarget
		if v6 {
			target = codecDst6
		}
		src, dst := ports(v6)
		echo, udp, tcp := newEchoCodec(v6), newUDPCodec(src, dst), newTCPCodec(src, dst)
		echo.anyID = true
		for _, c := range []codec{echo, udp, tcp} {
			if r, ok := icmpError(target, c, reply{From: target}, b); ok && (r.ICMP == nil || r.Kind == 0) {
				t.Fatalf("half a reply: %+v", r)
			}
		}
		if id, ok := echo.reply(b); ok && (id < 0 || id > 0xffff) {
			t.Fatalf("echo reply to probe %d", id)
		}
		if id, ok := tcp.reply(b); ok && (id < 1 || id > maxID) {
			t.Fatalf("segment for probe %d", id)
		}
		quotedEcho(echo, b)
		udp.payload(b)
		hopLimit(b)
	})
}
