package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fathom/internal/collect/route"
	"fathom/internal/diagnose"
	"fathom/internal/output"
	"fathom/probe"
	"fathom/probe/arp"
	"fathom/probe/dns"
	"fathom/probe/http"
	"fathom/probe/http3"
	"fathom/probe/icmp"
	"fathom/probe/path"
	"fathom/probe/tcp"
	"fathom/probe/tls"
	"fathom/probe/udp"
)

// probeOptions are the flags of the probe commands; each kind registers those that mean something to it.
type probeOptions struct {
	json, v4, v6, all, insecure, df, noFollow, http1, cd, noRecurse, dnssec, own bool

	count, size, ttl, maxTTL, repeat           int
	interval, timeout                          time.Duration
	iface, source, name, qtype, protocol, alpn string
	pin, method                                string
	port                                       uint16

	src netip.Addr // parsed source
}

// probeKind is one measurement as a command.
type probeKind struct {
	kind, use, short, example string
	flags                     string // which of the optional flags it has
	scheme                    string // of a target that is no URL: what the port defaults to
	needPort                  bool
	maxArgs                   int
	run                       func(ctx context.Context, o *probeOptions, t diagnose.Target, a netip.Addr) (probe.Result, error)
}

var probeKinds = []probeKind{
	{
		kind: probe.KindICMP, use: "icmp HOST", short: "Echo requests: latency, loss, jitter", flags: "count interval size df ttl",
		example: "  fathom probe icmp example.com --count 20\n  fathom probe icmp 192.0.2.1 --size 1500 --df", run: probeICMP,
	},
	{
		kind: probe.KindTCP, use: "tcp HOST:PORT", short: "Connect: open, refused, filtered or unreachable, and how long it takes", flags: "count interval ttl", needPort: true,
		example: "  fathom probe tcp example.com:443 --count 5", run: probeTCP,
	},
	{
		kind: probe.KindUDP, use: "udp HOST:PORT", short: "Datagrams: answered, refused or silent", flags: "count interval", needPort: true,
		example: "  fathom probe udp 192.0.2.1:123", run: probeUDP,
	},
	{
		kind: probe.KindTLS, use: "tls HOST[:PORT]", short: "TLS handshake: versions, certificates, times", flags: "name alpn", scheme: "tls",
		example: "  fathom probe tls example.com\n  fathom probe tls 192.0.2.1:8443 --name www.example.com", run: probeTLS,
	},
	{
		kind: probe.KindHTTP, use: "http URL", short: "HTTP/1.1 or 2 request: its phases, redirects, status", flags: "pin insecure repeat http1 no-follow method", scheme: "url",
		example: "  fathom probe http https://example.com/\n  fathom probe http https://example.com/ --pin 192.0.2.7", run: probeHTTP,
	},
	{
		kind: probe.KindHTTP3, use: "http3 URL", short: "HTTP/3 request over QUIC", flags: "pin insecure method", scheme: "url",
		example: "  fathom probe http3 https://example.com/", run: probeHTTP3,
	},
	{
		kind: probe.KindDNS, use: "dns SERVER [NAME [TYPE]]", short: "One question to one DNS server", flags: "count dns", scheme: "dns", maxArgs: 3,
		example: "  fathom probe dns 192.0.2.53 example.com AAAA\n  fathom probe dns 192.0.2.53 --transport tcp", run: probeDNS,
	},
	{
		kind: probe.KindPath, use: "path HOST", short: "The routers on the way, by stepping through TTLs", flags: "path",
		example: "  fathom probe path example.com\n  fathom probe path example.com --protocol tcp --port 443", run: probePath,
	},
	{
		kind: probe.KindMTU, use: "mtu HOST", short: "The largest packet that gets through, and where larger ones vanish",
		example: "  fathom probe mtu example.com", run: probeMTU,
	},
	{
		kind: probe.KindARP, use: "arp ADDRESS", short: "Who on the link answers for an address (needs root)", flags: "count own",
		example: "  fathom probe arp 192.0.2.1 --iface eth0", run: probeARP,
	},
}

func (a *app) probeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "probe KIND TARGET",
		Short: "Make one measurement by itself",
		Long: `Makes one of the measurements that a diagnosis consists of. A name is resolved as
this host's programs do, and its first address is measured; --all measures each.

Exit codes: 0 the measurement succeeded, 1 it did not, 2 it could not be made.`,
		Example: "  fathom probe icmp example.com\n  fathom probe tcp example.com:443\n  fathom probe dns 192.0.2.53 example.com AAAA",
		RunE:    unknownCommand,
	}
	for _, k := range probeKinds {
		c.AddCommand(a.probeKindCommand(k))
	}
	return c
}

