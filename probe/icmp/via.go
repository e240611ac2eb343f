package icmp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"fathom/internal/sys/neigh"
	"fathom/internal/sys/sock"
	"fathom/internal/wire"
)

// resolveWait is how long the next hop has to answer our question for its
// hardware address: as long as the kernel waits between two of its own
// (net.ipv4.neigh.default.retrans_time_ms).
const resolveWait = time.Second

const defaultTTL = 64

// openVia makes a link that puts the requests into frames to cfg.Via. A next
// hop that does not answer for its hardware address is a *noWay as well.
func openVia(ctx context.Context, cfg Config, dst netip.Addr, size int) (link, error) {
	l := link{method: methodVia, shared: true, id: randomID(), warmUp: stampWarmUp}
	ifi, err := net.InterfaceByName(cfg.ViaLink)
	if err != nil {
		return l, fmt.Errorf("interface %s: %w", cfg.ViaLink, err)
	}
	via := cfg.Via.Unmap()
	src := cfg.Source.Unmap()
	if !src.IsValid() {
		var ok bool
		if src, ok = neigh.SourceOn(ifi, sourceHint(dst, via)); !ok {
			return l, fmt.Errorf("interface %s has no address to send from", ifi.Name)
		}
	}
	if size > ifi.MTU {
		return l, &noWay{fmt.Errorf("packet of %d bytes out of %s with MTU %d: %w", size, ifi.Name, ifi.MTU, unix.EMSGSIZE)}
	}
	answers, _, err := neigh.Ask(ctx, neigh.Query{Link: ifi, Target: via, Source: src, Count: 3, Wait: resolveWait, First: true})
	if err != nil {
		return l, fmt.Errorf("resolve next hop: %w", err)
	}
	if len(answers) == 0 {
		return l, &noWay{fmt.Errorf("next hop %s does not answer on %s: %w", via, ifi.Name, unix.EHOSTUNREACH)}
	}
	// All interfaces: the reply need not come back the way the request went.
	c, err := sock.Packet(sock.PacketOptions{Protocol: unix.ETH_P_ALL, Filter: icmpFilter(), Stamps: true})
	if err != nil {
		return l, err
	}
	f := &frames{Conn: c, ifindex: ifi.Index, src: src.WithZone(""), dst: dst.WithZone(""), id: l.id, df: cfg.DF, ttl: defaultTTL, buf: make([]byte, max(2048, size+sparePayload))}
	if cfg.TTL > 0 {
		f.ttl = uint8(cfg.TTL)
	}
	f.eth = wire.Ethernet{Dst: answers[0].MAC, Src: wire.MAC(ifi.HardwareAddr), Type: wire.EtherIPv4}
	l.conn, l.source, l.seal = f, src, seal4
	if dst.Is6() {
		f.eth.Type, l.seal = wire.EtherIPv6, f.seal6
	}
	return l, nil
}

// sourceHint is the address near which our source should be: a link-local next
// hop says nothing about the source for a global target.
func sourceHint(dst, via netip.Addr) netip.Addr {
	if dst.Is6() && via.IsLinkLocalUnicast() && !dst.IsLinkLocalUnicast() {
		return dst
	}
	return via
}

// icmpFilter passes ICMP and ICMPv6 at the network header, wherever the link
// header ends.
func icmpFilter() []bpf.Instruction {
	const net0 = 0xfff00000 // SKF_NET_OFF: from the network header, linux/filter.h
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: wire.EtherIPv4, SkipFalse: 2},
		bpf.LoadAbsolute{Off: net0 + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: wire.ProtoICMP, SkipTrue: 3, SkipFalse: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: wire.EtherIPv6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: net0 + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: wire.ProtoICMPv6, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 17},
		bpf.RetConstant{Val: 0},
	}
}

// frames is a conn that speaks Ethernet.
type frames struct {
	*sock.Conn
	ifindex  int
	eth      wire.Ethernet
	src, dst netip.Addr
	id       uint16
	df       bool
	ttl      uint8
	out, buf []byte
	ipID     uint16
}

