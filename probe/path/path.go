// Package path finds out how packets reach an address: [Tracer] steps through
// the TTLs and names the routers on the way, [MTU] searches the largest packet
// that gets through and, when it is lost silently, between which two hops.
//
// Three parts, each replaceable alone. A plan (plan.go, mtu_search.go) is pure:
// what to send next, when it is over. A codec (codec.go) is pure: probes that
// keep one flow and are told apart all the same. A network (network.go; the
// *_linux.go files) sends bytes and says what came back. The loop between them
// (trace.go) is dull and runs in virtual time in the tests.
//
// All probes of one trace keep the 5-tuple, or ICMP identifier and checksum, so
// that routers which balance by flow keep one path (Paris traceroute, Augustin
// et al. 2006).
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

// The protocols of a trace.
const (
	protoICMP = "icmp"
	protoUDP  = "udp"
	protoTCP  = "tcp"
)

// Defaults of Config, and why.
const (
	defaultMaxTTL  = 30 // as traceroute: longer paths are loops
	defaultProbes  = 3
	defaultTimeout = time.Second // no terrestrial router answers later
	// 5 ms between probes: ten hops leave in 50 ms, and a router still has time to answer.
	defaultRate   = 200
	defaultSilent = 5     // longer silent stretches in the middle of a path are rare
	defaultSize   = 60    // as traceroute
	udpPort       = 33434 // first traceroute port: nobody listens
	tcpPort       = 443
	maxTTL        = 255
	maxSize       = 65535
)

// Config says how to trace. Zero values give the defaults.
type Config struct {
	Protocol string        // icmp (default), udp or tcp
	Port     uint16        // destination port of udp (33434) and tcp (443)
	FirstTTL int           // 1
	MaxTTL   int           // 30
	Probes   int           // most probes per TTL: 3; the further ones go out only while Answers are missing
	Answers  int           // answers wanted per TTL: 1; more give more round trips, and take longer
	Timeout  time.Duration // from the first probe of a TTL until it counts as silent: 1 s
	// Linger is how long the first silent TTL behind the last answer is listened to
	// when that is longer than Timeout. A Linux router needs 3 s to find that a
	// neighbour is missing before it says host unreachable.
	Linger time.Duration
	Rate   int // packets per second: 200

	// StopAfterSilent ends the trace when so many TTLs in a row behind the last
	// answer are silent: 5. Negative: go on to MaxTTL.
	StopAfterSilent int
	Size            int        // whole IP packet in bytes: 60; tcp probes are bare SYNs
	Source          netip.Addr // local address; zero: the kernel chooses
	Interface       string     // leave through this interface
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if c.Protocol == "" {
		c.Protocol = protoICMP
	}
	def(&c.FirstTTL, 1)
	def(&c.MaxTTL, defaultMaxTTL)
	def(&c.Probes, defaultProbes)
	def(&c.Answers, 1)
	def(&c.Rate, defaultRate)
	def(&c.StopAfterSilent, defaultSilent)
	def(&c.Size, defaultSize)
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Port == 0 {
		switch c.Protocol {
		case protoUDP:
			c.Port = udpPort
		case protoTCP:
			c.Port = tcpPort
		}
	}
	if c.Protocol == protoICMP {
		c.Port = 0
	}
	if c.StopAfterSilent < 0 {
		c.StopAfterSilent = c.MaxTTL
	}
	c.Answers = min(c.Answers, c.Probes)
	return c
}

func (c Config) check() error {
	switch {
	case c.Protocol != protoICMP && c.Protocol != protoUDP && c.Protocol != protoTCP:
		return fmt.Errorf("protocol %q: want icmp, udp or tcp", c.Protocol)
	case c.MaxTTL < 1 || c.MaxTTL > maxTTL:
		return fmt.Errorf("max ttl %d: want 1 to %d", c.MaxTTL, maxTTL)
	case c.FirstTTL < 1 || c.FirstTTL > c.MaxTTL:
		return fmt.Errorf("first ttl %d: want 1 to the max ttl %d", c.FirstTTL, c.MaxTTL)
	case c.Probes < 1 || c.Probes > 100 || c.Answers < 1:
		return fmt.Errorf("%d probes, %d answers per ttl: want 1 to 100", c.Probes, c.Answers)
	case c.Timeout < 0 || c.Linger < 0:
		return errors.New("negative timeout")
	case c.Rate < 1 || c.Rate > 100_000:
		return fmt.Errorf("rate %d/s: want 1 to 100000", c.Rate)
	case c.Size < 0 || c.Size > maxSize:
		return fmt.Errorf("size %d: want at most %d bytes", c.Size, maxSize)
	}
	return nil
}

