package service

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// startUDP opens the sockets of a UDP server.
func (b *base) startUDP(u UDP) error {
	if u.Mode == UDPDeaf && u.Rcvbuf == 0 {
		u.Rcvbuf = 2304
	}
	for _, l := range u.Listen {
		addr, err := listenAddr(l, "")
		if err != nil {
			return err
		}
		c, err := b.listenUDP(addr, sockopt{unix.SOL_SOCKET, unix.SO_RCVBUF, int(u.Rcvbuf)})
		if err != nil {
			return err
		}
		b.listens(c.LocalAddr().String())
		if u.Mode != UDPDeaf {
			b.run(func() { b.serveUDP(c, u) })
		} else if u.Flood > 0 {
			if err := b.startTraffic(Traffic{To: loopbackOf(c.LocalAddr()).String(), Rate: u.Flood, Size: 512}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *base) serveUDP(c *net.UDPConn, u UDP) {
	buf := make([]byte, 65536)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || b.ctx.Err() != nil {
				return
			}
			continue // an ICMP error for an earlier answer
		}
		b.count("datagrams")
		if u.Mode != UDPEcho || b.chance(u.Drop) {
			continue
		}
		if u.Delay == 0 {
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
			continue
		}
		data := append([]byte(nil), buf[:n]...)
		b.run(func() {
			if b.sleep(u.Delay) {
				_, _ = c.WriteToUDPAddrPort(data, from)
			}
		})
	}
}