func (f *frames) seal6(msg []byte) {
	binary.BigEndian.PutUint16(msg[2:], wire.PseudoChecksum(f.src, f.dst, wire.ProtoICMPv6, msg))
}

// Send puts IP and Ethernet headers before an ICMP message.
func (f *frames) Send(msg []byte) error {
	b := f.eth.Append(f.out[:0])
	if f.dst.Is4() {
		f.ipID++
		b = wire.IPv4{ID: f.ipID, DF: f.df, TTL: f.ttl, Protocol: wire.ProtoICMP, Src: f.src, Dst: f.dst}.Append(b, len(msg))
	} else {
		b = wire.IPv6{Protocol: wire.ProtoICMPv6, HopLimit: f.ttl, Src: f.src, Dst: f.dst}.Append(b, len(msg))
	}
	f.out = append(b, msg...)
	return f.SendLink(f.out, f.ifindex)
}

// Recv waits for a message that may be ours.
func (f *frames) Recv(b []byte) (sock.Message, error) {
	for {
		m, err := f.Conn.Recv(f.buf)
		if err != nil {
			return m, err
		}
		if m, ok := f.unwrap(m, b); ok {
			return m, nil
		}
	}
}

// TryRecv skips a bounded number of packets that are not ours.
func (f *frames) TryRecv(b []byte) (sock.Message, bool, error) {
	for range drainAtMost {
		m, ok, err := f.Conn.TryRecv(f.buf)
		if !ok || err != nil {
			return m, ok, err
		}
		if m, ok := f.unwrap(m, b); ok {
			return m, true, nil
		}
	}
	return sock.Message{}, false, nil
}

// unwrap turns a frame into the ICMP message in it, or into the error it reports.
func (f *frames) unwrap(m sock.Message, b []byte) (sock.Message, bool) {
	if m.Origin != sock.Data {
		m.Data = nil
		return m, m.Origin == sock.Stamp
	}
	if m.Link.Type == unix.PACKET_OUTGOING {
		return m, false
	}
	_, packet, err := wire.ParseEthernet(m.Data)
	if err != nil {
		return m, false
	}
	src, dst, ttl, msg, err := parseIP(packet, f.dst.Is6())
	if err != nil || dst != f.src {
		return m, false
	}
	h, body, err := wire.ParseICMP(msg)
	if err != nil {
		return m, false
	}
	m.From, m.TTL = src, ttl
	if h.IsError(f.dst.Is6()) {
		from, to, _, quoted, err := parseIP(body, f.dst.Is6())
		if err != nil || from != f.src || to != f.dst {
			return m, false
		}
		m.Origin, m.Offender, m.From = sock.ICMP4, src, to
		if f.dst.Is6() {
			m.Origin = sock.ICMP6
		}
		m.Type, m.Code, m.Info = h.Type, h.Code, uint32(h.NextHopMTU(f.dst.Is6()))
		msg = quoted
	} else if src != f.dst || h.ID() != f.id {
		return m, false
	} else if f.dst.Is6() && wire.PseudoChecksum(src, dst, wire.ProtoICMPv6, msg) != 0 {
		m.Truncated = true // damaged on the way
	}
	n := copy(b, msg)
	m.Truncated = m.Truncated || n < len(msg)
	m.Data = b[:n]
	return m, true
}

var errNotICMP = errors.New("not icmp")

// parseIP reads an ICMP message out of an IP packet.
func parseIP(b []byte, v6 bool) (src, dst netip.Addr, ttl int, msg []byte, err error) {
	if v6 {
		h, msg, err := wire.ParseIPv6(b)
		if err == nil && (h.Protocol != wire.ProtoICMPv6 || h.Fragment()) {
			err = errNotICMP
		}
		return h.Src, h.Dst, int(h.HopLimit), msg, err
	}
	h, msg, err := wire.ParseIPv4(b)
	if err == nil && (h.Protocol != wire.ProtoICMP || h.Fragment()) {
		err = errNotICMP
	}
	return h.Src, h.Dst, int(h.TTL), msg, err
}
