// Package facts holds plain structs that describe this host's own network
// state at one moment: what collectors fill in and rules read. Pure.
package facts

import (
	"net/netip"
	"time"

	"fathom/sample"
)

// Host is a snapshot. Counters in it are totals since boot (or since the
// interface came to be): only the difference of two snapshots is a rate.
type Host struct {
	Taken       time.Time         `json:"taken"`
	Hostname    string            `json:"hostname,omitempty"`
	Kernel      string            `json:"kernel,omitempty"` // 6.1.0-28-amd64
	Privilege   Privilege         `json:"privilege"`
	Links       []Link            `json:"links,omitempty"` // by index
	Addrs       []Addr            `json:"addrs,omitempty"`
	Routes      []Route           `json:"routes,omitempty"` // main and other tables, without table local
	Rules       []PolicyRule      `json:"rules,omitempty"`
	Neighbours  []Neighbour       `json:"neighbours,omitempty"`
	NeighTables []NeighTable      `json:"neighbour_tables,omitempty"`
	Qdiscs      []Qdisc           `json:"qdiscs,omitempty"` // qdiscs and classes
	Resolver    *Resolver         `json:"resolver,omitempty"`
	Counters    map[string]uint64 `json:"counters,omitempty"` // "TcpExt.ListenOverflows", "Ip6.InNoRoutes", "Udp.RcvbufErrors"
	Sockstat    map[string]int64  `json:"sockstat,omitempty"` // "TCP.tw", "TCP.mem", "TCP6.inuse"
	Softnet     []Softnet         `json:"softnet,omitempty"`  // one per CPU
	Conntrack   *Conntrack        `json:"conntrack,omitempty"`
	Sockets     *Sockets          `json:"sockets,omitempty"`
	Sysctls     map[string]string `json:"sysctls,omitempty"` // "net.ipv4.ip_local_port_range"
	Firewall    *Firewall         `json:"firewall,omitempty"`
	Log         []sample.Event    `json:"log,omitempty"`  // kernel log lines about the network, recent ones
	Gaps        []Gap             `json:"gaps,omitempty"` // what could not be read
}

// Gap is something that could not be measured, why, and what would unlock it.
type Gap struct {
	What   string `json:"what"`
	Why    string `json:"why"`
	Unlock string `json:"unlock,omitempty"`
}

// Privilege is what this process may do.
type Privilege struct {
	UID       int  `json:"uid"`
	NetRaw    bool `json:"net_raw"`    // effective CAP_NET_RAW
	NetAdmin  bool `json:"net_admin"`  // effective CAP_NET_ADMIN
	Ptrace    bool `json:"ptrace"`     // may see the sockets of other users' processes
	PingGroup bool `json:"ping_group"` // ping_group_range lets us open ICMP datagram sockets
	Init      bool `json:"init_netns"` // in the initial network namespace (best guess)
}

// Link is a network interface.
type Link struct {
	Index          int      `json:"index"`
	Name           string   `json:"name"`
	Kind           string   `json:"kind,omitempty"`  // device | veth | bridge | bond | vlan | tun | vxlan | macvlan | loopback | …
	Flags          []string `json:"flags,omitempty"` // up, broadcast, loopback, …
	Up             bool     `json:"up"`              // IFF_UP: switched on
	Carrier        bool     `json:"carrier"`         // IFF_LOWER_UP
	OperState      string   `json:"oper_state,omitempty"`
	MTU            int      `json:"mtu"`
	MAC            string   `json:"mac,omitempty"`
	Master         string   `json:"master,omitempty"` // name of the bridge or bond it belongs to
	Parent         string   `json:"parent,omitempty"` // lower device of a vlan, macvlan, …
	VLAN           int      `json:"vlan,omitempty"`
	TxQueue        int      `json:"tx_queue_len,omitempty"`
	CarrierChanges uint64   `json:"carrier_changes"` // since the interface came to be

	Stats         LinkStats         `json:"stats"`
	Driver        string            `json:"driver,omitempty"`
	Firmware      string            `json:"firmware,omitempty"`
	SpeedMbps     int               `json:"speed_mbps,omitempty"` // negotiated; 0 unknown
	Duplex        string            `json:"duplex,omitempty"`     // full | half | ""
	Autoneg       *bool             `json:"autoneg,omitempty"`
	SupportedMbps int               `json:"supported_mbps,omitempty"` // fastest mode this NIC supports
	PartnerMbps   int               `json:"partner_mbps,omitempty"`   // fastest mode the link partner advertises
	DriverStats   map[string]uint64 `json:"driver_stats,omitempty"`   // ethtool -S, non-zero or error-like names only
	Ports         int               `json:"ports,omitempty"`          // members, of a bridge or bond
	Bond          *Bond             `json:"bond,omitempty"`
}

