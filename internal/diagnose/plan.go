package diagnose

import (
	"net/netip"
	"slices"
	"time"

	"fathom/internal/facts"
	"fathom/probe"
)

// baseWindow is how long counters are watched at least: long enough that a rate
// means something, short enough for a healthy verdict within three seconds.
const baseWindow = 2 * time.Second

// deepWindow catches what comes and goes every few seconds.
const deepWindow = 12 * time.Second

// Plan lists all measurements the evidence so far calls for: those of the
// question itself and those that rules want. It is pure, and is asked again
// whenever something new is known.
func Plan(e *Evidence) []Want {
	if e.Before == nil {
		return nil
	}
	p := planner{e: e, seen: map[Want]bool{}}
	p.add(WantWindow(baseWindow))
	if e.Question.Deep {
		p.add(WantWindow(deepWindow))
	}
	if !e.Question.Passive {
		p.gateways()
		p.ownAddresses()
		p.resolvers()
		p.wayOut()
	}
	for _, t := range e.targets() {
		p.target(t)
	}
	for i := range Rules {
		if Rules[i].Check == nil {
			continue
		}
		for _, w := range Rules[i].Check(e).Wants {
			p.add(w)
		}
	}
	return p.wants
}

// Pending lists the planned measurements that have not been made yet.
func Pending(e *Evidence) []Want {
	return slices.DeleteFunc(Plan(e), func(w Want) bool {
		if w.Kind == KindLookup {
			a, err := netip.ParseAddr(w.Target)
			return err != nil || e.Lookup(a) != nil
		}
		_, ok := e.Get(w)
		return ok
	})
}

type planner struct {
	e     *Evidence
	seen  map[Want]bool
	wants []Want
}

func (p *planner) add(ws ...Want) {
	for _, w := range ws {
		if !p.seen[w] && p.e.mayMeasure(w) {
			p.seen[w] = true
			p.wants = append(p.wants, w)
		}
	}
}

// mayMeasure keeps the promise of a passive run, whatever a rule asks for:
// packets go to the named targets only and, when one is a name, to the resolvers.
func (e *Evidence) mayMeasure(w Want) bool {
	if !e.Question.Passive || w.Kind == KindLookup || w.Kind == KindWindow {
		return true
	}
	if w.Via.IsValid() {
		return false // that goes to a router nobody named
	}
	a, err := netip.ParseAddr(w.Target)
	if err != nil {
		ap, err := netip.ParseAddrPort(w.Target)
		if err != nil {
			ap = w.Pin // a URL
		}
		a = ap.Addr()
	}
	if w.Kind == probe.KindDNS && e.needsNames() && slices.ContainsFunc(e.servers(), func(s netip.AddrPort) bool { return s.Addr() == a }) {
		return true
	}
	return slices.ContainsFunc(e.Question.Targets, func(t Target) bool { return slices.Contains(e.TargetAddrs(t), a) })
}

// Gateway is a next hop of a default route.
type Gateway struct {
	Addr   netip.Addr
	Link   string
	Metric int
}

