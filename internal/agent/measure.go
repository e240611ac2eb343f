package agent

import (
	"fmt"
	"net/netip"

	"fathom/internal/diagnose"
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

// measureContext is what a measurement needs to know beside its want.
type measureContext struct {
	Question diagnose.Question
	LinkMTU  int          // of the way to the target, 0 unknown
	Hops     []netip.Addr // of a trace made before, for the MTU search
	Own      bool         // the target is one of this host's addresses
}

// kinds lists the measurements, each with how a want becomes a prober.
var kinds = []struct {
	Kind string
	New  func(w diagnose.Want, c measureContext) (probe.Prober, error)
}{
	{probe.KindICMP, newICMP},
	{probe.KindTCP, func(w diagnose.Want, c measureContext) (probe.Prober, error) {
		return tcp.New(tcp.Config{Count: w.Count, Interval: w.Every.Std(), Timeout: w.Timeout.Std(), Interface: c.Question.Link, Source: c.source(w)}), nil
	}},
	{probe.KindUDP, func(w diagnose.Want, c measureContext) (probe.Prober, error) {
		return udp.New(udp.Config{Count: w.Count, Interval: w.Every.Std(), Timeout: w.Timeout.Std(), Interface: c.Question.Link, Source: c.source(w)}), nil
	}},
	{probe.KindTLS, func(w diagnose.Want, c measureContext) (probe.Prober, error) {
		return tls.New(tls.Config{ServerName: w.Name, ALPN: []string{"h2", "http/1.1"}, Timeout: w.Timeout.Std(), Interface: c.Question.Link, Source: c.source(w)}), nil
	}},
	{probe.KindHTTP, func(w diagnose.Want, c measureContext) (probe.Prober, error) {
		return http.New(http.Config{Pin: w.Pin, Repeat: w.Count, Timeout: w.Timeout.Std(), Interface: c.Question.Link, Source: c.source(w), Insecure: c.insecure(w.Target)}), nil
	}},
	{probe.KindHTTP3, func(w diagnose.Want, c measureContext) (probe.Prober, error) {
		return http3.New(http3.Config{Pin: w.Pin, Timeout: w.Timeout.Std(), Interface: c.Question.Link, Source: c.source(w), Insecure: c.insecure(w.Target)}), nil
	}},
	{probe.KindDNS, newDNS},
	{probe.KindPath, newPath},
	{probe.KindMTU, func(w diagnose.Want, c measureContext) (probe.Prober, error) {
		return path.NewMTU(path.MTUConfig{LinkMTU: c.LinkMTU, Hops: c.Hops, Timeout: w.Timeout.Std(), Interface: c.Question.Link, Source: c.source(w)}), nil
	}},
	{probe.KindARP, func(w diagnose.Want, c measureContext) (probe.Prober, error) {
		return arp.New(arp.Config{Interface: w.Link, Count: w.Count, Own: c.Own}), nil
	}},
}

// newProber returns what makes the measurement that w asks for.
func newProber(w diagnose.Want, c measureContext) (probe.Prober, error) {
	for _, k := range kinds {
		if k.Kind == w.Kind {
			return k.New(w, c)
		}
	}
	return nil, fmt.Errorf("measure %s: no such kind", w.Kind)
}

func newICMP(w diagnose.Want, c measureContext) (probe.Prober, error) {
	return icmp.New(icmp.Config{
		Count: w.Count, Interval: w.Every.Std(), Timeout: w.Timeout.Std(), Size: w.Size, DF: w.DF,
		Interface: c.Question.Link, Source: c.source(w), Via: w.Via, ViaLink: w.Link,
	}), nil
}

func newDNS(w diagnose.Want, c measureContext) (probe.Prober, error) {
	return dns.New(dns.Config{
		Name: w.Name, Type: w.Type, Transport: w.Protocol, Timeout: w.Timeout.Std(), Tries: w.Count,
		NSID: true, CheckingDisabled: w.CheckingDisabled, NoRecurse: w.NoRecurse,
		Interface: c.Question.Link, Source: c.source(w),
	}), nil
}

// hostUnreachableAfter is how long a Linux router looks for a missing neighbour
// (three ARP requests a second apart) before it says host unreachable.
const hostUnreachableAfter = 3300 * 1e6

func newPath(w diagnose.Want, c measureContext) (probe.Prober, error) {
	cfg := path.Config{
		Protocol: w.Protocol, Port: w.Port, Probes: w.Count, Timeout: w.Timeout.Std(),
		Interface: c.Question.Link, Source: c.source(w),
	}
	if w.Round > 1 {
		cfg.Linger = hostUnreachableAfter
	}
	return path.New(cfg), nil
}

// source is the address the user wants to measure from, when it is of the
// family of the want's target.
func (c measureContext) source(w diagnose.Want) netip.Addr {
	s := c.Question.Source
	if !s.IsValid() {
		return s
	}
	a, err := netip.ParseAddr(w.Target)
	if err != nil {
		ap, err := netip.ParseAddrPort(w.Target)
		if err != nil {
			ap = w.Pin
		}
		a = ap.Addr()
	}
	if a.IsValid() && a.Is4() != s.Is4() {
		return netip.Addr{}
	}
	return s
}

func (c measureContext) insecure(url string) bool {
	for _, t := range c.Question.Targets {
		if t.URL == url {
			return t.Insecure
		}
	}
	return false
}