// Bond is the state of a bonding device.
type Bond struct {
	Mode    string       `json:"mode"`
	Active  string       `json:"active,omitempty"`
	Members []BondMember `json:"members,omitempty"`
}

// BondMember is one member of a bond.
type BondMember struct {
	Name     string `json:"name"`
	Up       bool   `json:"up"`
	Failures int    `json:"link_failures"`
}

// LinkStats are rtnl_link_stats64 (include/uapi/linux/if_link.h).
type LinkStats struct {
	RxPackets         uint64 `json:"rx_packets,omitempty"`
	TxPackets         uint64 `json:"tx_packets,omitempty"`
	RxBytes           uint64 `json:"rx_bytes,omitempty"`
	TxBytes           uint64 `json:"tx_bytes,omitempty"`
	RxErrors          uint64 `json:"rx_errors,omitempty"`
	TxErrors          uint64 `json:"tx_errors,omitempty"`
	RxDropped         uint64 `json:"rx_dropped,omitempty"`
	TxDropped         uint64 `json:"tx_dropped,omitempty"`
	Multicast         uint64 `json:"multicast,omitempty"`
	Collisions        uint64 `json:"collisions,omitempty"`
	RxLengthErrors    uint64 `json:"rx_length_errors,omitempty"`
	RxOverErrors      uint64 `json:"rx_over_errors,omitempty"`
	RxCRCErrors       uint64 `json:"rx_crc_errors,omitempty"`
	RxFrameErrors     uint64 `json:"rx_frame_errors,omitempty"`
	RxFIFOErrors      uint64 `json:"rx_fifo_errors,omitempty"`
	RxMissedErrors    uint64 `json:"rx_missed_errors,omitempty"`
	TxAbortedErrors   uint64 `json:"tx_aborted_errors,omitempty"`
	TxCarrierErrors   uint64 `json:"tx_carrier_errors,omitempty"`
	TxFIFOErrors      uint64 `json:"tx_fifo_errors,omitempty"`
	TxHeartbeatErrors uint64 `json:"tx_heartbeat_errors,omitempty"`
	TxWindowErrors    uint64 `json:"tx_window_errors,omitempty"`
	RxNoHandler       uint64 `json:"rx_nohandler,omitempty"`
}

// Sub returns the increase since an earlier snapshot; a counter that went
// backwards (interface re-created, driver reset) counts from zero.
func (s LinkStats) Sub(old LinkStats) LinkStats {
	d := func(a, b uint64) uint64 {
		if a < b {
			return a
		}
		return a - b
	}
	return LinkStats{
		RxPackets: d(s.RxPackets, old.RxPackets), TxPackets: d(s.TxPackets, old.TxPackets),
		RxBytes: d(s.RxBytes, old.RxBytes), TxBytes: d(s.TxBytes, old.TxBytes),
		RxErrors: d(s.RxErrors, old.RxErrors), TxErrors: d(s.TxErrors, old.TxErrors),
		RxDropped: d(s.RxDropped, old.RxDropped), TxDropped: d(s.TxDropped, old.TxDropped),
		Multicast: d(s.Multicast, old.Multicast), Collisions: d(s.Collisions, old.Collisions),
		RxLengthErrors: d(s.RxLengthErrors, old.RxLengthErrors), RxOverErrors: d(s.RxOverErrors, old.RxOverErrors),
		RxCRCErrors: d(s.RxCRCErrors, old.RxCRCErrors), RxFrameErrors: d(s.RxFrameErrors, old.RxFrameErrors),
		RxFIFOErrors: d(s.RxFIFOErrors, old.RxFIFOErrors), RxMissedErrors: d(s.RxMissedErrors, old.RxMissedErrors),
		TxAbortedErrors: d(s.TxAbortedErrors, old.TxAbortedErrors), TxCarrierErrors: d(s.TxCarrierErrors, old.TxCarrierErrors),
		TxFIFOErrors: d(s.TxFIFOErrors, old.TxFIFOErrors), TxHeartbeatErrors: d(s.TxHeartbeatErrors, old.TxHeartbeatErrors),
		TxWindowErrors: d(s.TxWindowErrors, old.TxWindowErrors), RxNoHandler: d(s.RxNoHandler, old.RxNoHandler),
	}
}

