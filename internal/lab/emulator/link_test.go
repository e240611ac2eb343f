package emulator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"fathom/internal/testkit/netns"
)

// bench is two nodes with a link between them:
// node a (10.9.0.1, eth0) - wa [relay] wb - node b (10.9.0.2, eth0).
type bench struct {
	a, b, wire *netns.NS
	link       *Link
}

func newBench(t testing.TB, offload bool, o Options) *bench {
	t.Helper()
	n := &bench{a: netns.New(t), b: netns.New(t), wire: netns.New(t)}
	netns.Veth(t, n.a, "eth0", "10.9.0.1/24", n.wire, "wa", "")
	netns.Veth(t, n.b, "eth0", "10.9.0.2/24", n.wire, "wb", "")
	if !offload {
		for _, ns := range []*netns.NS{n.a, n.b} {
			ns.Must(t, func() error { return DisableOffloads("eth0") })
		}
	}
	var err error
	if n.link, err = Start(t.Context(), n.wire.Do, "wa", "wb", o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.link.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// pingPong sends n datagrams from a, which b answers, and returns the round trips.
func (n *bench) pingPong(t testing.TB, count int, gap time.Duration) []time.Duration {
	t.Helper()
	ca, cb := n.a.UDP(t, "10.9.0.1:0"), n.b.UDP(t, "10.9.0.2:0")
	go func() {
		buf := make([]byte, 2000)
		for {
			k, from, err := cb.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = cb.WriteTo(buf[:k], from)
		}
	}()
	var rtt []time.Duration
	buf := make([]byte, 2000)
	for i := range count + 1 {
		start := time.Now()
		if _, err := ca.WriteTo(fmt.Appendf(nil, "%d", i), cb.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_ = ca.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, _, err := ca.ReadFrom(buf); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if i > 0 { // the first one pays for ARP
			rtt = append(rtt, time.Since(start))
		}
		time.Sleep(gap) // spacing of the load, not synchronisation
	}
	return rtt
}

func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func TestDelayOnTheWire(t *testing.T) {
	n := newBench(t, false, Options{})
	base := n.pingPong(t, 200, 0)
	for _, d := range []Direction{AtoB, BtoA} {
		if err := n.link.Set(d, Config{Impairment: Impairment{Delay: 10 * time.Millisecond}}); err != nil {
			t.Fatal(err)
		}
	}
	rtt := n.pingPong(t, 100, 0)
	t.Logf("undelayed round trip p50 %s p99 %s; delayed by 2×10 ms: p50 %s p99 %s", quantile(base, .5), quantile(base, .99), quantile(rtt, .5), quantile(rtt, .99))
	if m := slices.Min(rtt); m < 20*time.Millisecond {
		t.Errorf("a packet came %s early", 20*time.Millisecond-m)
	}
	if m := quantile(rtt, .5); m > 30*time.Millisecond { // generous: other work on the machine
		t.Errorf("median %s, want about 20 ms", m)
	}
	c := n.link.Counters(AtoB)
	if c.In < 300 || c.In != c.Out || c.LostTotal() != 0 || c.Waiting != 0 {
		t.Errorf("%+v", c)
	}
}

func TestBlackholeAndSwitchWhileRunning(t *testing.T) {
	n := newBench(t, false, Options{})
	n.pingPong(t, 1, 0)
	if err := n.link.Set(AtoB, Config{Impairment: Impairment{Blackhole: true}}); err != nil {
		t.Fatal(err)
	}
	ca := n.a.UDP(t, "10.9.0.1:0")
	before := n.link.Counters(AtoB)
	for range 50 {
		if _, err := ca.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 9}); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "50 lost", func() bool { return n.link.Counters(AtoB).Lost[LostBlackhole] >= 50 })
	if c := n.link.Counters(AtoB); c.Out != before.Out {
		t.Errorf("frames came through a black hole: %+v", c)
	}
	if err := n.link.Set(AtoB, Config{Impairment: Impairment{Delay: -1}}); err == nil {
		t.Error("negative delay accepted")
	}
	if !n.link.Config(AtoB).Blackhole {
		t.Error("a refused configuration changed the one in force")
	}
	if err := n.link.Set(AtoB, Config{}); err != nil {
		t.Fatal(err)
	}
	n.pingPong(t, 1, 0)
}

// waitFor waits for a condition that other threads bring about.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

// transfer sends size bytes by TCP from a to b and compares.
func (n *bench) transfer(t *testing.T, size int) {
	t.Helper()
	var ln net.Listener
	n.b.Must(t, func() (err error) { ln, err = net.Listen("tcp", "10.9.0.2:0"); return })
	defer ln.Close()
	data := bytes.Repeat([]byte("fathom measures depth. "), size/23)
	got := make(chan [32]byte, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		got <- sha256.Sum256(b)
	}()
	var c net.Conn
	n.a.Must(t, func() (err error) { c, err = net.Dial("tcp", ln.Addr().String()); return })
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.Close()
	select {
	case h := <-got:
		if h != sha256.Sum256(data) {
			t.Error("the data changed on the way")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the transfer does not end")
	}
}

func TestOffloadedFramesSurvive(t *testing.T) {
	n := newBench(t, true, Options{}) // TSO and partial checksums reach the relay
	n.transfer(t, 4<<20)
	n.pingPong(t, 20, 0)
	// Held frames (copied) as well as forwarded ones.
	if err := n.link.Set(AtoB, Config{Impairment: Impairment{Delay: time.Millisecond}}); err != nil {
		t.Fatal(err)
	}
	n.transfer(t, 1<<20)
	c := n.link.Counters(AtoB)
	if c.InBytes/c.In < 2000 {
		t.Logf("mean frame %d bytes: the kernel sent no offloaded frames, the test shows little", c.InBytes/c.In)
	}
}

func TestWithoutOffloadFramesFitTheMTU(t *testing.T) {
	n := newBench(t, false, Options{AtoB: Config{Impairment: Impairment{MaxFrame: 1500}}})
	n.transfer(t, 1<<20)
	if c := n.link.Counters(AtoB); c.Lost[LostMaxFrame] != 0 || c.In < 700 {
		t.Errorf("%+v", c)
	}
}

func TestDuplicateReorderAndCorruptOnTheWire(t *testing.T) {
	const count = 400
	n := newBench(t, false, Options{Seed: 3})
	n.pingPong(t, 1, 0)
	in := n.b.UDP(t, "10.9.0.2:0")
	_ = in.SetReadBuffer(4 << 20)
	ca := n.a.UDP(t, "10.9.0.1:0")
	if err := n.link.Set(AtoB, Config{Impairment: Impairment{Delay: 30 * time.Millisecond, Duplicate: 0.1, Reorder: 0.1, Corrupt: 0.1, CorruptFix: true}}); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(count) {
		b := bytes.Repeat([]byte{0xaa}, 100)
		binary.BigEndian.PutUint32(b, i)
		if _, err := ca.WriteTo(b, in.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "all sent", func() bool { c := n.link.Counters(AtoB); return c.Waiting == 0 && c.Out >= count })
	c := n.link.Counters(AtoB)
	var early, bad, got, last uint64
	_ = in.SetReadDeadline(time.Now().Add(time.Second))
	for buf := make([]byte, 200); got < count+c.Duplicated; got++ {
		if _, _, err := in.ReadFrom(buf); err != nil {
			t.Fatalf("got %d of %d: %v", got, count+c.Duplicated, err)
		}
		if i := uint64(binary.BigEndian.Uint32(buf)); i < last {
			early++
		} else if i < count { // not a damaged number
			last = i
		}
		if !bytes.Equal(buf[4:100], bytes.Repeat([]byte{0xaa}, 96)) {
			bad++
		}
	}
	if c.Duplicated == 0 || c.Reordered == 0 || c.Corrupted == 0 || early == 0 || bad == 0 {
		t.Errorf("early %d, damaged %d, counters %+v", early, bad, c)
	}
}

func TestCarrierOfAPort(t *testing.T) {
	n := newBench(t, false, Options{})
	n.pingPong(t, 1, 0)
	end := n.link.End(AtoB)
	if err := end.SetCarrier(false); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "carrier lost", func() bool { return carrier(t, n.a, "eth0") == "0" })
	if err := end.SetCarrier(true); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "carrier back", func() bool { return carrier(t, n.a, "eth0") == "1" })
	n.pingPong(t, 3, 0)
}

// carrier reads the flag over netlink: sysfs here shows another namespace.
func carrier(t testing.TB, ns *netns.NS, name string) string {
	if ns.Link(t, name).RawFlags&0x10000 != 0 { // IFF_LOWER_UP
		return "1"
	}
	return "0"
}

func TestStopByContextLeavesNothing(t *testing.T) {
	a := netns.New(t)
	netns.Veth(t, a, "x0", "", a, "x1", "")
	before := openFDs(t)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		l, err := Start(ctx, a.Do, "x0", "x1", Options{AtoB: Config{Impairment: Impairment{Delay: time.Hour / 60 / 6}}})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := l.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if _, err := Start(t.Context(), a.Do, "x0", "nosuch", Options{}); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("missing interface: %v", err)
	}
	if _, err := Start(t.Context(), a.Do, "x0", "x1", Options{BtoA: Config{Impairment: Impairment{Rate: -1}}}); err == nil {
		t.Error("bad configuration accepted")
	}
	if after := openFDs(t); after > before {
		t.Errorf("after errors: %d descriptors before, %d after", before, after)
	}
}

