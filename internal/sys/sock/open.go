package sock

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
)

// Options are what may be set on an IP socket.
type Options = ipsock.Options

// ErrPermission is wrapped when the kernel forbids the socket itself, as
// opposed to forbidding a packet.
var ErrPermission = os.ErrPermission

// ICMPDatagram opens an ICMP (v6: ICMPv6) datagram socket, which the sysctl
// net.ipv4.ping_group_range opens to ordinary users. The kernel sets the echo
// identifier and the checksum and delivers only replies to our own requests.
func ICMPDatagram(v6 bool, o Options) (*Conn, error) {
	return open(v6, unix.SOCK_DGRAM, icmpProto(v6), "icmp datagram socket", o)
}

// ICMPRaw opens a raw ICMP (v6: ICMPv6) socket, which needs CAP_NET_RAW, and
// lets only echo replies through. Packets of IPv4 come with their IP header.
func ICMPRaw(v6 bool, o Options) (*Conn, error) {
	c, err := open(v6, unix.SOCK_RAW, icmpProto(v6), "raw icmp socket", o)
	if err != nil {
		return nil, err
	}
	if err := c.Control(func(fd int) error { return onlyEchoReplies(fd, v6) }); err != nil {
		c.Close()
		return nil, fmt.Errorf("set icmp filter: %w", err)
	}
	return c, nil
}

// UDP opens a UDP socket.
func UDP(v6 bool, o Options) (*Conn, error) {
	return open(v6, unix.SOCK_DGRAM, unix.IPPROTO_UDP, "udp socket", o)
}

func icmpProto(v6 bool) int {
	if v6 {
		return unix.IPPROTO_ICMPV6
	}
	return unix.IPPROTO_ICMP
}

// onlyEchoReplies sets ICMP_FILTER (raw(7), a mask of types to drop) or
// ICMP6_FILTER (RFC 3542 §3.2, in Linux a mask of types to drop as well).
func onlyEchoReplies(fd int, v6 bool) error {
	if !v6 {
		const icmpFilter = 1 // linux/icmp.h ICMP_FILTER
		return unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^1)
	}
	var f unix.ICMPv6Filter
	for i := range f.Data {
		f.Data[i] = ^uint32(0)
	}
	f.Data[129>>5] &^= 1 << (129 & 31)
	return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &f)
}

func open(v6 bool, typ, proto int, what string, o Options) (*Conn, error) {
	o.RecvTTL = true
	fd, stamps, err := ipsock.Open(v6, typ, proto, what, o)
	if err != nil {
		return nil, err
	}
	c, err := newConn(fd, what, v6)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	if stamps {
		c.stamps = ipsock.StampFlags
	}
	return c, nil
}

// RestartStamps lets packet numbers (Message.Key) begin at 0 again. A send that
// failed may or may not have used up a number, so that this is due after each.
// It does nothing when stamps are off.
func (c *Conn) RestartStamps() error {
	if c.stamps == 0 {
		return nil
	}
	return c.Control(func(fd int) error {
		// The kernel sets the counter to 0 when OPT_ID goes from off to on.
		off := c.stamps &^ unix.SOF_TIMESTAMPING_OPT_ID
		if err := ipsock.SetStamps(fd, off); err != nil {
			return err
		}
		return ipsock.SetStamps(fd, c.stamps)
	})
}

// Stamps reports whether kernel time stamps could be switched on.
func (c *Conn) Stamps() bool { return c.stamps != 0 }

// Connect fixes the destination: the kernel chooses route and source address,
// and delivers only what comes from there, and errors about it. The error is a
// bare syscall.Errno when the kernel has no way to the destination.
func (c *Conn) Connect(to netip.AddrPort) error {
	sa, err := ipsock.Sockaddr(to)
	if err != nil {
		return err
	}
	return c.Control(func(fd int) error { return unix.Connect(fd, sa) })
}
