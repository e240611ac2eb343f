package emulator

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tap is an End that is the node's interface itself: a TAP device whose cable
// leads into the emulator. Unlike a veth it can be given a speed and duplex with
// ethtool -s, and it can be made to count dropped frames.
type Tap struct {
	name string
	fd   int
	inj  injector
}

// ErrorKind is a kind of receive error that a Tap can be made to count.
type ErrorKind string

// The kinds of receive errors. There are no more: the tun driver
// (drivers/net/tun.c) counts bad virtio headers as rx_frame_errors, but shows
// that counter for TUN devices only; a TAP's rx_errors, rx_frame_errors,
// rx_crc_errors, rx_length_errors and rx_missed_errors stay 0 whatever is
// written to it (tried: bad GSO types, checksum and header offsets beyond the
// frame, short and empty frames).
const (
	// DropErrors raises rx_dropped: the driver cannot fetch the frame from user
	// space, like a NIC without a buffer.
	DropErrors ErrorKind = "dropped"
	// UnknownProto raises rx_dropped and rx_packets: a sound frame of an
	// EtherType that nobody handles. This is benign.
	UnknownProto ErrorKind = "unknown_proto"
)

// NewTap makes a TAP interface `name` in the namespace that inNS leads to, down
// and without addresses. It lives until Close. Needs /dev/net/tun and
// CAP_NET_ADMIN over the namespace.
func NewTap(inNS InNS, name string) (*Tap, error) {
	t := &Tap{name: name, fd: -1}
	err := inNS(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun for %s: %w (needs the tun module and permission on the device)", name, err)
		}
		r, err := unix.NewIfreq(name)
		if err == nil {
			r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("create tap %s: %w (needs CAP_NET_ADMIN in the namespace)", name, err)
		}
		t.fd = fd
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.inj.t = t
	return t, nil
}

// Name is the interface's name.
func (t *Tap) Name() string { return t.name }

// SetCarrier switches the carrier without touching the interface's own state
// (TUNSETCARRIER, Linux 5.0).
func (t *Tap) SetCarrier(up bool) error {
	v := 0
	if up {
		v = 1
	}
	if err := unix.IoctlSetPointerInt(t.fd, unix.TUNSETCARRIER, v); err != nil {
		return fmt.Errorf("set carrier of tap %s: %w", t.name, err)
	}
	return nil
}

// SetSpeed sets what ethtool shows as the negotiated speed in Mbit/s and duplex.
// It changes no behaviour. inNS must lead to the interface.
func (t *Tap) SetSpeed(inNS InNS, mbit uint32, full bool) error {
	// struct ethtool_cmd (include/uapi/linux/ethtool.h), 44 bytes.
	var c struct {
		cmd, supported, advertising                   uint32
		speed                                         uint16
		duplex, port, phy, transceiver, autoneg, mdio uint8
		maxTx, maxRx                                  uint32
		speedHi                                       uint16
		mdix, mdixCtrl                                uint8
		lp                                            uint32
		_                                             [2]uint32
	}
	const getSettings, setSettings = 1, 2
	err := inNS(func() error {
		return withIfreq(t.name, func(fd int, _ *unix.Ifreq) error {
			c.cmd = getSettings
			if err := ethtool(fd, t.name, unsafe.Pointer(&c)); err != nil {
				return err
			}
			c.cmd, c.speed, c.speedHi, c.duplex = setSettings, uint16(mbit), uint16(mbit>>16), 0
			if full {
				c.duplex = 1
			}
			return ethtool(fd, t.name, unsafe.Pointer(&c))
		})
	})
	if err != nil {
		return fmt.Errorf("set speed of tap %s: %w", t.name, err)
	}
	return nil
}

// Close stops InjectErrors and removes the interface.
func (t *Tap) Close() error {
	t.inj.stop()
	if t.fd < 0 {
		return nil
	}
	fd := t.fd
	t.fd = -1
	return unix.Close(fd)
}

func (t *Tap) descriptor() int  { return t.fd }
func (t *Tap) overruns() uint64 { return 0 } // the host counts them as its own tx_dropped