// Addr is an address of an interface.
type Addr struct {
	Link   string       `json:"link"`
	Prefix netip.Prefix `json:"prefix"`          // address with prefix length
	Scope  string       `json:"scope"`           // global | link | host | site
	Flags  []string     `json:"flags,omitempty"` // tentative, dadfailed, deprecated, permanent, temporary, …
	Peer   netip.Addr   `json:"peer,omitzero"`   // of a point-to-point link
}

// Route is an entry of a routing table, or the kernel's answer to a lookup.
type Route struct {
	Dst      netip.Prefix `json:"dst"`              // 0.0.0.0/0 or ::/0 for default
	Gateway  netip.Addr   `json:"gateway,omitzero"` // unset: on-link
	Link     string       `json:"link,omitempty"`
	Source   netip.Addr   `json:"source,omitzero"`    // preferred source
	Type     string       `json:"type,omitempty"`     // unicast | blackhole | unreachable | prohibit | throw | local
	Protocol string       `json:"protocol,omitempty"` // kernel | boot | static | ra | dhcp | …
	Table    int          `json:"table,omitempty"`    // 254 main
	Metric   int          `json:"metric,omitempty"`
	MTU      int          `json:"mtu,omitempty"`
	LinkDown bool         `json:"linkdown,omitempty"`
	Dead     bool         `json:"dead,omitempty"`     // its interface is switched off
	NextHops []NextHop    `json:"nexthops,omitempty"` // multipath
	Tunnel   bool         `json:"tunnel,omitempty"`   // has an encapsulation
}

// IsDefault reports whether the route is a default route.
func (r Route) IsDefault() bool { return r.Dst.IsValid() && r.Dst.Bits() == 0 }

// NextHop is one leg of a multipath route.
type NextHop struct {
	Gateway netip.Addr `json:"gateway,omitzero"`
	Link    string     `json:"link,omitempty"`
	Weight  int        `json:"weight,omitempty"`
	Dead    bool       `json:"dead,omitempty"`

	LinkDown bool `json:"linkdown,omitempty"` // its interface has no carrier
}

// Lookup is the kernel's own routing decision for a destination (RTM_GETROUTE).
type Lookup struct {
	Destination  netip.Addr `json:"destination"`
	Route        Route      `json:"route"`
	Error        string     `json:"error,omitempty"`        // ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL: the kernel's errno name
	Matched      *Route     `json:"matched,omitempty"`      // the table entry that decided, when it could be found
	Alternatives []Route    `json:"alternatives,omitempty"` // other entries whose prefix covers the destination, most specific first
}

