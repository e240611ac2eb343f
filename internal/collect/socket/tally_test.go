package socket

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"fathom/internal/facts"
	"fathom/internal/sys/inetdiag"
	"fathom/sample"
)

func msg(s inetdiag.State, local, remote string, inode uint32) *inetdiag.Msg {
	return &inetdiag.Msg{State: s, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Inode: inode, UID: 7}
}

func TestDestinationsCountDistinctEphemeralPorts(t *testing.T) {
	tl := newTally(40000, 40010)
	tl.addListener(msg(inetdiag.Listen, "0.0.0.0:40005", "0.0.0.0:0", 1))
	for _, p := range []string{"40000", "40001", "40001", "40010", "39999", "40011"} { // one twice, two outside
		tl.addTCP(msg(inetdiag.Established, "10.0.0.1:"+p, "10.0.0.2:443", 0))
	}
	tl.addTCP(msg(inetdiag.TimeWait, "10.0.0.1:40002", "10.0.0.2:443", 0))
	tl.addTCP(msg(inetdiag.Established, "10.0.0.1:40005", "10.0.0.2:50000", 0)) // a client of our listener
	tl.addTCP(msg(inetdiag.Established, "10.0.0.9:40000", "10.0.0.2:443", 0))   // another local address
	var s facts.Sockets
	tl.fill(&s, owners{})
	want := []facts.Destination{
		{Remote: netip.MustParseAddrPort("10.0.0.2:443"), Local: netip.MustParseAddr("10.0.0.1"), Ports: 4, TimeWait: 1},
		{Remote: netip.MustParseAddrPort("10.0.0.2:443"), Local: netip.MustParseAddr("10.0.0.9"), Ports: 1},
	}
	if !slices.Equal(s.Destinations, want) {
		t.Errorf("got %+v", s.Destinations)
	}
	if s.States["ESTABLISHED"] != 8 || s.States["TIME_WAIT"] != 1 || s.States["LISTEN"] != 1 || s.Total != 10 {
		t.Errorf("states %v, total %d", s.States, s.Total)
	}
}

func TestHalfOpenGoesToItsListener(t *testing.T) {
	tl := newTally(32768, 60999)
	tl.addListener(msg(inetdiag.Listen, "[::]:80", "[::]:0", 3))
	tl.addListener(msg(inetdiag.Listen, "10.0.0.1:80", "0.0.0.0:0", 1))
	tl.addListener(msg(inetdiag.Listen, "0.0.0.0:81", "0.0.0.0:0", 2))
	for _, l := range []string{"10.0.0.1:80", "10.0.0.1:80", "10.0.0.7:80", "[2001:db8::1]:80", "10.0.0.1:81", "[2001:db8::1]:81", "10.0.0.1:82"} {
		r := "10.0.0.2:5"
		if l[0] == '[' {
			r = "[2001:db8::2]:5"
		}
		tl.addTCP(msg(inetdiag.SynRecv, l, r, 0))
	}
	var s facts.Sockets
	tl.fill(&s, owners{})
	got := map[string]int{}
	for _, l := range s.Listeners {
		got[l.Local.String()] = l.SynRecv
	}
	if got["10.0.0.1:80"] != 2 || got["[::]:80"] != 2 || got["0.0.0.0:81"] != 1 {
		t.Errorf("got %v", got)
	}
}