func (a *app) probeKindCommand(k probeKind) *cobra.Command {
	o := &probeOptions{}
	c := &cobra.Command{
		Use: k.use, Short: k.short, Example: k.example,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > max(1, k.maxArgs) {
				return usagef("expected: %s", c.UseLine())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.probe(c.Context(), k, o, args) },
	}
	o.register(c, k)
	return c
}

func (o *probeOptions) register(c *cobra.Command, k probeKind) {
	f := c.Flags()
	f.SortFlags = false
	jsonFlag(c, &o.json)
	f.BoolVarP(&o.v4, "ipv4", "4", false, "IPv4 only")
	f.BoolVarP(&o.v6, "ipv6", "6", false, "IPv6 only")
	f.BoolVar(&o.all, "all", false, "measure every address of the name")
	f.StringVar(&o.iface, "iface", "", "through this `INTERFACE`")
	f.StringVar(&o.source, "source", "", "from this local `ADDRESS`")
	f.DurationVar(&o.timeout, "timeout", 0, "of one try (default: as the kind needs)")
	for _, name := range strings.Fields(k.flags) {
		switch name {
		case "count":
			f.IntVar(&o.count, "count", 0, "how many (default: as the kind needs)")
		case "interval":
			f.DurationVar(&o.interval, "interval", 0, "from one to the next (default: as the kind needs)")
		case "size":
			f.IntVar(&o.size, "size", 0, "whole IP packet in bytes (default 84, IPv6 104)")
		case "df":
			f.BoolVar(&o.df, "df", false, "do not fragment")
		case "ttl":
			f.IntVar(&o.ttl, "ttl", 0, "TTL or hop limit (default: the kernel's)")
		case "name":
			f.StringVar(&o.name, "name", "", "server name to ask for and to verify (default: the host)")
		case "alpn":
			f.StringVar(&o.alpn, "alpn", "", "protocols to offer, such as h2,http/1.1")
		case "pin":
			f.StringVar(&o.pin, "pin", "", "connect to this `ADDRESS` whatever the name resolves to")
		case "insecure":
			f.BoolVar(&o.insecure, "insecure", false, "go on after a bad certificate (it is still reported)")
		case "repeat":
			f.IntVar(&o.repeat, "repeat", 1, "requests altogether")
		case "http1":
			f.BoolVar(&o.http1, "http1", false, "do not offer HTTP/2")
		case "no-follow":
			f.BoolVar(&o.noFollow, "no-follow", false, "do not follow redirects")
		case "method":
			f.StringVar(&o.method, "method", "GET", "GET or HEAD")
		case "own":
			f.BoolVar(&o.own, "own", false, "ask for an address of this host: any answer is a conflict")
		case "dns":
			f.StringVar(&o.protocol, "transport", "", "udp or tcp (default udp, and tcp when the answer is cut off)")
			f.BoolVar(&o.cd, "cd", false, "set CD: answer even if DNSSEC says it is bogus")
			f.BoolVar(&o.noRecurse, "no-recurse", false, "clear RD: ask an authority")
			f.BoolVar(&o.dnssec, "dnssec", false, "set DO: send signatures")
		case "path":
			f.StringVar(&o.protocol, "protocol", "icmp", "icmp, udp or tcp")
			f.Uint16Var(&o.port, "port", 0, "destination port of udp (default 33434) and tcp (443)")
			f.IntVar(&o.maxTTL, "max-ttl", 30, "give up behind this TTL")
			f.IntVar(&o.count, "count", 3, "probes for each TTL")
		}
	}
}