// PolicyRule is an `ip rule`.
type PolicyRule struct {
	Priority int    `json:"priority"`
	Family   int    `json:"family"` // 4 | 6
	FromText string `json:"from,omitempty"`
	ToText   string `json:"to,omitempty"`
	IIF      string `json:"iif,omitempty"`
	OIF      string `json:"oif,omitempty"`
	Mark     uint32 `json:"mark,omitempty"`
	Table    int    `json:"table,omitempty"`
	Action   string `json:"action,omitempty"` // lookup | blackhole | unreachable | prohibit | …

	Mask   uint32   `json:"mask,omitempty"`   // of Mark; 0xffffffff when the mark is matched whole
	Invert bool     `json:"invert,omitempty"` // "not": the rule applies to what does not match
	Other  []string `json:"other,omitempty"`  // further conditions, as ip writes them: "uidrange 0-99", "ipproto tcp", "suppress_prefixlength 0"
}

// Neighbour is an ARP or ND cache entry.
type Neighbour struct {
	Link    string     `json:"link"`
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac,omitempty"`
	State   string     `json:"state"` // reachable | stale | delay | probe | failed | incomplete | permanent | noarp
	Router  bool       `json:"router,omitempty"`
}

// NeighTable is the size and limits of a neighbour table (RTM_GETNEIGHTBL and
// /proc/net/stat/{arp,ndisc}_cache). The table is shared by all network namespaces.
type NeighTable struct {
	Name               string `json:"name"` // arp_cache | ndisc_cache
	Entries            int    `json:"entries"`
	Thresh1            int    `json:"gc_thresh1,omitempty"`
	Thresh2            int    `json:"gc_thresh2,omitempty"`
	Thresh3            int    `json:"gc_thresh3,omitempty"`
	TableFulls         uint64 `json:"table_fulls"`         // counter
	ResFailed          uint64 `json:"res_failed"`          // counter
	UnresolvedDiscards uint64 `json:"unresolved_discards"` // counter
}

// Qdisc is a queue discipline or a class of one.
type Qdisc struct {
	Link       string `json:"link"`
	Kind       string `json:"kind"`             // pfifo_fast, tbf, htb, fq_codel, noqueue, ingress, …
	Handle     string `json:"handle,omitempty"` // 1:0
	Parent     string `json:"parent,omitempty"` // root, ingress, 1:0
	Class      bool   `json:"class,omitempty"`
	Bytes      uint64 `json:"bytes"`      // sent, counter
	Packets    uint64 `json:"packets"`    // counter
	Drops      uint64 `json:"drops"`      // counter
	Overlimits uint64 `json:"overlimits"` // counter
	Requeues   uint64 `json:"requeues"`   // counter
	Backlog    int    `json:"backlog_bytes"`
	QueueLen   int    `json:"queue_len"`           // packets waiting now
	Limit      int    `json:"limit,omitempty"`     // packets or bytes, as the kind counts; 0 unknown
	RateBps    uint64 `json:"rate_bits,omitempty"` // configured rate in bits/s (tbf rate, htb class rate, cake bandwidth)
	CeilBps    uint64 `json:"ceil_bits,omitempty"`
}

// Resolver is how names are resolved on this host.
type Resolver struct {
	Servers   []netip.AddrPort `json:"servers,omitempty"`  // in order, from resolv.conf
	Foreign   bool             `json:"foreign,omitempty"`  // the file belongs to another network namespace: this one shares its file system only
	Implicit  bool             `json:"implicit,omitempty"` // no nameserver line anywhere: glibc then tries 127.0.0.1
	Search    []string         `json:"search,omitempty"`
	Options   []string         `json:"options,omitempty"` // as written
	NDots     int              `json:"ndots"`
	TimeoutS  int              `json:"timeout_s"`
	Attempts  int              `json:"attempts"`
	Rotate    bool             `json:"rotate,omitempty"`
	Path      string           `json:"path,omitempty"`      // of resolv.conf
	LinkTo    string           `json:"link_to,omitempty"`   // where the symlink points
	NSSHosts  []string         `json:"nss_hosts,omitempty"` // the hosts line of nsswitch.conf
	Stub      bool             `json:"stub,omitempty"`      // a local stub such as 127.0.0.53
	Upstreams []netip.AddrPort `json:"upstreams,omitempty"` // behind the stub, when known
	Hosts     []HostsEntry     `json:"hosts,omitempty"`     // /etc/hosts, at most 2,000 lines
	Resolved  bool             `json:"systemd_resolved,omitempty"`
	Problems  []string         `json:"problems,omitempty"` // lines that could not be understood, more than three servers, …
}

