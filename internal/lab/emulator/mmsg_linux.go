package emulator

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2); x/sys has no wrapper for it.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte // both our architectures are 64-bit
}

// recvmmsg and sendmmsg never wait. (RawSyscall would be quicker still, but one
// sendmmsg into a veth runs the receiver's whole stack, too long to hold a P.)
func recvmmsg(fd int, m []mmsghdr) (int, error) {
	return mmsg(unix.SYS_RECVMMSG, fd, m)
}

func sendmmsg(fd int, m []mmsghdr) (int, error) {
	return mmsg(unix.SYS_SENDMMSG, fd, m)
}

func mmsg(call uintptr, fd int, m []mmsghdr) (int, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// vnetHeader is struct virtio_net_hdr in host byte order, as AF_PACKET and TAP
// use it (include/uapi/linux/virtio_net.h).
type vnetHeader struct {
	flags, gso                           uint8
	hdrLen, gsoSize, csumStart, csumOffs uint16
}

const (
	vnetLen       = 10
	vnetNeedsCsum = 1
)

func (v *vnetHeader) base() *byte { return (*byte)(unsafe.Pointer(v)) }

// slot holds one received frame.
type slot struct {
	buf  []byte        // headroom, then the frame
	at   int           // where the frame starts
	n    int           // its length
	age  time.Duration // how long ago it arrived; 0 where the kernel does not say
	vnet vnetHeader
}

const (
	headroom   = 4 // for a VLAN tag that the kernel took out
	maxFrame   = 64<<10 + 64
	batchSize  = 32
	minGSOSize = 1
)

func (s *slot) frame() []byte { return s.buf[s.at : s.at+s.n] }

// insertVLAN puts back the tag that the kernel keeps beside the frame.
func (s *slot) insertVLAN(tpid, tci uint16) {
	if s.n < 12 || s.at < headroom {
		return
	}
	copy(s.buf[s.at-4:], s.buf[s.at:s.at+12])
	s.at -= 4
	s.n += 4
	b := s.frame()
	b[12], b[13], b[14], b[15] = byte(tpid>>8), byte(tpid), byte(tci>>8), byte(tci)
	if s.vnet.flags&vnetNeedsCsum != 0 {
		s.vnet.csumStart += 4
	}
	if s.vnet.hdrLen > 0 {
		s.vnet.hdrLen += 4
	}
}

// settle completes a checksum that the sender left to its hardware, so that the
// frame can be kept, damaged and sent like any other. Frames with segmentation
// offload keep their header: the kernel cuts them up on the far side.
func (s *slot) settle() {
	if s.vnet.gso != 0 {
		return
	}
	if s.vnet.flags&vnetNeedsCsum != 0 {
		completeChecksum(s.frame(), int(s.vnet.csumStart), int(s.vnet.csumOffs))
	}
	s.vnet = vnetHeader{}
}

// packet is the length of the longest IP packet that the frame will become on
// the wire, or 0 to say "look into it".
func (s *slot) packet() int {
	if s.vnet.gso == 0 || s.vnet.gsoSize < minGSOSize {
		return 0
	}
	f := parseFrame(s.frame())
	head := f.payload
	if head == 0 {
		head = int(s.vnet.hdrLen)
	}
	return max(0, head-f.l3) + int(s.vnet.gsoSize)
}

// outgoing is a frame to send.
type outgoing struct {
	b    []byte
	vnet vnetHeader
}

// transport is what the relay needs of an end. Its methods do not wait.
type transport interface {
	// descriptor is for poll.
	descriptor() int
	// receive fills slots and returns how many; 0 when nothing is there.
	receive(slots []slot) (int, error)
	// send hands frames to the kernel in order and returns how many it took
	// before the error; the frame after those is the one it refused.
	send(frames []outgoing) (int, error)
	// overruns is how many frames the kernel dropped before receive since the
	// last call.
	overruns() uint64
}