// check refuses numbers that no probe can use.
func (o *probeOptions) check(k probeKind) error {
	switch {
	case o.v4 && o.v6:
		return usagef("--ipv4 and --ipv6 exclude each other")
	case o.method != "" && o.method != "GET" && o.method != "HEAD":
		return usagef("--method %s: expected GET or HEAD: a probe changes nothing on the server", o.method)
	case o.count < 0 || o.count > 100_000:
		return usagef("--count %d: expected 1 to 100000", o.count)
	case o.timeout < 0 || o.timeout > time.Hour:
		return usagef("--timeout %s: expected at most an hour", o.timeout)
	case o.interval < 0 || o.interval > time.Hour:
		return usagef("--interval %s: expected at most an hour", o.interval)
	case o.interval > 0 && o.interval < time.Millisecond:
		return usagef("--interval %s: less than 1 ms is an attack", o.interval)
	case o.ttl < 0 || o.ttl > 255 || o.maxTTL < 0 || o.maxTTL > 255:
		return usagef("a TTL is 1 to 255")
	}
	if o.source != "" {
		src, err := netip.ParseAddr(o.source)
		if err != nil {
			return usagef("--source %s: expected an IP address of this host", o.source)
		}
		o.src = src.Unmap()
	}
	return nil
}

func (a *app) probe(ctx context.Context, k probeKind, o *probeOptions, args []string) error {
	if err := o.check(k); err != nil {
		return err
	}
	t, err := k.target(args[0])
	if err != nil {
		return err
	}
	if len(args) > 1 {
		o.name = args[1]
	}
	if len(args) > 2 {
		o.qtype = strings.ToUpper(args[2])
	}
	if o.pin != "" {
		if t.Pin, err = netip.ParseAddr(o.pin); err != nil {
			return usagef("--pin %s: expected an IP address", o.pin)
		}
	}
	addrs, err := resolveTarget(ctx, t, o.v4, o.v6)
	if err != nil {
		return err
	}
	if !o.all {
		addrs = addrs[:1]
	}
	results := []probe.Result{}
	code := exitHealthy
	for _, addr := range addrs {
		r, err := k.run(ctx, o, t, addr)
		if err != nil {
			return err
		}
		results = append(results, r)
		if r.Outcome != probe.OK {
			code = exitProblem
		}
		if !o.json {
			for _, line := range resultLines(r) {
				if _, err := fmt.Fprintln(a.out, output.Sanitize(line)); err != nil {
					return err
				}
			}
		}
	}
	if o.json {
		var v any = results
		if !o.all {
			v = results[0]
		}
		if err := output.JSON(a.out, v); err != nil {
			return err
		}
	}
	return codeExit(code)
}

// target reads what the kind measures.
func (k probeKind) target(raw string) (diagnose.Target, error) {
	switch k.scheme {
	case "url":
		if !strings.Contains(raw, "://") {
			return diagnose.Target{}, usagef("probe %s needs a URL, such as https://%s", k.kind, strings.TrimRight(raw, "/")+"/")
		}
		t, err := parseTarget(raw)
		if err == nil && t.URL == "" {
			err = usagef("probe %s needs a http or https URL", k.kind)
		}
		return t, err
	case "tls", "dns":
		t, err := parseTarget(raw)
		if err == nil && t.Port == 0 {
			t.Port = map[string]uint16{"tls": 443, "dns": 53}[k.scheme]
		}
		return t, err
	}
	t, err := parseTarget(raw)
	switch {
	case err != nil:
	case k.needPort && t.Port == 0:
		err = usagef("probe %s needs a port: %s:PORT", k.kind, raw)
	case !k.needPort && t.Port != 0:
		err = usagef("probe %s takes a host without port", k.kind)
	}
	return t, err
}

func probeICMP(ctx context.Context, o *probeOptions, _ diagnose.Target, a netip.Addr) (probe.Result, error) {
	return icmp.New(icmp.Config{Count: o.count, Interval: o.interval, Timeout: o.timeout, Size: o.size, DF: o.df, TTL: o.ttl, Interface: o.iface, Source: o.src}).Probe(ctx, a.String())
}

func probeTCP(ctx context.Context, o *probeOptions, t diagnose.Target, a netip.Addr) (probe.Result, error) {
	return tcp.New(tcp.Config{Count: o.count, Interval: o.interval, Timeout: o.timeout, TTL: o.ttl, Interface: o.iface, Source: o.src}).Probe(ctx, hostPort(a, t.Port))
}

func probeUDP(ctx context.Context, o *probeOptions, t diagnose.Target, a netip.Addr) (probe.Result, error) {
	return udp.New(udp.Config{Count: o.count, Interval: o.interval, Timeout: o.timeout, Interface: o.iface, Source: o.src}).Probe(ctx, hostPort(a, t.Port))
}