// HostsEntry is one line of /etc/hosts.
type HostsEntry struct {
	Address netip.Addr `json:"address"`
	Names   []string   `json:"names"`
}

// Softnet is a line of /proc/net/softnet_stat: counters.
type Softnet struct {
	CPU         int    `json:"cpu"`
	Processed   uint64 `json:"processed"`
	Dropped     uint64 `json:"dropped"`
	TimeSqueeze uint64 `json:"time_squeeze"`
	Backlog     int    `json:"backlog,omitempty"`
}

// Conntrack is the use of the connection tracking table.
type Conntrack struct {
	Count        int    `json:"count"`
	Max          int    `json:"max"`
	Drop         uint64 `json:"drop"`          // counter: new connections refused because the table was full
	EarlyDrop    uint64 `json:"early_drop"`    // counter
	InsertFailed uint64 `json:"insert_failed"` // counter
	Invalid      uint64 `json:"invalid"`       // counter
}

// Sockets is what sock_diag shows.
type Sockets struct {
	States       map[string]int `json:"states,omitempty"` // ESTABLISHED, TIME_WAIT, CLOSE_WAIT, … over all TCP sockets
	Listeners    []Socket       `json:"listeners,omitempty"`
	UDP          []Socket       `json:"udp,omitempty"`          // bound UDP sockets, those with drops or a full queue first
	CloseWait    []SocketGroup  `json:"close_wait,omitempty"`   // by process
	Destinations []Destination  `json:"destinations,omitempty"` // the 50 remote address:port pairs with most local ports in use
	Targets      []TCPSocket    `json:"targets,omitempty"`      // connections to the addresses asked about
	Total        int            `json:"total"`                  // TCP sockets: the sum of States
	Method       string         `json:"method,omitempty"`       // "sock_diag", or "/proc/net" when the kernel has no sock_diag
	Procs        bool           `json:"procs"`                  // the owners could be read for all sockets, not only our own user's
}

// Socket is a listening TCP or a bound UDP socket.
type Socket struct {
	Proto   string         `json:"proto"` // tcp | udp
	Local   netip.AddrPort `json:"local"`
	Remote  netip.AddrPort `json:"remote,omitzero"`
	RecvQ   uint32         `json:"recv_q"`           // listener: connections waiting for accept(); udp: bytes unread
	SendQ   uint32         `json:"send_q"`           // listener: the backlog limit
	Drops   uint64         `json:"drops,omitempty"`  // udp: datagrams dropped at this socket, counter
	RcvBuf  uint32         `json:"rcvbuf,omitempty"` // bytes
	Inode   uint64         `json:"inode,omitempty"`
	UID     uint32         `json:"uid"`
	Process string         `json:"process,omitempty"`  // comm[pid]
	SynRecv int            `json:"syn_recv,omitempty"` // listener: half-open connections
}

// SocketGroup counts sockets of one process in one state.
type SocketGroup struct {
	Process     string          `json:"process"` // comm[pid], or "uid N" when unknown
	Count       int             `json:"count"`
	OldestAge   sample.Duration `json:"oldest_age_s"` // time since the peer's last segment (its FIN), from TCP_INFO
	MedianAge   sample.Duration `json:"median_age_s"`
	Remote      string          `json:"remote,omitempty"`     // the most common peer address
	LocalPort   uint16          `json:"local_port,omitempty"` // when all share it
	UnreadBytes uint64          `json:"unread_bytes,omitempty"`
	Unaccepted  int             `json:"unaccepted,omitempty"` // of Count: still in the accept queue of the process named
}

// Destination is a remote endpoint with how many local ports towards it are in use.
type Destination struct {
	Remote   netip.AddrPort `json:"remote"`
	Local    netip.Addr     `json:"local"`
	Ports    int            `json:"ports"` // local ports within ip_local_port_range in use, all states
	TimeWait int            `json:"time_wait"`
}

