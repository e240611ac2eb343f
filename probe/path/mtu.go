package path

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"fathom/probe"
	"fathom/sample"
)

// Defaults of MTUConfig, and why.
const (
	defaultMTUTimeout = 500 * time.Millisecond // per step; a step waits it out only when packets are lost
	defaultMTUTries   = 3                      // at 10 % loss one size in a thousand is misjudged, and only if the control packet is not lost
	defaultLinkMTU    = 1500
	minMTU4           = 68   // RFC 791
	minMTU6           = 1280 // RFC 8200 §5
	// patience with four round trips is how long a step waits once the round trip
	// is known: a packet of 1,500 bytes takes 94 ms over 128 kbit/s.
	patience = 200 * time.Millisecond
	// maxSteps bounds the search: link MTU, hints of several routers, ladder, division.
	maxSteps = 12
	// maxUnsure is how many steps without an answered control packet end the search.
	maxUnsure = 2
)

// MTUConfig says how to search. Zero values give the defaults.
type MTUConfig struct {
	LinkMTU int // MTU of the outgoing interface or route, where the search begins: 1500
	// Hops are the routers of the path in order, index 0 is TTL 1, silent ones as
	// zero values, the target last. They are asked only when packets vanish silently.
	Hops      []netip.Addr
	Timeout   time.Duration // of one step: 500 ms. A healthy path takes one round trip, a black hole two to four of these
	Tries     int           // probes per size: 3
	Source    netip.Addr    // zero: the kernel chooses
	Interface string        // leave through this interface
}

// MTU searches the largest packet that reaches an address, by ICMP echo with
// DF. It implements probe.Prober and may be used by several goroutines at once.
type MTU struct {
	cfg  MTUConfig
	open func(ctx context.Context, c MTUConfig, target netip.Addr) (network, way, error)
}

// NewMTU makes a searcher. A bad config shows as the error of Probe.
func NewMTU(c MTUConfig) *MTU {
	if c.LinkMTU == 0 {
		c.LinkMTU = defaultLinkMTU
	}
	if c.Timeout == 0 {
		c.Timeout = defaultMTUTimeout
	}
	if c.Tries == 0 {
		c.Tries = defaultMTUTries
	}
	return &MTU{cfg: c, open: openEcho}
}

var _ probe.Prober = (*MTU)(nil)

func (c MTUConfig) check(target netip.Addr) error {
	least := minMTU4
	if target.Is6() {
		least = minMTU6
	}
	switch {
	case c.LinkMTU < least || c.LinkMTU > maxSize:
		return fmt.Errorf("link mtu %d: want %d to %d", c.LinkMTU, least, maxSize)
	case c.Timeout < 0:
		return errors.New("negative timeout")
	case c.Tries < 1 || c.Tries > 20:
		return fmt.Errorf("%d tries: want 1 to 20", c.Tries)
	case len(c.Hops) > maxTTL:
		return fmt.Errorf("%d hops: want at most %d", len(c.Hops), maxTTL)
	}
	return nil
}

// Probe searches the path MTU to target, an IP address. The outcome is OK when
// the search came to an end, whatever it found; Timeout when small packets are
// not answered either, so that nothing can be said. An error says that no socket
// could be had, that the target is no address, or that ctx ended.
func (m *MTU) Probe(ctx context.Context, target string) (probe.Result, error) {
	addr, err := parseTarget(target, m.cfg.Source)
	if err == nil {
		err = m.cfg.check(addr)
	}
	if err != nil {
		return probe.Result{}, fmt.Errorf("mtu search: %w", err)
	}
	start := time.Now()
	res := probe.Result{Kind: probe.KindMTU, Target: target, Address: addr, Start: start}
	res.MTU = &probe.MTU{LinkMTU: m.cfg.LinkMTU, Tries: m.cfg.Tries}
	net, w, err := m.open(ctx, m.cfg, addr)
	if err != nil {
		if o, errno, ok := refusal(err); ok {
			res.Outcome, res.Errno, res.Detail = o, errno, err.Error()
			res.Elapsed = sample.D(time.Since(start))
			return res, nil
		}
		return probe.Result{}, fmt.Errorf("mtu search to %s: %w", target, err)
	}
	res.Source, res.Method = w.source, w.method
	r := &rounds{net: net, timeout: m.cfg.Timeout, tries: m.cfg.Tries}
	err = m.measure(ctx, r, addr, &res)
	if cerr := net.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close socket: %w", cerr)
	}
	if err != nil {
		return probe.Result{}, fmt.Errorf("mtu search to %s: %w", target, err)
	}
	res.Elapsed = sample.D(time.Since(start))
	return res, nil
}

