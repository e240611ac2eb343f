// Package service holds the lab's programs: servers that answer well or badly
// (dns, http, tcp, udp) and load generators that bring a host into a state that
// fathom must recognise (close_wait, port_hog, conntrack_fill, …).
//
// A Spec says what to run; Start opens its sockets inside the namespace that inNS
// leads to and runs it in goroutines of this process, or, with Spec.Process, in a
// child process under a name of its own, so that a finding can name it.
package service

import (
	"context"
	"time"

	"fathom/internal/lab/emulator/unit"
)

// InNS runs f on a thread inside a network namespace; see emulator.InNS.
type InNS = func(f func() error) error

// Service is something that runs until it is stopped.
type Service interface {
	// Stop ends it, waits for its goroutines or its process and closes its
	// sockets. Stopping twice is harmless. The error is what went wrong while it
	// ran or stopped.
	Stop() error
	// Addrs are the addresses it listens on, with the real port where the Spec
	// had port 0; empty for load generators that listen nowhere.
	Addrs() []string
	// PID is the process that owns the sockets: the child's, or our own.
	PID() int
	// Stats are counters of what it did (queries, connections, errors, held),
	// for tests and for `fathom lab` to show. Empty for a child process.
	Stats() map[string]uint64
}

// Spec is one service. Exactly one of the kinds (DNS … Load) is set.
type Spec struct {
	Name string `yaml:"name,omitempty" json:"name,omitempty"` // for messages; default: the kind

	// Process runs it in a child process (this binary, re-executed) whose comm
	// is Comm (at most 15 bytes; default: Name). The child ends with Stop and
	// with its parent. The binary's main must call Child first of all.
	Process bool   `yaml:"process,omitempty" json:"process,omitempty"`
	Comm    string `yaml:"comm,omitempty" json:"comm,omitempty"`
	// NoFile is the child's RLIMIT_NOFILE, to let it run out of descriptors.
	NoFile uint64 `yaml:"nofile,omitempty" json:"nofile,omitempty"`
	// Seed makes random shares repeatable; 0 stands for 1.
	Seed uint64 `yaml:"seed,omitempty" json:"seed,omitempty"`

	DNS  *DNS  `yaml:"dns,omitempty" json:"dns,omitempty"`
	HTTP *HTTP `yaml:"http,omitempty" json:"http,omitempty"`
	TCP  *TCP  `yaml:"tcp,omitempty" json:"tcp,omitempty"`
	UDP  *UDP  `yaml:"udp,omitempty" json:"udp,omitempty"`
	Load *Load `yaml:"load,omitempty" json:"load,omitempty"`

	// CA signs the certificates of HTTP; the runner sets one per run. Without it
	// an https server makes one of its own, which no client trusts.
	CA *CA `yaml:"-" json:"ca,omitempty"`
}

// DNS is an authoritative or forwarding name server on UDP and TCP.
type DNS struct {
	Listen []string  `yaml:"listen" json:"listen"` // "10.0.0.53:53"; port 53 may be left out
	Zones  []DNSZone `yaml:"zones,omitempty" json:"zones,omitempty"`
	// Forward is the server that queries outside Zones go to ("10.0.0.9" or with
	// a port); without it they are REFUSED, or NXDOMAIN when Recursive.
	Forward string `yaml:"forward,omitempty" json:"forward,omitempty"`
	// Recursive makes it look like a resolver: RA set, AA clear, CNAMEs followed
	// across its zones.
	Recursive bool   `yaml:"recursive,omitempty" json:"recursive,omitempty"`
	NSID      string `yaml:"nsid,omitempty" json:"nsid,omitempty"` // answer to the NSID option (RFC 5001), as text

	UDPOnly bool `yaml:"udp_only,omitempty" json:"udp_only,omitempty"` // TCP is closed (refused)
	TCPOnly bool `yaml:"tcp_only,omitempty" json:"tcp_only,omitempty"` // UDP is closed (port unreachable)
	// From is the address that UDP answers leave from instead of the one asked;
	// it must be an address of the node.
	From string `yaml:"from,omitempty" json:"from,omitempty"`
	// MaxUDP silently drops UDP answers above so many bytes: a fragment filter.
	MaxUDP int `yaml:"max_udp,omitempty" json:"max_udp,omitempty"`
	// AllowTransfer lets anyone do AXFR; otherwise it is REFUSED.
	AllowTransfer bool `yaml:"allow_transfer,omitempty" json:"allow_transfer,omitempty"`
	// RateLimit drops UDP answers above so many per second (response rate
	// limiting); each Slip-th dropped one is sent truncated instead, 0: none.
	RateLimit int `yaml:"rate_limit,omitempty" json:"rate_limit,omitempty"`
	Slip      int `yaml:"slip,omitempty" json:"slip,omitempty"`

	// Faults apply to queries; all whose Suffix fits are in force together.
	Faults []DNSFault `yaml:"faults,omitempty" json:"faults,omitempty"`
}

