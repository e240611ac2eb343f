// Package inetdiag is the wire format of NETLINK_SOCK_DIAG for INET sockets:
// it builds dump requests and reads their answers (include/uapi/linux/inet_diag.h,
// net/ipv4/inet_diag.c). It is pure; reading allocates nothing, because a busy
// host has a hundred thousand sockets. It exists because the libraries at hand
// ask for all states and allocate for each socket.
package inetdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Netlink message types and flags (include/uapi/linux/netlink.h, sock_diag.h).
const (
	TypeError            = 2  // NLMSG_ERROR
	TypeDone             = 3  // NLMSG_DONE
	TypeSockDiag         = 20 // SOCK_DIAG_BY_FAMILY
	FlagRequest          = 0x001
	FlagDump             = 0x300
	FlagDumpIntr         = 0x010 // NLM_F_DUMP_INTR: the table changed during the dump
	headerLen            = 16    // struct nlmsghdr
	requestLen           = 56    // struct inet_diag_req_v2
	msgLen               = 72    // struct inet_diag_msg
	attrBytecode         = 1     // INET_DIAG_REQ_BYTECODE
	bcDestination        = 8     // INET_DIAG_BC_D_COND
	hostCondLen          = 8     // struct inet_diag_hostcond without the address
	attrInfo             = 2     // INET_DIAG_INFO: struct tcp_info
	attrSkMemInfo        = 7     // INET_DIAG_SKMEMINFO
	attrTypeMask         = 0x3fff
	opLen                = 4 // struct inet_diag_bc_op
	nlaHeaderLen         = 4
	FamilyV4             = 2  // AF_INET
	FamilyV6             = 10 // AF_INET6
	ProtoTCP             = 6
	ProtoUDP             = 17
	ExtInfo              = 1 << (attrInfo - 1)      // ask for TCP_INFO
	ExtSkMemInfo         = 1 << (attrSkMemInfo - 1) // ask for socket memory and drops
	MaxDatagram          = 64 << 10                 // the kernel makes dump datagrams of at most 32 KiB
	skMemRcvBuf          = 1                        // SK_MEMINFO_RCVBUF
	skMemDrops           = 8                        // SK_MEMINFO_DROPS
	AllStates     uint32 = 0xfff &^ 1               // every TCP state 1..11
)

// State is a TCP state as the kernel numbers it (include/net/tcp_states.h).
// UDP sockets are Established when connected and Close otherwise.
type State uint8

// The TCP states.
const (
	Established State = 1 + iota
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv // only inside the kernel; the dump shows it as SynRecv
)

// NumStates bounds an array indexed by State.
const NumStates = 16

var stateNames = [NumStates]string{
	Established: "ESTABLISHED", SynSent: "SYN_SENT", SynRecv: "SYN_RECV", FinWait1: "FIN_WAIT1",
	FinWait2: "FIN_WAIT2", TimeWait: "TIME_WAIT", Close: "CLOSE", CloseWait: "CLOSE_WAIT",
	LastAck: "LAST_ACK", Listen: "LISTEN", Closing: "CLOSING", NewSynRecv: "SYN_RECV",
}

func (s State) String() string {
	if int(s) < len(stateNames) && stateNames[s] != "" {
		return stateNames[s]
	}
	return fmt.Sprintf("STATE_%d", uint8(s))
}

// Mask returns the request bits of states.
func Mask(states ...State) uint32 {
	var m uint32
	for _, s := range states {
		m |= 1 << s
	}
	return m
}

// Request asks for a dump of sockets.
type Request struct {
	Family   uint8      // FamilyV4 or FamilyV6: one dump per family
	Protocol uint8      // ProtoTCP or ProtoUDP
	Ext      uint8      // ExtInfo | ExtSkMemInfo
	States   uint32     // Mask
	Remote   netip.Addr // when valid, only sockets to this address: the kernel filters
}

