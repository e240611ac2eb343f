// Package probe holds the contract of every measurement: what a probe answers
// and how outcomes are told apart. A silent target is a Result, not an error;
// a probe returns an error only when it could not measure at all.
package probe

import (
	"context"
	"net/netip"
	"time"

	"fathom/sample"
)

// Outcome is how a measurement ended. The values are stable: JSON and rules use them.
type Outcome string

// The outcomes.
const (
	OK          Outcome = "ok"
	Timeout     Outcome = "timeout"     // nothing came back in time
	Refused     Outcome = "refused"     // the target said no: RST to SYN, or port unreachable
	Reset       Outcome = "reset"       // RST after the connection was made or while it was used
	Unreachable Outcome = "unreachable" // a router, or our own neighbour lookup, says it cannot be reached
	Prohibited  Outcome = "prohibited"  // ICMP administratively prohibited (v4 codes 9, 10, 13; v6 codes 1, 5, 6)
	TTLExceeded Outcome = "ttl_exceeded"
	TooBig      Outcome = "too_big"     // frag-needed / packet too big, or EMSGSIZE from our own kernel
	NoRoute     Outcome = "no_route"    // our own kernel has no route (ENETUNREACH)
	LocalDrop   Outcome = "local_drop"  // our own kernel refused to send (EPERM, EACCES: local firewall)
	SendFailed  Outcome = "send_failed" // our own interface took none of the packets (ENOBUFS): not loss
	NoPort      Outcome = "no_port"     // no local port or address left (EADDRNOTAVAIL)
	Failed      Outcome = "failed"      // the peer answered, but not as the protocol demands
	BadAnswer   Outcome = "bad_answer"  // the protocol worked, the answer is a failure (5xx, SERVFAIL, bad certificate)
)

// Kinds of measurement.
const (
	KindICMP  = "icmp"  // echo
	KindTCP   = "tcp"   // connect
	KindUDP   = "udp"   // datagram
	KindTLS   = "tls"   // handshake
	KindHTTP  = "http"  // request over HTTP/1.1 or 2
	KindHTTP3 = "http3" // QUIC handshake and request
	KindDNS   = "dns"   // one query to one server
	KindPath  = "path"  // TTL-stepped trace
	KindMTU   = "mtu"   // path MTU search
	KindARP   = "arp"   // who-has (IPv4) or neighbour solicitation (IPv6)
)

// Prober makes one finished measurement of target.
type Prober interface {
	Probe(ctx context.Context, target string) (Result, error)
}

// Result is one finished measurement of one target.
type Result struct {
	Kind    string          `json:"kind"`
	Target  string          `json:"target"`           // as asked
	Address netip.Addr      `json:"address,omitzero"` // the address really used
	Port    uint16          `json:"port,omitempty"`
	Source  netip.Addr      `json:"source,omitzero"` // local address used
	Start   time.Time       `json:"start"`
	Elapsed sample.Duration `json:"elapsed_s"`
	Outcome Outcome         `json:"outcome"`
	Detail  string          `json:"detail,omitempty"`     // the kernel's or the peer's own words
	Errno   string          `json:"errno,omitempty"`      // ECONNREFUSED, EHOSTUNREACH, … when an errno decided it
	Method  string          `json:"method,omitempty"`     // which way the kernel allowed: "icmp datagram socket", "raw socket", …
	RTT     *RTT            `json:"rtt,omitempty"`        // best single figure for the round trip
	Phases  []Phase         `json:"phases,omitempty"`     // in order; they do not overlap
	ICMP    *ICMPError      `json:"icmp_error,omitempty"` // the ICMP error that decided the outcome

	Echo *Echo `json:"echo,omitempty"`
	TCP  *TCP  `json:"tcp,omitempty"`
	TLS  *TLS  `json:"tls,omitempty"`
	HTTP *HTTP `json:"http,omitempty"`
	DNS  *DNS  `json:"dns,omitempty"`
	Path *Path `json:"path,omitempty"`
	MTU  *MTU  `json:"mtu,omitempty"`
	ARP  *ARP  `json:"arp,omitempty"`
}