func probeTLS(ctx context.Context, o *probeOptions, t diagnose.Target, a netip.Addr) (probe.Result, error) {
	c := tls.Config{ServerName: o.name, Timeout: o.timeout, Interface: o.iface, Source: o.src}
	if c.ServerName == "" {
		c.ServerName = strings.TrimSuffix(t.Host, ".")
	}
	if o.alpn != "" {
		c.ALPN = strings.Split(o.alpn, ",")
	}
	return tls.New(c).Probe(ctx, hostPort(a, t.Port))
}

func probeHTTP(ctx context.Context, o *probeOptions, t diagnose.Target, a netip.Addr) (probe.Result, error) {
	c := http.Config{Method: o.method, HTTP1Only: o.http1, NoFollow: o.noFollow, Timeout: o.timeout, Insecure: o.insecure, Repeat: o.repeat, Interface: o.iface, Source: o.src}
	if o.pin != "" || o.all || o.v4 || o.v6 {
		c.Pin = netip.AddrPortFrom(a, t.Port) // otherwise the probe resolves, and times it
	}
	return http.New(c).Probe(ctx, t.URL)
}

func probeHTTP3(ctx context.Context, o *probeOptions, t diagnose.Target, a netip.Addr) (probe.Result, error) {
	c := http3.Config{Method: o.method, Timeout: o.timeout, Insecure: o.insecure, Interface: o.iface, Source: o.src, Pin: netip.AddrPortFrom(a, t.Port)}
	return http3.New(c).Probe(ctx, t.URL)
}

func probeDNS(ctx context.Context, o *probeOptions, t diagnose.Target, a netip.Addr) (probe.Result, error) {
	c := dns.Config{Name: o.name, Type: o.qtype, Transport: o.protocol, Timeout: o.timeout, Tries: o.count, CheckingDisabled: o.cd, NoRecurse: o.noRecurse, DNSSECOK: o.dnssec, NSID: true, Interface: o.iface, Source: o.src}
	if c.Name == "" {
		c.Name, c.Type = ".", "NS" // any resolver knows the root; the answer shows that it is alive
	}
	p := dns.New(c)
	if err := p.Check(); err != nil {
		return probe.Result{}, usageError{err}
	}
	return p.Probe(ctx, hostPort(a, t.Port))
}

func probePath(ctx context.Context, o *probeOptions, _ diagnose.Target, a netip.Addr) (probe.Result, error) {
	c := path.Config{Protocol: o.protocol, Port: o.port, MaxTTL: o.maxTTL, Probes: o.count, Timeout: o.timeout, Interface: o.iface, Source: o.src}
	return path.New(c).Probe(ctx, a.String())
}

// probeMTU asks the hops only when packets vanish silently.
func probeMTU(ctx context.Context, o *probeOptions, _ diagnose.Target, a netip.Addr) (probe.Result, error) {
	c := path.MTUConfig{Timeout: o.timeout, Interface: o.iface, Source: o.src}
	if link := o.link(ctx, a); link != nil {
		c.LinkMTU = link.MTU
	}
	r, err := path.NewMTU(c).Probe(ctx, a.String())
	if err != nil || r.MTU == nil || r.MTU.Fails == 0 || r.MTU.Signalled {
		return r, err
	}
	tr, err := path.New(path.Config{Interface: o.iface, Source: o.src}).Probe(ctx, a.String())
	if err != nil || tr.Path == nil {
		return r, nil // without hops the place stays unknown
	}
	for _, h := range tr.Path.Hops {
		c.Hops = append(c.Hops, h.Address)
	}
	if again, err := path.NewMTU(c).Probe(ctx, a.String()); err == nil {
		return again, nil
	}
	return r, nil
}

func probeARP(ctx context.Context, o *probeOptions, _ diagnose.Target, a netip.Addr) (probe.Result, error) {
	c := arp.Config{Interface: o.iface, Count: o.count, Wait: o.timeout, Own: o.own}
	if c.Interface == "" && a.Zone() == "" {
		link := o.link(ctx, a)
		if link == nil {
			return probe.Result{}, errors.New("probe arp: no interface leads to that address; name one with --iface")
		}
		c.Interface = link.Name
	}
	return arp.New(c).Probe(ctx, a.String())
}

// link is the interface that packets to a leave by, nil when it cannot be told.
func (o *probeOptions) link(ctx context.Context, a netip.Addr) *net.Interface {
	name := o.iface
	if name == "" {
		l, err := route.Lookup(ctx, a, route.Options{})
		if err != nil || l.Error != "" {
			return nil
		}
		name = l.Route.Link
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	return i
}
