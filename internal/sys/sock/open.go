package sock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Options are what may be set on an IP socket. The zero value of each field
// leaves the kernel's default.
type Options struct {
	Interface string     // SO_BINDTODEVICE
	Source    netip.Addr // bind
	TTL       int        // or hop limit
	TOS       int        // or traffic class; -1 sets 0
	Mark      uint32     // SO_MARK, needs CAP_NET_ADMIN
	// DF sets the don't-fragment bit with IP_PMTUDISC_PROBE: the kernel neither
	// splits the packet nor holds it back for a path MTU it remembers.
	DF bool
	// Fragment clears DF (IP_PMTUDISC_DONT): routers may split the packet.
	Fragment bool
	Stamps   bool // kernel time stamps for sending and receiving
	Errors   bool // ICMP errors come through the error queue
}

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
	domain := unix.AF_INET
	if v6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	c, err := newConn(fd, what, v6)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	if err := c.configure(o); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Conn) configure(o Options) error {
	return c.Control(func(fd int) error {
		if o.Interface != "" {
			if err := unix.BindToDevice(fd, o.Interface); err != nil {
				return fmt.Errorf("bind socket to interface %s: %w%s", o.Interface, err, hint(err, " (needs CAP_NET_RAW before Linux 5.7)"))
			}
		}
		if err := setIP(fd, c.v6, o); err != nil {
			return err
		}
		if o.Mark != 0 {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark)); err != nil {
				return fmt.Errorf("set mark %#x: %w%s", o.Mark, err, hint(err, " (needs CAP_NET_ADMIN)"))
			}
		}
		if o.Stamps {
			// Old kernels and sandboxes refuse; the caller sees it by stamps that do not come.
			_ = c.setStamps(fd)
		}
		if o.Source.IsValid() {
			if err := bind(fd, o.Source); err != nil {
				return fmt.Errorf("bind socket to %s: %w%s", o.Source, err, unavailable(err))
			}
		}
		return nil
	})
}

func hint(err error, text string) string {
	if errors.Is(err, os.ErrPermission) {
		return text
	}
	return ""
}

func unavailable(err error) string {
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return " (it is not an address of this host)"
	}
	return ""
}

// setIP sets the options that differ by family.
func setIP(fd int, v6 bool, o Options) error {
	type opt struct {
		on         bool
		what       string
		v4, v6     int // option numbers, 0: none
		val4, val6 int
	}
	tos := max(o.TOS, 0)
	opts := []opt{
		{true, "receive ttl", unix.IP_RECVTTL, unix.IPV6_RECVHOPLIMIT, 1, 1},
		{o.TTL > 0, "ttl", unix.IP_TTL, unix.IPV6_UNICAST_HOPS, o.TTL, o.TTL},
		{o.TOS != 0, "tos", unix.IP_TOS, unix.IPV6_TCLASS, tos, tos},
		{o.Errors, "error queue", unix.IP_RECVERR, unix.IPV6_RECVERR, 1, 1},
		{o.DF, "path mtu discovery", unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, unix.IPV6_PMTUDISC_PROBE},
		{o.DF, "dont fragment", 0, unix.IPV6_DONTFRAG, 0, 1},
		{o.Fragment && !o.DF, "path mtu discovery", unix.IP_MTU_DISCOVER, 0, unix.IP_PMTUDISC_DONT, 0},
	}
	for _, x := range opts {
		level, name, val := unix.IPPROTO_IP, x.v4, x.val4
		if v6 {
			level, name, val = unix.IPPROTO_IPV6, x.v6, x.val6
		}
		if !x.on || name == 0 {
			continue
		}
		if err := unix.SetsockoptInt(fd, level, name, val); err != nil {
			return fmt.Errorf("set socket option %s to %d: %w", x.what, val, err)
		}
	}
	return nil
}

// stampFlags ask for software stamps of sending and receiving; the send stamps
// come by the error queue with a packet number and without the packet
// (Documentation/networking/timestamping.rst).
const stampFlags = unix.SOF_TIMESTAMPING_SOFTWARE | unix.SOF_TIMESTAMPING_TX_SOFTWARE |
	unix.SOF_TIMESTAMPING_RX_SOFTWARE | unix.SOF_TIMESTAMPING_OPT_ID |
	unix.SOF_TIMESTAMPING_OPT_TSONLY | unix.SOF_TIMESTAMPING_OPT_CMSG

func (c *Conn) setStamps(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, stampFlags)
	if err == nil {
		c.stamps = stampFlags
	}
	return err
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
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, off); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, c.stamps)
	})
}

// Stamps reports whether kernel time stamps could be switched on.
func (c *Conn) Stamps() bool { return c.stamps != 0 }

func bind(fd int, a netip.Addr) error {
	sa, err := sockaddr(netip.AddrPortFrom(a, 0))
	if err != nil {
		return err
	}
	return unix.Bind(fd, sa)
}

// Connect fixes the destination: the kernel chooses route and source address,
// and delivers only what comes from there, and errors about it. The error is a
// bare syscall.Errno when the kernel has no way to the destination.
func (c *Conn) Connect(to netip.AddrPort) error {
	sa, err := sockaddr(to)
	if err != nil {
		return err
	}
	return c.Control(func(fd int) error { return unix.Connect(fd, sa) })
}

func sockaddr(to netip.AddrPort) (unix.Sockaddr, error) {
	a := to.Addr()
	switch {
	case a.Is4():
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: a.As4()}, nil
	case a.Is6():
		zone, err := zoneIndex(a.Zone())
		if err != nil {
			return nil, err
		}
		return &unix.SockaddrInet6{Port: int(to.Port()), ZoneId: zone, Addr: a.As16()}, nil
	}
	return nil, fmt.Errorf("address %v: %w", a, unix.EAFNOSUPPORT)
}

// zoneIndex is the interface index of an IPv6 zone, which is a name or a number.
func zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index), nil
	}
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return uint32(n), nil
	}
	return 0, fmt.Errorf("zone %q: %w", zone, unix.ENODEV)
}

func withZone(a netip.Addr, index uint32) netip.Addr {
	if index == 0 {
		return a
	}
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		return a.WithZone(ifi.Name)
	}
	return a.WithZone(strconv.FormatUint(uint64(index), 10))
}
