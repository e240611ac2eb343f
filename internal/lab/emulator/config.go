// Package emulator is the lab's link: it joins two interface ends by a relay in
// user space and makes the link as bad as asked: delay, jitter, loss in patterns,
// duplicates, reordering, damage, a rate with a queue, a policer, black holes.
// It stands in for netem, which many kernels (cloud kernels, containers' hosts)
// do not have, works in an unprivileged user+network namespace, and does what
// netem cannot: change one flow of four, or one DSCP class.
//
// What becomes of a packet is decided by the pure part (shape.go, loss.go,
// match.go, frame.go), which knows neither sockets nor clocks and is tested in
// virtual time. relay_linux.go, port_linux.go and tap_linux.go move the bytes.
package emulator

import (
	"errors"
	"fmt"
	"time"

	"fathom/internal/lab/emulator/unit"
)

// Direction names one of the two ways through a Link.
type Direction int

// The two ways.
const (
	AtoB Direction = iota // frames that arrive at end A and leave by end B
	BtoA
)

// String gives "a>b" or "b>a".
func (d Direction) String() string {
	if d == AtoB {
		return "a>b"
	}
	return "b>a"
}

// Distribution is the shape of jitter.
type Distribution string

// The distributions of jitter.
const (
	Uniform Distribution = "uniform" // Delay ± Jitter; the default
	Normal  Distribution = "normal"  // mean Delay, standard deviation Jitter, cut at 4 of them and at 0
)

// Config is how one direction of a link treats packets. The zero value forwards
// everything at once. Steps are taken in the order match class, black hole, max
// frame, loss, policer, rate and queue, delay and jitter, reorder, duplicate,
// corrupt.
type Config struct {
	Impairment `yaml:",inline"`
	// Classes are exceptions: the first whose Match fits treats the packet
	// instead of the plain Impairment; each has its own queue and loss state.
	Classes []Class `yaml:"classes,omitempty" json:"classes,omitempty"`
}

// Class treats the packets that fit Match in its own way.
type Class struct {
	Match      Match `yaml:"match" json:"match"`
	Impairment `yaml:",inline"`
}

// Impairment is what is done to the packets of one class.
type Impairment struct {
	Delay      time.Duration `yaml:"delay,omitempty" json:"delay,omitempty"`             // one-way, added to each packet
	Jitter     time.Duration `yaml:"jitter,omitempty" json:"jitter,omitempty"`           // half width or standard deviation; order is kept
	JitterDist Distribution  `yaml:"jitter_dist,omitempty" json:"jitter_dist,omitempty"` // uniform (default) or normal
	Loss       Loss          `yaml:"loss,omitempty" json:"loss,omitzero"`
	Duplicate  unit.Share    `yaml:"duplicate,omitempty" json:"duplicate,omitempty"` // share sent twice
	Reorder    unit.Share    `yaml:"reorder,omitempty" json:"reorder,omitempty"`     // share that skips Delay and so overtakes; needs Delay > 0
	Corrupt    unit.Share    `yaml:"corrupt,omitempty" json:"corrupt,omitempty"`     // share with one bit flipped beyond the IP header
	// CorruptFix mends the transport checksum after the flip: bad memory in a
	// router before the checksum is written, which only comparing payloads finds.
	CorruptFix bool `yaml:"corrupt_fix,omitempty" json:"corrupt_fix,omitempty"`
	// Rate is the link's speed in bit/s, counted over Ethernet frames without
	// preamble and checksum; packets wait in Queue and delay grows (bufferbloat).
	Rate   unit.Rate `yaml:"rate,omitempty" json:"rate,omitempty"`
	Queue  Queue     `yaml:"queue,omitempty" json:"queue,omitzero"`
	Police Police    `yaml:"police,omitempty" json:"police,omitzero"`
	// MaxFrame silently drops frames whose IP packet is longer, in bytes (the
	// number that an MTU is written in): a path MTU black hole. 0: no limit.
	MaxFrame  int  `yaml:"max_frame,omitempty" json:"max_frame,omitempty"`
	Blackhole bool `yaml:"blackhole,omitempty" json:"blackhole,omitempty"` // drop everything, ARP too
}