// DNSZone is one zone in zone-file syntax (RFC 1035 §5); $ORIGIN is preset to
// Name. A SOA and an NS record are made up when missing.
type DNSZone struct {
	Name    string `yaml:"name" json:"name"`
	Records string `yaml:"records" json:"records"`
}

// DNSFault spoils answers.
type DNSFault struct {
	Suffix string     `yaml:"suffix,omitempty" json:"suffix,omitempty"` // names below (and at) it; "" is all
	Type   string     `yaml:"type,omitempty" json:"type,omitempty"`     // only this query type, e.g. AAAA
	Share  unit.Share `yaml:"share,omitempty" json:"share,omitempty"`   // share of queries that meet the fault; 0 means all

	Silent   bool `yaml:"silent,omitempty" json:"silent,omitempty"` // no answer
	ServFail bool `yaml:"servfail,omitempty" json:"servfail,omitempty"`
	Refused  bool `yaml:"refused,omitempty" json:"refused,omitempty"`
	NXDomain bool `yaml:"nxdomain,omitempty" json:"nxdomain,omitempty"`
	// NotAuth clears AA and answers with an upward referral: a lame server.
	NotAuth  bool          `yaml:"not_auth,omitempty" json:"not_auth,omitempty"`
	Delay    time.Duration `yaml:"delay,omitempty" json:"delay,omitempty"`
	Jitter   time.Duration `yaml:"jitter,omitempty" json:"jitter,omitempty"` // uniform, added to Delay
	Truncate bool          `yaml:"truncate,omitempty" json:"truncate,omitempty"`
	// NXRewrite answers this address where the truth is NXDOMAIN.
	NXRewrite string `yaml:"nxdomain_rewrite,omitempty" json:"nxdomain_rewrite,omitempty"`
	// Lie maps names to the false address they get (A or AAAA by its family).
	Lie     map[string]string `yaml:"lie,omitempty" json:"lie,omitempty"`
	FormErr bool              `yaml:"formerr_edns,omitempty" json:"formerr_edns,omitempty"` // FORMERR to queries with EDNS
	NoEDNS  bool              `yaml:"no_edns,omitempty" json:"no_edns,omitempty"`           // EDNS is ignored: no OPT in the answer
	EDNSDie bool              `yaml:"silent_edns,omitempty" json:"silent_edns,omitempty"`   // queries with EDNS get no answer
	WrongID bool              `yaml:"wrong_id,omitempty" json:"wrong_id,omitempty"`
}

// HTTP is a web server. With a certificate it speaks TLS (HTTP/1.1 and HTTP/2),
// without one plain HTTP/1.1.
type HTTP struct {
	Listen []string `yaml:"listen" json:"listen"` // "10.0.0.2:443"
	// Cert is the kind of certificate: "" (plain HTTP), good, expired,
	// not_yet_valid, wrong_name, untrusted, expiring, missing_intermediate,
	// expired_intermediate.
	Cert CertKind `yaml:"cert,omitempty" json:"cert,omitempty"`
	// Names go into the certificate, DNS names and addresses; the listening
	// addresses are added.
	Names        []string `yaml:"names,omitempty" json:"names,omitempty"`
	ExpiringDays int      `yaml:"expiring_days,omitempty" json:"expiring_days,omitempty"` // for cert: expiring; default 5
	HTTP3        bool     `yaml:"http3,omitempty" json:"http3,omitempty"`                 // also QUIC on the same port; needs Cert
	// HTTP3Closed advertises HTTP/3 (Alt-Svc) without serving it.
	HTTP3Closed bool   `yaml:"http3_closed,omitempty" json:"http3_closed,omitempty"`
	AltSvc      string `yaml:"alt_svc,omitempty" json:"alt_svc,omitempty"` // default: h3 of the same port when HTTP3
	NoHTTP2     bool   `yaml:"no_http2,omitempty" json:"no_http2,omitempty"`

	HandshakeDelay time.Duration `yaml:"handshake_delay,omitempty" json:"handshake_delay,omitempty"` // before the TLS server hello
	DateSkew       time.Duration `yaml:"date_skew,omitempty" json:"date_skew,omitempty"`             // the server's clock runs ahead by this
	// Page is what any path without an entry in Paths gets; its Headers are on
	// the answers of Paths too.
	Page  `yaml:",inline"`
	Paths map[string]Page `yaml:"paths,omitempty" json:"paths,omitempty"`
}