// Firewall is what could be read of nftables (and of legacy iptables: presence only).
type Firewall struct {
	Chains []FWChain `json:"chains,omitempty"`        // base chains and those they jump to
	Legacy []string  `json:"legacy_tables,omitempty"` // /proc/net/ip_tables_names
}

// FWChain is a chain.
type FWChain struct {
	Family   string   `json:"family"` // ip | ip6 | inet | netdev | arp | bridge
	Table    string   `json:"table"`
	Name     string   `json:"name"`
	Hook     string   `json:"hook,omitempty"` // input | output | forward | prerouting | postrouting | ingress; "" for a regular chain
	Priority int      `json:"priority,omitempty"`
	Policy   string   `json:"policy,omitempty"` // accept | drop
	Device   string   `json:"device,omitempty"`
	Type     string   `json:"type,omitempty"` // filter | nat | route; nat chains see only the first packet of a connection
	Rules    []FWRule `json:"rules,omitempty"`
}

// FWRule is a rule, as far as it could be decoded.
type FWRule struct {
	Handle  uint64    `json:"handle"`
	Text    string    `json:"text"` // nft-like: "tcp dport 443 drop"
	Matches []FWMatch `json:"matches,omitempty"`
	Verdict string    `json:"verdict,omitempty"` // accept | drop | reject | jump NAME | goto NAME | return | queue | ""
	Packets uint64    `json:"packets,omitempty"` // counter, when the rule has one
	Bytes   uint64    `json:"bytes,omitempty"`
	Counted bool      `json:"counted,omitempty"` // it has a counter
	Opaque  bool      `json:"opaque,omitempty"`  // it has expressions that were not understood
	Partial bool      `json:"partial,omitempty"` // limit, numgen, quota: hits only some packets
	Rewrite string    `json:"rewrite,omitempty"` // dnat, snat, masquerade, redirect, tproxy: what it does to the addresses; its verdict is accept
}

// FWMatch is one condition of a rule.
type FWMatch struct {
	// l4proto, nfproto, saddr, daddr, sport, dport, iif, oif, ct_state, icmp_type, mark, length, …
	// A look-up of several at once joins them: "saddr . dport".
	Field  string   `json:"field"`
	Op     string   `json:"op"`     // == != < > <= >= in, "not in"
	Values []string `json:"values"` // decimal, name, address, prefix or from-to; "eth*" is a name's beginning, "*" anything; joined like Field
}

// LinkByName finds a link.
func (h *Host) LinkByName(name string) (Link, bool) {
	for _, l := range h.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// HasAddr reports whether a is one of the host's own addresses.
func (h *Host) HasAddr(a netip.Addr) bool {
	a = a.Unmap()
	for _, x := range h.Addrs {
		if x.Prefix.Addr() == a {
			return true
		}
	}
	return false
}

// WireFlow counts what a packet socket saw of our own probes: the witness that
// tells "never left this host" and "came back but was dropped here" from "lost
// on the way". Only while probing, headers only. Needs CAP_NET_RAW.
type WireFlow struct {
	Link         string     `json:"link"`
	Remote       netip.Addr `json:"remote"`
	Proto        string     `json:"proto"`          // tcp | udp | icmp
	Port         uint16     `json:"port,omitempty"` // remote port of tcp and udp
	SynOut       int        `json:"syn_out,omitempty"`
	SynAckIn     int        `json:"syn_ack_in,omitempty"`
	RstIn        int        `json:"rst_in,omitempty"`
	RstTTL       int        `json:"rst_ttl,omitempty"` // TTL of the last RST
	SynAckTTL    int        `json:"syn_ack_ttl,omitempty"`
	Out          int        `json:"out,omitempty"`            // datagrams or echo requests
	In           int        `json:"in,omitempty"`             // datagrams or echo replies
	ErrorsIn     int        `json:"errors_in,omitempty"`      // ICMP errors about this flow
	OtherLinksIn []string   `json:"other_links_in,omitempty"` // replies that came in by another interface
}
