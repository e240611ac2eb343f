package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"fathom/probe"
	"fathom/sample"
)

var ruleRoutingLoop = Rule{
	ID: "ip.routing_loop", Layer: LayerNetwork,
	Title:       "Packets circle between routers",
	Explanation: "Two or more routers each think the other is the way to the destination. Packets go round until their TTL is used up and never arrive; each one loads the link between the routers many times over.",
	TellApart:   "In the trace the same router addresses come again at higher TTLs, and the target is never reached. A path that merely shows one router twice in a row near the end is no loop.",
	Remedy:      []string{"Correct the routes on the routers named: one of them must not send this prefix back", "A summary route without a discard route at its origin is the usual reason"},
	Validate:    []string{"traceroute -n <address> ends at the target"},
	Sceptic:     "traceroute -n <address>",
	References:  []string{"RFC 1812 section 4.2.2.9 (time to live)"},
	Explains:    []string{"ip.blackhole_hop", "ip.no_route", "ip.filtered", "ip.host_down", "path.*", "tcp.*", "dns.*", "http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		pairs := e.remotePairs()
		for _, a := range e.Question.Anchors {
			if len(e.Question.Targets) == 0 && e.Trace(a, "") != nil && !e.Heard(a) && !e.Question.AnchorsGiven {
				pairs = append(pairs, targetPair{Target{Raw: a.String(), Host: a.String()}, a})
			}
		}
		for _, p := range pairs {
			tr := e.Trace(p.Addr, "")
			if tr == nil || e.Heard(p.Addr) {
				if tr != nil && tr.Path.Reached {
					a.RuledOut = append(a.RuledOut, RuledOut{"ip.routing_loop", p.Target.Raw, fmt.Sprintf("the path to %s ends there after %s", p.Addr, plural(reachedAt(tr.Path), "hop", "hops"))})
				}
				continue
			}
			loop := tr.Path.LoopAt
			if loop == 0 {
				continue
			}
			circle := circleOf(tr.Path, loop)
			if leavesCircle(tr.Path, circle) {
				continue // a router seen twice on a path that goes on
			}
			first := firstTTL(tr.Path, circle)
			f := Finding{
				Subject: p.Target.Raw, SubjectKind: sample.KindTarget,
				Location: fmt.Sprintf("hop %d (%s)", first, addrList(circle)),
				Severity: sample.Critical, Confidence: Confirmed,
				Summary: fmt.Sprintf("Packets to %s circle %s and never arrive.", sideOf(p.Target, p.Addr), circleText(circle)),
				Evidence: []Proof{
					proof(WantTrace(p.Addr, "icmp", 0).Key(), "the trace repeats: %s", pathText(tr.Path, first, 6)),
					proof(WantTrace(p.Addr, "icmp", 0).Key(), "%s answered at %s, the target at none", addrList(circle), plural(countAnswers(tr.Path, circle), "TTL", "TTLs")),
					proof(WantPing(p.Addr).Key(), "%s: %s", p.Addr, echoText(e.Ping(p.Addr))),
				},
				Sceptic: []string{"traceroute -n " + p.Addr.String()},
				Affects: []string{TagAddr(p.Addr), TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
			}
			a.Findings = append(a.Findings, f)
		}
		return mergeByPlace(a)
	},
}

// mergeByPlace keeps one finding per place: several destinations circle there.
func mergeByPlace(a Answer) Answer {
	at := map[string]int{}
	var out []Finding
	for _, f := range a.Findings {
		if i, ok := at[f.Location]; ok {
			out[i].Evidence = append(out[i].Evidence, proof("path", "packets to %s circle there as well", f.Subject))
			out[i].Affects = addTags(out[i].Affects, f.Affects...)
			continue
		}
		at[f.Location] = len(out)
		out = append(out, f)
	}
	a.Findings = out
	return a
}

// circleOf lists the distinct routers that repeat.
func circleOf(p *probe.Path, loopAt int) []netip.Addr {
	count := map[netip.Addr]int{}
	var order []netip.Addr
	for _, h := range p.Hops {
		if h.Address.IsValid() {
			if count[h.Address] == 0 {
				order = append(order, h.Address)
			}
			count[h.Address]++
		}
	}
	out := slices.DeleteFunc(order, func(a netip.Addr) bool { return count[a] < 2 })
	if len(out) == 0 {
		for _, h := range p.Hops {
			if h.TTL == loopAt && h.Address.IsValid() {
				return []netip.Addr{h.Address}
			}
		}
	}
	return out
}

// leavesCircle: another router answers behind the last sight of the circle.
func leavesCircle(p *probe.Path, circle []netip.Addr) bool {
	last, ok := lastAnswering(p)
	return ok && !slices.Contains(circle, last.Address)
}

func circleText(circle []netip.Addr) string {
	if len(circle) == 1 {
		return fmt.Sprintf("between %s and a router that stays silent", circle[0])
	}
	return "between " + addrList(circle)
}

func firstTTL(p *probe.Path, in []netip.Addr) int {
	for _, h := range p.Hops {
		if slices.Contains(in, h.Address) {
			return h.TTL
		}
	}
	return 0
}

func countAnswers(p *probe.Path, in []netip.Addr) int {
	n := 0
	for _, h := range p.Hops {
		if slices.Contains(in, h.Address) {
			n++
		}
	}
	return n
}

func reachedAt(p *probe.Path) int {
	for _, h := range p.Hops {
		if h.Target {
			return h.TTL
		}
	}
	return len(p.Hops)
}

// pathText writes hops from TTL on, at most n of them.
func pathText(p *probe.Path, from, n int) string {
	s := ""
	for _, h := range p.Hops {
		if h.TTL < from || n == 0 {
			continue
		}
		n--
		if s != "" {
			s += " → "
		}
		if h.Address.IsValid() {
			s += fmt.Sprintf("%d %s", h.TTL, h.Address)
		} else {
			s += fmt.Sprintf("%d *", h.TTL)
		}
	}
	return s
}
