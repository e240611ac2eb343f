package cli

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fathom/internal/diagnose"
	"fathom/internal/facts"
	"fathom/probe"
	"fathom/probe/dns"
)

// checkName resolves a target's name as glibc would, but asks every resolver
// itself and both families at the same time, so that each has its own time.
func checkName(ctx context.Context, o checkOptions, rv *facts.Resolver, t diagnose.Target) *checkDNS {
	if a, ok := t.Literal(); ok {
		status := "literal"
		if t.Pin.IsValid() {
			status = "pinned"
		}
		d := &checkDNS{Status: status, Source: status, IPs: o.allowed([]netip.Addr{a})}
		if len(d.IPs) == 0 {
			d.Status, d.Error = "failed", "its address is of the other family than -4 or -6 allows"
		}
		return d
	}
	if as := o.allowed(rv.HostsLookup(t.Host)); len(as) > 0 {
		return &checkDNS{Status: "success", Source: "hosts", IPs: as}
	}
	d := &checkDNS{Status: "failed", Source: "dns", IPs: []netip.Addr{}}
	if rv == nil || len(rv.Servers) == 0 {
		d.Error = "no resolver is configured"
		return d
	}
	for _, fqdn := range facts.Candidates(rv, t.Host) {
		answers := make([]checkResolver, len(rv.Servers))
		var wg sync.WaitGroup
		for i, s := range rv.Servers {
			wg.Go(func() { answers[i] = o.askResolver(ctx, s, fqdn) })
		}
		wg.Wait()
		d.Resolvers, d.IPs = append(d.Resolvers, answers...), []netip.Addr{}
		for _, a := range answers {
			if a.Status == "success" {
				d.Status, d.IPs, d.ResolutionTime, d.Error = "success", a.IPs, a.ResolutionTime, ""
				return d
			}
			if d.Error == "" {
				d.Error = a.Server + ": " + a.Status
			}
		}
		if ctx.Err() != nil {
			return d
		}
	}
	if d.Error == "" {
		d.Error = "it cannot be asked for"
	}
	return d
}

func (o checkOptions) allowed(in []netip.Addr) []netip.Addr {
	out := []netip.Addr{}
	for _, a := range in {
		if a = a.Unmap(); !(o.v4 && a.Is6() || o.v6 && a.Is4()) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// askResolver asks one server for both families; the time is that of the slower answer.
func (o checkOptions) askResolver(ctx context.Context, server netip.AddrPort, fqdn string) checkResolver {
	out := checkResolver{Server: server.String(), Name: fqdn, IPs: []netip.Addr{}}
	types := []string{"AAAA", "A"}
	if o.v4 {
		types = []string{"A"}
	} else if o.v6 {
		types = []string{"AAAA"}
	}
	results, errs := make([]probe.Result, len(types)), make([]error, len(types))
	var wg sync.WaitGroup
	for i, ty := range types {
		wg.Go(func() {
			results[i], errs[i] = dns.New(dns.Config{Name: fqdn, Type: ty, Timeout: 2 * time.Second}).Probe(ctx, server.String())
		})
	}
	wg.Wait()
	for i, r := range results {
		if errs[i] != nil {
			out.Status, out.Error = "error", errs[i].Error()
			continue
		}
		out.IPs = append(out.IPs, o.allowed(diagnose.AnswerAddrs(&r))...)
		out.judge(r)
	}
	if len(out.IPs) > 0 {
		out.Status, out.Error = "success", ""
	} else if out.Status == "NOERROR" {
		out.Status = "no address"
	}
	return out
}

func (c *checkResolver) judge(r probe.Result) {
	if r.DNS == nil || r.DNS.Rcode == "" {
		c.Status, c.Error = string(r.Outcome), detail(r)
		return
	}
	if c.Status == "" || c.Status == "NOERROR" {
		c.Status = r.DNS.Rcode
	}
	if len(r.DNS.Times) > 0 {
		if t := ms(r.DNS.Times[0]); c.ResolutionTime == nil || *t > *c.ResolutionTime {
			c.ResolutionTime = t
		}
	}
}

// askRoot asks a server that is itself the target for what every resolver knows.
func askRoot(ctx context.Context, server string) (probe.Result, error) {
	return dns.New(dns.Config{Name: ".", Type: "NS"}).Probe(ctx, server)
}
