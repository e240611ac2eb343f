package inetdiag

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message builds one netlink message holding an inet_diag_msg with attributes.
func message(typ uint16, family uint8, state State, local, remote netip.AddrPort, attrs ...[]byte) []byte {
	p := make([]byte, msgLen)
	p[0], p[1] = family, uint8(state)
	binary.BigEndian.PutUint16(p[4:], local.Port())
	binary.BigEndian.PutUint16(p[6:], remote.Port())
	copy(p[8:24], local.Addr().AsSlice())
	copy(p[24:40], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint32(p[56:], 3)
	binary.NativeEndian.PutUint32(p[60:], 128)
	binary.NativeEndian.PutUint32(p[64:], 1000)
	binary.NativeEndian.PutUint32(p[68:], 4242)
	for _, a := range attrs {
		p = append(p, a...)
	}
	h := make([]byte, headerLen)
	binary.NativeEndian.PutUint32(h, uint32(headerLen+len(p)))
	binary.NativeEndian.PutUint16(h[4:], typ)
	binary.NativeEndian.PutUint32(h[8:], 7)
	return append(h, p...)
}

func attribute(typ uint16, body []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(body)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), body...)
	return append(b, make([]byte, align4(len(b))-len(b))...)
}

func TestParse(t *testing.T) {
	mem := make([]byte, 36)
	binary.NativeEndian.PutUint32(mem[4*skMemRcvBuf:], 212992)
	binary.NativeEndian.PutUint32(mem[4*skMemDrops:], 99)
	b := message(TypeSockDiag, FamilyV4, Listen, netip.MustParseAddrPort("10.0.0.1:60000"), netip.MustParseAddrPort("0.0.0.0:0"),
		attribute(attrSkMemInfo, mem), attribute(8, []byte{1}), attribute(attrInfo, []byte{10, 1, 2, 3, 4}))
	second := message(TypeSockDiag, FamilyV6, Established, netip.MustParseAddrPort("[::ffff:10.0.0.1]:443"), netip.MustParseAddrPort("[2001:db8::1]:50000"))
	h, p, rest, err := Next(append(b, second...))
	if err != nil || h.Type != TypeSockDiag || h.Seq != 7 {
		t.Fatalf("header %+v, %v", h, err)
	}
	var m Msg
	if err := m.Parse(p); err != nil {
		t.Fatal(err)
	}
	// A port above 32767 and the queue fields of a listener.
	if m.Local.String() != "10.0.0.1:60000" || m.State.String() != "LISTEN" || m.RQueue != 3 || m.WQueue != 128 || m.UID != 1000 || m.Inode != 4242 {
		t.Errorf("got %+v", m)
	}
	if m.RcvBuf() != 212992 || m.Drops() != 99 {
		t.Errorf("rcvbuf %d drops %d", m.RcvBuf(), m.Drops())
	}
	if i := ParseTCPInfo(m.Info); i.State != 10 || i.Backoff != 4 || i.RTT != 0 {
		t.Errorf("short tcp_info: %+v", i)
	}
	if _, p, rest, err = Next(rest); err != nil || len(rest) != 0 {
		t.Fatalf("second: %v, %d left", err, len(rest))
	}
	if err := m.Parse(p); err != nil || !m.Mapped || m.Local.String() != "10.0.0.1:443" || m.Remote.String() != "[2001:db8::1]:50000" || m.Drops() != 0 || m.Info != nil {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestCutShort(t *testing.T) {
	b := message(TypeSockDiag, FamilyV4, Listen, netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("0.0.0.0:0"))
	for n := range b {
		if _, _, _, err := Next(b[:n]); !errors.Is(err, ErrShort) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	var m Msg
	if err := m.Parse(b[headerLen : headerLen+msgLen-1]); !errors.Is(err, ErrShort) {
		t.Fatal(err)
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		v    int32
		want int
	}{{0, 0}, {-2, 2}, {-95, 95}, {5, 0}, {-1 << 31, 0}} {
		if got := Errno(binary.NativeEndian.AppendUint32(nil, uint32(c.v))); got != c.want {
			t.Errorf("%d: %d", c.v, got)
		}
	}
	if Errno(nil) != 0 {
		t.Error("empty")
	}
}

// The offsets must be those of the kernel's struct, which x/sys generates from its headers.
func TestTCPInfoOffsets(t *testing.T) {
	var i unix.TCPInfo
	for name, c := range map[string][2]uintptr{
		"rto": {offRTO, unsafe.Offsetof(i.Rto)}, "snd_mss": {offSndMSS, unsafe.Offsetof(i.Snd_mss)}, "rcv_mss": {offRcvMSS, unsafe.Offsetof(i.Rcv_mss)},
		"unacked": {offUnacked, unsafe.Offsetof(i.Unacked)}, "sacked": {offSacked, unsafe.Offsetof(i.Sacked)}, "lost": {offLost, unsafe.Offsetof(i.Lost)},
		"retrans": {offRetrans, unsafe.Offsetof(i.Retrans)}, "last_data_sent": {offLastDataSent, unsafe.Offsetof(i.Last_data_sent)},
		"last_data_recv": {offLastDataRecv, unsafe.Offsetof(i.Last_data_recv)}, "last_ack_recv": {offLastAckRecv, unsafe.Offsetof(i.Last_ack_recv)},
		"pmtu": {offPMTU, unsafe.Offsetof(i.Pmtu)}, "rtt": {offRTT, unsafe.Offsetof(i.Rtt)}, "rttvar": {offRTTVar, unsafe.Offsetof(i.Rttvar)},
		"ssthresh": {offSndSSThresh, unsafe.Offsetof(i.Snd_ssthresh)}, "cwnd": {offSndCwnd, unsafe.Offsetof(i.Snd_cwnd)},
		"reordering": {offReordering, unsafe.Offsetof(i.Reordering)}, "total_retrans": {offTotalRetrans, unsafe.Offsetof(i.Total_retrans)},
		"pacing": {offPacingRate, unsafe.Offsetof(i.Pacing_rate)}, "acked": {offBytesAcked, unsafe.Offsetof(i.Bytes_acked)},
		"received": {offBytesReceived, unsafe.Offsetof(i.Bytes_received)}, "segs_out": {offSegsOut, unsafe.Offsetof(i.Segs_out)},
		"notsent": {offNotSent, unsafe.Offsetof(i.Notsent_bytes)}, "min_rtt": {offMinRTT, unsafe.Offsetof(i.Min_rtt)},
		"data_segs_out": {offDataSegsOut, unsafe.Offsetof(i.Data_segs_out)}, "delivery": {offDeliveryRate, unsafe.Offsetof(i.Delivery_rate)},
		"busy": {offBusy, unsafe.Offsetof(i.Busy_time)}, "rwnd": {offRwndLimited, unsafe.Offsetof(i.Rwnd_limited)},
		"sndbuf": {offSndbufLimited, unsafe.Offsetof(i.Sndbuf_limited)}, "sent": {offBytesSent, unsafe.Offsetof(i.Bytes_sent)},
		"retransmitted": {offBytesRetrans, unsafe.Offsetof(i.Bytes_retrans)}, "snd_wnd": {offSndWnd, unsafe.Offsetof(i.Snd_wnd)},
	} {
		if c[0] != c[1] {
			t.Errorf("%s at %d, the kernel has it at %d", name, c[0], c[1])
		}
	}
}

func TestRequest(t *testing.T) {
	r := Request{Family: FamilyV6, Protocol: ProtoTCP, Ext: ExtInfo, States: Mask(Established)}
	if b := r.AppendPayload(nil); len(b) != requestLen || b[0] != 10 || b[1] != 6 || b[2] != 2 || b[4] != 2 {
		t.Errorf("%x", b)
	}
	r.Remote = netip.MustParseAddr("::ffff:10.0.0.1")
	if b := r.AppendPayload(nil); len(b) != requestLen+20 || b[60] != bcDestination || b[61] != 16 || b[62] != 20 || b[64] != FamilyV4 || b[65] != 32 {
		t.Errorf("%x", b)
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	b := message(TypeSockDiag, FamilyV6, Established, netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2"), attribute(attrInfo, make([]byte, 280)))
	var m Msg
	if n := testing.AllocsPerRun(100, func() {
		_, p, _, _ := Next(b)
		_ = m.Parse(p)
		_ = ParseTCPInfo(m.Info)
	}); n != 0 {
		t.Errorf("%v allocations for a socket", n)
	}
}

func FuzzDatagram(f *testing.F) {
	one := message(TypeSockDiag, FamilyV4, Listen, netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("0.0.0.0:0"), attribute(attrInfo, make([]byte, 280)), attribute(attrSkMemInfo, make([]byte, 36)))
	six := message(TypeSockDiag, FamilyV6, TimeWait, netip.MustParseAddrPort("[::1]:1"), netip.MustParseAddrPort("[::1]:2"), []byte{3, 0, 2, 0}, []byte{0xff, 0xff, 2, 0})
	f.Add(one)
	f.Add(append(one, six...))
	f.Add(message(TypeDone, 0, 0, netip.AddrPort{}, netip.AddrPort{}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := len(b)
		for len(b) > 0 {
			_, p, rest, err := Next(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) || len(p) > total {
				t.Fatal("no progress")
			}
			if e := Errno(p); e < 0 {
				t.Fatal("negative errno")
			}
			var m Msg
			if m.Parse(p) == nil {
				_ = m.State.String()
				_, _, _ = m.RcvBuf(), m.Drops(), ParseTCPInfo(m.Info)
				if m.Local.Addr().Is4In6() {
					t.Fatal("mapped address came through")
				}
			}
			b = rest
		}
	})
}