// Queue bounds what waits for Rate; more is dropped at the tail. Both zero: 1000
// packets, the kernel's usual txqueuelen.
type Queue struct {
	Packets int       `yaml:"packets,omitempty" json:"packets,omitempty"`
	Bytes   unit.Size `yaml:"bytes,omitempty" json:"bytes,omitempty"`
}

// Police is a token bucket that drops what is above Rate and delays nothing.
type Police struct {
	Rate  unit.Rate `yaml:"rate,omitempty" json:"rate,omitempty"`   // bit/s; 0: no policer
	Burst unit.Size `yaml:"burst,omitempty" json:"burst,omitempty"` // bytes; 0: 50 ms worth of Rate, at least 3000
}

// Loss says which packets vanish. The parts add up: a packet lost by any is lost.
type Loss struct {
	Random unit.Share      `yaml:"random,omitempty" json:"random,omitempty"` // independent probability
	GE     *GilbertElliott `yaml:"ge,omitempty" json:"ge,omitempty"`         // loss in random bursts
	Every  int             `yaml:"every,omitempty" json:"every,omitempty"`   // each N-th packet is lost; 0: off
	Burst  *Burst          `yaml:"burst,omitempty" json:"burst,omitempty"`   // loss in regular bursts
}

// GilbertElliott is the two-state loss model. Per packet the state goes from good
// to bad with probability P and back with R; bursts last 1/R packets on average
// and the long-run share of bad packets is P/(P+R).
type GilbertElliott struct {
	P    unit.Share `yaml:"p" json:"p"`
	R    unit.Share `yaml:"r" json:"r"`
	Good unit.Share `yaml:"good,omitempty" json:"good,omitempty"` // loss probability in the good state, usually 0
	Bad  unit.Share `yaml:"bad,omitempty" json:"bad,omitempty"`   // loss probability in the bad state; 0 means 1
}

// Burst loses, at the start of each Period, the next Packets packets, or all that
// come during For.
type Burst struct {
	Packets int           `yaml:"packets,omitempty" json:"packets,omitempty"`
	For     time.Duration `yaml:"for,omitempty" json:"for,omitempty"`
	Period  time.Duration `yaml:"period" json:"period"`
}

// Match picks packets. All parts given must fit; the zero Match fits every packet.
type Match struct {
	// EtherType is "ip", "ip6", "arp" or a number such as "0x88cc".
	EtherType string `yaml:"ethertype,omitempty" json:"ethertype,omitempty"`
	// Protocol is "icmp" (ICMPv6 too), "tcp", "udp" or an IP protocol number.
	Protocol string `yaml:"protocol,omitempty" json:"protocol,omitempty"`
	DSCP     *int   `yaml:"dscp,omitempty" json:"dscp,omitempty"`         // 0…63
	MinSize  int    `yaml:"min_size,omitempty" json:"min_size,omitempty"` // IP packet length in bytes, inclusive
	MaxSize  int    `yaml:"max_size,omitempty" json:"max_size,omitempty"` // inclusive; 0: no limit
	SrcPort  int    `yaml:"src_port,omitempty" json:"src_port,omitempty"` // TCP and UDP only
	DstPort  int    `yaml:"dst_port,omitempty" json:"dst_port,omitempty"`
	Src      string `yaml:"src,omitempty" json:"src,omitempty"` // address or prefix
	Dst      string `yaml:"dst,omitempty" json:"dst,omitempty"`
	// Flow picks flows by the hash of their 5-tuple, as equal-cost multipath does.
	Flow *FlowMatch `yaml:"flow,omitempty" json:"flow,omitempty"`
	Not  bool       `yaml:"not,omitempty" json:"not,omitempty"` // turn the whole match round
}

// FlowMatch fits flows whose hash modulo Of is one of Is: {of: 4, is: [0]} is one
// flow in four. ICMP echo is hashed by its addresses and identifier, other ICMP
// and fragments by their addresses.
type FlowMatch struct {
	Of   int    `yaml:"of" json:"of"`
	Is   []int  `yaml:"is" json:"is"`
	Salt uint64 `yaml:"salt,omitempty" json:"salt,omitempty"` // another router's hash function
}

