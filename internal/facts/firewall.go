package facts

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Packet5 is a packet as a firewall rule sees it. Zero fields are unknown,
// and a rule that asks for them cannot be decided.
type Packet5 struct {
	Family       int        // 4 | 6
	Proto        string     // tcp | udp | icmp | icmpv6 | decimal
	Src, Dst     netip.Addr // unset: unknown
	SPort, DPort uint16     // 0: unknown
	IIF, OIF     string     // "" where the hook has none (oif at input), or unknown
	CTState      string     // new | established | related | invalid; "": unknown
	ICMPType     int        // meaningful for Proto icmp and icmpv6; -1 unknown
	Length       int        // of the IP packet in bytes; 0: unknown
}

// FWVerdict is what a ruleset does with a packet, and the rule that decides.
type FWVerdict struct {
	Outcome string `json:"outcome"`        // accept | drop | reject | maybe (only some packets) | unknown
	Chain   string `json:"chain"`          // inet filter output; "" when no chain is there
	Rule    string `json:"rule,omitempty"` // its text; "policy drop" when the chain's policy decided
	Handle  uint64 `json:"handle,omitempty"`
	Packets uint64 `json:"packets,omitempty"` // its counter, when Counted
	Counted bool   `json:"counted,omitempty"`
}

// The outcomes of FWVerdict.
const (
	FWAccept  = "accept"
	FWDrop    = "drop"
	FWReject  = "reject"
	FWMaybe   = "maybe"
	FWUnknown = "unknown"
)

// maxJumps is NFT_JUMP_STACK_SIZE of the kernel; maxFWSteps keeps a ruleset
// whose chains call each other many times from costing more than milliseconds.
const (
	maxJumps   = 16
	maxFWSteps = 100_000
)

// Verdict walks the base chains of a hook (input, output, forward, prerouting,
// postrouting) in the order of their priorities as nf_tables does. A drop or
// reject is final, an accept only ends its own chain. A rule that hits some
// packets only, or that was not understood, is a doubt: the outcome is maybe or
// unknown, unless the chain would do the same without that rule. An accept is
// unknown while the host also has legacy iptables tables, which are not read.
func (f *Firewall) Verdict(hook string, p Packet5) FWVerdict {
	if f == nil {
		return FWVerdict{Outcome: FWUnknown}
	}
	p.Src, p.Dst = p.Src.Unmap(), p.Dst.Unmap()
	e := fwEval{f: f, p: p, chains: map[string]*FWChain{}}
	for i := range f.Chains {
		e.chains[chainKey(&f.Chains[i], f.Chains[i].Name)] = &f.Chains[i]
	}
	out := FWVerdict{Outcome: FWAccept}
	for _, c := range f.baseChains(hook, p) {
		v := e.base(c)
		switch {
		case v.Outcome == FWDrop || v.Outcome == FWReject:
			return v
		case out.Outcome == FWAccept:
			out = v
		}
	}
	if out.Outcome == FWAccept && len(f.Legacy) > 0 {
		return FWVerdict{Outcome: FWUnknown, Rule: "legacy iptables tables are not read: " + strings.Join(f.Legacy, ", ")}
	}
	return out
}

func (f *Firewall) baseChains(hook string, p Packet5) []*FWChain {
	var out []*FWChain
	for i := range f.Chains {
		c := &f.Chains[i]
		family := c.Family == "inet" || c.Family == "ip" && p.Family == 4 || c.Family == "ip6" && p.Family == 6
		// Conntrack gives nat chains only the first packet of a connection.
		if c.Hook != hook || !family || c.Type == "nat" && (p.CTState == "established" || p.CTState == "related") {
			continue
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b *FWChain) int { return cmp.Compare(a.Priority, b.Priority) })
	return out
}

type fwEval struct {
	f         *Firewall
	p         Packet5
	chains    map[string]*FWChain
	steps     int
	rewritten *FWVerdict  // a rule that changed the addresses: what follows is evaluated for a packet we do not know
	doubts    []FWVerdict // of the base chain being walked; Outcome is what the doubtful rule would do
	kinds     []string    // FWMaybe or FWUnknown, for each doubt
}

func chainKey(c *FWChain, name string) string { return c.Family + " " + c.Table + " " + name }

func verdictOf(c *FWChain, r *FWRule, outcome string) FWVerdict {
	return FWVerdict{Outcome: outcome, Chain: chainKey(c, c.Name), Rule: r.Text, Handle: r.Handle, Packets: r.Packets, Counted: r.Counted}
}

