package lab

import (
	"net/netip"
	"time"

	"fathom/internal/lab/emulator"
	"fathom/internal/lab/service"
)

// Scenario is one network with its fault (or without) and the verdict that is
// expected of fathom. docs/lab.md describes every key.
type Scenario struct {
	Name          string            `yaml:"name"`
	Title         string            `yaml:"title"`
	Story         string            `yaml:"story"`
	Kind          Kind              `yaml:"kind"`
	Tags          []string          `yaml:"tags"`
	RootOnly      bool              `yaml:"root_only"`
	Exclusive     bool              `yaml:"exclusive"`
	GlobalSysctls map[string]string `yaml:"global_sysctls"`
	Needs         []string          `yaml:"needs"`
	Nodes         map[string]*Node  `yaml:"nodes"`
	Links         []*Link           `yaml:"links"`
	Services      []*Service        `yaml:"services"`
	Actions       []*Action         `yaml:"actions"`
	Files         map[string]string `yaml:"files"`
	Settle        Duration          `yaml:"settle"`
	User          string            `yaml:"user"`
	Ask           Asks              `yaml:"ask"`
	Expect        *Expect           `yaml:"expect"`

	Path string `yaml:"-"` // the file it came from, "" when decoded from memory
}

// Kind says whether a scenario is broken.
type Kind string

// The kinds of scenario.
const (
	Fault   Kind = "fault"
	Healthy Kind = "healthy"
)

// HostNode is the node in which fathom runs.
const HostNode = "host"

// The types of node.
const (
	TypeHost   = "host"
	TypeRouter = "router"
	TypeBridge = "bridge"
)

// Node is one machine of the network: a network namespace.
type Node struct {
	Type       string            `yaml:"type"`
	Loopback   []netip.Prefix    `yaml:"loopback"`
	Addresses  []netip.Prefix    `yaml:"addresses"` // of br0, bridges only
	Routes     []string          `yaml:"routes"`
	Rules      []string          `yaml:"rules"`
	Neighbours []string          `yaml:"neighbours"`
	Sysctls    map[string]string `yaml:"sysctls"`
	Nft        string            `yaml:"nft"`
	PingGroup  string            `yaml:"ping_group"`
	ResolvConf *ResolvConf       `yaml:"resolv_conf"`
	Hosts      []string          `yaml:"hosts"`
	Nsswitch   string            `yaml:"nsswitch"`
	Trust      *bool             `yaml:"trust"`
	IPv6       *bool             `yaml:"ipv6"`

	line int
}

// TrustsCA reports whether programs in the node trust the lab's CA.
func (n *Node) TrustsCA() bool { return n.Trust == nil || *n.Trust }

// ResolvConf is a node's /etc/resolv.conf, by its parts or as raw text.
type ResolvConf struct {
	Nameservers []netip.Addr `yaml:"nameservers"`
	Search      []string     `yaml:"search"`
	Options     []string     `yaml:"options"`
	Raw         string       `yaml:"raw"`
}

// Link is a cable between two interfaces.
type Link struct {
	Type     string  `yaml:"type"` // veth | tap
	A        End     `yaml:"a"`
	B        End     `yaml:"b"`
	Impair   *Impair `yaml:"impair"`
	Emulated bool    `yaml:"emulated"`
	Seed     uint64  `yaml:"seed"`

	line int
}

// End is one interface of a link.
type End struct {
	Iface      string         `yaml:"iface"` // node/interface
	Addresses  []netip.Prefix `yaml:"addresses"`
	MAC        string         `yaml:"mac"`
	MTU        int            `yaml:"mtu"` // bytes
	Up         *bool          `yaml:"up"`
	Carrier    *bool          `yaml:"carrier"`
	TxQueueLen *int           `yaml:"txqueuelen"` // packets
	Ethtool    *Ethtool       `yaml:"ethtool"`
	Tc         []string       `yaml:"tc"`
	Inject     *Inject        `yaml:"inject"`

	line int
}

