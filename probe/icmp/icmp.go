// Package icmp measures a target with ICMP echo requests, IPv4 and IPv6. It
// uses the best way this process is allowed: an ICMP datagram socket (open to
// users in net.ipv4.ping_group_range), a raw socket (CAP_NET_RAW), or, to try a
// next hop that the routing table does not choose, hand-made frames.
//
// Requests go out at a steady pace without waiting for replies. Round trips are
// the difference of two kernel time stamps where the kernel gives them, so that
// a busy machine does not look like a slow network.
package icmp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"fathom/internal/sys/sock"
	"fathom/internal/wire"
	"fathom/probe"
	"fathom/sample"
)

// What a zero Config stands for.
const (
	DefaultCount    = 3
	DefaultInterval = 100 * time.Millisecond // ten per second is what one host may send to another unasked
	DefaultTimeout  = time.Second            // longer than any terrestrial round trip (~0.4 s), geostationary included (~0.6 s)
	defaultPayload  = 56                     // as ping(8): 84 bytes of IPv4
	maxCount        = 1 << 16                // a sequence number is not used twice
	maxSize         = 65535
)

// Config says how to probe. Zero fields take the defaults.
type Config struct {
	Count     int           // requests
	Interval  time.Duration // from one request to the next
	Timeout   time.Duration // a reply after it is late and counts as lost
	Size      int           // whole IP packet, bytes; 84 (IPv4), 104 (IPv6)
	DF        bool          // don't fragment, and ignore the path MTU the kernel remembers
	TTL       int           // or hop limit; 0: the kernel's default
	Interface string        // send and receive on this interface only
	Source    netip.Addr    // own address to use
	ForceRaw  bool          // do not try the datagram socket
	Via       netip.Addr    // send frames to this next hop, whatever the routing table says; needs CAP_NET_RAW
	ViaLink   string        // out of this interface; needed with Via
}

// Prober sends echo requests as its Config says. It may be used for many
// targets, also at the same time.
type Prober struct {
	cfg Config
}

var _ probe.Prober = (*Prober)(nil)

