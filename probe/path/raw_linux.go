package path

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/sock"
	"fathom/internal/wire"
	"fathom/probe"
)

// rawNet sends over one socket and hears ICMP on a raw one (CAP_NET_RAW).
type rawNet struct {
	*sender
	*readers
}

// openRawEcho uses one raw ICMP socket for both directions.
func openRawEcho(o sock.Options, target netip.Addr) (network, error) {
	c := newEchoCodec(target.Is6())
	conn, err := openICMP(o, target.Is6())
	if err != nil {
		return nil, err
	}
	n := &rawNet{&sender{conn: conn, codec: c}, newReaders()}
	n.start(conn, n.hear(target, c.reply))
	return n, nil
}

// openRawUDP sends from an ordinary UDP socket and hears ICMP on a raw one.
func openRawUDP(o sock.Options, target netip.Addr, port uint16) (network, error) {
	hear, err := openICMP(sock.Options{Stamps: true}, target.Is6())
	if err != nil {
		return nil, err
	}
	conn, err := sock.UDP(target.Is6(), o)
	if err != nil {
		return nil, errors.Join(err, hear.Close())
	}
	src, err := bindPort(conn, o.Source)
	if err != nil {
		return nil, errors.Join(err, hear.Close(), conn.Close())
	}
	c := newUDPCodec(src, netip.AddrPortFrom(target, port))
	n := &rawNet{&sender{conn: conn, codec: c, port: port}, newReaders()}
	n.start(conn, n.udpMessage(c, target))
	n.start(hear, n.hear(target, nil))
	return n, nil
}

// udpMessage is what the UDP socket itself gives: send stamps, and the payload
// when the target has an echo service.
func (n *rawNet) udpMessage(c *udpCodec, target netip.Addr) func(sock.Message) (reply, bool) {
	return func(m sock.Message) (reply, bool) {
		switch m.Origin {
		case sock.Stamp:
			return n.stamped(m)
		case sock.Data:
			return udpAnswer(c, target, m)
		}
		return reply{}, false
	}
}

// bindPort makes the kernel choose a port now and returns it with the address.
func bindPort(c *sock.Conn, source netip.Addr) (netip.AddrPort, error) {
	a, err := c.LocalAddr()
	if err != nil {
		return a, err
	}
	if a.Port() == 0 {
		return a, fmt.Errorf("bind udp socket to %s: no port", source)
	}
	return netip.AddrPortFrom(source, a.Port()), nil
}

// openICMP opens a raw ICMP socket that lets echo replies and errors through.
func openICMP(o sock.Options, v6 bool) (*sock.Conn, error) {
	c, err := sock.ICMPRaw(v6, o)
	if err != nil {
		return nil, err
	}
	if err := c.Control(func(fd int) error { return setICMPFilter(fd, v6) }); err != nil {
		return nil, errors.Join(fmt.Errorf("set icmp filter: %w", err), c.Close())
	}
	return c, nil
}

// setICMPFilter sets the mask of types that are dropped (raw(7) ICMP_FILTER;
// linux/icmpv6.h ICMPV6_FILTER).
func setICMPFilter(fd int, v6 bool) error {
	if !v6 {
		const icmpFilter = 1 // linux/icmp.h ICMP_FILTER
		pass := uint32(1<<wire.ICMPEchoReply | 1<<wire.ICMPUnreachable | 1<<wire.ICMPTimeExceeded | 1<<wire.ICMPParamProblem)
		return unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, int(int32(^pass)))
	}
	var f unix.ICMPv6Filter
	for i := range f.Data {
		f.Data[i] = ^uint32(0)
	}
	for _, typ := range []int{wire.ICMP6Unreachable, wire.ICMP6TooBig, wire.ICMP6TimeExceeded, wire.ICMP6ParamProblem, wire.ICMP6EchoReply} {
		f.Data[typ>>5] &^= 1 << (typ & 31)
	}
	return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &f)
}

// hear reads a raw ICMP socket: errors about our probes, and with echo replies
// to them.
func (n *rawNet) hear(target netip.Addr, echo func([]byte) (int, bool)) func(sock.Message) (reply, bool) {
	v6 := target.Is6()
	return func(m sock.Message) (reply, bool) {
		if m.Origin == sock.Stamp {
			return n.stamped(m)
		}
		if m.Origin != sock.Data {
			return reply{}, false
		}
		body := m.Data
		if !v6 {
			h, b, err := wire.ParseIPv4(body)
			if err != nil || h.Protocol != wire.ProtoICMP {
				return reply{}, false
			}
			body = b
		}
		r := reply{From: m.From, At: m.User, Kernel: m.Kernel, ReplyTTL: max(m.TTL, 0)}
		if echo != nil {
			if id, ok := echo(body); ok {
				r.ID, r.Kind = id, kindTarget
				return r, true
			}
		}
		return icmpError(target, n.codec, r, body)
	}
}

// icmpError completes r from an ICMP error, body beginning at the ICMP header.
func icmpError(target netip.Addr, c codec, r reply, body []byte) (reply, bool) {
	parse := wire.ParseError4
	if target.Is6() {
		parse = wire.ParseError6
	}
	m, err := parse(body)
	if err != nil {
		return reply{}, false
	}
	id, ok := c.quoted(m.Quote)
	if !ok {
		return reply{}, false
	}
	e := probe.NewICMPError(target.Is6(), r.From, m.Type, m.Code, m.MTU)
	if r.Kind, ok = classify(target, *e); !ok {
		return reply{}, false
	}
	r.ID, r.ICMP = id, e
	r.QuotedTTL, r.QuotedTOS = int(m.Quote.TTL), int(m.Quote.TOS)
	r.MPLS = mplsStrings(m.Extensions.MPLS)
	return r, true
}