// Gateways lists the default gateways in use: per family those of the best
// metric, multipath legs included. With Question.Link only those through it.
func (e *Evidence) Gateways() []Gateway {
	var out []Gateway
	for _, is6 := range []bool{false, true} {
		if is6 && e.Question.V4Only || !is6 && e.Question.V6Only {
			continue
		}
		best, found := 0, false
		for _, r := range e.defaultRoutes(is6) {
			if found && r.Metric > best {
				continue
			}
			if !found || r.Metric < best {
				best, found = r.Metric, true
				out = slices.DeleteFunc(out, func(g Gateway) bool { return g.Addr.Is6() == is6 })
			}
			for _, nh := range legs(r) {
				if nh.Gateway.IsValid() && (e.Question.Link == "" || nh.Link == e.Question.Link) {
					out = append(out, Gateway{Addr: nh.Gateway, Link: nh.Link, Metric: r.Metric})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b Gateway) int { return a.Addr.Compare(b.Addr) })
	return slices.Compact(out)
}

func (e *Evidence) defaultRoutes(is6 bool) []facts.Route {
	var out []facts.Route
	for _, r := range e.Host().Routes {
		if !r.IsDefault() || r.Dst.Addr().Is6() != is6 || (r.Type != "" && r.Type != "unicast") {
			continue
		}
		if r.Table != 0 && r.Table != mainTable {
			continue
		}
		if e.Question.Link != "" && !slices.ContainsFunc(legs(r), func(l facts.NextHop) bool { return l.Link == e.Question.Link }) {
			continue
		}
		out = append(out, r)
	}
	return out
}

// mainTable is RT_TABLE_MAIN (include/uapi/linux/rtnetlink.h).
const mainTable = 254

func legs(r facts.Route) []facts.NextHop {
	if len(r.NextHops) > 0 {
		return r.NextHops
	}
	return []facts.NextHop{{Gateway: r.Gateway, Link: r.Link}}
}

// zoned gives a link-local address the zone it needs to be reachable.
func zoned(a netip.Addr, link string) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" {
		return a.WithZone(link)
	}
	return a
}

func (p *planner) gateways() {
	for _, g := range p.e.Gateways() {
		l, ok := p.e.Before.LinkByName(g.Link)
		if !ok || !l.Up || !l.Carrier {
			continue // the link's own rule speaks
		}
		p.add(WantPingLocal(zoned(g.Addr, g.Link)))
		if ethernet(l) {
			p.add(WantARP(g.Addr, g.Link))
		}
		p.add(WantPingSize(zoned(g.Addr, g.Link), l.MTU))
	}
}

// ethernet reports whether a link speaks ARP and ND.
func ethernet(l facts.Link) bool {
	return l.MAC != "" && l.MAC != "00:00:00:00:00:00" && l.Kind != "loopback" && !slices.Contains(l.Flags, "noarp")
}

// ownAddresses asks whether anybody else claims one of our addresses.
func (p *planner) ownAddresses() {
	n := 0
	for _, a := range p.e.Before.Addrs {
		l, ok := p.e.Before.LinkByName(a.Link)
		if !ok || !l.Up || !l.Carrier || !ethernet(l) || a.Scope == "host" || n >= 8 {
			continue
		}
		if a.Prefix.Addr().IsLinkLocalUnicast() || a.Prefix.IsSingleIP() {
			continue
		}
		if p.e.Question.V4Only && a.Prefix.Addr().Is6() || p.e.Question.V6Only && a.Prefix.Addr().Is4() {
			continue
		}
		n++
		p.add(WantARP(a.Prefix.Addr(), a.Link))
	}
}

// rootName is asked of resolvers when the user gave no name: every recursive
// resolver has its answer in the cache, and any answer shows that it is alive.
const rootName = "."

func (p *planner) resolvers() {
	for _, s := range p.e.servers() {
		a := s.Addr()
		p.add(WantLookup(a))
		if p.e.Usable(a) {
			p.add(WantDNS(s, rootName, "NS", "udp"))
			if !a.IsLoopback() {
				p.add(WantPingLocal(a))
			}
		}
	}
}

func (p *planner) wayOut() {
	traced := map[bool]bool{} // by family: one trace is enough to see a loop
	for _, a := range p.e.Question.Anchors {
		p.add(WantLookup(a))
		// A gateway that has no way out answers each of these with an error, from
		// the same small allowance that traces need: so few, and after the traces.
		if p.e.Usable(a) && p.traced() {
			p.add(WantPingAnchor(a))
			if _, asked := p.e.Get(WantPingAnchor(a)); asked && !p.e.Heard(a) && len(p.e.Question.Targets) == 0 && !traced[a.Is6()] {
				traced[a.Is6()] = true
				p.add(WantTrace(a, "icmp", 0)) // isolated on purpose, or a loop?
			}
		}
	}
}