// Inject has a TAP count receive errors that never happened.
type Inject struct {
	Kind      emulator.ErrorKind `yaml:"kind"`
	PerSecond float64            `yaml:"per_second"`
}

// Ethtool are settings of the link layer.
type Ethtool struct {
	Speed    int               `yaml:"speed"`    // Mbit/s
	Duplex   string            `yaml:"duplex"`   // full | half
	Features map[string]string `yaml:"features"` // name → on | off
}

// Impair is what a link does to frames, per direction.
type Impair struct {
	Both *Direction `yaml:"both"`
	AtoB *Direction `yaml:"a_to_b"`
	BtoA *Direction `yaml:"b_to_a"`
}

// Direction is what happens to the frames of one direction.
type Direction struct {
	Delay       Duration         `yaml:"delay"`
	Jitter      Duration         `yaml:"jitter"`
	Loss        Percent          `yaml:"loss"`
	LossGilbert *Gilbert         `yaml:"loss_gilbert"`
	LossEvery   int              `yaml:"loss_every"` // frames
	LossBurst   *LossBurst       `yaml:"loss_burst"`
	Duplicate   Percent          `yaml:"duplicate"`
	Corrupt     Percent          `yaml:"corrupt"`
	Reorder     Percent          `yaml:"reorder"`
	Rate        Rate             `yaml:"rate"`
	Queue       int              `yaml:"queue"` // frames
	Police      emulator.Police  `yaml:"police"`
	MaxFrame    int              `yaml:"max_frame"` // bytes behind the Ethernet header
	Blackhole   bool             `yaml:"blackhole"`
	Classes     []emulator.Class `yaml:"classes"`

	line int
}

// Gilbert is the Gilbert-Elliott loss model: per frame, P is the chance of good
// turning bad, R of bad turning good; Good and Bad are the loss in each state.
type Gilbert struct {
	P    Percent  `yaml:"p"`
	R    Percent  `yaml:"r"`
	Good Percent  `yaml:"good"`
	Bad  *Percent `yaml:"bad"` // 100 % when not given
}

// LossBurst loses the first Packets of each Period, or all that come within For.
type LossBurst struct {
	Packets int      `yaml:"packets"`
	For     Duration `yaml:"for"`
	Period  Duration `yaml:"period"`
}

// Service is a server, or a load, on a node. Which keys apply depends on Type
// (serviceKeys).
type Service struct {
	Node    string         `yaml:"node"`
	Type    string         `yaml:"type"`
	Name    string         `yaml:"name"`
	At      *Duration      `yaml:"at"`
	Process string         `yaml:"process"`
	Listen  []netip.Addr   `yaml:"listen"`
	Port    int            `yaml:"port"`
	To      netip.AddrPort `yaml:"to"`

	// dns
	Authoritative bool       `yaml:"authoritative"`
	Zones         []string   `yaml:"zones"`
	Records       []string   `yaml:"records"`
	Faults        []DNSFault `yaml:"faults"`

	// http, https, http3
	Names          []string         `yaml:"names"`
	Certificate    string           `yaml:"certificate"`
	ValidDays      int              `yaml:"valid_days"`
	HandshakeDelay Duration         `yaml:"handshake_delay"`
	DateSkew       Duration         `yaml:"date_skew"`
	HTTP1Only      bool             `yaml:"http1_only"`
	HTTP3          bool             `yaml:"http3"`
	HTTP3Closed    bool             `yaml:"http3_closed"`
	AltSvc         string           `yaml:"alt_svc"`
	Page           `yaml:",inline"` // what is answered
	Paths          []PagePath       `yaml:"paths"`

	// tcp, udp
	Behaviour string `yaml:"behaviour"`
	Backlog   int    `yaml:"backlog"`
	Banner    string `yaml:"banner"`
	RcvBuf    int    `yaml:"rcvbuf"` // bytes

	// loads
	Count    int          `yaml:"count"`
	Max      int          `yaml:"max"`
	Every    Duration     `yaml:"every"`
	Down     Duration     `yaml:"down"`
	Protocol string       `yaml:"protocol"`
	Rate     Rate         `yaml:"rate"`
	Packet   int          `yaml:"packet"` // bytes
	Prefix   netip.Prefix `yaml:"prefix"`
	Iface    string       `yaml:"iface"`

	// Spec is anything else that package service can do.
	Spec *service.Spec `yaml:"spec"`

	line int
	keys []string // as written, to tell a key that does not apply
}

