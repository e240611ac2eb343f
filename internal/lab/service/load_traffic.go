package service

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/lab/emulator/unit"
)

// paced calls send with size bytes each time so that rate is kept (0: without
// pause), in turns of on and off when both are set, until the service ends or
// send fails. Lost time is made up for at most 50 ms: a busy machine must not
// turn a steady stream into a burst.
func (b *base) paced(rate unit.Rate, size int, on, off time.Duration, send func(n int) error) error {
	if size <= 0 {
		size = 1200
	}
	size = min(size, len(zeros))
	gap := rate.Serialise(size)
	next, phase := time.Now(), time.Now()
	for b.ctx.Err() == nil {
		now := time.Now()
		if on > 0 && now.Sub(phase) >= on {
			if !b.sleep(off) {
				return nil
			}
			phase = time.Now()
			next = phase
			continue
		}
		if wait := next.Sub(now); wait > 0 {
			// Small gaps are slept together: a timer is good for about a
			// millisecond, and as many packets then go at once.
			b.sleep(max(wait, min(time.Millisecond, 20*gap)))
			continue
		}
		if now.Sub(next) > 50*time.Millisecond {
			next = now
		}
		if err := send(size); err != nil {
			return err
		}
		next = next.Add(gap)
	}
	return nil
}

// startTraffic starts the streams; those that fail (nobody listens yet, the link
// is down) try again.
func (b *base) startTraffic(s Traffic) error {
	to, err := target(s.To, "")
	if err != nil {
		return err
	}
	var local netip.AddrPort
	if s.From != "" {
		if local, err = target(s.From, "0"); err != nil {
			return err
		}
	}
	n := max(1, s.Streams)
	rate := s.Rate / unit.Rate(n)
	for range n {
		b.run(func() {
			for b.ctx.Err() == nil {
				if err := b.stream(s, to, local, max(1, rate)); err != nil {
					b.count("errors")
					b.sleep(200 * time.Millisecond)
				}
			}
		})
	}
	return nil
}

func (b *base) stream(s Traffic, to, local netip.AddrPort, rate unit.Rate) error {
	c, err := b.openStream(s, to, local)
	if err != nil {
		return err
	}
	if !b.keep(c) {
		return nil
	}
	defer b.drop(c)
	return b.paced(rate, s.Size, s.On, s.Off, func(n int) error {
		_, err := c.Write(zeros[:n])
		if errors.Is(err, unix.ECONNREFUSED) && s.Network != "tcp" { // port unreachable: UDP goes on
			b.count("refused")
			err = nil
		} else if errors.Is(err, unix.ENOBUFS) {
			b.count("no_buffer")
			err = nil
		}
		if err == nil {
			b.add("bytes", uint64(n))
			b.count("packets")
		}
		return err
	})
}

func (b *base) openStream(s Traffic, to, local netip.AddrPort) (net.Conn, error) {
	tos := []sockopt{{unix.IPPROTO_IP, unix.IP_TOS, s.DSCP << 2}}
	if to.Addr().Is6() {
		tos = []sockopt{{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, s.DSCP << 2}}
	}
	if s.Network != "tcp" {
		var from net.Addr
		if local.IsValid() {
			from = net.UDPAddrFromAddrPort(local)
		}
		return b.dialUDP(b.ctx, to, from, tos...)
	}
	var from net.Addr
	if local.IsValid() {
		from = net.TCPAddrFromAddrPort(local)
	}
	var c net.Conn
	err := b.inNS(func() (err error) {
		c, err = dialer(dialTimeout, from, tos...).DialContext(b.ctx, "tcp", to.String())
		return err
	})
	return c, err
}

// startNeighbourFill sends one small datagram to each address, over and over.
func (b *base) startNeighbourFill(s NeighbourFill) error {
	prefix, err := netip.ParsePrefix(s.Prefix)
	if err != nil {
		return err
	}
	if s.Every <= 0 {
		s.Every = time.Second
	}
	count := s.Count
	if count == 0 {
		count = 65_536
	}
	c, err := b.listenUDP(":0")
	if err != nil {
		return err
	}
	b.run(func() {
		for ok := true; ok; ok = b.sleep(s.Every) {
			a := prefix.Masked().Addr()
			for i := 0; i < count && b.ctx.Err() == nil; i++ {
				if a = a.Next(); !prefix.Contains(a) {
					break
				}
				if _, err := c.WriteToUDPAddrPort(zeros[:1], netip.AddrPortFrom(a, 9)); err != nil {
					b.count("errors") // ENOBUFS is the overflow that was wanted
				} else {
					b.count("sent")
				}
				if i%256 == 255 && !b.sleep(time.Millisecond) {
					return
				}
			}
			b.count("rounds")
		}
	})
	return nil
}

// startConntrackFill sends one datagram on each of many flows, over and over.
func (b *base) startConntrackFill(s ConntrackFill) error {
	to, err := target(s.To, "9")
	if err != nil {
		return err
	}
	if s.PerSecond == 0 {
		s.PerSecond = 20_000
	}
	if s.Every <= 0 {
		s.Every = 10 * time.Second // unanswered UDP entries live 30 s
	}
	const perSocket, firstPort = 60_000, 2000
	var socks []*net.UDPConn
	for range (s.Flows + perSocket - 1) / perSocket {
		c, err := b.listenUDP(":0")
		if err != nil {
			return err
		}
		socks = append(socks, c)
	}
	chunk := max(1, s.PerSecond/100)
	b.run(func() {
		for ok := true; ok; ok = b.sleep(s.Every) {
			for i := range s.Flows {
				dst := netip.AddrPortFrom(to.Addr(), uint16(firstPort+i%perSocket))
				if _, err := socks[i/perSocket].WriteToUDPAddrPort(zeros[:1], dst); err != nil {
					b.count("errors") // EPERM: the table is full
				} else {
					b.count("sent")
				}
				if i%chunk == chunk-1 && !b.sleep(10*time.Millisecond) {
					return
				}
			}
			b.count("rounds")
		}
	})
	return nil
}