func openFDs(t testing.TB) int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range d {
		// The Go poller's own descriptors come and stay.
		if s, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && !strings.Contains(s, "anon_inode:[event") {
			n++
		} else if err == nil && strings.Contains(s, "eventfd") {
			n++
		}
	}
	return n
}

func TestTap(t *testing.T) {
	a, b, wire := netns.New(t), netns.New(t), netns.New(t)
	netns.Veth(t, b, "eth0", "10.9.0.2/24", wire, "wb", "")
	b.Must(t, func() error { return DisableOffloads("eth0") })
	tap, err := NewTap(a.Do, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	port, err := OpenPort(wire.Do, "wb")
	if err != nil {
		t.Fatal(err)
	}
	l, err := Join(t.Context(), tap, port, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
		tap.Close()
		port.Close()
	})
	a.Up(t, "eth0", "10.9.0.1/24")
	n := &bench{a: a, b: b, wire: wire, link: l}
	n.pingPong(t, 20, 0)
	n.transfer(t, 1<<20)

	if err := tap.SetSpeed(a.Do, 100, false); err != nil {
		t.Error(err)
	}
	if err := tap.SetCarrier(false); err != nil {
		t.Error(err)
	}
	waitFor(t, "no carrier", func() bool { return carrier(t, a, "eth0") == "0" })
	if err := tap.SetCarrier(true); err != nil {
		t.Error(err)
	}
	if tap.InjectErrors("crc", 1) == nil || tap.InjectErrors(DropErrors, -1) == nil {
		t.Error("nonsense accepted")
	}
	for _, kind := range []ErrorKind{DropErrors, UnknownProto} {
		before := *a.Link(t, "eth0").Statistics
		if err := tap.InjectErrors(kind, 500); err != nil {
			t.Fatal(err)
		}
		waitFor(t, string(kind), func() bool {
			return a.Link(t, "eth0").Statistics.RxDropped > before.RxDropped+20
		})
		if err := tap.InjectErrors(kind, 0); err != nil {
			t.Fatal(err)
		}
		s := *a.Link(t, "eth0").Statistics
		t.Logf("%s: rx_errors +%d rx_frame_errors +%d rx_dropped +%d rx_length_errors +%d rx_packets +%d", kind, s.RxErrors-before.RxErrors,
			s.RxFrameErrors-before.RxFrameErrors, s.RxDropped-before.RxDropped, s.RxLengthErrors-before.RxLengthErrors, s.RxPackets-before.RxPackets)
	}
	n.pingPong(t, 3, 0)
}