// Page is the answer to one path.
type Page struct {
	Status   int               `yaml:"status,omitempty" json:"status,omitempty"`     // default 200; 302 with Redirect
	Body     string            `yaml:"body,omitempty" json:"body,omitempty"`         // literal body, or
	Size     unit.Size         `yaml:"size,omitempty" json:"size,omitempty"`         // so many bytes
	Delay    time.Duration     `yaml:"delay,omitempty" json:"delay,omitempty"`       // before the first byte
	Jitter   time.Duration     `yaml:"jitter,omitempty" json:"jitter,omitempty"`     // uniform, added to Delay
	Rate     unit.Rate         `yaml:"rate,omitempty" json:"rate,omitempty"`         // of the body, bit/s
	Redirect string            `yaml:"redirect,omitempty" json:"redirect,omitempty"` // Location
	Headers  map[string]string `yaml:"headers,omitempty" json:"headers,omitempty"`
	// Abort ends the connection after AbortAfter bytes of the body: "close"
	// (FIN) or "reset" (RST).
	Abort      string    `yaml:"abort,omitempty" json:"abort,omitempty"`
	AbortAfter unit.Size `yaml:"abort_after,omitempty" json:"abort_after,omitempty"`
	// Fail is the share of requests that get FailStatus (default 503) instead:
	// one bad backend of n behind the address.
	Fail       unit.Share    `yaml:"fail,omitempty" json:"fail,omitempty"`
	FailStatus int           `yaml:"fail_status,omitempty" json:"fail_status,omitempty"`
	FailDelay  time.Duration `yaml:"fail_delay,omitempty" json:"fail_delay,omitempty"`
	// Backends names n backends taken in turn, told in the header X-Backend; the
	// failing share falls on the last one when Fail is 1/n.
	Backends int `yaml:"backends,omitempty" json:"backends,omitempty"`
	// Hit is the share of answers marked as cache hits (Cache-Status, Age,
	// X-Cache); the others are marked as misses and wait MissDelay more.
	Hit       *unit.Share   `yaml:"hit,omitempty" json:"hit,omitempty"`
	MissDelay time.Duration `yaml:"miss_delay,omitempty" json:"miss_delay,omitempty"`
}

// TCPMode is what a TCP server does with a connection.
type TCPMode string

// The TCP servers.
const (
	TCPEcho   TCPMode = "echo"   // sends back what it reads
	TCPBanner TCPMode = "banner" // sends Banner, then waits for the peer to close
	TCPSink   TCPMode = "sink"   // reads and forgets
	TCPReset  TCPMode = "reset"  // accepts and resets
	TCPClose  TCPMode = "close"  // accepts and closes without reading (the peer goes to CLOSE_WAIT)
	TCPStall  TCPMode = "stall"  // accepts and never reads: zero window
	TCPHang   TCPMode = "hang"   // listens with Backlog and never accepts
	TCPHog    TCPMode = "hog"    // hang, with clients of its own that keep the queue overflowing
	TCPSource TCPMode = "source" // sends zeros as fast as Rate allows
)

// TCP is a TCP server.
type TCP struct {
	Listen      []string      `yaml:"listen" json:"listen"`
	Mode        TCPMode       `yaml:"mode" json:"mode"`
	Banner      string        `yaml:"banner,omitempty" json:"banner,omitempty"`
	AcceptDelay time.Duration `yaml:"accept_delay,omitempty" json:"accept_delay,omitempty"` // before each accept
	Delay       time.Duration `yaml:"delay,omitempty" json:"delay,omitempty"`               // before each echo, banner or close
	Backlog     int           `yaml:"backlog,omitempty" json:"backlog,omitempty"`           // default: the kernel's somaxconn; hang and hog: 1
	Rcvbuf      unit.Size     `yaml:"rcvbuf,omitempty" json:"rcvbuf,omitempty"`             // SO_RCVBUF of the listener and its connections
	Sndbuf      unit.Size     `yaml:"sndbuf,omitempty" json:"sndbuf,omitempty"`
	Rate        unit.Rate     `yaml:"rate,omitempty" json:"rate,omitempty"`       // source: sends at, sink: reads at; per connection; 0: no limit
	Clients     int           `yaml:"clients,omitempty" json:"clients,omitempty"` // hog: connection attempts kept in the air; default 8
}