// traced: every trace to a target has been made.
func (p *planner) traced() bool {
	for _, t := range p.e.Question.Targets {
		if _, lit := t.Literal(); !lit && p.e.Resolve(t.Host).Pending {
			return false
		}
		for _, a := range p.e.TargetAddrs(t) {
			if p.e.Lookup(a) == nil {
				return false
			}
			if a.IsLoopback() || p.e.Host().HasAddr(a) || !p.e.Usable(a) {
				continue
			}
			if _, ok := p.e.Get(WantTrace(a, "icmp", 0)); !ok {
				return false
			}
		}
	}
	return true
}

// tlsPorts are the ports whose protocol begins with a TLS handshake.
var tlsPorts = []uint16{443, 465, 636, 853, 993, 995}

func (p *planner) target(t Target) {
	if _, lit := t.Literal(); !lit {
		p.name(t.Host)
	}
	for _, a := range p.e.TargetAddrs(t) {
		p.add(WantLookup(a))
		if p.e.Usable(a) {
			p.address(t, a)
		}
	}
}

// name asks every server for the first candidate; the next candidate of the
// search list is asked only when the one before does not exist.
func (p *planner) name(host string) {
	r := p.e.Resolve(host)
	if r.From != "dns" || r.FQDN == "" {
		return
	}
	for _, s := range p.e.servers() {
		p.add(WantLookup(s.Addr()))
		if !p.e.Usable(s.Addr()) {
			continue
		}
		for _, ty := range p.e.queryTypes() {
			p.add(WantDNS(s, r.FQDN, ty, "udp"))
		}
	}
}

func (p *planner) address(t Target, a netip.Addr) {
	own := p.e.Host().HasAddr(a) || a.IsLoopback()
	if !own {
		p.add(WantTrace(a, "icmp", 0), WantPing(a))
		if tr := p.e.Result(WantTrace(a, "icmp", 0)); tr != nil && tr.Outcome == probe.OK {
			p.add(WantMTU(a)) // the search locates a black hole with the hops of the trace
		}
		if gw, link, ok := p.e.NextHop(a); ok && !p.e.Question.Passive {
			p.nextHop(a, gw, link)
		}
	}
	if p.e.Question.Deep && !own {
		p.deep(t, a)
	}
	if t.Port == 0 {
		return
	}
	ap := netip.AddrPortFrom(a, t.Port)
	switch t.Scheme {
	case "udp":
		p.add(WantUDP(ap))
	case "dns":
		p.add(WantDNS(ap, rootName, "NS", "udp"))
	case "http", "https":
		p.add(WantTCP(ap), WantHTTP(t.URL, ap))
	case "tls":
		p.add(WantTCP(ap), WantTLS(ap, t.Host))
	default:
		p.add(WantTCP(ap))
		if t.Scheme == "" && slices.Contains(tlsPorts, t.Port) {
			p.add(WantTLS(ap, t.Host))
		}
	}
}

// deep asks for what a quick run asks for only on suspicion: long series to the
// target and to every hop at the same time, traces by other protocols.
func (p *planner) deep(t Target, a netip.Addr) {
	p.add(WantPingMore(a), WantTrace(a, "udp", 0))
	if tr := p.e.Trace(a, ""); tr != nil {
		for _, h := range p.e.lossHops(tr.Path, a) {
			p.add(WantPingMore(h.Address))
		}
	}
	if t.Port != 0 && t.Scheme != "udp" && t.Scheme != "dns" {
		p.add(WantTrace(a, "tcp", t.Port), WantTCPMore(netip.AddrPortFrom(a, t.Port)))
	}
}

// nextHop looks at the first hop of a target when it is not the default gateway.
func (p *planner) nextHop(a, gw netip.Addr, link string) {
	l, ok := p.e.Before.LinkByName(link)
	if !ok || !ethernet(l) {
		return
	}
	if !gw.IsValid() {
		p.add(WantARP(a, link))
		return
	}
	p.add(WantPingLocal(zoned(gw, link)), WantARP(gw, link))
}