func TestConfigFromYAML(t *testing.T) {
	const text = `
delay: 10ms
jitter: 2ms
loss: {random: 1%, ge: {p: 0.01, r: 0.3}, burst: {packets: 5, period: 1s}}
rate: 10mbit
queue: {bytes: 64kB}
classes:
- match: {dscp: 46, flow: {of: 4, is: [0]}}
  blackhole: true
`
	var c Config
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if c.Delay != 10*time.Millisecond || c.Loss.Random != 0.01 || c.Loss.GE.R != 0.3 || c.Rate != 1e7 || c.Queue.Bytes != 64000 ||
		len(c.Classes) != 1 || !c.Classes[0].Blackhole || *c.Classes[0].Match.DSCP != 46 {
		t.Errorf("%+v", c)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestVLANTagSurvives(t *testing.T) {
	n := newBench(t, false, Options{})
	n.pingPong(t, 1, 0)
	got := make(chan []byte, 1)
	var in, out int
	n.b.Must(t, func() (err error) { in, err = rawSocket("eth0"); return })
	n.a.Must(t, func() (err error) { out, err = rawSocket("eth0"); return })
	defer unix.Close(out)
	go func() {
		buf, ctl := make([]byte, 2000), make([]byte, ctlLen)
		for {
			k, c, _, _, err := unix.Recvmsg(in, buf, ctl, 0)
			if err != nil {
				got <- nil
				return
			}
			if a := readAncillary(ctl[:c]); k >= 14 && buf[12] == 0x88 && a.vlan {
				got <- binary.BigEndian.AppendUint16(nil, a.tci)
				return
			}
		}
	}()
	frame := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 9, 0x81, 0, 0, 42, 0x88, 0xb5)
	frame = append(frame, make([]byte, 60)...)
	if _, err := unix.Write(out, frame); err != nil {
		t.Fatal(err)
	}
	tci := <-got
	unix.Close(in)
	if !bytes.Equal(tci, []byte{0, 42}) {
		t.Errorf("tag % x", tci)
	}
}

// rawSocket is a packet socket that tells VLAN tags and gives up after 5 s.
func rawSocket(name string) (int, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(nativeToNet(unix.ETH_P_ALL)))
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: nativeToNet(unix.ETH_P_ALL), Ifindex: ifi.Index})
}