// New makes a Prober. Bad values in cfg are reported by Probe.
func New(cfg Config) *Prober {
	if cfg.Count == 0 {
		cfg.Count = DefaultCount
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Prober{cfg}
}

// Probe sends the requests to target, an address literal (IPv6 with zone where
// needed), and waits for each reply at most Config.Timeout. When ctx ends
// earlier it returns what was measured so far; only if that is nothing at all
// it is an error that wraps the context's. Other errors say that nothing could
// be measured: bad options, no privilege, our own transmit queue always full.
func (p *Prober) Probe(ctx context.Context, target string) (probe.Result, error) {
	start := time.Now()
	res := probe.Result{Kind: probe.KindICMP, Target: target, Start: start}
	dst, err := p.cfg.check(target)
	if err != nil {
		return res, err
	}
	if err := ctx.Err(); err != nil {
		return res, fmt.Errorf("icmp echo to %s: %w", target, err)
	}
	res.Address = dst
	size := p.cfg.size(dst)
	res.Echo = &probe.Echo{Size: size, DF: p.cfg.DF, Via: p.cfg.Via}

	var l link
	if p.cfg.Via.IsValid() {
		l, err = openVia(ctx, p.cfg, dst, size)
	} else {
		l, err = openSocket(p.cfg, dst)
	}
	res.Method = l.method
	var none *noWay
	switch {
	case errors.As(err, &none):
		none.fill(&res)
		res.Elapsed = sample.D(time.Since(start))
		return res, nil
	case err != nil:
		return res, fmt.Errorf("icmp echo to %s: %w", target, err)
	}
	defer l.conn.Close()
	res.Source = l.source

	s := newSeries(p.cfg, l, dst, size)
	if err := s.run(ctx); err != nil {
		return res, fmt.Errorf("icmp echo to %s: %w", target, err)
	}
	err = s.fill(&res)
	res.Elapsed = sample.D(time.Since(start))
	if err == nil && ctx.Err() != nil && s.settled() == 0 {
		err = ctx.Err()
	}
	if err != nil {
		return res, fmt.Errorf("icmp echo to %s: %w", target, err)
	}
	return res, nil
}

// check validates cfg and reads the target.
func (c Config) check(target string) (netip.Addr, error) {
	dst, err := netip.ParseAddr(target)
	if err != nil {
		return dst, fmt.Errorf("icmp target %q: not an IP address: %w", target, err)
	}
	dst = dst.Unmap()
	if dst.Is6() && dst.IsLinkLocalUnicast() && dst.Zone() == "" {
		link := c.Interface
		if c.Via.IsValid() {
			link = c.ViaLink
		}
		if link == "" {
			return dst, fmt.Errorf("icmp target %s: a link-local address needs its interface (%s%%eth0)", target, target)
		}
		dst = dst.WithZone(link)
	}
	bad := func(format string, a ...any) (netip.Addr, error) {
		return dst, fmt.Errorf("icmp echo to %s: "+format, append([]any{target}, a...)...)
	}
	switch least := headerLen(dst) + wire.ICMPHeaderLen; {
	case dst.IsMulticast(), dst.IsUnspecified(), dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return bad("not a unicast address")
	case c.Count < 1 || c.Count > maxCount:
		return bad("count %d is not within 1 to %d", c.Count, maxCount)
	case c.Interval < 0 || c.Timeout < 0:
		return bad("negative interval or timeout")
	case c.TTL < 0 || c.TTL > 255:
		return bad("ttl %d is not within 1 to 255", c.TTL)
	case c.Size != 0 && (c.Size < least || c.Size > maxSize):
		return bad("packet size %d is not within %d to %d bytes", c.Size, least, maxSize)
	case c.Source.IsValid() && c.Source.Unmap().Is4() != dst.Is4():
		return bad("source %s is of another address family", c.Source)
	case c.Via.IsValid() && c.Via.Unmap().Is4() != dst.Is4():
		return bad("next hop %s is of another address family", c.Via)
	case c.Via.IsValid() && c.ViaLink == "":
		return bad("next hop %s needs the interface it is on", c.Via)
	}
	return dst, nil
}

func headerLen(a netip.Addr) int {
	if a.Is4() {
		return wire.IPv4HeaderLen
	}
	return wire.IPv6HeaderLen
}

func (c Config) size(dst netip.Addr) int {
	if c.Size != 0 {
		return c.Size
	}
	return headerLen(dst) + wire.ICMPHeaderLen + defaultPayload
}

// noWay says that this host has no way to the destination, by its own routing
// or because the forced next hop is silent: a Result, not an error.
type noWay struct {
	err error
}

func (n *noWay) Error() string { return n.err.Error() }
func (n *noWay) Unwrap() error { return n.err }

func (n *noWay) fill(res *probe.Result) {
	res.Outcome, res.Errno = probe.OutcomeOfErrno(n.err)
	res.Detail = n.err.Error()
	if _, bare := n.err.(syscall.Errno); bare {
		res.Detail = "our own kernel: " + res.Detail
	}
	switch res.Errno {
	case "EINVAL": // fib_props of RTN_BLACKHOLE, net/ipv4/fib_semantics.c
		res.Outcome, res.Detail = probe.NoRoute, res.Detail+" (a blackhole route)"
	case "EACCES":
		res.Detail += " (a prohibit route, or a broadcast address)"
	}
	res.Echo.Sent, res.Echo.SendErrors = 1, 1
}

// stampWarmUp is how long the first request waits for the kernel: it switches
// receive stamps on in a work queue (net/core/dev.c net_enable_timestamp), and
// packets that come before have none. Measured well below a millisecond.
const stampWarmUp = time.Millisecond

// conn is all that a series needs of a socket. Messages hold ICMP messages
// without IP header; an ICMP error holds the quoted request from its ICMP
// header on. See sock.Conn for the meaning of each.
type conn interface {
	Send(b []byte) error
	Recv(b []byte) (sock.Message, error)
	TryRecv(b []byte) (m sock.Message, ok bool, err error)
	SetReadDeadline(t time.Time) error
	RestartStamps() error
	Close() error
}

// link is an open way to the target.
type link struct {
	conn   conn
	method string
	source netip.Addr
	id     uint16                      // echo identifier
	shared bool                        // replies to other processes may come too
	seal   func(msg []byte)            // computes the checksum; nil where the kernel does
	mtu    func() (bytes int, ok bool) // the kernel's path MTU; nil where there is none
	warmUp time.Duration               // wait before the first request
	stamps bool                        // the kernel stamps what it sends
}
