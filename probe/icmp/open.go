package icmp

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/sock"
	"fathom/internal/wire"
)

// Names of the ways, for Result.Method.
const (
	methodDatagram = "icmp datagram socket"
	methodRaw      = "raw socket"
	methodVia      = "raw frames"
)

// openSocket opens the best socket allowed and connects it. An error of the
// kernel's routing is a *noWay.
//
// IPv4 takes the datagram socket where it may. IPv6 takes the raw one first:
// net/ipv6/ping.c ignores what icmpv6_push_pending_frames returns, so that a
// datagram socket never learns that a local rule dropped its request.
func openSocket(cfg Config, dst netip.Addr) (link, error) {
	v6 := dst.Is6()
	opts := sock.Options{
		Interface: cfg.Interface, Source: withZoneOf(cfg.Source, dst), TTL: cfg.TTL,
		DF: cfg.DF, Fragment: !cfg.DF, Stamps: true, Errors: true,
	}
	ways := []string{methodDatagram, methodRaw}
	switch {
	case cfg.ForceRaw:
		ways = ways[1:]
	case v6:
		ways = []string{methodRaw, methodDatagram}
	}
	l := link{warmUp: stampWarmUp}
	var c *sock.Conn
	var err error
	for _, l.method = range ways {
		if l.method == methodRaw {
			c, err = sock.ICMPRaw(v6, opts)
		} else {
			c, err = sock.ICMPDatagram(v6, opts)
		}
		if !mayTryOther(err) {
			break
		}
	}
	if errors.Is(err, os.ErrPermission) {
		return l, fmt.Errorf("%w (needs CAP_NET_RAW or a wider net.ipv4.ping_group_range)", err)
	}
	if err != nil {
		return l, err
	}
	l.shared = l.method == methodRaw
	if err := l.connect(c, cfg, dst); err != nil {
		c.Close()
		return l, err
	}
	return l, nil
}

// mayTryOther reports whether a socket failed for a reason that need not hold
// for the other kind: no permission, or a kernel without ping sockets.
func mayTryOther(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EPROTONOSUPPORT)
}

func (l *link) connect(c *sock.Conn, cfg Config, dst netip.Addr) error {
	if err := c.Connect(netip.AddrPortFrom(dst, 0)); err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) && errno != unix.ENODEV {
			return &noWay{err}
		}
		return err
	}
	local, err := c.LocalAddr()
	if err != nil {
		return err
	}
	l.source, l.id, l.conn, l.stamps = local.Addr(), local.Port(), c, c.Stamps()
	l.mtu = func() (int, bool) {
		n, err := c.PathMTU()
		return n, err == nil && n > 0
	}
	if l.method == methodRaw {
		l.id = randomID()
		if dst.Is4() {
			l.conn, l.seal = &raw4{c, make([]byte, cfg.size(dst)+sparePayload)}, seal4
		}
	}
	return nil
}

func withZoneOf(src, dst netip.Addr) netip.Addr {
	src = src.Unmap()
	if src.Is6() && src.IsLinkLocalUnicast() && src.Zone() == "" {
		return src.WithZone(dst.Zone())
	}
	return src
}

func randomID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails, see its doc
	return binary.NativeEndian.Uint16(b[:])
}

// seal4 writes the ICMPv4 checksum of a message whose checksum field is 0.
func seal4(msg []byte) { binary.BigEndian.PutUint16(msg[2:], wire.Checksum(msg)) }

// raw4 takes the IP header off what a raw IPv4 socket receives. The kernel has
// not looked at the ICMP checksum then (net/ipv4/ip_input.c hands to raw sockets
// first); the series does.
type raw4 struct {
	*sock.Conn
	buf []byte
}

func (r *raw4) Recv(b []byte) (sock.Message, error) {
	m, err := r.Conn.Recv(r.buf)
	if err != nil {
		return m, err
	}
	return strip4(m, b), nil
}

func (r *raw4) TryRecv(b []byte) (sock.Message, bool, error) {
	m, ok, err := r.Conn.TryRecv(r.buf)
	if !ok || err != nil {
		return m, ok, err
	}
	return strip4(m, b), true, nil
}

// strip4 copies the ICMP message of a packet into b. Messages of the error
// queue have no IP header. What cannot be parsed becomes sock.Other, which
// nobody acts on.
func strip4(m sock.Message, b []byte) sock.Message {
	body := m.Data
	if m.Origin == sock.Data {
		h, payload, err := wire.ParseIPv4(m.Data)
		if err != nil || h.Protocol != wire.ProtoICMP || h.Fragment() {
			m.Origin, m.Data = sock.Other, nil
			return m
		}
		m.TTL, body = int(h.TTL), payload
	}
	n := copy(b, body)
	m.Truncated = m.Truncated || n < len(body)
	m.Data = b[:n]
	return m
}
