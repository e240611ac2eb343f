package facts

import (
	"net/netip"

	"fathom/sample"
)

// TCPSocket is one TCP connection with what the kernel measured on it
// (struct tcp_info, include/uapi/linux/tcp.h). A field the running kernel does
// not report, and every TCP_INFO field when Info is false, is zero.
type TCPSocket struct {
	Local   netip.AddrPort `json:"local"`
	Remote  netip.AddrPort `json:"remote"`
	State   string         `json:"state"`  // ESTABLISHED, …
	RecvQ   uint32         `json:"recv_q"` // bytes the program has not read
	SendQ   uint32         `json:"send_q"` // bytes not yet acknowledged by the peer
	UID     uint32         `json:"uid"`
	Inode   uint64         `json:"inode,omitempty"`
	Process string         `json:"process,omitempty"` // comm[pid], or "uid N"
	Info    bool           `json:"info"`              // TCP_INFO was there (not for TIME_WAIT and SYN_RECV)

	RTT           sample.Duration `json:"rtt_s,omitempty"` // smoothed
	RTTVar        sample.Duration `json:"rttvar_s,omitempty"`
	MinRTT        sample.Duration `json:"min_rtt_s,omitempty"` // smallest within tcp_min_rtt_wlen (300 s)
	RTO           sample.Duration `json:"rto_s,omitempty"`
	Backoff       int             `json:"backoff,omitempty"`     // doublings of the RTO at the moment
	Retransmits   int             `json:"retransmits,omitempty"` // unanswered timeouts in a row at the moment
	TotalRetrans  uint32          `json:"total_retrans"`         // segments retransmitted over the life of the connection
	SegsOut       uint32          `json:"segs_out,omitempty"`
	DataSegsOut   uint32          `json:"data_segs_out,omitempty"`
	Unacked       uint32          `json:"unacked"` // segments in flight
	Lost          uint32          `json:"lost"`    // segments in flight thought lost
	Reordering    uint32          `json:"reordering,omitempty"`
	CongState     int             `json:"ca_state,omitempty"` // 0 open 1 disorder 2 CWR 3 recovery 4 loss
	Cwnd          uint32          `json:"cwnd,omitempty"`     // segments
	SSThresh      uint32          `json:"ssthresh,omitempty"` // segments; 0x7fffffff: not yet known
	SndMSS        uint32          `json:"snd_mss,omitempty"`  // bytes
	RcvMSS        uint32          `json:"rcv_mss,omitempty"`
	PMTU          uint32          `json:"pmtu,omitempty"`
	BytesSent     uint64          `json:"bytes_sent,omitempty"` // with retransmissions
	BytesRetrans  uint64          `json:"bytes_retrans,omitempty"`
	BytesAcked    uint64          `json:"bytes_acked,omitempty"`
	BytesReceived uint64          `json:"bytes_received,omitempty"`
	NotSent       uint32          `json:"notsent_bytes,omitempty"`
	SndWnd        uint32          `json:"snd_wnd,omitempty"`           // the peer's receive window, bytes
	DeliveryRate  uint64          `json:"delivery_rate_bps,omitempty"` // bits/s
	PacingRate    uint64          `json:"pacing_rate_bps,omitempty"`   // bits/s; 0: not paced
	AppLimited    bool            `json:"app_limited,omitempty"`       // the last delivery rate was limited by the program
	Busy          sample.Duration `json:"busy_s,omitempty"`            // time with data to send
	RwndLimited   sample.Duration `json:"rwnd_limited_s,omitempty"`    // of it, held back by the peer's window
	SndbufLimited sample.Duration `json:"sndbuf_limited_s,omitempty"`  // of it, held back by our send buffer
	LastDataSent  sample.Duration `json:"last_data_sent_s,omitempty"`  // ago
	LastDataRecv  sample.Duration `json:"last_data_recv_s,omitempty"`  // ago
	LastAckRecv   sample.Duration `json:"last_ack_recv_s,omitempty"`   // ago
}
