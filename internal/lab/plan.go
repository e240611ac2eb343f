package lab

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// wireNode is the namespace that holds the far ends of emulated links.
const wireNode = "wire"

// bridgeName is the bridge device of a node of type bridge.
const bridgeName = "br0"

// Op is what a step does.
type Op string

// The operations, in the order in which a plan has them.
const (
	OpNamespace    Op = "namespace"     // make the network namespace of Node, with Sysctls
	OpBridge       Op = "bridge"        // make br0 in Node
	OpVeth         Op = "veth"          // make a pair: Node/Iface to PeerNode/PeerIface
	OpTap          Op = "tap"           // make a TAP, held by the emulator
	OpEmulate      Op = "emulate"       // join the far ends of link number Link
	OpPort         Op = "port"          // make Iface a port of br0
	OpEthtool      Op = "ethtool"       // speed, duplex, features of End
	OpAddress      Op = "address"       // give Prefix to Iface
	OpUp           Op = "up"            // set Iface up
	OpSysctls      Op = "sysctls"       // those of the file
	OpDown         Op = "down"          // set Iface administratively down
	OpCarrierOff   Op = "carrier_off"   // pull the cable of Iface
	OpInject       Op = "inject"        // count receive errors on Iface
	OpNeighbour    Op = "neighbour"     // static entry
	OpRoute        Op = "route"         //
	OpRule         Op = "rule"          //
	OpNft          Op = "nft"           // load a ruleset
	OpTc           Op = "tc"            // run tc
	OpGlobalSysctl Op = "global_sysctl" // change Key outside of all namespaces, noted for restoring
	OpReady        Op = "ready"         // wait until links have carrier
	OpService      Op = "service"       // start service number Service
)

// Step is one thing to do when a network is built. Which fields are set depends
// on Op.
type Step struct {
	Op                  Op
	Node, Iface         string
	PeerNode, PeerIface string
	MAC, PeerMAC        net.HardwareAddr
	MTU, PeerMTU        int // bytes
	End                 *End
	Link                int // index into Scenario.Links
	Prefix              netip.Prefix
	Sysctls             []Sysctl
	Key, Value          string
	Route               *Route
	Rule                *PolicyRule
	Neighbour           *StaticNeighbour
	Text                string // nft ruleset, tc arguments
	Service             int    // index into Scenario.Services
}

// Sysctl is one setting. Optional ones may be missing from the kernel.
type Sysctl struct {
	Key, Value string
	Optional   bool
}

// String says the step as one line, near to how a person would type it.
func (s Step) String() string {
	where := s.Node
	if s.Iface != "" {
		where += "/" + s.Iface
	}
	switch s.Op {
	case OpVeth:
		return fmt.Sprintf("veth %s %s — %s/%s %s", where, s.MAC, s.PeerNode, s.PeerIface, s.PeerMAC)
	case OpTap:
		return fmt.Sprintf("tap %s %s", where, s.MAC)
	case OpEmulate:
		return fmt.Sprintf("emulate link %d", s.Link+1)
	case OpAddress:
		return fmt.Sprintf("address %s %s", where, s.Prefix)
	case OpNeighbour:
		return fmt.Sprintf("neighbour %s %s", where, s.Neighbour.Text)
	case OpRoute:
		return fmt.Sprintf("route %s %s", where, s.Route.Text)
	case OpRule:
		return fmt.Sprintf("rule %s %s", where, s.Rule.Text)
	case OpTc:
		return fmt.Sprintf("tc %s %s", where, s.Text)
	case OpGlobalSysctl:
		return fmt.Sprintf("global_sysctl %s=%s", s.Key, s.Value)
	case OpService:
		return fmt.Sprintf("service %d on %s", s.Service+1, where)
	}
	return string(s.Op) + " " + where
}

// Plan is all that building a network takes, in order.
type Plan struct {
	Nodes []string // namespaces, the wire last when there is one
	Steps []Step
	Needs []string // programs and kernel features, see knownNeeds
}

// NewPlan says how to build the network. It is pure; s must come from Decode.
func NewPlan(s *Scenario) Plan {
	p := Plan{Nodes: slices.Sorted(maps.Keys(s.Nodes))}
	for _, n := range p.Nodes {
		p.add(Step{Op: OpNamespace, Node: n, Sysctls: s.Nodes[n].baseSysctls()})
	}
	if slices.ContainsFunc(s.Links, func(l *Link) bool { return s.isEmulated(l) && l.Type == "veth" }) {
		p.Nodes = append(p.Nodes, wireNode)
		p.add(Step{Op: OpNamespace, Node: wireNode, Sysctls: wireSysctls})
	}
	p.planLinks(s)
	for _, name := range p.Nodes {
		if n := s.Nodes[name]; n != nil {
			p.planNode(s, name, n)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.GlobalSysctls)) {
		p.add(Step{Op: OpGlobalSysctl, Key: k, Value: s.GlobalSysctls[k]})
	}
	p.add(Step{Op: OpReady})
	for i, v := range s.Services {
		if v.At == nil {
			p.add(Step{Op: OpService, Node: v.Node, Service: i})
		}
	}
	p.Needs = s.allNeeds()
	return p
}

