package neigh

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"fathom/internal/wire"
)

var (
	v4   = netip.MustParseAddr("192.0.2.7")
	v6   = netip.MustParseAddr("2001:db8::7")
	them = wire.MAC{2, 0, 0, 0, 0, 9}
	link = &net.Interface{Name: "eth0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
)

func arpFrame(op uint16, sender, target netip.Addr) []byte {
	b := wire.Ethernet{Dst: wire.Broadcast, Src: them, Type: wire.EtherARP}.Append(nil)
	return wire.ARP{Op: op, SenderMAC: them, SenderIP: sender, TargetIP: target}.Append(b)
}

func ndFrame(n wire.Neighbour, src netip.Addr, hops uint8, spoil bool) []byte {
	msg := n.Append(nil, src, v6)
	if spoil {
		msg[2] ^= 1
	}
	b := wire.Ethernet{Src: them, Type: wire.EtherIPv6}.Append(nil)
	b = wire.IPv6{Protocol: wire.ProtoICMPv6, HopLimit: hops, Src: src, Dst: v6}.Append(b, len(msg))
	return append(b, msg...)
}

func TestOwner(t *testing.T) {
	any4, any6, other := netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("2001:db8::8")
	adv := wire.Neighbour{Advert: true, Target: v6, MAC: them}
	for name, c := range map[string]struct {
		frame  []byte
		target netip.Addr
		want   bool
	}{
		"arp reply":                   {arpFrame(wire.ARPReply, v4, any4), v4, true},
		"arp request by the owner":    {arpFrame(wire.ARPRequest, v4, any4), v4, true},
		"somebody probes for it too":  {arpFrame(wire.ARPRequest, any4, v4), v4, true},
		"somebody asks for it":        {arpFrame(wire.ARPRequest, netip.MustParseAddr("192.0.2.9"), v4), v4, false},
		"advertisement":               {ndFrame(adv, v6, 255, false), v6, true},
		"advertisement of another":    {ndFrame(adv, v6, 255, false), other, false},
		"forged from beyond the link": {ndFrame(adv, v6, 64, false), v6, false},
		"wrong checksum":              {ndFrame(adv, v6, 255, true), v6, false},
		"without option":              {ndFrame(wire.Neighbour{Advert: true, Target: v6}, v6, 255, false), v6, true},
		"duplicate address detection": {ndFrame(wire.Neighbour{Target: v6}, any6, 255, false), v6, true},
		"solicitation by another":     {ndFrame(wire.Neighbour{Target: v6, MAC: them}, other, 255, false), v6, false},
		"solicitation by the owner":   {ndFrame(wire.Neighbour{Target: other, MAC: them}, v6, 255, false), v6, true},
		"cut off":                     {ndFrame(adv, v6, 255, false)[:60], v6, false},
		"nothing":                     {nil, v4, false},
	} {
		mac, ok := owner(c.frame, c.target)
		if ok != c.want || ok && mac != them {
			t.Errorf("%s: %v %v", name, mac, ok)
		}
	}
}

// What we send must be what the answerer's own rules accept.
func TestQuestion(t *testing.T) {
	eth, b, _ := wire.ParseEthernet(question(Query{Link: link, Target: v4}))
	a, err := wire.ParseARP(b)
	if err != nil || eth.Dst != wire.Broadcast || !a.SenderIP.IsUnspecified() || a.TargetIP != v4 || a.Op != wire.ARPRequest || !a.TargetMAC.IsZero() {
		t.Errorf("%+v %+v %v", eth, a, err)
	}
	for _, src := range []netip.Addr{{}, netip.MustParseAddr("fe80::1%eth0")} {
		_, b, _ := wire.ParseEthernet(question(Query{Link: link, Target: v6, Source: src}))
		ip, msg, err := wire.ParseIPv6(b)
		if err != nil || ip.HopLimit != 255 || wire.PseudoChecksum(ip.Src, ip.Dst, wire.ProtoICMPv6, msg) != 0 {
			t.Errorf("%+v %v", ip, err)
		}
		n, err := wire.ParseNeighbour(msg)
		if err != nil || n.Target != v6 || n.MAC.IsZero() == src.IsValid() {
			t.Errorf("%+v %v", n, err)
		}
	}
}

func TestFilter(t *testing.T) {
	vm, err := bpf.NewVM(neighbourFilter())
	if err != nil {
		t.Fatal(err)
	}
	echo := ndFrame(wire.Neighbour{Target: v6}, v6, 255, false)
	echo[wire.EthernetHeaderLen+wire.IPv6HeaderLen] = wire.ICMP6EchoRequest
	tcp := ndFrame(wire.Neighbour{Target: v6}, v6, 255, false)
	tcp[wire.EthernetHeaderLen+6] = wire.ProtoTCP
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"solicitation": {ndFrame(wire.Neighbour{Target: v6}, v6, 255, false), true}, "advertisement": {ndFrame(wire.Neighbour{Advert: true, Target: v6}, v6, 255, false), true},
		"echo": {echo, false}, "tcp": {tcp, false},
	} {
		if n, err := vm.Run(c.frame); err != nil || n > 0 != c.want {
			t.Errorf("%s: %d %v", name, n, err)
		}
	}
}

func FuzzOwner(f *testing.F) {
	f.Add(arpFrame(wire.ARPReply, v4, v4))
	f.Add(ndFrame(wire.Neighbour{Advert: true, Target: v6, MAC: them}, v6, 255, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		owner(b, v4)
		owner(b, v6)
	})
}