func (t *Tap) receive(slots []slot) (int, error) {
	for i := range slots {
		s := &slots[i]
		iov := [2]unix.Iovec{{Base: s.vnet.base()}, {Base: &s.buf[headroom]}}
		iov[0].SetLen(vnetLen)
		iov[1].SetLen(len(s.buf) - headroom)
		n, err := vectored(unix.SYS_READV, t.fd, iov[:])
		if err != nil {
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				err = nil
			}
			return i, err
		}
		s.at, s.n = headroom, max(0, n-vnetLen)
	}
	return len(slots), nil
}

func (t *Tap) send(frames []outgoing) (int, error) {
	for i := range frames {
		f := &frames[i]
		iov := [2]unix.Iovec{{Base: f.vnet.base()}, {Base: &f.b[0]}}
		iov[0].SetLen(vnetLen)
		iov[1].SetLen(len(f.b))
		if _, err := vectored(unix.SYS_WRITEV, t.fd, iov[:]); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

func vectored(call uintptr, fd int, iov []unix.Iovec) (int, error) {
	n, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// injector writes bad frames to a tap at a steady rate.
type injector struct {
	t    *Tap
	mu   sync.Mutex
	quit chan struct{}
	done chan struct{}
}

// InjectErrors makes the interface count perSecond receive errors of a kind from
// now on, in place of what was injected before; 0 ends it. The interface must be
// up for its kernel to take frames; while it is down nothing is counted.
func (t *Tap) InjectErrors(kind ErrorKind, perSecond float64) error {
	if kind != DropErrors && kind != UnknownProto {
		return fmt.Errorf("inject errors into %s: kind %q: want %s or %s", t.name, kind, DropErrors, UnknownProto)
	}
	if !(perSecond >= 0 && perSecond <= 1e6) {
		return fmt.Errorf("inject errors into %s: rate %v per second is not within 0…1e6", t.name, perSecond)
	}
	t.inj.stop()
	if perSecond == 0 {
		return nil
	}
	i := &t.inj
	i.mu.Lock()
	defer i.mu.Unlock()
	if t.fd < 0 {
		return fmt.Errorf("inject errors into %s: %w", t.name, os.ErrClosed)
	}
	i.quit, i.done = make(chan struct{}), make(chan struct{})
	go i.run(kind, perSecond, i.quit, i.done)
	return nil
}

func (i *injector) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.quit != nil {
		close(i.quit)
		<-i.done
		i.quit = nil
	}
}

func (i *injector) run(kind ErrorKind, perSecond float64, quit, done chan struct{}) {
	defer close(done)
	// At most 100 wake-ups a second; each makes up for the time since the last.
	tick := time.NewTicker(time.Duration(max(1/perSecond, 0.01) * float64(time.Second)))
	defer tick.Stop()
	start, sent := time.Now(), 0.0
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
			for due := math.Floor(time.Since(start).Seconds()*perSecond + 1e-3); sent < due; sent++ {
				i.t.writeBad(kind)
			}
		}
	}
}

// writeBad writes one bad frame. The kernel's error is what we want, and an
// interface that is down takes nothing: neither is reported.
func (t *Tap) writeBad(kind ErrorKind) {
	var v vnetHeader
	frame := make([]byte, 60)
	copy(frame, "\xff\xff\xff\xff\xff\xff\x02fathm\x88\xb5") // EtherType: IEEE local experimental 1
	iov := [2]unix.Iovec{{Base: v.base()}, {Base: &frame[0]}}
	iov[0].SetLen(vnetLen)
	iov[1].SetLen(len(frame))
	if kind == DropErrors {
		// A page that may not be read: the copy from user space fails, which the
		// driver counts as a drop.
		page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return
		}
		defer func() { _ = unix.Munmap(page) }() // a page of our own, mapped above
		iov[1].Base = unsafe.SliceData(page)
	}
	_, _ = vectored(unix.SYS_WRITEV, t.fd, iov[:])
	runtime.KeepAlive(frame)
}