// RTT is a round-trip time with the clock it came from and its error bar.
type RTT struct {
	Value sample.Duration `json:"value_s"`
	Error sample.Duration `json:"error_s"` // the true value lies within ± Error
	Clock string          `json:"clock"`   // kernel | user | hardware | tcp_info
}

// Phase is a part of a measurement, in the order resolve, connect, tls, request, first_byte, body.
type Phase struct {
	Name     string          `json:"name"`
	Duration sample.Duration `json:"duration_s"`
}

// PhaseNamed returns the duration of a phase and whether it was measured.
func (r Result) PhaseNamed(name string) (sample.Duration, bool) {
	for _, p := range r.Phases {
		if p.Name == name {
			return p.Duration, true
		}
	}
	return 0, false
}

// ICMPError is an ICMP error message that reached us about our own packet.
type ICMPError struct {
	From netip.Addr `json:"from"` // who sent it
	Type uint8      `json:"type"`
	Code uint8      `json:"code"`
	Text string     `json:"text"`          // "communication administratively prohibited"
	MTU  int        `json:"mtu,omitempty"` // next-hop MTU of frag-needed / packet too big
}

// Echo is a series of ICMP echo requests.
type Echo struct {
	Sent       int               `json:"sent"`
	Received   int               `json:"received"` // distinct, in time, intact
	Duplicates int               `json:"duplicates,omitempty"`
	Late       int               `json:"late,omitempty"`        // after the timeout; counted as lost
	Corrupt    int               `json:"corrupt,omitempty"`     // payload differs from what was sent
	SendErrors int               `json:"send_errors,omitempty"` // never left this host: not loss
	Size       int               `json:"size_bytes"`            // whole IP packet
	DF         bool              `json:"df,omitempty"`
	ReplyTTL   int               `json:"reply_ttl,omitempty"` // of the last reply
	RTTs       []sample.Duration `json:"rtts_s,omitempty"`    // in send order, received ones only
	Lost       []int             `json:"lost,omitempty"`      // indices of lost probes, in send order
	Via        netip.Addr        `json:"via,omitzero"`        // next hop forced by a raw frame, when one was
}

// Loss is lost/(sent without send errors); 0 when nothing was sent.
func (e Echo) Loss() float64 {
	n := e.Sent - e.SendErrors
	if n <= 0 {
		return 0
	}
	return float64(n-e.Received) / float64(n)
}

// TCP is a series of connects to one address and port.
type TCP struct {
	Attempts   int               `json:"attempts"`
	Connected  int               `json:"connected"`
	Refused    int               `json:"refused,omitempty"`
	TimedOut   int               `json:"timed_out,omitempty"`
	SYNRetrans int               `json:"syn_retransmissions"` // all attempts together
	Retried    int               `json:"retried"`             // attempts that needed at least one SYN retransmission
	Connects   []sample.Duration `json:"connect_s,omitempty"` // time to connection or refusal, in order of the attempts answered
	Slow       int               `json:"slow,omitempty"`      // answered attempts that took 0.9 s or more
	MinRTT     sample.Duration   `json:"min_rtt_s,omitempty"` // TCP_INFO
	MSS        int               `json:"mss,omitempty"`       // TCP_INFO snd_mss
	LocalPort  uint16            `json:"local_port,omitempty"`
	ResetAfter int               `json:"reset_after_connect,omitempty"` // of Connected: reset by the peer right after the handshake
}

