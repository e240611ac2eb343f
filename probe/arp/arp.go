// Package arp asks a link who answers for an address, with ARP (IPv4) or
// neighbour solicitations (IPv6). It finds duplicate addresses, which the
// kernel's neighbour table hides, and proves that a silent address is not there.
// It needs CAP_NET_RAW.
package arp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"fathom/internal/sys/neigh"
	"fathom/probe"
	"fathom/sample"
)

// What a zero Config stands for. 600 ms is two hundred times an Ethernet's round
// trip and still bearable; three requests survive the loss of two.
const (
	DefaultCount = 3
	DefaultWait  = 600 * time.Millisecond
	maxCount     = 100
	answerError  = time.Millisecond // of the round trip, which our own clock measures
)

// Config says how to ask.
type Config struct {
	Interface string        // the link; required, except with a zone in the target
	Count     int           // requests
	Wait      time.Duration // from the first request to the end
	// Own asks as a host does for its own address (RFC 5227 §2.1.1, RFC 4862
	// §5.4): without sender address. Any answer is then a conflict.
	Own bool
}

// Prober asks as its Config says.
type Prober struct {
	cfg Config
}

var _ probe.Prober = (*Prober)(nil)

// New makes a Prober. Bad values in cfg are reported by Probe.
func New(cfg Config) *Prober {
	if cfg.Count == 0 {
		cfg.Count = DefaultCount
	}
	if cfg.Wait == 0 {
		cfg.Wait = DefaultWait
	}
	return &Prober{cfg}
}

// Probe asks for target, an address literal. The outcome is OK when somebody
// answered and Timeout when nobody did; Result.ARP.MACs lists everybody.
func (p *Prober) Probe(ctx context.Context, target string) (probe.Result, error) {
	start := time.Now()
	res := probe.Result{Kind: probe.KindARP, Target: target, Start: start, Method: "packet socket"}
	q, err := p.query(target)
	if err != nil {
		return res, err
	}
	res.Address, res.Source = q.Target, q.Source
	answers, sent, err := neigh.Ask(ctx, q)
	res.Elapsed = sample.D(time.Since(start))
	res.ARP = &probe.ARP{Interface: q.Link.Name, Own: p.cfg.Own, Sent: sent}
	if err != nil {
		return res, fmt.Errorf("arp probe: %w", err)
	}
	res.Outcome = probe.Timeout
	for _, a := range answers {
		res.Outcome = probe.OK
		res.ARP.MACs = append(res.ARP.MACs, a.MAC.String())
	}
	if len(answers) > 0 {
		d := sample.D(answers[0].RTT)
		res.RTT = &probe.RTT{Value: d, Error: min(d, sample.D(answerError)), Clock: "user"}
	}
	return res, nil
}

func (p *Prober) query(target string) (q neigh.Query, err error) {
	a, err := netip.ParseAddr(target)
	if err != nil {
		return q, fmt.Errorf("arp target %q: not an IP address: %w", target, err)
	}
	a = a.Unmap()
	name := p.cfg.Interface
	if name == "" {
		name = a.Zone()
	}
	a = a.WithZone("")
	switch {
	case name == "":
		return q, fmt.Errorf("arp probe for %s: no interface given", a)
	case a.IsMulticast(), a.IsUnspecified(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return q, fmt.Errorf("arp probe for %s: not a unicast address", a)
	case p.cfg.Count < 1 || p.cfg.Count > maxCount || p.cfg.Wait < 0:
		return q, fmt.Errorf("arp probe for %s: %d requests in %v: out of range", a, p.cfg.Count, p.cfg.Wait)
	}
	link, err := net.InterfaceByName(name)
	if err != nil {
		return q, fmt.Errorf("arp probe for %s: interface %s: %w", a, name, err)
	}
	q = neigh.Query{Link: link, Target: a, Count: p.cfg.Count, Wait: p.cfg.Wait}
	if !p.cfg.Own {
		// A link without address of the family asks without sender, as RFC 5227 allows.
		q.Source, _ = neigh.SourceOn(link, a)
	}
	return q, nil
}