func TestCloseWaitGroups(t *testing.T) {
	tl := newTally(32768, 60999)
	tl.addListener(msg(inetdiag.Listen, "10.0.0.1:80", "0.0.0.0:0", 1))
	for i, age := range []uint32{100, 5000, 900} {
		m := msg(inetdiag.CloseWait, "10.0.0.1:80", "10.0.0.2:5000", uint32(10+i))
		m.Info = make([]byte, 280)
		m.Info[56], m.Info[57] = byte(age), byte(age>>8)
		m.RQueue = 2
		tl.addCloseWait(m)
	}
	tl.addCloseWait(msg(inetdiag.CloseWait, "10.0.0.1:80", "10.0.0.3:5000", 0))    // never accepted
	tl.addCloseWait(msg(inetdiag.CloseWait, "10.0.0.1:9999", "10.0.0.3:5000", 77)) // unknown owner
	o := owners{byInode: map[uint32]string{1: "web[9]", 10: "web[9]", 11: "web[9]", 12: "web[9]"}}
	var s facts.Sockets
	tl.fill(&s, o)
	want := []facts.SocketGroup{
		{Process: "web[9]", Count: 4, OldestAge: sample.D(5 * time.Second), MedianAge: sample.D(900 * time.Millisecond), Remote: "10.0.0.2", LocalPort: 80, UnreadBytes: 6, Unaccepted: 1},
		{Process: "uid 7", Count: 1, Remote: "10.0.0.3", LocalPort: 9999},
	}
	if !slices.Equal(s.CloseWait, want) {
		t.Errorf("got  %+v\nwant %+v", s.CloseWait, want)
	}
}

func TestUDPKeepsTheOnesThatLose(t *testing.T) {
	tl := newTally(32768, 60999)
	for i := range 10_000 {
		m := &inetdiag.Msg{State: inetdiag.Close, Local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 53), Inode: uint32(i + 1)}
		if i == 9000 {
			m.SkMem = dropsOnly(5)
		}
		if i == 100 {
			m.RQueue = 9
		}
		tl.addUDP(m)
	}
	if w := tl.wanted(); len(w) != 1 {
		t.Errorf("%d owners wanted, only the socket with drops matters", len(w))
	}
	var s facts.Sockets
	tl.fill(&s, owners{})
	if len(s.UDP) != maxUDP || s.UDP[0].Drops != 5 || s.UDP[1].RecvQ != 9 {
		t.Errorf("%d sockets, first %+v %+v", len(s.UDP), s.UDP[0], s.UDP[1])
	}
}

// Lines of `cat /proc/net/{tcp,tcp6,udp}` on Linux 6.18.
func TestParseProcNet(t *testing.T) {
	var m inetdiag.Msg
	if err := parseProcNet("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000  1000        0 4242 1 00000000aabbccdd 100 0 0 10 0", &m); err != nil ||
		m.Local.String() != "127.0.0.1:8080" || m.State != inetdiag.Listen || m.RQueue != 3 || m.UID != 1000 || m.Inode != 4242 || m.Drops() != 0 {
		t.Errorf("tcp: %+v, %v", m, err)
	}
	if err := parseProcNet("   1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9 2 00000000aabbccdd 17", &m); err != nil ||
		m.Local.String() != "[::1]:53" || m.State != inetdiag.Close || m.Drops() != 17 {
		t.Errorf("udp6: %+v, %v", m, err)
	}
	if err := parseProcNet("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", &m); err == nil {
		t.Error("header taken for a socket")
	}
}

func FuzzParseProcNet(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000  1000        0 4242 1 00000000aabbccdd 100 0 0 10 0")
	f.Add("1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 9 2 0 17")
	f.Fuzz(func(t *testing.T, line string) {
		var m inetdiag.Msg
		if parseProcNet(line, &m) == nil {
			if !m.Local.IsValid() || !m.Remote.IsValid() || m.State >= inetdiag.NumStates {
				t.Fatalf("%+v", m)
			}
			newTally(1, 65535).addTCP(&m)
		}
	})
}

func FuzzDatagramToTally(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(append([]byte{88, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1}, make([]byte, 70)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		tl := newTally(1, 65535)
		var m inetdiag.Msg
		_, _ = datagram(b, 0, &m, func(m *inetdiag.Msg) {
			tl.addListener(m)
			tl.addTCP(m)
			tl.addCloseWait(m)
			tl.addUDP(m)
			_ = tcpSocket(m)
		})
		tl.fill(&facts.Sockets{}, owners{})
	})
}