// Page is an HTTP answer.
type Page struct {
	Status         int               `yaml:"status"`
	BodyBytes      int               `yaml:"body_bytes"`
	FirstByteDelay Duration          `yaml:"first_byte_delay"`
	BodyRate       Rate              `yaml:"body_rate"`
	Redirect       string            `yaml:"redirect"`
	Headers        map[string]string `yaml:"headers"`
}

// PagePath is the answer for one path prefix.
type PagePath struct {
	Path string `yaml:"path"`
	Page `yaml:",inline"`
}

// DNSFault is a misbehaviour of a DNS server.
type DNSFault struct {
	Fault   string     `yaml:"fault"`
	Names   []string   `yaml:"names"`
	Types   []string   `yaml:"types"`
	Delay   Duration   `yaml:"delay"`
	Address netip.Addr `yaml:"address"`
	Percent *Percent   `yaml:"percent"`
	Bytes   int        `yaml:"bytes"`
}

// Action changes the network at a time of fathom's clock: 0 is its start.
type Action struct {
	At      Duration          `yaml:"at"`
	Every   Duration          `yaml:"every"`
	Times   int               `yaml:"times"`
	Do      string            `yaml:"do"`
	Iface   string            `yaml:"iface"`
	Node    string            `yaml:"node"`
	Impair  *Impair           `yaml:"impair"`
	Nft     string            `yaml:"nft"`
	Route   string            `yaml:"route"`
	Op      string            `yaml:"op"`
	Sysctls map[string]string `yaml:"sysctls"`
	Args    string            `yaml:"args"`
	Service string            `yaml:"service"`

	line int
	keys []string
}

// Asks are the questions put to fathom, one after the other.
type Asks []Ask

// Ask is one question.
type Ask struct {
	Args    []string          `yaml:"args"`
	User    string            `yaml:"user"`
	Env     map[string]string `yaml:"env"`
	Timeout Duration          `yaml:"timeout"`
	Expect  *Expect           `yaml:"expect"`

	line int
}

// Expect is the verdict that is right.
type Expect struct {
	Verdict         string `yaml:"verdict"`
	ExpectedFinding `yaml:",inline"`
	Also            []ExpectedFinding `yaml:"also"`
	Absent          []string          `yaml:"absent"`
	MaxSeconds      float64           `yaml:"max_seconds"`

	line int
}

// ExpectedFinding describes a finding: Subject and Location are text patterns
// (matchText).
type ExpectedFinding struct {
	Cause    string   `yaml:"cause"`
	AnyOf    []string `yaml:"any_of"`
	Subject  string   `yaml:"subject"`
	Location string   `yaml:"location"`
	Severity string   `yaml:"severity"`
	Optional bool     `yaml:"optional"`
}

// Causes are the ids that satisfy the expectation.
func (f ExpectedFinding) Causes() []string {
	if f.Cause != "" {
		return append([]string{f.Cause}, f.AnyOf...)
	}
	return f.AnyOf
}

// Findings lists all that is expected: the main finding, when there is one,
// and the further ones.
func (e *Expect) Findings() []ExpectedFinding {
	var out []ExpectedFinding
	if len(e.Causes()) > 0 {
		out = append(out, e.ExpectedFinding)
	}
	return append(out, e.Also...)
}

// Limit is the time to the verdict that is still good.
func (e *Expect) Limit() time.Duration { return time.Duration(e.MaxSeconds * float64(time.Second)) }