// TLS is what a handshake showed.
type TLS struct {
	Version     string          `json:"version,omitempty"` // TLS 1.3
	CipherSuite string          `json:"cipher_suite,omitempty"`
	ALPN        string          `json:"alpn,omitempty"`
	ServerName  string          `json:"server_name,omitempty"` // SNI sent
	Handshake   sample.Duration `json:"handshake_s"`
	ConnectRTT  sample.Duration `json:"connect_rtt_s,omitempty"` // TCP connect time of the same connection: one round trip
	Resumed     bool            `json:"resumed,omitempty"`
	OCSPStapled bool            `json:"ocsp_stapled,omitempty"`
	Chain       []Certificate   `json:"chain,omitempty"`        // as sent, leaf first
	Verified    bool            `json:"verified"`               // chain, time and name are all good
	Problem     string          `json:"problem,omitempty"`      // expired | not_yet_valid | name_mismatch | untrusted | "" — the first that applies
	ProblemCert int             `json:"problem_cert,omitempty"` // index in Chain the problem is about
	ProblemText string          `json:"problem_text,omitempty"` // the verifier's own words
	Alert       string          `json:"alert,omitempty"`        // TLS alert received
}

// Certificate is one of a chain.
type Certificate struct {
	Subject    string    `json:"subject"`
	Issuer     string    `json:"issuer"`
	Names      []string  `json:"names,omitempty"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	SHA256     string    `json:"sha256"`
	SelfSigned bool      `json:"self_signed,omitempty"`
	CA         bool      `json:"ca,omitempty"`
}

// HTTP is one request with its redirects followed.
type HTTP struct {
	URL       string            `json:"url"`              // the last one asked
	Proto     string            `json:"proto,omitempty"`  // HTTP/1.1, HTTP/2.0, HTTP/3.0
	Status    int               `json:"status,omitempty"` // of the last response
	Redirects []Redirect        `json:"redirects,omitempty"`
	Loop      bool              `json:"redirect_loop,omitempty"`
	Bytes     int64             `json:"body_bytes"`
	Truncated bool              `json:"body_truncated,omitempty"` // we stopped reading at our own limit
	Date      time.Time         `json:"date,omitzero"`            // the server's clock, from its Date header
	AltSvcH3  string            `json:"alt_svc_h3,omitempty"`     // advertised HTTP/3 authority (host:port), "" if none
	Server    string            `json:"server,omitempty"`
	Header    map[string]string `json:"header,omitempty"`  // a few that matter (cache, via, retry-after, location)
	Repeats   []HTTPRepeat      `json:"repeats,omitempty"` // all requests of the series, the first included
}

// HTTPRepeat is one request of a series to the same URL.
type HTTPRepeat struct {
	Status    int             `json:"status,omitempty"`
	FirstByte sample.Duration `json:"first_byte_s,omitempty"` // from request sent to first response byte
	Total     sample.Duration `json:"total_s"`
	Detail    string          `json:"detail,omitempty"` // error, when there was no status
}

// Redirect is one step.
type Redirect struct {
	From    string          `json:"from"`
	Status  int             `json:"status"`
	To      string          `json:"to"`
	Elapsed sample.Duration `json:"elapsed_s,omitempty"` // the whole step: resolve to the end of the response header
}

// DNS is one question to one server.
type DNS struct {
	Server      string            `json:"server"`    // address:port
	Transport   string            `json:"transport"` // udp | tcp
	Name        string            `json:"name"`
	Type        string            `json:"type"`            // A, AAAA, …
	Rcode       string            `json:"rcode,omitempty"` // NOERROR, NXDOMAIN, SERVFAIL, …
	Flags       []string          `json:"flags,omitempty"` // qr aa tc rd ra ad cd
	Answers     []DNSRecord       `json:"answers,omitempty"`
	Authority   []DNSRecord       `json:"authority,omitempty"`
	Size        int               `json:"size_bytes,omitempty"` // of the response message
	EDNS        bool              `json:"edns,omitempty"`       // the response carried an OPT record
	EDNSSize    int               `json:"edns_size,omitempty"`
	NSID        string            `json:"nsid,omitempty"`
	EDE         []string          `json:"ede,omitempty"` // extended errors, RFC 8914: "22 No Reachable Authority: …"
	Tries       int               `json:"tries"`
	Lost        int               `json:"lost,omitempty"`        // tries without an answer
	Times       []sample.Duration `json:"times_s,omitempty"`     // each answered try
	Intercepted bool              `json:"intercepted,omitempty"` // answered from another address than asked
	TCPRetry    bool              `json:"tcp_retry,omitempty"`   // the answer over UDP was truncated and asked for again over TCP; Flags keep tc
	NoEDNS      bool              `json:"no_edns,omitempty"`     // the server rejected EDNS (FORMERR, NOTIMP, BADVERS) and was asked again without
	LocalPort   uint16            `json:"local_port,omitempty"`
}

// DNSRecord is a resource record as text.
type DNSRecord struct {
	Name string `json:"name"`
	Type string `json:"type"`
	TTL  uint32 `json:"ttl"`
	Data string `json:"data"`
}

// Path is a TTL-stepped trace to one address.
type Path struct {
	Protocol string `json:"protocol"` // icmp | udp | tcp
	Port     uint16 `json:"port,omitempty"`
	Reached  bool   `json:"reached"`           // the target itself answered
	Hops     []Hop  `json:"hops"`              // index 0 is TTL 1; silent hops have no Address
	LoopAt   int    `json:"loop_at,omitempty"` // TTL of the first address that comes a second time with another between; 0: none
}

// Hop is one TTL.
type Hop struct {
	TTL       int               `json:"ttl"`
	Address   netip.Addr        `json:"address,omitzero"`
	Others    []netip.Addr      `json:"others,omitempty"` // further addresses that answered at this TTL
	Sent      int               `json:"sent"`
	Received  int               `json:"received"`
	RTTs      []sample.Duration `json:"rtts_s,omitempty"`
	Target    bool              `json:"target,omitempty"`      // it is the target
	Unreach   *ICMPError        `json:"unreachable,omitempty"` // an unreachable other than time exceeded
	QuotedTTL int               `json:"quoted_ttl,omitempty"`  // TTL in the quoted header; 1 is usual
	QuotedTOS int               `json:"quoted_tos,omitempty"`
	ReplyTTL  int               `json:"reply_ttl,omitempty"`
	MPLS      []string          `json:"mpls,omitempty"`
}

// BestRTT is the smallest round trip at a hop; ok is false for a silent one.
func (h Hop) BestRTT() (d sample.Duration, ok bool) {
	for _, r := range h.RTTs {
		if !ok || r < d {
			d, ok = r, true
		}
	}
	return d, ok
}

// MTU is a search for the largest packet that reaches an address.
type MTU struct {
	LinkMTU     int        `json:"link_mtu"`        // of the outgoing interface or route
	Works       int        `json:"works"`           // largest IP packet size in bytes that was answered; 0: none
	Fails       int        `json:"fails,omitempty"` // smallest size that was not
	Signalled   bool       `json:"signalled"`       // somebody sent frag-needed / packet too big
	By          netip.Addr `json:"by,omitzero"`     // who did
	SignalMTU   int        `json:"signal_mtu,omitempty"`
	LastGood    netip.Addr `json:"last_good,omitzero"` // last hop on the path that answers full-size packets
	LastGoodTTL int        `json:"last_good_ttl,omitempty"`
	FirstBad    netip.Addr `json:"first_bad,omitzero"` // first hop that does not (though it answers small ones)
	FirstBadTTL int        `json:"first_bad_ttl,omitempty"`
	Tries       int        `json:"tries"` // probes per size
}

// ARP is who answered for an on-link address.
type ARP struct {
	Interface string   `json:"interface"`
	MACs      []string `json:"macs,omitempty"` // all that answered, in order of arrival
	Own       bool     `json:"own,omitempty"`  // the address is this host's: any answer is a conflict
	Sent      int      `json:"sent"`
}
