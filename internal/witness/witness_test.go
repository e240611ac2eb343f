package witness

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"fathom/internal/facts"
	"fathom/internal/testkit"
	"fathom/internal/testkit/netns"
	"fathom/internal/wire"
)

var (
	us4, them4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	us6, them6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	macA, macB = wire.MAC{2, 0, 0, 0, 0, 1}, wire.MAC{2, 0, 0, 0, 0, 2}
)

func ip(src, dst netip.Addr, proto uint8, payload []byte) (uint16, []byte) {
	if src.Is4() {
		return wire.EtherIPv4, append(wire.IPv4{TTL: 60, Protocol: proto, Src: src, Dst: dst}.Append(nil, len(payload)), payload...)
	}
	return wire.EtherIPv6, append(wire.IPv6{HopLimit: 60, Protocol: proto, Src: src, Dst: dst}.Append(nil, len(payload)), payload...)
}

func tcp(sport, dport uint16, flags uint8) []byte {
	return wire.TCP{SrcPort: sport, DstPort: dport, Flags: flags}.Append(nil)
}

func udp(sport, dport uint16) []byte {
	return append(wire.UDP{SrcPort: sport, DstPort: dport}.Append(nil, 4), "data"...)
}

func icmpMsg(typ, code uint8, body []byte) []byte {
	return wire.ICMP{Type: typ, Code: code}.Append(nil, netip.Addr{}, netip.Addr{}, body)
}

// packets are what decode and the kernel's filter are tried with.
func packets() []struct {
	name     string
	src, dst netip.Addr
	proto    uint8
	payload  []byte
	outgoing bool
	want     seen // ttl not compared; what nothing: not for us
	filtered bool // the kernel's filter drops it
} {
	_, quote4 := ip(us4, them4, wire.ProtoTCP, tcp(5000, 443, wire.TCPSyn))
	_, quote6 := ip(us6, them6, wire.ProtoUDP, udp(5000, 53))
	_, quoteEcho := ip(us4, them4, wire.ProtoICMP, icmpMsg(8, 0, nil))
	return []struct {
		name     string
		src, dst netip.Addr
		proto    uint8
		payload  []byte
		outgoing bool
		want     seen
		filtered bool
	}{
		{"syn out", us4, them4, wire.ProtoTCP, tcp(5000, 443, wire.TCPSyn), true, seen{what: synOut, remote: them4, proto: "tcp", port: 443}, false},
		{"syn out v6", us6, them6, wire.ProtoTCP, tcp(5000, 443, wire.TCPSyn), true, seen{what: synOut, remote: them6, proto: "tcp", port: 443}, false},
		{"syn-ack in", them4, us4, wire.ProtoTCP, tcp(443, 5000, wire.TCPSyn|wire.TCPAck), false, seen{what: synAckIn, remote: them4, proto: "tcp", port: 443}, false},
		{"rst in v6", them6, us6, wire.ProtoTCP, tcp(443, 5000, wire.TCPRst|wire.TCPAck), false, seen{what: rstIn, remote: them6, proto: "tcp", port: 443}, false},
		{"syn-ack out (we serve)", us4, them4, wire.ProtoTCP, tcp(443, 5000, wire.TCPSyn|wire.TCPAck), true, seen{}, false},
		{"syn in (we serve)", them4, us4, wire.ProtoTCP, tcp(5000, 443, wire.TCPSyn), false, seen{}, false},
		{"data", us4, them4, wire.ProtoTCP, tcp(5000, 443, wire.TCPAck), true, seen{}, true},
		{"data v6", us6, them6, wire.ProtoTCP, tcp(5000, 443, wire.TCPAck), true, seen{}, true},
		{"query out", us4, them4, wire.ProtoUDP, udp(5000, 53), true, seen{what: out, remote: them4, proto: "udp", port: 53}, false},
		{"answer in v6", them6, us6, wire.ProtoUDP, udp(53, 5000), false, seen{what: in, remote: them6, proto: "udp", port: 53}, false},
		{"other udp", us4, them4, wire.ProtoUDP, udp(5000, 123), true, seen{}, true},
		{"other udp v6", us6, them6, wire.ProtoUDP, udp(5000, 123), true, seen{}, true},
		{"echo request out", us4, them4, wire.ProtoICMP, icmpMsg(8, 0, nil), true, seen{what: out, remote: them4, proto: "icmp"}, false},
		{"echo reply in v6", them6, us6, wire.ProtoICMPv6, icmpMsg(129, 0, nil), false, seen{what: in, remote: them6, proto: "icmp"}, false},
		{"echo reply out", us4, them4, wire.ProtoICMP, icmpMsg(0, 0, nil), true, seen{}, false},
		{"unreachable about our syn", netip.MustParseAddr("198.51.100.1"), us4, wire.ProtoICMP, icmpMsg(3, 1, quote4), false, seen{what: errorIn, remote: them4, proto: "tcp", port: 443}, false},
		{"unreachable about our query, v6", them6, us6, wire.ProtoICMPv6, icmpMsg(1, 4, quote6), false, seen{what: errorIn, remote: them6, proto: "udp", port: 53}, false},
		{"exceeded about our echo", them4, us4, wire.ProtoICMP, icmpMsg(11, 0, quoteEcho), false, seen{what: errorIn, remote: them4, proto: "icmp"}, false},
		{"error without quote", them4, us4, wire.ProtoICMP, icmpMsg(3, 1, nil), false, seen{}, false},
		{"gre", us4, them4, 47, []byte("tunnel"), true, seen{}, true},
	}
}

