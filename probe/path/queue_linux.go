package path

import (
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/sock"
	"fathom/internal/wire"
	"fathom/probe"
)

// queueNet needs no privilege: the kernel puts the ICMP errors about a socket's
// own packets on its error queue (ip(7) IP_RECVERR). It does not tell the quoted
// IP header.
type queueNet struct {
	*sender
	*readers
	target netip.Addr
	// identify finds the probe in what the error queue gives of it.
	identify func(b []byte) (id int, ok bool)
	// answer reads what the target itself sends.
	answer func(m sock.Message) (reply, bool)
	// alone opens another socket for one probe; nil where quotes always tell.
	alone func() (*sock.Conn, error)
	// blind: an error came whose quote ends before the payload (RFC 792 demands
	// only eight bytes behind the IP header), so it did not tell which probe died.
	blind atomic.Bool
}

// Send sends one probe. Once a router was seen that quotes too little, further
// probes have a socket, and hence a source port, of their own: rather another
// flow than no answer.
func (n *queueNet) Send(p packet) error {
	if n.alone == nil || !n.blind.Load() {
		return n.sender.Send(p)
	}
	conn, err := n.alone()
	if err != nil {
		return &localError{op: "open another socket", err: err}
	}
	s := &sender{conn: conn, codec: n.codec, port: n.port}
	n.start(conn, func(m sock.Message) (reply, bool) {
		switch m.Origin {
		case sock.Stamp:
			return s.stamped(m)
		case sock.ICMP4, sock.ICMP6:
			return queuedError(n.target, p.ID, m)
		}
		return reply{}, false
	})
	return s.Send(p)
}

// openQueueEcho uses an ICMP datagram socket (net.ipv4.ping_group_range).
func openQueueEcho(o sock.Options, target netip.Addr) (network, error) {
	o.Errors = true
	conn, err := sock.ICMPDatagram(target.Is6(), o)
	if err != nil {
		return nil, err
	}
	c := newEchoCodec(target.Is6())
	c.anyID = true // the kernel sets its own, and delivers only what is ours
	n := newQueueNet(conn, c, target, 0)
	n.identify = func(b []byte) (int, bool) { return quotedEcho(c, b) }
	n.answer = func(m sock.Message) (reply, bool) {
		id, ok := c.reply(m.Data)
		return reply{ID: id, Kind: kindTarget, From: m.From, At: m.User, Kernel: m.Kernel, ReplyTTL: max(m.TTL, 0)}, ok
	}
	n.start(conn, n.message)
	return n, nil
}

// quotedEcho reads a quote that begins at the ICMP header.
func quotedEcho(c *echoCodec, b []byte) (int, bool) {
	if len(b) < wire.ICMPHeaderLen {
		return 0, false
	}
	h, _, err := wire.ParseICMP(b)
	if err != nil {
		return 0, false
	}
	q := wire.Quote{Proto: wire.ProtoICMP, TransportLen: len(b), ICMPType: h.Type, ICMPCode: h.Code, ICMPID: h.ID(), ICMPSeq: uint16(h.Rest)}
	if c.v6 {
		q.Proto = wire.ProtoICMPv6
	}
	return c.quoted(q)
}

// openQueueUDP uses a UDP socket.
func openQueueUDP(o sock.Options, target netip.Addr, port uint16) (network, error) {
	o.Errors = true
	conn, err := sock.UDP(target.Is6(), o)
	if err != nil {
		return nil, err
	}
	src, err := bindPort(conn, o.Source)
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := newUDPCodec(src, netip.AddrPortFrom(target, port))
	n := newQueueNet(conn, c, target, port)
	n.identify = c.payload
	n.alone = func() (*sock.Conn, error) { return sock.UDP(target.Is6(), o) }
	n.answer = func(m sock.Message) (reply, bool) { return udpAnswer(c, target, m) }
	n.start(conn, n.message)
	return n, nil
}

func newQueueNet(conn *sock.Conn, c codec, target netip.Addr, port uint16) *queueNet {
	// Extensions come since Linux 5.9; without them there is no MPLS.
	_ = conn.Control(func(fd int) error {
		if target.Is6() {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR_RFC4884, 1)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR_RFC4884, 1)
	})
	return &queueNet{sender: &sender{conn: conn, codec: c, port: port}, readers: newReaders(), target: target}
}

// udpAnswer recognises our own payload in a datagram of the target (an echo
// service). Other datagrams do not tell which probe they answer.
func udpAnswer(c *udpCodec, target netip.Addr, m sock.Message) (reply, bool) {
	id, ok := c.payload(m.Data)
	return reply{ID: id, Kind: kindTarget, From: m.From, At: m.User, Kernel: m.Kernel, ReplyTTL: max(m.TTL, 0)},
		ok && m.From == target.WithZone("") && m.Port == c.dst.Port()
}

func (n *queueNet) message(m sock.Message) (reply, bool) {
	switch m.Origin {
	case sock.Stamp:
		return n.stamped(m)
	case sock.Data:
		return n.answer(m)
	case sock.ICMP4, sock.ICMP6:
		id, ok := n.identify(m.Data)
		if !ok {
			n.blind.Store(n.blind.Load() || len(m.Data) < udpLeast)
			return reply{}, false
		}
		return queuedError(n.target, id, m)
	}
	return reply{}, false
}

// queuedError makes a reply of an ICMP error from an error queue.
func queuedError(target netip.Addr, id int, m sock.Message) (reply, bool) {
	e := probe.NewICMPError(target.Is6(), m.Offender, m.Type, m.Code, m.MTU())
	kind, ok := classify(target, *e)
	r := reply{ID: id, Kind: kind, From: m.Offender, At: m.User, Kernel: m.Kernel, ICMP: e, ReplyTTL: max(m.TTL, 0)}
	// struct sock_ee_data_rfc4884: length of the quote behind its transport
	// header, then flags, one of which says that the rest is not valid.
	if l, flags := int(m.Key&0xffff), m.Key>>16&0xff; l > 0 && l < len(m.Data) && flags&unix.SO_EE_RFC4884_FLAG_INVALID == 0 {
		if x, err := wire.ParseExtensions(m.Data[l:]); err == nil {
			r.MPLS = mplsStrings(x.MPLS)
		}
	}
	return r, ok && m.Offender.IsValid()
}
