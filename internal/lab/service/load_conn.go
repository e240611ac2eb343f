package service

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// dialTimeout bounds a load generator's connect: a lab's peer is near, and SYNs
// lost on purpose are tried again by the generator.
const dialTimeout = 3 * time.Second

// peer is where a load generator connects to: another service, or a listener of
// its own on the same node.
type peer struct {
	to netip.AddrPort
	ln *net.TCPListener // nil: another service
}

func (b *base) peer(to, listen string) (peer, error) {
	if to != "" {
		ap, err := target(to, "")
		return peer{to: ap}, err
	}
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	addr, err := listenAddr(listen, "")
	if err != nil {
		return peer{}, err
	}
	ln, err := b.listenTCP(addr, 0)
	if err != nil {
		return peer{}, err
	}
	return peer{to: loopbackOf(ln.Addr()), ln: ln}, nil
}

// connect gives a connected pair; theirs is nil when the peer is another service.
func (b *base) connect(p peer, opts ...sockopt) (ours, theirs *net.TCPConn, err error) {
	ours, err = b.dialTCP(p.to, dialTimeout, opts...)
	if err != nil || p.ln == nil {
		return ours, nil, err
	}
	_ = p.ln.SetDeadline(time.Now().Add(dialTimeout))
	if theirs, err = p.ln.AcceptTCP(); err != nil {
		_ = ours.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// retry runs step until it succeeded count times (for ever when count is 0), with
// a pause after each failure; what failed is counted, not fatal: a network that
// is broken on purpose may refuse for a while.
func (b *base) retry(count int, step func() error) {
	for done := 0; b.ctx.Err() == nil && (count == 0 || done < count); {
		err := step()
		switch {
		case err == nil:
			done++
			continue
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, unix.EADDRNOTAVAIL):
			b.count("no_local_port")
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
			b.count("no_descriptor")
		default:
			b.count("errors")
		}
		b.sleep(100 * time.Millisecond)
	}
}

// startCloseWait fills "held" connections in CLOSE_WAIT.
func (b *base) startCloseWait(s CloseWait) error {
	p, err := b.peer(s.To, s.Listen)
	if err != nil {
		return err
	}
	limit := s.Max
	if limit == 0 {
		limit = max(10_000, s.Count)
	}
	b.run(func() {
		if s.Count > 0 {
			b.retry(s.Count, func() error { return b.holdCloseWait(p) })
		}
		if s.Growth <= 0 {
			return
		}
		gap := time.Duration(float64(time.Second) / s.Growth)
		for n := s.Count; n < limit && b.sleep(gap); n++ {
			b.retry(1, func() error { return b.holdCloseWait(p) })
		}
	})
	return nil
}

// holdCloseWait makes one connection whose other side has closed, and keeps it.
func (b *base) holdCloseWait(p peer) error {
	ours, theirs, err := b.connect(p, sockopt{unix.IPPROTO_TCP, unix.TCP_LINGER2, lingerOf(p)})
	if err != nil {
		return err
	}
	leaked := ours
	if theirs != nil { // our own peer: the accepted side is the one that leaks
		_ = ours.Close()
		leaked = theirs
	}
	if !b.keep(leaked) {
		return net.ErrClosed
	}
	b.count("held")
	return nil
}

// lingerOf makes our own peer's FIN_WAIT2 end after a second, so that only the
// CLOSE_WAIT side stays to be seen.
func lingerOf(p peer) int {
	if p.ln == nil {
		return 0
	}
	return 1
}

// timeWaitLife is TCP_TIMEWAIT_LEN of the kernel (include/net/tcp.h).
const timeWaitLife = 60 * time.Second

// startTimeWait makes Count TIME_WAIT sockets and replaces those that run out.
func (b *base) startTimeWait(s TimeWait) error {
	p, err := b.peer(s.To, s.Listen)
	if err != nil {
		return err
	}
	b.run(func() {
		b.retry(s.Count, func() error { return b.makeTimeWait(p) })
		for gap := timeWaitLife / time.Duration(s.Count); b.sleep(gap); {
			b.retry(1, func() error { return b.makeTimeWait(p) })
		}
	})
	return nil
}

// makeTimeWait closes one connection from our side first, which leaves TIME_WAIT
// here.
func (b *base) makeTimeWait(p peer) error {
	ours, theirs, err := b.connect(p)
	if err != nil {
		return err
	}
	defer ours.Close()
	if err := ours.CloseWrite(); err != nil {
		return err
	}
	if theirs != nil {
		_, _ = io.Copy(io.Discard, theirs)
		_ = theirs.Close()
	}
	_ = ours.SetReadDeadline(time.Now().Add(dialTimeout))
	if _, err := io.Copy(io.Discard, ours); err != nil {
		return err
	}
	b.count("made")
	return nil
}

// startPortHog holds connections to one destination.
func (b *base) startPortHog(s PortHog) error {
	to, err := target(s.To, "")
	if err != nil {
		return err
	}
	b.run(func() {
		b.retry(s.Count, func() error {
			c, err := b.dialTCP(to, dialTimeout)
			if err != nil {
				return err
			}
			if !b.keep(c) {
				return net.ErrClosed
			}
			b.count("held")
			return nil
		})
	})
	return nil
}

// startConnect makes connections over and over.
func (b *base) startConnect(s Connect) error {
	to, err := target(s.To, "")
	if err != nil {
		return err
	}
	if s.Parallel == 0 {
		s.Parallel = 8
	}
	if s.Interval <= 0 {
		s.Interval = 10 * time.Millisecond
	}
	if s.Timeout <= 0 {
		s.Timeout = dialTimeout
	}
	for range s.Parallel {
		b.run(func() {
			for b.connectOnce(to, s); b.sleep(s.Interval); {
				b.connectOnce(to, s)
			}
		})
	}
	return nil
}

func (b *base) connectOnce(to netip.AddrPort, s Connect) {
	c, err := b.dialTCP(to, s.Timeout)
	if err != nil {
		b.count("errors")
		return
	}
	b.count("connected")
	if !b.keep(c) {
		return
	}
	defer b.drop(c)
	if s.Send != "" {
		_, _ = io.WriteString(c, s.Send)
	}
	b.sleep(s.Hold)
}
