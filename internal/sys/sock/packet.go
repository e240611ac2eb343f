package sock

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
)

// PacketOptions are what may be set on a packet socket.
type PacketOptions struct {
	Interface int    // index to bind to, 0: all interfaces
	Protocol  uint16 // EtherType, unix.ETH_P_ALL for every one
	Cooked    bool   // SOCK_DGRAM: packets without link header
	Filter    []bpf.Instruction
	Stamps    bool
	RecvBuf   int // bytes, 0: the kernel's default
}

// Packet opens an AF_PACKET socket, which needs CAP_NET_RAW. The filter is set
// before the socket is bound, so that nothing comes that did not pass it.
func Packet(o PacketOptions) (*Conn, error) {
	typ := unix.SOCK_RAW
	if o.Cooked {
		typ = unix.SOCK_DGRAM
	}
	// Protocol 0: deaf until bind.
	fd, err := unix.Socket(unix.AF_PACKET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("open packet socket: %w (needs CAP_NET_RAW)", err)
		}
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	c, err := newConn(fd, "packet socket", false)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	if err := c.Control(func(fd int) error { return c.configurePacket(fd, o) }); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Conn) configurePacket(fd int, o PacketOptions) error {
	if len(o.Filter) > 0 {
		if err := attach(fd, o.Filter); err != nil {
			return fmt.Errorf("set packet filter: %w", err)
		}
	}
	if o.RecvBuf > 0 { // best effort: net.core.rmem_max may be lower
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, o.RecvBuf)
	}
	if o.Stamps {
		if ipsock.SetStamps(fd, ipsock.StampFlags) == nil { // else seen by stamps that do not come
			c.stamps = ipsock.StampFlags
		}
	}
	sa := &unix.SockaddrLinklayer{Protocol: swap16(o.Protocol), Ifindex: o.Interface}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("bind packet socket to interface %d: %w", o.Interface, err)
	}
	return nil
}

// attach sets a classic BPF filter.
func attach(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	if len(raw) > math.MaxUint16 {
		return unix.EINVAL
	}
	f := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		f[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
}

// PacketDrops returns how many packets the kernel dropped at a packet socket,
// because its buffer was full, since the last call.
func (c *Conn) PacketDrops() (n uint32, err error) {
	err = c.Control(func(fd int) error {
		s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil {
			n = s.Drops
		}
		return err
	})
	return n, err
}

// LinkName is the name of an interface in the network namespace of the socket.
func (c *Conn) LinkName(index int) (name string, err error) {
	err = c.Control(func(fd int) error {
		r, err := unix.NewIfreq("")
		if err != nil {
			return err
		}
		r.SetUint32(uint32(index))
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, r); err != nil {
			return fmt.Errorf("name of interface %d: %w", index, err)
		}
		name = r.Name()
		return nil
	})
	return name, err
}
