package inetdiag

import "encoding/binary"

// TCPInfo is the part of struct tcp_info (include/uapi/linux/tcp.h) that fathom
// reads. The kernel only ever appends to the struct, so a short one is an old
// kernel's and the fields beyond its end stay zero.
type TCPInfo struct {
	State, CAState, Retransmits, Probes, Backoff uint8
	AppLimited                                   bool

	RTO                     uint32 // µs
	SndMSS, RcvMSS          uint32 // bytes
	Unacked, Sacked, Lost   uint32 // segments
	Retrans                 uint32 // segments in flight that are retransmissions
	LastDataSent            uint32 // ms ago
	LastDataRecv            uint32 // ms ago
	LastAckRecv             uint32 // ms ago
	PMTU                    uint32 // bytes
	RTT, RTTVar             uint32 // µs
	SndSSThresh, SndCwnd    uint32 // segments
	Reordering              uint32
	TotalRetrans            uint32
	PacingRate              uint64 // bytes/s, all ones: not paced
	BytesAcked              uint64
	BytesReceived           uint64
	SegsOut                 uint32
	NotSent                 uint32 // bytes
	MinRTT                  uint32 // µs, all ones: none yet
	DataSegsOut             uint32
	DeliveryRate            uint64 // bytes/s
	Busy, RwndLimited       uint64 // µs
	SndbufLimited           uint64 // µs
	BytesSent, BytesRetrans uint64
	SndWnd                  uint32 // bytes
}

// Offsets within struct tcp_info; a test compares them with golang.org/x/sys/unix.
const (
	offRTO = 8 + 4*iota
	_      // ato
	offSndMSS
	offRcvMSS
	offUnacked
	offSacked
	offLost
	offRetrans
	_ // fackets
	offLastDataSent
	_ // last_ack_sent, never filled
	offLastDataRecv
	offLastAckRecv
	offPMTU
	_ // rcv_ssthresh
	offRTT
	offRTTVar
	offSndSSThresh
	offSndCwnd
	_ // advmss
	offReordering
	_ // rcv_rtt
	_ // rcv_space
	offTotalRetrans
)

const (
	offPacingRate    = 104
	offBytesAcked    = 120
	offBytesReceived = 128
	offSegsOut       = 136
	offNotSent       = 144
	offMinRTT        = 148
	offDataSegsOut   = 156
	offDeliveryRate  = 160
	offBusy          = 168
	offRwndLimited   = 176
	offSndbufLimited = 184
	offBytesSent     = 200
	offBytesRetrans  = 208
	offSndWnd        = 228
)

// ParseTCPInfo reads a struct tcp_info of any length.
func ParseTCPInfo(b []byte) TCPInfo {
	u8 := func(off int) uint8 {
		if len(b) <= off {
			return 0
		}
		return b[off]
	}
	u32 := func(off int) uint32 {
		if len(b) < off+4 {
			return 0
		}
		return binary.NativeEndian.Uint32(b[off:])
	}
	u64 := func(off int) uint64 {
		if len(b) < off+8 {
			return 0
		}
		return binary.NativeEndian.Uint64(b[off:])
	}
	return TCPInfo{
		State: u8(0), CAState: u8(1), Retransmits: u8(2), Probes: u8(3), Backoff: u8(4),
		AppLimited: u8(7)&appLimitedBit != 0,
		RTO:        u32(offRTO), SndMSS: u32(offSndMSS), RcvMSS: u32(offRcvMSS),
		Unacked: u32(offUnacked), Sacked: u32(offSacked), Lost: u32(offLost), Retrans: u32(offRetrans),
		LastDataSent: u32(offLastDataSent), LastDataRecv: u32(offLastDataRecv), LastAckRecv: u32(offLastAckRecv),
		PMTU: u32(offPMTU), RTT: u32(offRTT), RTTVar: u32(offRTTVar),
		SndSSThresh: u32(offSndSSThresh), SndCwnd: u32(offSndCwnd), Reordering: u32(offReordering),
		TotalRetrans: u32(offTotalRetrans), PacingRate: u64(offPacingRate),
		BytesAcked: u64(offBytesAcked), BytesReceived: u64(offBytesReceived),
		SegsOut: u32(offSegsOut), NotSent: u32(offNotSent), MinRTT: u32(offMinRTT), DataSegsOut: u32(offDataSegsOut),
		DeliveryRate: u64(offDeliveryRate), Busy: u64(offBusy), RwndLimited: u64(offRwndLimited), SndbufLimited: u64(offSndbufLimited),
		BytesSent: u64(offBytesSent), BytesRetrans: u64(offBytesRetrans), SndWnd: u32(offSndWnd),
	}
}

// appLimitedBit is tcpi_delivery_rate_app_limited, the first bit of a C
// bit-field: the lowest bit on little-endian machines (all that fathom is
// built for: amd64 and arm64).
const appLimitedBit = 1
