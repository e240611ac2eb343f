package service

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/lab/emulator/unit"
)

// startTCP opens the listeners of a TCP server.
func (b *base) startTCP(t TCP) error {
	backlog := t.Backlog
	if backlog == 0 && (t.Mode == TCPHang || t.Mode == TCPHog) {
		backlog = 1
	}
	for _, l := range t.Listen {
		addr, err := listenAddr(l, "")
		if err != nil {
			return err
		}
		ln, err := b.listenTCP(addr, backlog, sockopt{unix.SOL_SOCKET, unix.SO_RCVBUF, int(t.Rcvbuf)}, sockopt{unix.SOL_SOCKET, unix.SO_SNDBUF, int(t.Sndbuf)})
		if err != nil {
			return err
		}
		switch t.Mode {
		case TCPHang:
		case TCPHog:
			b.startHog(ln, t.Clients)
		default:
			b.run(func() { b.acceptLoop(ln, t) })
		}
	}
	return nil
}

// acceptPause is the wait after a failed accept (out of descriptors, usually),
// which would otherwise be a busy loop.
const acceptPause = 20 * time.Millisecond

func (b *base) acceptLoop(ln *net.TCPListener, t TCP) {
	for b.sleep(t.AcceptDelay) {
		c, err := ln.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !b.sleep(acceptPause) {
				return
			}
			b.count("accept_errors")
			continue
		}
		b.count("accepted")
		if !b.keep(c) {
			return
		}
		b.run(func() { b.serveTCP(c, t) })
	}
}

func (b *base) serveTCP(c *net.TCPConn, t TCP) {
	defer b.drop(c)
	switch t.Mode {
	case TCPEcho:
		b.echo(c, t.Delay)
	case TCPBanner:
		if b.sleep(t.Delay) {
			_, _ = io.WriteString(c, t.Banner)
			_, _ = io.Copy(io.Discard, c)
		}
	case TCPSink:
		b.sink(c, t.Rate)
	case TCPReset:
		if b.sleep(t.Delay) {
			_ = c.SetLinger(0)
		}
	case TCPClose:
		b.sleep(t.Delay)
	case TCPStall:
		<-b.ctx.Done()
	case TCPSource:
		_ = b.paced(t.Rate, 16<<10, 0, 0, func(n int) error {
			_, err := c.Write(zeros[:n])
			return err
		})
	}
}

func (b *base) echo(c net.Conn, delay time.Duration) {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			b.add("bytes", uint64(n))
			if !b.sleep(delay) {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// sink reads at most at the given rate.
func (b *base) sink(c net.Conn, rate unit.Rate) {
	buf := make([]byte, 32<<10)
	if rate > 0 { // 20 reads a second keep a slow reader smooth
		buf = buf[:min(len(buf), max(1, int(rate/8/20)))]
	}
	for {
		n, err := c.Read(buf)
		b.add("bytes", uint64(n))
		if err != nil || !b.sleep(rate.Serialise(n)) {
			return
		}
	}
}

var zeros [64 << 10]byte

// startHog keeps clients of this service trying to connect to a listener that
// never accepts: its queue is full, and each further attempt overflows it.
func (b *base) startHog(ln *net.TCPListener, clients int) {
	if clients <= 0 {
		clients = 8
	}
	to := loopbackOf(ln.Addr())
	for range clients {
		b.run(func() {
			for b.ctx.Err() == nil {
				// Long enough for a few retransmitted SYNs, each of which counts.
				c, err := b.dialTCP(to, 4*time.Second)
				if err != nil {
					b.count("refused")
					b.sleep(10 * time.Millisecond)
					continue
				}
				b.count("connected")
				if !b.keep(c) {
					return
				}
				// It holds a place in the queue until Stop; the next attempt
				// finds the queue full.
				b.sleep(10 * time.Millisecond)
			}
		})
	}
}

// loopbackOf turns a listening address into one to connect to on the same node.
func loopbackOf(a net.Addr) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.String())
	if ap.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port())
	}
	return ap
}