func (p *Plan) add(s Step) { p.Steps = append(p.Steps, s) }

// isEmulated reports whether a link goes through the emulator.
func (s *Scenario) isEmulated(l *Link) bool {
	if l.Emulated || l.Impair != nil || l.Type == "tap" || noCarrier(&l.A) || noCarrier(&l.B) {
		return true
	}
	isOurs := func(iface string) bool { return iface == l.A.Iface || iface == l.B.Iface }
	return slices.ContainsFunc(s.Actions, func(a *Action) bool {
		return isOurs(a.Iface) && (a.Do == "impair" || a.Do == "carrier_off" || a.Do == "carrier_on")
	}) || slices.ContainsFunc(s.Services, func(v *Service) bool { return v.Type == svcFlap && isOurs(v.Iface) })
}

func noCarrier(e *End) bool { return e.Carrier != nil && !*e.Carrier }

// planLinks makes all devices, then their settings.
func (p *Plan) planLinks(s *Scenario) {
	for _, name := range p.Nodes {
		if n := s.Nodes[name]; n != nil && n.Type == TypeBridge {
			p.add(Step{Op: OpBridge, Node: name, Iface: bridgeName, MAC: deriveMAC(s.Name, name, bridgeName)})
		}
	}
	for i, l := range s.Links {
		a, b := s.device(&l.A), s.device(&l.B)
		a.Link, b.Link = i, i
		switch {
		case !s.isEmulated(l):
			a.Op, a.PeerNode, a.PeerIface, a.PeerMAC, a.PeerMTU = OpVeth, b.Node, b.Iface, b.MAC, b.MTU
			p.add(a)
			continue
		case l.Type == "tap":
			a.Op, b.Op = OpTap, OpTap
		default:
			a.Op, a.PeerNode, a.PeerIface, a.PeerMTU = OpVeth, wireNode, wireName(i, true), 65535
			b.Op, b.PeerNode, b.PeerIface, b.PeerMTU = OpVeth, wireNode, wireName(i, false), 65535
		}
		p.add(a)
		p.add(b)
		p.add(Step{Op: OpEmulate, Link: i})
	}
	for _, l := range s.Links {
		for _, e := range []*End{&l.A, &l.B} {
			p.planEnd(s, e)
		}
	}
}

// wireName is the name of the far end of an emulated link in the wire namespace.
func wireName(link int, a bool) string {
	if a {
		return fmt.Sprintf("w%da", link)
	}
	return fmt.Sprintf("w%db", link)
}

func (s *Scenario) device(e *End) Step {
	node, iface, _ := strings.Cut(e.Iface, "/")
	mac, err := parseMAC(e.MAC)
	if err != nil {
		mac = deriveMAC(s.Name, node, iface)
	}
	return Step{Node: node, Iface: iface, MAC: mac, MTU: e.MTU, End: e}
}

// deriveMAC gives a locally administered address that is the same in every run.
func deriveMAC(parts ...string) net.HardwareAddr {
	h := sha256.Sum256([]byte(strings.Join(parts, "/")))
	return net.HardwareAddr{0x02, 0xfa, h[0], h[1], h[2], h[3]}
}

// planEnd finishes one interface: bridge port or addresses, then up.
func (p *Plan) planEnd(s *Scenario, e *End) {
	node, iface, _ := strings.Cut(e.Iface, "/")
	st := Step{Node: node, Iface: iface, End: e}
	do := func(op Op) { st.Op = op; p.add(st) }
	if s.Nodes[node].Type == TypeBridge {
		do(OpPort)
	}
	if e.Ethtool != nil {
		do(OpEthtool)
	}
	for _, a := range e.Addresses {
		st.Prefix = a
		do(OpAddress)
	}
	st.Prefix = netip.Prefix{}
	if e.Up == nil || *e.Up {
		do(OpUp)
	} else {
		do(OpDown)
	}
	if noCarrier(e) {
		do(OpCarrierOff)
	}
	if e.Inject != nil {
		do(OpInject)
	}
}

func (p *Plan) planNode(s *Scenario, name string, n *Node) {
	for _, a := range n.Loopback {
		p.add(Step{Op: OpAddress, Node: name, Iface: "lo", Prefix: a})
	}
	p.add(Step{Op: OpUp, Node: name, Iface: "lo"})
	if n.Type == TypeBridge {
		for _, a := range n.Addresses {
			p.add(Step{Op: OpAddress, Node: name, Iface: bridgeName, Prefix: a})
		}
		p.add(Step{Op: OpUp, Node: name, Iface: bridgeName})
	}
	if len(n.Sysctls) > 0 {
		var list []Sysctl
		for _, k := range slices.Sorted(maps.Keys(n.Sysctls)) {
			list = append(list, Sysctl{Key: k, Value: n.Sysctls[k]})
		}
		p.add(Step{Op: OpSysctls, Node: name, Sysctls: list})
	}
	for _, t := range n.Neighbours {
		if v, err := ParseNeighbour(t); err == nil {
			p.add(Step{Op: OpNeighbour, Node: name, Neighbour: &v})
		}
	}
	for _, t := range n.Routes {
		if r, err := ParseRoute(t); err == nil {
			p.add(Step{Op: OpRoute, Node: name, Route: &r})
		}
	}
	for _, t := range n.Rules {
		if r, err := ParseRule(t); err == nil {
			p.add(Step{Op: OpRule, Node: name, Rule: &r})
		}
	}
	if n.Nft != "" {
		p.add(Step{Op: OpNft, Node: name, Text: n.Nft})
	}
	for _, l := range s.Links {
		for _, e := range []*End{&l.A, &l.B} {
			if owner, _, _ := strings.Cut(e.Iface, "/"); owner == name {
				for _, t := range e.Tc {
					p.add(Step{Op: OpTc, Node: name, Text: t})
				}
			}
		}
	}
}