func TestDecodeAndFilter(t *testing.T) {
	for _, p := range packets() {
		etherType, b := ip(p.src, p.dst, p.proto, p.payload)
		got := decode(etherType, p.outgoing, b)
		got.ttl = 0
		if p.want.what == nothing {
			got = seen{what: got.what}
		}
		if got != p.want {
			t.Errorf("%s: %+v, want %+v", p.name, got, p.want)
		}
		if got := passes(t, etherType, b); got == p.filtered {
			t.Errorf("%s: passes the filter: %v", p.name, got)
		}
	}
	if !passes(t, wire.EtherARP, make([]byte, 28)) || passes(t, 0x88cc, make([]byte, 60)) {
		t.Error("arp passes, lldp does not")
	}
	_, frag := ip(us4, them4, wire.ProtoICMP, icmpMsg(8, 0, nil))
	frag[7] = 10
	if passes(t, wire.EtherIPv4, frag) || decode(wire.EtherIPv4, true, frag).what != nothing {
		t.Error("a later fragment has no header to read")
	}
}

// passes runs the filter. The VM of x/net has no protocol extension, so that
// the load of it becomes a constant.
func passes(t *testing.T, etherType uint16, b []byte) bool {
	t.Helper()
	prog := slices.Clone(filter())
	if _, ok := prog[0].(bpf.LoadExtension); !ok {
		t.Fatal("the filter does not begin with the protocol")
	}
	prog[0] = bpf.LoadConstant{Dst: bpf.RegA, Val: uint32(etherType)}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestTallyAndOtherLinks(t *testing.T) {
	w := newTally()
	w.watch(them4)
	syn := seen{what: synOut, remote: them4, proto: "tcp", port: 443}
	answer := seen{what: synAckIn, remote: them4, proto: "tcp", port: 443, ttl: 61}
	w.add("eth0", syn, time.Time{})
	w.add("eth0", syn, time.Time{})
	w.add("eth1", answer, time.Time{})
	w.add("eth0", seen{what: synOut, remote: us4, proto: "tcp", port: 443}, time.Time{}) // not watched
	want := []facts.WireFlow{
		{Link: "eth0", Remote: them4, Proto: "tcp", Port: 443, SynOut: 2, OtherLinksIn: []string{"eth1"}},
		{Link: "eth1", Remote: them4, Proto: "tcp", Port: 443, SynAckIn: 1, SynAckTTL: 61},
	}
	if got := w.list(); !slices.EqualFunc(got, want, equalFlow) {
		t.Errorf("%+v", got)
	}
	// A bridge and its port see both directions: nothing strange.
	b := newTally()
	b.watch(them4)
	for _, l := range []string{"br0", "port"} {
		b.add(l, syn, time.Time{})
		b.add(l, answer, time.Time{})
	}
	for _, f := range b.list() {
		if f.OtherLinksIn != nil {
			t.Errorf("%+v", f)
		}
	}
}

func equalFlow(a, b facts.WireFlow) bool {
	x, y := a.OtherLinksIn, b.OtherLinksIn
	a.OtherLinksIn, b.OtherLinksIn = nil, nil
	return slices.Equal(x, y) && a.Link == b.Link && a.Remote == b.Remote && a.Proto == b.Proto && a.Port == b.Port &&
		a.SynOut == b.SynOut && a.SynAckIn == b.SynAckIn && a.SynAckTTL == b.SynAckTTL && a.RstIn == b.RstIn && a.Out == b.Out && a.In == b.In && a.ErrorsIn == b.ErrorsIn
}

func TestConflicts(t *testing.T) {
	w := newTally()
	at := time.Unix(1, 0)
	say := func(a netip.Addr, m wire.MAC) { w.add("eth0", seen{what: announced, remote: a, mac: m}, at) }
	say(them4, macB)
	say(us4, macA) // ours, from our own other port
	own := identity{map[netip.Addr]bool{us4: true}, map[string]bool{macA.String(): true}}
	if c := conflicts(w.sighted(), own); len(c) != 0 {
		t.Errorf("no conflict yet: %+v", c)
	}
	say(them4, macA)
	say(us4, macB)
	c := conflicts(w.sighted(), own)
	if len(c) != 2 || !c[0].Own || !slices.Equal(c[0].MACs, []string{macB.String()}) || c[1].Own || len(c[1].MACs) != 2 {
		t.Errorf("%+v", c)
	}
	say(us4, wire.Broadcast) // nonsense is no station
	if got := conflicts(w.sighted(), own); len(got[0].MACs) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	w := newTally()
	for i := range 3 * maxSightings {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		w.watch(a)
		w.add("eth0", seen{what: announced, remote: a, mac: macB}, time.Time{})
	}
	for i := range 3 * maxFlows {
		w.add("eth0", seen{what: rstIn, remote: netip.AddrFrom4([4]byte{10, 0, 0, 0}), proto: "tcp", port: uint16(i)}, time.Time{})
	}
	if len(w.sightings) != maxSightings || len(w.watched) != maxWatched || len(w.flows) != maxFlows || w.overflow == 0 {
		t.Errorf("%d sightings, %d watched, %d flows, %d over", len(w.sightings), len(w.watched), len(w.flows), w.overflow)
	}
}

func FuzzDecode(f *testing.F) {
	for _, p := range packets() {
		etherType, b := ip(p.src, p.dst, p.proto, p.payload)
		f.Add(etherType, p.outgoing, b)
	}
	f.Add(uint16(wire.EtherARP), false, wire.ARP{Op: 1, SenderMAC: macA, SenderIP: us4}.Append(nil))
	f.Fuzz(func(t *testing.T, etherType uint16, outgoing bool, b []byte) {
		if s := decode(etherType, outgoing, b); s.what != nothing && !s.remote.IsValid() {
			t.Fatalf("%+v", s)
		}
	})
}

// eventually waits until the reader has seen what must come; the bound is for a
// broken test only.
func eventually(t *testing.T, w *Witness, ok func([]facts.WireFlow) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(w.Flows()); {
		if time.Now().After(end) {
			t.Fatalf("never seen; flows: %+v", w.Flows())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func start(t *testing.T, ns *netns.NS) (w *Witness) {
	t.Helper()
	ns.In(func() {
		var err error
		if w, err = Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { w.Close() })
	return w
}

func dial(t *testing.T, ns *netns.NS, addr string) {
	ns.In(func() {
		d := net.Dialer{Timeout: 300 * time.Millisecond}
		if c, err := d.Dial("tcp", addr); err == nil {
			c.Close()
		}
	})
}

func TestSynGoesOutAndNothingComesBack(t *testing.T) {
	a, b := netns.New(t), netns.New(t)
	a.Veth("eth0", b, "eth0")
	a.IP("addr add 192.0.2.1/24 dev eth0")
	b.IP("addr add 192.0.2.2/24 dev eth0")
	b.Nft("input", "tcp dport 81 drop")
	w := start(t, a)
	w.Watch(them4)
	dial(t, a, "192.0.2.2:81") // dropped there
	dial(t, a, "192.0.2.2:82") // refused there
	eventually(t, w, func(f []facts.WireFlow) bool { return len(f) == 2 && f[1].RstIn == 1 })
	f := w.Flows()
	if f[0].Port != 81 || f[0].SynOut == 0 || f[0].SynAckIn+f[0].RstIn != 0 || f[0].Link != "eth0" || f[1].SynOut != 1 || f[1].RstTTL != 64 {
		t.Errorf("%+v", f)
	}
	if s := w.ARPSightings(); len(s) == 0 || !slices.ContainsFunc(s, func(s Sighting) bool { return s.Addr == them4 && s.Link == "eth0" }) {
		t.Errorf("their address was not sighted: %+v", s)
	}
	if w.Dropped() != 0 || w.Overflow() != 0 || w.Err() != nil {
		t.Errorf("dropped %d, overflow %d, %v", w.Dropped(), w.Overflow(), w.Err())
	}
}

// A local rule that drops the answer: the witness sees it, the program does not.
func TestAnswerComesBackAndIsDroppedHere(t *testing.T) {
	a, b := netns.New(t), netns.New(t)
	a.Veth("eth0", b, "eth0")
	a.IP("addr add 192.0.2.1/24 dev eth0")
	b.IP("addr add 192.0.2.2/24 dev eth0")
	a.Nft("input", "tcp sport 82 drop")
	w := start(t, a)
	w.Watch(them4)
	dial(t, a, "192.0.2.2:82")
	eventually(t, w, func(f []facts.WireFlow) bool { return len(f) == 1 && f[0].SynOut > 0 && f[0].RstIn > 0 })
}

func TestLoopbackCountsOnce(t *testing.T) {
	ns := netns.New(t)
	w := start(t, ns)
	lo := netip.MustParseAddr("127.0.0.1")
	w.Watch(lo)
	dial(t, ns, "127.0.0.1:83")
	eventually(t, w, func(f []facts.WireFlow) bool { return len(f) == 1 && f[0].RstIn > 0 })
	if f := w.Flows()[0]; f.SynOut != 1 || f.RstIn != 1 || f.Link != "lo" || f.Port != 83 {
		t.Errorf("%+v", f)
	}
}

func TestEndsWithContextAndClose(t *testing.T) {
	testkit.NeedRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-w.done
	if err := w.Close(); err != nil || w.Err() != nil {
		t.Errorf("%v %v", err, w.Err())
	}
	if err := w.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	w.Flows()
	w.Dropped()
	w2, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w2.Close(); err != nil || w2.Err() != nil { // while the reader waits
		t.Errorf("%v %v", err, w2.Err())
	}
}

func TestWithoutCapability(t *testing.T) {
	ns := netns.New(t)
	ns.InAsNobody(func() {
		if _, err := Start(t.Context()); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "needs CAP_NET_RAW") {
			t.Errorf("%v", err)
		}
	})
}