// UDPMode is what a UDP server does with a datagram.
type UDPMode string

// The UDP servers.
const (
	UDPEcho UDPMode = "echo"
	UDPSink UDPMode = "sink" // reads and forgets
	UDPDeaf UDPMode = "deaf" // never reads; with Rcvbuf small its buffer overflows
)

// UDP is a UDP server.
type UDP struct {
	Listen []string      `yaml:"listen" json:"listen"`
	Mode   UDPMode       `yaml:"mode" json:"mode"`
	Delay  time.Duration `yaml:"delay,omitempty" json:"delay,omitempty"`   // before each echo
	Drop   unit.Share    `yaml:"drop,omitempty" json:"drop,omitempty"`     // share not echoed
	Rcvbuf unit.Size     `yaml:"rcvbuf,omitempty" json:"rcvbuf,omitempty"` // SO_RCVBUF; deaf: default 2304, the kernel's minimum
	// Flood has deaf send itself datagrams at this rate, so that it overflows
	// without another node; 0: no sender.
	Flood unit.Rate `yaml:"flood,omitempty" json:"flood,omitempty"`
}

// Load is one load generator; exactly one field is set.
type Load struct {
	CloseWait     *CloseWait     `yaml:"close_wait,omitempty" json:"close_wait,omitempty"`
	TimeWait      *TimeWait      `yaml:"time_wait,omitempty" json:"time_wait,omitempty"`
	PortHog       *PortHog       `yaml:"port_hog,omitempty" json:"port_hog,omitempty"`
	Connect       *Connect       `yaml:"connect,omitempty" json:"connect,omitempty"`
	Traffic       *Traffic       `yaml:"traffic,omitempty" json:"traffic,omitempty"`
	Flap          *Flap          `yaml:"flap,omitempty" json:"flap,omitempty"`
	NeighbourFill *NeighbourFill `yaml:"neighbour_fill,omitempty" json:"neighbour_fill,omitempty"`
	ARPResponder  *ARPResponder  `yaml:"arp_responder,omitempty" json:"arp_responder,omitempty"`
	Frames        *Frames        `yaml:"frames,omitempty" json:"frames,omitempty"`
	ConntrackFill *ConntrackFill `yaml:"conntrack_fill,omitempty" json:"conntrack_fill,omitempty"`
}

// CloseWait holds Count connections whose peer has closed.
type CloseWait struct {
	Count int `yaml:"count" json:"count"`
	// Growth adds so many per second after Count, up to Max (default 10,000).
	Growth float64 `yaml:"growth,omitempty" json:"growth,omitempty"`
	Max    int     `yaml:"max,omitempty" json:"max,omitempty"`
	// To is a peer that closes what it accepts (tcp mode close). Without it the
	// service listens on Listen (default 127.0.0.1:0) and is its own peer.
	To     string `yaml:"to,omitempty" json:"to,omitempty"`
	Listen string `yaml:"listen,omitempty" json:"listen,omitempty"`
}

// TimeWait keeps about Count TIME_WAIT sockets on the node.
type TimeWait struct {
	Count int `yaml:"count" json:"count"`
	// To is a peer that closes after we did (tcp mode echo or sink). Without it
	// the service is its own peer on Listen (default 127.0.0.1:0).
	To     string `yaml:"to,omitempty" json:"to,omitempty"`
	Listen string `yaml:"listen,omitempty" json:"listen,omitempty"`
}

// PortHog holds Count connections to one destination (tcp mode sink or stall);
// Count 0 takes all local ports there are and keeps taking.
type PortHog struct {
	To    string `yaml:"to" json:"to"`
	Count int    `yaml:"count,omitempty" json:"count,omitempty"`
}

