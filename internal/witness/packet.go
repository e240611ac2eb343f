package witness

import (
	"net/netip"

	"fathom/internal/wire"
)

const dnsPort = 53

// Protocols, as in facts.WireFlow.
const (
	protoTCP  = "tcp"
	protoUDP  = "udp"
	protoICMP = "icmp"
)

// What a packet is, seen from this host.
type what uint8

const (
	nothing what = iota
	synOut
	synAckIn
	rstIn
	out     // datagram or echo request
	in      // datagram or echo reply
	errorIn // ICMP error about something we sent
	announced
)

// seen is what a packet says.
type seen struct {
	what   what
	remote netip.Addr // or the announced address
	proto  string
	port   uint16 // remote
	ttl    int
	mac    wire.MAC // announced
}

// decode reads a packet from its network header on. outgoing says that this
// host sent it. Pure; any bytes may come.
func decode(etherType uint16, outgoing bool, b []byte) seen {
	switch etherType {
	case wire.EtherARP:
		if a, err := wire.ParseARP(b); err == nil && !outgoing && !a.SenderIP.IsUnspecified() {
			return seen{what: announced, remote: a.SenderIP, mac: a.SenderMAC}
		}
	case wire.EtherIPv4:
		h, payload, err := wire.ParseIPv4(b)
		if err != nil || h.Fragment() {
			return seen{}
		}
		if h.Protocol == wire.ProtoICMP {
			return icmp(payload, false, h.Src, h.Dst, outgoing, int(h.TTL))
		}
		return transport(h.Protocol, payload, h.Src, h.Dst, outgoing, int(h.TTL))
	case wire.EtherIPv6:
		h, payload, err := wire.ParseIPv6(b)
		if err != nil || h.Fragment() {
			return seen{}
		}
		if h.Protocol == wire.ProtoICMPv6 {
			return icmp(payload, true, h.Src, h.Dst, outgoing, int(h.HopLimit))
		}
		return transport(h.Protocol, payload, h.Src, h.Dst, outgoing, int(h.HopLimit))
	}
	return seen{}
}

// transport reads TCP and UDP. Requests count when going out, answers when
// coming in, so that on the loopback interface, where each packet is seen both
// ways, nothing counts twice.
func transport(proto uint8, b []byte, src, dst netip.Addr, outgoing bool, ttl int) seen {
	switch proto {
	case wire.ProtoTCP:
		h, _, err := wire.ParseTCP(b)
		if err != nil {
			return seen{}
		}
		s := seen{remote: src, proto: protoTCP, port: h.SrcPort, ttl: ttl}
		switch {
		case outgoing && h.Has(wire.TCPSyn) && !h.Has(wire.TCPAck):
			s.what, s.remote, s.port = synOut, dst, h.DstPort
		case !outgoing && h.Has(wire.TCPRst):
			s.what = rstIn
		case !outgoing && h.Has(wire.TCPSyn|wire.TCPAck):
			s.what = synAckIn
		}
		return s
	case wire.ProtoUDP:
		sport, dport, ok := wire.ParsePorts(b)
		switch {
		case ok && outgoing && dport == dnsPort:
			return seen{what: out, remote: dst, proto: protoUDP, port: dport, ttl: ttl}
		case ok && !outgoing && sport == dnsPort:
			return seen{what: in, remote: src, proto: protoUDP, port: sport, ttl: ttl}
		}
	}
	return seen{}
}

func icmp(b []byte, v6 bool, src, dst netip.Addr, outgoing bool, ttl int) seen {
	h, body, err := wire.ParseICMP(b)
	if err != nil {
		return seen{}
	}
	request, reply := uint8(wire.ICMPEchoRequest), uint8(wire.ICMPEchoReply)
	if v6 {
		request, reply = wire.ICMP6EchoRequest, wire.ICMP6EchoReply
	}
	switch {
	case outgoing && h.Type == request:
		return seen{what: out, remote: dst, proto: protoICMP, ttl: ttl}
	case outgoing:
		return seen{}
	case h.Type == reply:
		return seen{what: in, remote: src, proto: protoICMP, ttl: ttl}
	case h.IsError(v6):
		return quoted(body, v6, ttl)
	case v6 && ttl == 255: // only then it comes from the link, RFC 4861 §7.1
		return neighbour(b, src)
	}
	return seen{}
}

// quoted finds which flow of ours an ICMP error is about.
func quoted(b []byte, v6 bool, ttl int) seen {
	var dst netip.Addr
	var proto uint8
	var rest []byte
	if v6 {
		h, payload, err := wire.ParseIPv6(b)
		if err != nil || h.Fragment() {
			return seen{}
		}
		dst, proto, rest = h.Dst, h.Protocol, payload
	} else {
		h, payload, err := wire.ParseIPv4(b)
		if err != nil || h.Fragment() {
			return seen{}
		}
		dst, proto, rest = h.Dst, h.Protocol, payload
	}
	s := seen{what: errorIn, remote: dst, ttl: ttl}
	switch proto {
	case wire.ProtoICMP, wire.ProtoICMPv6:
		s.proto = protoICMP
		return s
	case wire.ProtoTCP:
		s.proto = protoTCP
	case wire.ProtoUDP:
		s.proto = protoUDP
	default:
		return seen{}
	}
	_, port, ok := wire.ParsePorts(rest)
	if !ok {
		return seen{}
	}
	s.port = port
	return s
}

func neighbour(msg []byte, src netip.Addr) seen {
	n, err := wire.ParseNeighbour(msg)
	switch {
	case err != nil || n.MAC.IsZero():
		return seen{}
	case n.Advert:
		return seen{what: announced, remote: n.Target, mac: n.MAC}
	case src.IsUnspecified():
		return seen{}
	}
	return seen{what: announced, remote: src, mac: n.MAC}
}
