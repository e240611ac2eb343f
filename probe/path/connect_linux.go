package path

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/wire"
	"fathom/probe"
)

// connectNet traces with ordinary connects, one socket per probe: no privilege
// needed, but each has its own source port, so routers that balance by flow may
// send them different ways.
type connectNet struct {
	*readers
	ctx    context.Context
	cancel context.CancelFunc
	cfg    Config
	source netip.Addr
}

func openConnect(ctx context.Context, c Config, source netip.Addr) network {
	ctx, cancel := context.WithCancel(ctx)
	return &connectNet{readers: newReaders(), ctx: ctx, cancel: cancel, cfg: c, source: source}
}

// Send begins to connect; what comes of it is delivered later.
func (n *connectNet) Send(p packet) error {
	refused := make(chan error, 1)
	n.wg.Go(func() { n.connect(p, refused) })
	// The goroutine reports before it waits, when the socket could not be made.
	return <-refused
}

// Close ends all connects under way.
func (n *connectNet) Close() error {
	n.cancel()
	return n.readers.Close()
}

// connect makes one connection attempt with a TTL, waits for its end and
// delivers it. The kernel's refusal of the SYN itself goes to refused.
func (n *connectNet) connect(p packet, refused chan<- error) {
	queue := -1 // a second descriptor of the socket: its error queue outlives the dial
	told := false
	tell := func(err error) {
		if !told {
			told = true
			refused <- err
		}
	}
	defer tell(nil)
	d := net.Dialer{
		Timeout:   max(n.cfg.Timeout, n.cfg.Linger),
		KeepAlive: -1,
		LocalAddr: &net.TCPAddr{IP: n.source.AsSlice(), Zone: n.source.Zone()},
		Control: func(_, _ string, rc syscall.RawConn) error {
			var err error
			cerr := rc.Control(func(fd uintptr) { queue, err = n.setup(int(fd), p) })
			if err = errors.Join(cerr, err); err == nil {
				tell(nil)
			}
			return err
		},
	}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(n.ctx, "tcp", netip.AddrPortFrom(p.To, n.cfg.Port).String())
	at := time.Now()
	if conn != nil {
		if tc, ok := conn.(*net.TCPConn); ok {
			_ = tc.SetLinger(0) // reset: the server shall not wait for a request
		}
		_ = conn.Close()
	}
	if queue >= 0 {
		defer unix.Close(queue)
	}
	if err != nil && queue < 0 {
		tell(&localError{op: fmt.Sprintf("connect to %s", p.To), err: err})
		return
	}
	if r, ok := n.outcome(p, queue, err, at); ok {
		n.deliver(r)
	}
}

// setup sets the options of a socket and returns a duplicate of it.
func (n *connectNet) setup(fd int, p packet) (int, error) {
	level, recverr := unix.IPPROTO_IP, unix.IP_RECVERR
	if p.To.Is6() {
		level, recverr = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	if err := setTTL(fd, p.To.Is6(), p.TTL); err != nil {
		return -1, fmt.Errorf("set ttl %d: %w", p.TTL, err)
	}
	if err := unix.SetsockoptInt(fd, level, recverr, 1); err != nil {
		return -1, fmt.Errorf("switch error queue on: %w", err)
	}
	if n.cfg.Interface != "" {
		if err := unix.BindToDevice(fd, n.cfg.Interface); err != nil {
			return -1, fmt.Errorf("bind socket to interface %s: %w", n.cfg.Interface, err)
		}
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

// outcome reads how a connect ended: an ICMP error on the error queue, a
// connection, or a reset.
func (n *connectNet) outcome(p packet, queue int, err error, at time.Time) (reply, bool) {
	r := reply{ID: p.ID, Kind: kindTarget, From: p.To.WithZone(""), At: at}
	if e, ok := queuedICMP(queue, p.To.Is6()); ok {
		kind, ok := classify(p.To, e)
		r.Kind, r.From, r.ICMP = kind, e.From, &e
		return r, ok
	}
	return r, err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

// queuedICMP reads the first ICMP error of a socket's error queue.
func queuedICMP(fd int, v6 bool) (probe.ICMPError, bool) {
	buf, oob := make([]byte, 256), make([]byte, 512)
	_, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return probe.ICMPError{}, false
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return probe.ICMPError{}, false
	}
	for _, m := range msgs {
		if (m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR) ||
			(m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR) {
			return extendedError(m.Data, v6)
		}
	}
	return probe.ICMPError{}, false
}

// extendedError reads struct sock_extended_err and the offender's address
// behind it (linux/errqueue.h).
func extendedError(b []byte, v6 bool) (e probe.ICMPError, ok bool) {
	const size = 16
	if len(b) < size+8 || (b[4] != unix.SO_EE_ORIGIN_ICMP && b[4] != unix.SO_EE_ORIGIN_ICMP6) {
		return e, false
	}
	e.Type, e.Code = b[5], b[6]
	e.Text = wire.ICMPText(v6, e.Type, e.Code)
	switch sa := b[size:]; binary.NativeEndian.Uint16(sa) {
	case unix.AF_INET:
		e.From = netip.AddrFrom4([4]byte(sa[4:8]))
	case unix.AF_INET6:
		if len(sa) >= 24 {
			e.From = netip.AddrFrom16([16]byte(sa[8:24]))
		}
	}
	if (!v6 && e.Type == wire.ICMPUnreachable && e.Code == wire.ICMPCodeFragNeeded) || (v6 && e.Type == wire.ICMP6TooBig) {
		e.MTU = int(binary.NativeEndian.Uint32(b[8:]))
	}
	return e, e.From.IsValid()
}