// Connect makes connections over and over.
type Connect struct {
	To       string        `yaml:"to" json:"to"`
	Parallel int           `yaml:"parallel,omitempty" json:"parallel,omitempty"` // default 8
	Interval time.Duration `yaml:"interval,omitempty" json:"interval,omitempty"` // pause between one's attempts; default 10ms
	Hold     time.Duration `yaml:"hold,omitempty" json:"hold,omitempty"`         // keep each open so long
	Timeout  time.Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`   // of one attempt; default 3s
	Send     string        `yaml:"send,omitempty" json:"send,omitempty"`         // written once connected
}

// Traffic sends a steady stream.
type Traffic struct {
	Network string        `yaml:"network,omitempty" json:"network,omitempty"` // udp (default) or tcp
	To      string        `yaml:"to" json:"to"`
	From    string        `yaml:"from,omitempty" json:"from,omitempty"`       // local address, port optional
	Rate    unit.Rate     `yaml:"rate" json:"rate"`                           // payload bit/s
	Size    int           `yaml:"size,omitempty" json:"size,omitempty"`       // payload bytes per datagram or write; default 1200
	DSCP    int           `yaml:"dscp,omitempty" json:"dscp,omitempty"`       // 0…63
	On      time.Duration `yaml:"on,omitempty" json:"on,omitempty"`           // with Off: send in turns
	Off     time.Duration `yaml:"off,omitempty" json:"off,omitempty"`         //
	Streams int           `yaml:"streams,omitempty" json:"streams,omitempty"` // default 1; Rate is for all together
}

// Flap sets a link down and up.
type Flap struct {
	// Link is the runner's name of the link, for it to fill in SetLink. Without
	// SetLink, Interface is switched administratively on the node itself.
	Link      string              `yaml:"link,omitempty" json:"link,omitempty"`
	Interface string              `yaml:"interface,omitempty" json:"interface,omitempty"`
	SetLink   func(up bool) error `yaml:"-" json:"-"`
	Period    time.Duration       `yaml:"period" json:"period"`                   // one whole cycle
	Duty      unit.Share          `yaml:"duty,omitempty" json:"duty,omitempty"`   // share of the period that it is up; default 0.5
	Count     int                 `yaml:"count,omitempty" json:"count,omitempty"` // cycles; 0: until stopped
}

// NeighbourFill sends to Count on-link addresses of Prefix, so that the neighbour
// table overflows; once per Every.
type NeighbourFill struct {
	Prefix string        `yaml:"prefix" json:"prefix"`
	Count  int           `yaml:"count,omitempty" json:"count,omitempty"` // default: the whole prefix, at most 65,536
	Every  time.Duration `yaml:"every,omitempty" json:"every,omitempty"` // default 1s
}

// ARPResponder answers ARP for an address with a MAC: a duplicate address without
// a second host.
type ARPResponder struct {
	Interface string `yaml:"interface" json:"interface"`
	Address   string `yaml:"address" json:"address"`
	MAC       string `yaml:"mac" json:"mac"`
	// Delay lets the true owner answer first.
	Delay time.Duration `yaml:"delay,omitempty" json:"delay,omitempty"`
	// Announce sends gratuitous ARP so often; 0: never.
	Announce time.Duration `yaml:"announce,omitempty" json:"announce,omitempty"`
}

// Frames sends Ethernet frames that no receiver has a handler for: a benign
// rx_dropped on the other side.
type Frames struct {
	Interface string    `yaml:"interface" json:"interface"`
	EtherType string    `yaml:"ethertype,omitempty" json:"ethertype,omitempty"`   // default 0x88b5, IEEE local experimental
	PerSecond float64   `yaml:"per_second,omitempty" json:"per_second,omitempty"` // default 10
	Size      unit.Size `yaml:"size,omitempty" json:"size,omitempty"`             // payload; default 46
	To        string    `yaml:"to,omitempty" json:"to,omitempty"`                 // MAC; default broadcast
	VLAN      int       `yaml:"vlan,omitempty" json:"vlan,omitempty"`             // with this 802.1Q tag; 0: untagged
}

// ConntrackFill opens Flows UDP flows to To (different destination ports, then
// source ports), repeated each Every so that the entries stay.
type ConntrackFill struct {
	To        string        `yaml:"to" json:"to"` // address; port ignored
	Flows     int           `yaml:"flows" json:"flows"`
	PerSecond int           `yaml:"per_second,omitempty" json:"per_second,omitempty"` // default 20,000
	Every     time.Duration `yaml:"every,omitempty" json:"every,omitempty"`           // default 10s
}

// Starter is the shape of Start, for who wants to put another in its place.
type Starter func(ctx context.Context, inNS InNS, spec Spec) (Service, error)