// BenchmarkRelay measures small packets per second through a link.
func BenchmarkRelay(b *testing.B) {
	n := newBench(b, false, Options{})
	n.pingPong(b, 1, 0)
	ca, sink := n.a.UDP(b, "10.9.0.1:0"), n.b.UDP(b, "10.9.0.2:0")
	start := n.link.Counters(AtoB)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ca.WriteTo([]byte("0123456789"), sink.LocalAddr()); err != nil {
			b.Fatal(err)
		}
	}
	waitFor(b, "relay idle", func() bool { c := n.link.Counters(AtoB); return c.Out+c.LostTotal() >= start.Out+uint64(b.N) })
	c := n.link.Counters(AtoB)
	b.ReportMetric(float64(c.Out-start.Out)/b.Elapsed().Seconds(), "packets/s")
	b.ReportMetric(float64(c.LostTotal()), "lost")
}

// BenchmarkDelayError measures by how much 20 ms of round trip (10 ms each way)
// take longer on an idle machine, the peers' own time included.
func BenchmarkDelayError(b *testing.B) {
	c := Config{Impairment: Impairment{Delay: 10 * time.Millisecond}}
	n := newBench(b, false, Options{})
	base := n.pingPong(b, 500, time.Millisecond)
	for _, d := range []Direction{AtoB, BtoA} {
		if err := n.link.Set(d, c); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	rtt := n.pingPong(b, b.N, time.Millisecond)
	k := n.link.Counters(AtoB)
	b.ReportMetric(float64(k.Late), "frames-late-1ms")
	b.ReportMetric(float64(k.Latest.Microseconds()), "latest-µs")
	us := func(d time.Duration) float64 { return float64(d.Microseconds()) }
	b.ReportMetric(us(quantile(base, .5)), "undelayed-p50-µs")
	b.ReportMetric(us(quantile(base, .99)), "undelayed-p99-µs")
	b.ReportMetric(us(quantile(rtt, .5)-20*time.Millisecond), "late-p50-µs")
	b.ReportMetric(us(quantile(rtt, .99)-20*time.Millisecond), "late-p99-µs")
}
