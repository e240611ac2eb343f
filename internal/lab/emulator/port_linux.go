package emulator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Port is an End on an existing interface, by a packet socket.
type Port struct {
	name  string
	fd    int
	inNS  InNS
	recvM []mmsghdr
	recvV []unix.Iovec
	ctl   []byte
	sendM []mmsghdr
	sendV []unix.Iovec
}

// ctlLen has room for SCM_TIMESTAMPNS (a cmsghdr and struct timespec) and
// PACKET_AUXDATA (a cmsghdr and struct tpacket_auxdata, 20 bytes).
const ctlLen = 96

// OpenPort opens the interface `name` of the namespace that inNS leads to, which
// is best the far end of a veth that nobody else uses. The interface is set up,
// gets the largest MTU (the node's own end is what limits frames) and loses IPv6,
// so that the kernel there adds no packets of its own. Needs CAP_NET_RAW and
// CAP_NET_ADMIN over that namespace.
func OpenPort(inNS InNS, name string) (*Port, error) {
	p := &Port{name: name, fd: -1, inNS: inNS}
	err := inNS(func() error {
		if err := quietInterface(name); err != nil {
			return err
		}
		return p.open()
	})
	if err != nil {
		if p.fd >= 0 {
			unix.Close(p.fd)
		}
		return nil, err
	}
	p.prepare()
	return p, nil
}

func (p *Port) open() error {
	ifi, err := net.InterfaceByName(p.name)
	if err != nil {
		return fmt.Errorf("open packet socket on %s: %w", p.name, err)
	}
	// Protocol 0 receives nothing until bind: no frames of other interfaces.
	p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		p.fd = -1
		return fmt.Errorf("open packet socket on %s: %w (needs CAP_NET_RAW in the namespace)", p.name, err)
	}
	for _, o := range []int{unix.PACKET_IGNORE_OUTGOING, unix.PACKET_VNET_HDR, unix.PACKET_AUXDATA} {
		if err := unix.SetsockoptInt(p.fd, unix.SOL_PACKET, o, 1); err != nil {
			return fmt.Errorf("set packet socket option %d on %s: %w (needs Linux 4.20)", o, p.name, err)
		}
	}
	// The rest only makes it faster and more patient.
	_ = unix.SetsockoptInt(p.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	_ = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, o[0], 16<<20) != nil {
			_ = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, o[1], 16<<20)
		}
	}
	sa := &unix.SockaddrLinklayer{Protocol: nativeToNet(unix.ETH_P_ALL), Ifindex: ifi.Index}
	if err := unix.Bind(p.fd, sa); err != nil {
		return fmt.Errorf("bind packet socket to %s: %w", p.name, err)
	}
	return nil
}

// nativeToNet is htons.
func nativeToNet(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

func (p *Port) prepare() {
	p.recvM, p.recvV = make([]mmsghdr, batchSize), make([]unix.Iovec, 2*batchSize)
	p.sendM, p.sendV = make([]mmsghdr, batchSize), make([]unix.Iovec, 2*batchSize)
	p.ctl = make([]byte, batchSize*ctlLen)
	for i := range batchSize {
		for _, x := range []struct {
			m *mmsghdr
			v []unix.Iovec
		}{{&p.recvM[i], p.recvV[2*i:]}, {&p.sendM[i], p.sendV[2*i:]}} {
			x.m.hdr.Iov = &x.v[0]
			x.m.hdr.SetIovlen(2)
		}
	}
}

func (p *Port) descriptor() int { return p.fd }

func (p *Port) receive(slots []slot) (int, error) {
	n := min(len(slots), batchSize)
	for i := range n {
		s := &slots[i]
		p.recvV[2*i].Base = s.vnet.base()
		p.recvV[2*i].SetLen(vnetLen)
		p.recvV[2*i+1].Base = &s.buf[headroom]
		p.recvV[2*i+1].SetLen(len(s.buf) - headroom)
		h := &p.recvM[i].hdr
		h.Control = &p.ctl[i*ctlLen]
		h.SetControllen(ctlLen)
		h.Flags = 0
	}
	n, err := recvmmsg(p.fd, p.recvM[:n])
	if err != nil {
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			err = nil // ENETDOWN is told once when the interface goes down
		}
		return 0, err
	}
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &now)
	for i := range n {
		s, m := &slots[i], &p.recvM[i]
		s.at, s.n, s.age = headroom, max(0, int(m.n)-vnetLen), 0
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			s.n = 0 // longer than any frame we can carry; the relay counts it
			continue
		}
		a := readAncillary(p.ctl[i*ctlLen:][:min(ctlLen, int(m.hdr.Controllen))])
		if a.stamp > 0 {
			s.age = time.Duration(now.Nano() - a.stamp)
		}
		if a.vlan {
			s.insertVLAN(a.tpid, a.tci)
		}
	}
	return n, nil
}