// Tracer traces the path to an address. It implements probe.Prober and may be
// used by several goroutines at once.
type Tracer struct {
	cfg  Config
	open func(ctx context.Context, c Config, target netip.Addr) (network, way, error)
}

// New makes a tracer. A bad Config shows as the error of Probe.
func New(c Config) *Tracer { return &Tracer{cfg: c.withDefaults(), open: openTrace} }

var _ probe.Prober = (*Tracer)(nil)

// Probe traces the path to target, an IP address (fe80::1%eth0 for link-local
// ones). Silence, unreachables, loops and our own kernel's refusal are Results.
// An error says that no socket could be had, that the target is no address, or
// that ctx ended.
func (t *Tracer) Probe(ctx context.Context, target string) (probe.Result, error) {
	if err := t.cfg.check(); err != nil {
		return probe.Result{}, fmt.Errorf("trace %s: %w", target, err)
	}
	addr, err := parseTarget(target, t.cfg.Source)
	if err != nil {
		return probe.Result{}, fmt.Errorf("trace: %w", err)
	}
	start := time.Now()
	res := probe.Result{Kind: probe.KindPath, Target: target, Address: addr, Port: t.cfg.Port, Start: start}
	net, way, err := t.open(ctx, t.cfg, addr)
	if err != nil {
		if outcome, errno, ok := refusal(err); ok {
			res.Outcome, res.Errno, res.Detail = outcome, errno, err.Error()
			res.Elapsed = sample.D(time.Since(start))
			res.Path = &probe.Path{Protocol: t.cfg.Protocol, Port: t.cfg.Port, Hops: []probe.Hop{}}
			return res, nil
		}
		return probe.Result{}, fmt.Errorf("trace %s: %w", target, err)
	}
	p := newPlan(t.cfg, addr)
	sendErr := run(ctx, net, p, t.cfg.Rate)
	if way.stamps {
		awaitStamps(ctx, net, p)
	}
	closeErr := net.Close()
	if err := ctx.Err(); err != nil {
		return probe.Result{}, fmt.Errorf("trace %s: %w", target, err)
	}
	if sendErr == nil && closeErr != nil {
		return probe.Result{}, fmt.Errorf("trace %s: close socket: %w", target, closeErr)
	}
	res.Source, res.Method, res.Port = way.source, way.method, way.port
	p.report(&res, way, sendErr)
	res.Elapsed = sample.D(time.Since(start))
	return res, nil
}

// parseTarget reads an address literal and checks that source can reach its family.
func parseTarget(target string, source netip.Addr) (netip.Addr, error) {
	a, err := netip.ParseAddr(target)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("target %q is not an ip address: %w", target, err)
	}
	a = a.Unmap()
	switch {
	case a.IsUnspecified() || a.IsMulticast():
		return netip.Addr{}, fmt.Errorf("target %s is not the address of one host", a)
	case source.IsValid() && source.Unmap().Is4() != a.Is4():
		return netip.Addr{}, fmt.Errorf("source %s and target %s are of different families", source, a)
	}
	return a, nil
}

// refusal tells which errors are our own kernel's answer about this
// destination, and hence a result, from those that prevent measuring.
func refusal(err error) (o probe.Outcome, errno string, ok bool) {
	var local *localError
	if !errors.As(err, &local) {
		return "", "", false
	}
	switch o, errno = probe.OutcomeOfErrno(err); errno {
	case "EHOSTUNREACH", "EINVAL": // routes of type unreachable and blackhole
		return probe.NoRoute, errno, true
	case "ENETUNREACH", "EADDRNOTAVAIL", "EMSGSIZE",
		"EACCES", // route of type prohibit
		"EPERM":  // output chain of the local firewall
		return o, errno, true
	}
	return "", "", false
}

// localError is what our own kernel said when asked to send to a destination.
type localError struct {
	op  string
	err error
}

func (e *localError) Error() string { return e.op + ": " + e.err.Error() }
func (e *localError) Unwrap() error { return e.err }
