package path

import (
	"net/netip"
	"slices"
)

// smallSize is the control packet, which fits through anything (IPv4 links
// carry at least 68 bytes, IPv6 ones 1280).
const smallSize = 96

// usualSizes are path MTUs that occur, with the reason; the one that applies is
// found in one step.
var usualSizes = []int{
	9216, 9000, 8950, // jumbo frames, jumbo in VXLAN
	4470, 2002, // POS, WiFi
	1500, 1492, 1480, // Ethernet, PPPoE, IP in IP
	1476, 1472, 1460, // GRE, GRE with key, L2TP
	1450, 1442, 1430, // VXLAN, Geneve, IPsec
	1420, 1412, 1400, // WireGuard, WireGuard over PPPoE, tunnels by habit
	1380, 1350, 1300, // IPsec in tunnels, mobile networks
	1280, 1200, 1006, 576, // IPv6 minimum, QUIC minimum, SLIP, X.25
}

// maxParallelSizes bounds the sizes asked at once: 24 packets of 1,500 bytes,
// three times, are 108 kB.
const maxParallelSizes = 24

// verdict is what a round says of one size.
type verdict uint8

const (
	unknown  verdict = iota // the control packet was lost as well
	works                   // answered
	lost                    // no try was answered, the control packet was
	signaled                // somebody said that it is too big
)

// search is the state of an MTU search. It is pure: sizes gives what to ask
// next, learn takes the answers.
type search struct {
	link     int
	works    int  // largest size that was answered
	fails    int  // smallest size above works that was not; 0: none
	silent   bool // nobody said anything about the size that fails
	hint     int  // MTU that somebody signalled, not tried yet
	laddered bool

	signalled bool
	by        netip.Addr
	signalMTU int
}

func newSearch(link int) *search { return &search{link: link} }

// sizes are the packet sizes to ask next, in parallel; none: the search is over.
func (s *search) sizes() []int {
	switch {
	case s.works == 0:
		return []int{smallSize, s.link}
	case s.fails == 0 || s.fails-s.works <= 1:
		return nil
	case s.hint > s.works && s.hint < s.fails:
		h := s.hint
		s.hint = 0
		if h+1 < s.fails {
			return []int{h, h + 1}
		}
		return []int{h}
	case !s.laddered:
		s.laddered = true
		if l := s.ladder(); len(l) > 0 {
			return l
		}
	}
	return s.divide()
}

// ladder gives the usual sizes between what works and what fails, each with
// the size above it: when the path MTU is a usual one, this round ends the search.
func (s *search) ladder() []int {
	var out []int
	for _, u := range usualSizes {
		for _, v := range [2]int{u + 1, u} {
			if v > s.works && v < s.fails && !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	return out
}

// divide spreads sizes evenly over the gap.
func (s *search) divide() []int {
	gap := s.fails - s.works - 1
	n := min(gap, maxParallelSizes)
	out := make([]int, 0, n)
	for i := n; i >= 1; i-- {
		out = append(out, s.works+(gap+1)*i/(n+1))
	}
	return slices.Compact(out)
}

// learn takes the verdicts of a round. A larger packet that came through
// outweighs a smaller one that was lost.
func (s *search) learn(got map[int]sizeAnswer) {
	for size, a := range got {
		if a.verdict == works {
			s.works = max(s.works, size)
		}
		if a.verdict == signaled {
			s.signal(a)
		}
	}
	if s.fails <= s.works {
		s.fails = 0
	}
	for size, a := range got {
		if (a.verdict == lost || a.verdict == signaled) && size > s.works && (s.fails == 0 || size < s.fails) {
			s.fails = size
		}
	}
	if a, ok := got[s.fails]; ok {
		// Above an MTU that was signalled and works, silence is only a limit on errors.
		s.silent = a.verdict == lost && (!s.signalled || s.fails <= s.signalMTU)
	}
}

// signal notes the smallest MTU that was told. Zero is from routers older than
// RFC 1191, or our own kernel.
func (s *search) signal(a sizeAnswer) {
	if a.by.IsValid() {
		if !s.signalled || (a.mtu > 0 && (s.signalMTU == 0 || a.mtu < s.signalMTU)) {
			s.by, s.signalMTU = a.by, a.mtu
		}
		s.signalled = true
	}
	if a.mtu > 0 && (s.hint == 0 || a.mtu < s.hint) {
		s.hint = a.mtu
	}
}

// sizeAnswer is the verdict about a size, and who signalled.
type sizeAnswer struct {
	verdict verdict
	by      netip.Addr
	mtu     int
}