// base walks a base chain and weighs its doubts against the certain end.
func (e *fwEval) base(c *FWChain) FWVerdict {
	e.doubts, e.kinds = nil, nil
	if e.rewritten != nil {
		v := *e.rewritten
		v.Outcome = FWUnknown
		// The chain still sees the packet, with other addresses: only an empty one is sure.
		if len(c.Rules) > 0 || c.Policy == FWDrop {
			return v
		}
	}
	end, done := e.walk(c, 0, "")
	if !done {
		end = FWVerdict{Outcome: FWAccept, Chain: chainKey(c, c.Name), Rule: "policy accept"}
		if c.Policy == FWDrop {
			end.Outcome, end.Rule = FWDrop, "policy drop"
		}
	}
	for i, d := range e.doubts {
		if d.Outcome != end.Outcome {
			d.Outcome = e.kinds[i]
			return d
		}
	}
	return end
}

// walk goes through the rules of a chain. doubt is "" or why it is not certain
// that the packet comes here at all. done is false when the packet leaves at
// the end or by return.
func (e *fwEval) walk(c *FWChain, depth int, doubt string) (v FWVerdict, done bool) {
	for i := range c.Rules {
		r := &c.Rules[i]
		if e.steps++; e.steps > maxFWSteps {
			return verdictOf(c, r, FWUnknown), true
		}
		hit := e.rule(r)
		if hit == fwNo || r.Verdict == "" && !r.Opaque && r.Rewrite == "" {
			continue
		}
		here := doubt
		switch {
		case hit == fwUnknown:
			here = FWUnknown
		case hit == fwMaybe && here == "":
			here = FWMaybe
		}
		if v, stop, done := e.apply(c, r, depth, here); stop {
			return v, done
		}
	}
	return v, false
}

// apply does what a rule says that hits, or may hit when doubt is not "". stop
// ends the walk of this chain.
func (e *fwEval) apply(c *FWChain, r *FWRule, depth int, doubt string) (v FWVerdict, stop, done bool) {
	verb, name, _ := strings.Cut(r.Verdict, " ")
	switch verb {
	case FWAccept, FWDrop, FWReject:
		v = verdictOf(c, r, verb)
	case "queue": // a program in user space decides
		v = verdictOf(c, r, FWUnknown)
	case "":
		if !r.Opaque {
			return v, false, false
		}
		v = verdictOf(c, r, FWUnknown) // what was not understood may be the verdict
	case "return":
		if doubt == "" {
			return v, true, false
		}
		// Perhaps nothing of what follows in this chain counts: to know, one
		// would have to walk on twice. It is named as unknown.
		v = verdictOf(c, r, FWUnknown)
	case "jump", "goto":
		v, done = e.call(c, r, name, depth, doubt)
		if doubt == "" && (done || verb == "goto") {
			return v, true, done
		}
		if !done {
			return v, false, false
		}
	default:
		v = verdictOf(c, r, FWUnknown)
	}
	if doubt != "" {
		e.doubts, e.kinds = append(e.doubts, v), append(e.kinds, doubt)
		return v, false, false
	}
	if r.Rewrite == "dnat" || r.Rewrite == "redirect" || r.Rewrite == "tproxy" || r.Rewrite == "snat" || r.Rewrite == "masquerade" {
		e.rewritten = &v
	}
	return v, true, true
}

func (e *fwEval) call(c *FWChain, r *FWRule, name string, depth int, doubt string) (FWVerdict, bool) {
	target, ok := e.chains[chainKey(c, name)]
	if !ok || depth >= maxJumps {
		return verdictOf(c, r, FWUnknown), true
	}
	return e.walk(target, depth+1, doubt)
}

type fwHit int

const (
	fwNo fwHit = iota
	fwYes
	fwMaybe   // hits only some packets
	fwUnknown // not understood, or asks for what we do not know of the packet
)

// rule decides whether a rule hits. One condition that fails is enough for a
// no, whatever the others are: they are all needed.
func (e *fwEval) rule(r *FWRule) fwHit {
	hit := fwYes
	for _, m := range r.Matches {
		switch e.match(m) {
		case fwNo:
			return fwNo
		case fwUnknown:
			hit = fwUnknown
		}
	}
	switch {
	case hit == fwUnknown || r.Opaque:
		return fwUnknown
	case r.Partial:
		return fwMaybe
	}
	return hit
}