// ancillary is what the kernel tells beside a frame.
type ancillary struct {
	stamp     int64 // arrival, ns of CLOCK_REALTIME; 0: unknown
	vlan      bool
	tpid, tci uint16
}

// readAncillary reads control messages: the arrival time (SO_TIMESTAMPNS) and the
// VLAN tag of PACKET_AUXDATA (struct tpacket_auxdata, include/uapi/linux/if_packet.h).
func readAncillary(ctl []byte) (a ancillary) {
	const header = unix.SizeofCmsghdr
	for len(ctl) >= header {
		// struct cmsghdr: length (with the header), level, type.
		n := binary.NativeEndian.Uint64(ctl)
		if n < header || n > uint64(len(ctl)) {
			return a
		}
		level, kind := binary.NativeEndian.Uint32(ctl[8:]), binary.NativeEndian.Uint32(ctl[12:])
		b := ctl[header:n]
		switch {
		case level == unix.SOL_SOCKET && kind == unix.SCM_TIMESTAMPNS && len(b) >= 16:
			a.stamp = int64(binary.NativeEndian.Uint64(b))*1e9 + int64(binary.NativeEndian.Uint64(b[8:]))
		case level == unix.SOL_PACKET && kind == unix.PACKET_AUXDATA && len(b) >= 20:
			a.vlan = binary.NativeEndian.Uint32(b)&unix.TP_STATUS_VLAN_VALID != 0
			a.tci, a.tpid = binary.NativeEndian.Uint16(b[16:]), binary.NativeEndian.Uint16(b[18:])
			if a.tpid == 0 {
				a.tpid = etherVLAN
			}
		}
		ctl = ctl[min((n+7)&^7, uint64(len(ctl))):]
	}
	return a
}

func (p *Port) send(frames []outgoing) (int, error) {
	n := min(len(frames), batchSize)
	for i := range n {
		f := &frames[i]
		p.sendV[2*i].Base = f.vnet.base()
		p.sendV[2*i].SetLen(vnetLen)
		p.sendV[2*i+1].Base = &f.b[0]
		p.sendV[2*i+1].SetLen(len(f.b))
	}
	return sendmmsg(p.fd, p.sendM[:n])
}

func (p *Port) overruns() uint64 {
	st, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS) // reading resets it
	if err != nil {
		return 0
	}
	return uint64(st.Drops)
}

// Name is the interface's name.
func (p *Port) Name() string { return p.name }

// SetCarrier sets the port's own interface up or down; the other end of the veth
// then gains or loses carrier.
func (p *Port) SetCarrier(up bool) error {
	return p.inNS(func() error { return setUp(p.name, up) })
}

// Close closes the socket; the interface stays as it is.
func (p *Port) Close() error {
	if p.fd < 0 {
		return nil
	}
	fd := p.fd
	p.fd = -1
	return unix.Close(fd)
}

// quietInterface makes an interface a bare wire end.
func quietInterface(name string) error {
	// Best effort: without IPv6 in the kernel the file does not exist.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err := withIfreq(name, func(fd int, r *unix.Ifreq) error {
		r.SetUint32(65535)
		return unix.IoctlIfreq(fd, unix.SIOCSIFMTU, r)
	}); err != nil {
		return fmt.Errorf("set mtu of %s: %w", name, err)
	}
	return setUp(name, true)
}

// setUp sets an interface of the current namespace up or down.
func setUp(name string, up bool) error {
	err := withIfreq(name, func(fd int, r *unix.Ifreq) error {
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
			return err
		}
		flags := r.Uint16() &^ unix.IFF_UP
		if up {
			flags |= unix.IFF_UP
		}
		r.SetUint16(flags)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	})
	if err != nil {
		return fmt.Errorf("set interface %s up=%t: %w", name, up, err)
	}
	return nil
}

// withIfreq lets f do an interface ioctl in the current namespace.
func withIfreq(name string, f func(fd int, r *unix.Ifreq) error) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("interface name %q: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fd, r)
}
