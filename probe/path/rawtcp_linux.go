package path

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
	"fathom/internal/sys/sock"
	"fathom/internal/wire"
)

// rawTCP sends SYNs over a raw TCP socket, which also hears the target, and
// hears routers on a raw ICMP socket. The kernel, which knows of no such
// connection, resets a SYN-ACK by itself.
type rawTCP struct {
	*readers
	codec *tcpCodec
	hold  int // a TCP socket that keeps the source port ours
	once  sync.Once

	mu   sync.Mutex // guards ttl and orders it with sending
	conn *net.IPConn
	ttl  int
}

func openRawTCP(ctx context.Context, o sock.Options, target netip.Addr, port uint16) (network, error) {
	hold, src, err := reservePort(o.Source)
	if err != nil {
		return nil, err
	}
	c := newTCPCodec(src, netip.AddrPortFrom(target, port))
	conn, err := listenTCP(ctx, o, c)
	if err != nil {
		return nil, errors.Join(err, unix.Close(hold))
	}
	hear, err := openICMP(sock.Options{Stamps: true}, target.Is6())
	if err != nil {
		return nil, errors.Join(err, conn.Close(), unix.Close(hold))
	}
	n := &rawTCP{readers: newReaders(), codec: c, hold: hold, conn: conn}
	routers := &rawNet{&sender{conn: hear, codec: c}, n.readers}
	n.start(hear, routers.hear(target, nil))
	n.wg.Go(n.listen)
	return n, nil
}

// reservePort binds a TCP socket to a port of the kernel's choice. It is never
// connected and never listens.
func reservePort(source netip.Addr) (fd int, src netip.AddrPort, err error) {
	family := unix.AF_INET
	if source.Is6() {
		family = unix.AF_INET6
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, src, fmt.Errorf("open tcp socket: %w", err)
	}
	err = ipsock.Bind(fd, netip.AddrPortFrom(source, 0))
	var got netip.AddrPort
	if err == nil {
		got, err = ipsock.LocalAddr(fd)
	}
	if err != nil {
		return -1, src, errors.Join(fmt.Errorf("reserve tcp port of %s: %w", source, err), unix.Close(fd))
	}
	return fd, netip.AddrPortFrom(source, got.Port()), nil
}

// listenTCP opens the raw TCP socket, with a filter for our two ports.
func listenTCP(ctx context.Context, o sock.Options, c *tcpCodec) (*net.IPConn, error) {
	network := "ip4:6"
	if o.Source.Is6() {
		network = "ip6:6"
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) { err = setupRawTCP(int(fd), o, c) }); cerr != nil {
			return cerr
		}
		return err
	}}
	pc, err := lc.ListenPacket(ctx, network, o.Source.String())
	if err != nil {
		return nil, fmt.Errorf("open raw tcp socket: %w", err)
	}
	conn, ok := pc.(*net.IPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("open raw tcp socket: got a %T", pc), pc.Close())
	}
	return conn, nil
}

func setupRawTCP(fd int, o sock.Options, c *tcpCodec) error {
	if err := ipsock.BindToDevice(fd, o.Interface); err != nil {
		return err
	}
	if o.Source.Is6() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1); err != nil {
			return fmt.Errorf("receive hop limits: %w", err)
		}
	}
	return attachPortFilter(fd, o.Source.Is6(), c.dst.Port(), c.src.Port())
}

// attachPortFilter lets only segments from port from to port to through: a busy
// server would otherwise copy all its TCP traffic to us. Raw IPv4 sockets see
// the IP header, IPv6 ones do not.
func attachPortFilter(fd int, v6 bool, from, to uint16) error {
	x := bpf.Instruction(bpf.LoadMemShift{Off: 0})
	if v6 {
		x = bpf.LoadConstant{Dst: bpf.RegX, Val: 0}
	}
	raw, err := bpf.Assemble([]bpf.Instruction{
		x,
		bpf.LoadIndirect{Off: 0, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(from), SkipTrue: 3},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(to), SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return fmt.Errorf("assemble socket filter: %w", err)
	}
	f := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		f[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	p := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p); err != nil {
		return fmt.Errorf("attach socket filter: %w", err)
	}
	return nil
}

// Send sends one SYN.
func (n *rawTCP) Send(p packet) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.TTL != n.ttl {
		rc, err := n.conn.SyscallConn()
		if err != nil {
			return err
		}
		var serr error
		if err := rc.Control(func(fd uintptr) { serr = ipsock.SetTTL(int(fd), p.To.Is6(), p.TTL) }); err != nil {
			return err
		}
		if serr != nil {
			return fmt.Errorf("set ttl %d: %w", p.TTL, serr)
		}
		n.ttl = p.TTL
	}
	to := &net.IPAddr{IP: p.To.AsSlice(), Zone: p.To.Zone()}
	if _, err := n.conn.WriteToIP(n.codec.encode(p), to); err != nil {
		return &localError{op: fmt.Sprintf("send to %s", p.To), err: err}
	}
	return nil
}

// listen reads the target's segments until the socket is closed.
func (n *rawTCP) listen() {
	buf, oob := make([]byte, readSize), make([]byte, 128)
	for bad := 0; bad < maxReadErrors; {
		m, oobn, _, from, err := n.conn.ReadMsgIP(buf, oob)
		at := time.Now()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			bad++
			continue
		}
		bad = 0
		if r, ok := n.answer(buf[:m], oob[:oobn], from, at); ok && !n.deliver(r) {
			return
		}
	}
}

func (n *rawTCP) answer(b, oob []byte, from *net.IPAddr, at time.Time) (reply, bool) {
	a, ok := netip.AddrFromSlice(from.IP)
	dst := n.codec.dst.Addr()
	if a = a.Unmap(); !ok || a != dst.WithZone("") {
		return reply{}, false
	}
	r := reply{Kind: kindTarget, From: a, At: at}
	if dst.Is4() {
		h, body, err := wire.ParseIPv4(b)
		if err != nil {
			return reply{}, false
		}
		r.ReplyTTL, b = int(h.TTL), body
	} else {
		r.ReplyTTL = hopLimit(oob)
	}
	r.ID, ok = n.codec.reply(b)
	return r, ok
}

// hopLimit reads the IPV6_HOPLIMIT control message, 0 when there is none.
func hopLimit(oob []byte) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data) & 0xff)
		}
	}
	return 0
}

// Close closes all sockets and waits for the readers.
func (n *rawTCP) Close() error {
	var err error
	n.once.Do(func() {
		err = errors.Join(n.conn.Close(), n.readers.Close(), unix.Close(n.hold))
	})
	return err
}