// Validate says what in c cannot be meant.
func (c Config) Validate() error {
	err := c.Impairment.validate()
	for i, k := range c.Classes {
		if e := errors.Join(k.Impairment.validate(), k.Match.validate()); e != nil {
			err = errors.Join(err, fmt.Errorf("class %d: %w", i+1, e))
		}
	}
	return err
}

func (p Impairment) validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if p.Delay < 0 || p.Jitter < 0 {
		bad("delay and jitter must not be negative")
	}
	if p.Delay > maxDelay || p.Jitter > maxDelay {
		bad("delay and jitter must not exceed %s", maxDelay)
	}
	if d := p.JitterDist; d != "" && d != Uniform && d != Normal {
		bad("jitter_dist %q: want uniform or normal", d)
	}
	for name, s := range map[string]unit.Share{"duplicate": p.Duplicate, "reorder": p.Reorder, "corrupt": p.Corrupt, "loss.random": p.Loss.Random} {
		if !(s >= 0 && s <= 1) {
			bad("%s %v: want a share 0…1", name, s)
		}
	}
	if p.Reorder > 0 && p.Delay == 0 {
		bad("reorder needs a delay: a packet can only overtake packets that wait")
	}
	if p.Rate < 0 || p.Police.Rate < 0 || p.Police.Burst < 0 || p.Queue.Packets < 0 || p.Queue.Bytes < 0 || p.MaxFrame < 0 || p.Loss.Every < 0 {
		bad("rate, police, queue, max_frame and loss.every must not be negative")
	}
	if g := p.Loss.GE; g != nil {
		for _, s := range []unit.Share{g.P, g.R, g.Good, g.Bad} {
			if !(s >= 0 && s <= 1) {
				bad("loss.ge %v: want shares 0…1", *g)
				break
			}
		}
	}
	if b := p.Loss.Burst; b != nil && (b.Period <= 0 || b.Packets < 0 || b.For < 0 || b.Packets == 0 && b.For == 0) {
		bad("loss.burst: want a period and packets or for")
	}
	return errors.Join(errs...)
}

// maxDelay bounds what a scenario can ask for, so that time arithmetic cannot
// overflow and a typing error ("100s" for "100ms") is still possible on purpose.
const maxDelay = 10 * time.Minute

// Counters count one direction since the link was made. In equals Out plus the
// lost ones, minus Duplicated, plus what still waits.
type Counters struct {
	In, InBytes   uint64 // frames that arrived, with their Ethernet headers
	Out, OutBytes uint64 // frames handed to the kernel for the other end
	Waiting       uint64 // frames inside the emulator now
	Duplicated    uint64
	Reordered     uint64
	Corrupted     uint64
	Lost          map[Reason]uint64 // only reasons that occurred
	// Late frames went out more than 1 ms after their time, the worst of them
	// Latest after it: how far a busy machine spoils the experiment.
	Late   uint64
	Latest time.Duration
}

// LostTotal sums all reasons.
func (c Counters) LostTotal() (n uint64) {
	for _, v := range c.Lost {
		n += v
	}
	return n
}

// Reason is why a packet was lost in the emulator.
type Reason string

// The reasons. Those from LostOverrun on are not the configured fault but the
// emulator's or the kernel's own, and should be 0 in a sound experiment.
const (
	LostBlackhole Reason = "blackhole"
	LostMaxFrame  Reason = "max_frame"
	LostRandom    Reason = "random"
	LostGE        Reason = "gilbert_elliott"
	LostEvery     Reason = "every"
	LostBurst     Reason = "burst"
	LostPolicer   Reason = "policer"
	LostQueue     Reason = "queue"
	LostOverrun   Reason = "overrun"  // the relay was too slow and the kernel dropped before it
	LostLimit     Reason = "limit"    // more than the emulator holds at a time waited
	LostSend      Reason = "send"     // the far end refused the frame (down, or longer than its MTU)
	LostOversize  Reason = "oversize" // longer than 64 KiB
)