// wireSysctls keep the kernel from sending anything of its own on the wire.
var wireSysctls = []Sysctl{
	{"net.ipv6.conf.all.disable_ipv6", "1", true},
	{"net.ipv6.conf.default.disable_ipv6", "1", true},
}

// baseSysctls are what every node gets before it has interfaces.
func (n *Node) baseSysctls() []Sysctl {
	ping, _ := pingRange(n.PingGroup)
	forward, v6off := "0", "0"
	if n.Type == TypeRouter {
		forward = "1"
	}
	if n.Type == TypeBridge || n.IPv6 != nil && !*n.IPv6 {
		v6off = "1"
	}
	out := []Sysctl{
		{"net.ipv4.ping_group_range", ping, false},
		{"net.ipv4.icmp_ratelimit", "0", true},
		{"net.ipv4.icmp_msgs_per_sec", "100000", true}, // per namespace since Linux 6.11 or so; absent or read-only before
		{"net.ipv4.icmp_msgs_burst", "10000", true},
		{"net.ipv6.icmp.ratelimit", "0", true},
		{"net.ipv4.ip_forward", forward, false},
		{"net.ipv6.conf.all.forwarding", forward, true},
		{"net.ipv6.conf.default.forwarding", forward, true},
	}
	for _, which := range []string{"all", "default"} {
		out = append(out,
			Sysctl{"net.ipv4.conf." + which + ".rp_filter", "0", false},
			Sysctl{"net.ipv4.conf." + which + ".send_redirects", boolText(n.Type != TypeRouter), false},
			Sysctl{"net.ipv6.conf." + which + ".accept_dad", "0", true},
			Sysctl{"net.ipv6.conf." + which + ".dad_transmits", "0", true},
			Sysctl{"net.ipv6.conf." + which + ".accept_ra", "0", true},
			Sysctl{"net.ipv6.conf." + which + ".router_solicitations", "0", true},
			Sysctl{"net.ipv6.conf." + which + ".use_tempaddr", "0", true},
			Sysctl{"net.ipv6.conf." + which + ".keep_addr_on_down", "1", true},
			Sysctl{"net.ipv6.conf." + which + ".disable_ipv6", v6off, true},
		)
	}
	if v6off == "1" { // lo exists already, and has its own copy
		out = append(out, Sysctl{"net.ipv6.conf.lo.disable_ipv6", "1", true})
	}
	return out
}

func boolText(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// allNeeds adds to what the file says what it evidently uses.
func (s *Scenario) allNeeds() []string {
	needs := slices.Clone(s.Needs)
	use := func(b bool, what string) {
		if b && !slices.Contains(needs, what) {
			needs = append(needs, what)
		}
	}
	for _, n := range s.Nodes {
		use(n.Nft != "", "nft")
		use(n.Type == TypeBridge, "bridge")
	}
	for _, l := range s.Links {
		use(l.Type == "tap", "tun")
		use(len(l.A.Tc)+len(l.B.Tc) > 0, "tc")
	}
	for _, a := range s.Actions {
		use(a.Do == "nft" || a.Do == "tc" || a.Do == "ip", a.Do)
	}
	slices.Sort(needs)
	return needs
}

// Event is something that is to happen at a time of fathom's clock.
type Event struct {
	At      time.Duration // 0: fathom starts
	Action  *Action       // or
	Service int           // start of this service, when Action is nil
}

// timeline lists all timed events in order; those of one instant stay in the
// order of the file, services first.
func (s *Scenario) timeline() []Event {
	var out []Event
	for i, v := range s.Services {
		if v.At != nil {
			out = append(out, Event{At: v.At.Std(), Service: i})
		}
	}
	for _, a := range s.Actions {
		for n := range max(a.Times, 1) {
			out = append(out, Event{At: a.At.Std() + time.Duration(n)*a.Every.Std(), Action: a})
		}
	}
	slices.SortStableFunc(out, func(x, y Event) int { return int(x.At - y.At) })
	return out
}

// lead is how long before fathom's start the clock of events begins.
func (s *Scenario) lead(events []Event) time.Duration {
	d := s.Settle.Std()
	if len(events) > 0 {
		d = max(d, -events[0].At)
	}
	return d
}