// AppendPayload appends what follows the netlink header: struct inet_diag_req_v2
// and, with Remote, a one-instruction filter. A v4 filter also matches the
// v4-mapped addresses of v6 sockets (net/ipv4/inet_diag.c, inet_diag_bc_run).
func (r Request) AppendPayload(b []byte) []byte {
	b = append(b, r.Family, r.Protocol, r.Ext, 0)
	b = binary.NativeEndian.AppendUint32(b, r.States)
	b = append(b, make([]byte, requestLen-8)...) // sockid: not used by dumps
	if !r.Remote.IsValid() {
		return b
	}
	addr, family := r.Remote.Unmap().AsSlice(), uint8(FamilyV4)
	if len(addr) == 16 {
		family = FamilyV6
	}
	op := opLen + hostCondLen + len(addr)
	b = binary.NativeEndian.AppendUint16(b, uint16(nlaHeaderLen+op))
	b = binary.NativeEndian.AppendUint16(b, attrBytecode)
	// yes: go to the end, which accepts; no: jump 4 beyond it, which rejects.
	b = append(b, bcDestination, uint8(op))
	b = binary.NativeEndian.AppendUint16(b, uint16(op+4))
	b = append(b, family, uint8(8*len(addr)), 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // any port
	return append(b, addr...)
}

// Header is a netlink header.
type Header struct {
	Type  uint16
	Flags uint16
	Seq   uint32
	PID   uint32
}

// ErrShort is returned for bytes that end before the structure they announce.
var ErrShort = errors.New("sock_diag answer is cut short")

// Next splits the first netlink message off a datagram. rest is empty after the last.
func Next(b []byte) (h Header, payload, rest []byte, err error) {
	if len(b) < headerLen {
		return Header{}, nil, nil, ErrShort
	}
	n := binary.NativeEndian.Uint32(b)
	if n < headerLen || uint64(n) > uint64(len(b)) {
		return Header{}, nil, nil, ErrShort
	}
	h = Header{
		Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
		Seq: binary.NativeEndian.Uint32(b[8:]), PID: binary.NativeEndian.Uint32(b[12:]),
	}
	return h, b[headerLen:n], b[min(align4(int(n)), len(b)):], nil
}

func align4(n int) int { return (n + 3) &^ 3 }

// Errno reads the payload of an NLMSG_ERROR or NLMSG_DONE: 0, or a positive errno.
func Errno(payload []byte) int {
	if len(payload) < 4 {
		return 0
	}
	if e := int32(binary.NativeEndian.Uint32(payload)); e < 0 && e > -4096 {
		return int(-e)
	}
	return 0
}

// Msg is one socket of a dump. Info and SkMem alias the datagram.
type Msg struct {
	Family  uint8
	State   State
	Retrans uint8
	Local   netip.AddrPort // v4-mapped addresses are unmapped
	Remote  netip.AddrPort
	Mapped  bool   // Local was a v4-mapped address of a v6 socket
	If      uint32 // interface index the socket is bound to, 0 for any
	RQueue  uint32 // listener: waiting in the accept queue; else bytes unread
	WQueue  uint32 // listener: backlog; else bytes unacknowledged
	UID     uint32
	Inode   uint32
	Info    []byte // struct tcp_info, as long as the kernel has it
	SkMem   []byte // u32 array, SK_MEMINFO_*
}

// Parse reads the payload of a TypeSockDiag message into m, replacing all of it.
// Attributes that are malformed end the message; what came before them counts.
func (m *Msg) Parse(b []byte) error {
	if len(b) < msgLen {
		return ErrShort
	}
	*m = Msg{Family: b[0], State: State(b[1]), Retrans: b[3]}
	sport, dport := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	switch m.Family {
	case FamilyV4:
		m.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), sport)
		m.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[24:28])), dport)
	case FamilyV6:
		l, r := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		m.Mapped = l.Is4In6()
		m.Local, m.Remote = netip.AddrPortFrom(l.Unmap(), sport), netip.AddrPortFrom(r.Unmap(), dport)
	default:
		return fmt.Errorf("sock_diag answer of address family %d", m.Family)
	}
	m.If = binary.NativeEndian.Uint32(b[40:])
	m.RQueue = binary.NativeEndian.Uint32(b[56:])
	m.WQueue = binary.NativeEndian.Uint32(b[60:])
	m.UID = binary.NativeEndian.Uint32(b[64:])
	m.Inode = binary.NativeEndian.Uint32(b[68:])
	m.attributes(b[msgLen:])
	return nil
}

func (m *Msg) attributes(b []byte) {
	for len(b) >= nlaHeaderLen {
		n := int(binary.NativeEndian.Uint16(b))
		if n < nlaHeaderLen || n > len(b) {
			return
		}
		switch binary.NativeEndian.Uint16(b[2:]) & attrTypeMask {
		case attrInfo:
			m.Info = b[nlaHeaderLen:n]
		case attrSkMemInfo:
			m.SkMem = b[nlaHeaderLen:n]
		}
		b = b[min(align4(n), len(b)):]
	}
}

// RcvBuf is the socket's receive buffer limit in bytes, 0 when it was not asked for.
func (m *Msg) RcvBuf() uint32 { return m.skMem(skMemRcvBuf) }

// Drops is how many packets were dropped at the socket (counter of 32 bits).
func (m *Msg) Drops() uint32 { return m.skMem(skMemDrops) }

func (m *Msg) skMem(i int) uint32 {
	if len(m.SkMem) < 4*(i+1) {
		return 0 // kernels before 4.7 have no drops
	}
	return binary.NativeEndian.Uint32(m.SkMem[4*i:])
}