// measure runs the search and, for a black hole, the question where it is.
func (m *MTU) measure(ctx context.Context, r *rounds, target netip.Addr, res *probe.Result) error {
	s := newSearch(m.cfg.LinkMTU)
	unsure := 0
	for range maxSteps {
		sizes := s.sizes()
		if len(sizes) == 0 {
			break
		}
		got, control, err := m.step(ctx, r, target, sizes)
		if err != nil {
			return err
		}
		if control.answered && (res.RTT == nil || sample.D(control.rtt) < res.RTT.Value) {
			res.RTT = &probe.RTT{Value: sample.D(control.rtt), Error: sample.D(userError), Clock: "user"}
		}
		if control.answered {
			r.timeout = min(m.cfg.Timeout, patience+4*control.rtt)
		}
		s.learn(got)
		if !control.answered && s.works == 0 {
			return m.cannotJudge(r, res, "small packets are not answered either: cannot judge")
		}
		if !control.answered {
			if unsure++; unsure >= maxUnsure {
				res.MTU.Works, res.MTU.Fails = s.works, s.fails
				return m.cannotJudge(r, res, "small packets were lost during the search: cannot judge")
			}
		}
	}
	fill(res, s)
	if s.fails > 0 && s.silent && len(m.cfg.Hops) > 0 {
		return m.locate(ctx, r, target, s.fails, res)
	}
	return nil
}

// step asks the target for sizes, and for a control packet at the same time.
func (m *MTU) step(ctx context.Context, r *rounds, target netip.Addr, sizes []int) (map[int]sizeAnswer, askState, error) {
	asks := []ask{{target, smallSize}}
	for _, v := range sizes {
		if v != smallSize {
			asks = append(asks, ask{target, v})
		}
	}
	states, err := r.run(ctx, asks)
	if err != nil {
		return nil, askState{}, err
	}
	control := states[0]
	got := map[int]sizeAnswer{}
	for _, st := range states {
		a := sizeAnswer{verdict: unknown, by: st.by, mtu: st.mtu}
		switch {
		case st.answered:
			a.verdict = works
		case st.tooBig:
			a.verdict = signaled
			if target.Is6() && a.mtu > 0 { // RFC 8201 §4: less is not to be believed
				a.mtu = max(a.mtu, minMTU6)
			}
		case control.answered:
			a.verdict = lost
		}
		got[st.size] = a
	}
	return got, control, nil
}

// cannotJudge ends a search in which control packets are lost.
func (m *MTU) cannotJudge(r *rounds, res *probe.Result, why string) error {
	res.Outcome, res.Detail = probe.Timeout, why
	if r.last != nil && r.last.ICMP != nil {
		res.ICMP, res.Outcome = r.last.ICMP, probe.Unreachable
		if probe.OutcomeOfICMP(res.Address.Is6(), res.ICMP.Type, res.ICMP.Code) == probe.Prohibited {
			res.Outcome = probe.Prohibited
		}
		res.Detail = fmt.Sprintf("%s says: %s", res.ICMP.From, res.ICMP.Text)
	} else if r.sendErr != nil {
		if o, errno, ok := refusal(r.sendErr); ok {
			res.Outcome, res.Errno, res.Detail = o, errno, r.sendErr.Error()
		}
	}
	return nil
}

// fill writes what the search found.
func fill(res *probe.Result, s *search) {
	res.Outcome = probe.OK
	o := res.MTU
	o.Works, o.Fails, o.Signalled, o.By, o.SignalMTU = s.works, s.fails, s.signalled, s.by, s.signalMTU
	switch {
	case s.fails == 0:
		res.Detail = fmt.Sprintf("packets of %d bytes reach the target", s.works)
	case s.silent:
		res.Detail = fmt.Sprintf("packets of %d bytes reach the target, those of %d vanish silently", s.works, s.fails)
	case s.signalled:
		res.Detail = fmt.Sprintf("packets of %d bytes reach the target, %s says that larger ones are too big", s.works, s.by)
	default:
		res.Detail = fmt.Sprintf("packets of %d bytes reach the target, larger ones do not leave this host", s.works)
	}
}

// locate asks every hop directly, all at once, for a packet of the failing size
// and a small one.
func (m *MTU) locate(ctx context.Context, r *rounds, target netip.Addr, size int, res *probe.Result) error {
	var asks []ask
	var ttls []int
	for i, h := range m.cfg.Hops {
		if h = h.Unmap(); h.IsValid() && h.Is4() == target.Is4() {
			asks = append(asks, ask{h, smallSize}, ask{h, size})
			ttls = append(ttls, i+1)
		}
	}
	if len(asks) == 0 {
		return nil
	}
	states, err := r.run(ctx, asks)
	if err != nil {
		return err
	}
	good := -1
	for i := range ttls {
		if states[2*i+1].answered {
			good = i
		}
	}
	if good >= 0 {
		res.MTU.LastGood, res.MTU.LastGoodTTL = states[2*good].to, ttls[good]
	}
	for i := good + 1; i < len(ttls); i++ {
		if states[2*i].answered && !states[2*i+1].answered {
			res.MTU.FirstBad, res.MTU.FirstBadTTL = states[2*i].to, ttls[i]
			break
		}
	}
	return nil
}
