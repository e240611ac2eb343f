package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"fathom/probe"
	"fathom/sample"
)

// The states of a checklist line.
const (
	StateOK      = "ok"
	StateFault   = "fault"
	StateInfo    = "info"
	StateUnknown = "unknown"
	StateRunning = "running"
)

// Checklist says in one line per area what was looked at and what came of it.
// With an unfinished Evidence (After == nil) lines may be "running".
func Checklist(e *Evidence, r Report) []CheckLine {
	if e.Before == nil {
		return []CheckLine{{"host", StateRunning, "reading this host's own state"}}
	}
	// Beyond this point Before is there.
	lines := []CheckLine{e.checkLinks(), e.checkAddresses(), e.checkGateway()}
	if len(e.Servers()) > 0 {
		lines = append(lines, e.checkResolvers())
	}
	if len(e.Question.Anchors) > 0 && !e.Question.Passive {
		lines = append(lines, e.checkWayOut())
	}
	lines = append(lines, e.checkStack())
	for _, t := range e.Question.Targets {
		lines = append(lines, e.checkTarget(t))
	}
	var anchors []string
	for _, a := range e.Question.Anchors {
		anchors = append(anchors, a.String())
	}
	over := len(Pending(e)) == 0
	for i := range lines {
		if over && lines[i].State == StateRunning {
			lines[i].State = StateUnknown
		}
		lines[i] = judged(lines[i], r, anchors)
	}
	return lines
}

// areaCauses says which findings colour which line, by the beginning of their ids.
var areaCauses = map[string][]string{
	"link":      {"link.", "l2.neighbour_table", "l2.duplicate_ip"},
	"addresses": {"ip.no_address"},
	"gateway":   {"ip.gateway_unreachable", "l2.gateway_conflict"},
	"resolvers": {"dns.resolver", "dns.first_resolver"},
	"stack":     {"nat.", "tcp.listen_overflow", "tcp.ports_exhausted", "tcp.close_wait_leak", "udp.rcvbuf"},
}

// judged turns a line to "fault" when a finding belongs to it.
func judged(l CheckLine, r Report, anchors []string) CheckLine {
	for _, f := range r.Findings {
		belongs := l.Area == f.Subject || l.Area == "way out" && slices.Contains(anchors, f.Subject)
		for _, c := range areaCauses[l.Area] {
			belongs = belongs || strings.HasPrefix(f.Cause, c)
		}
		if !belongs {
			continue
		}
		if f.Severity == sample.Info {
			if l.State == StateOK {
				l.State = StateInfo
			}
			continue
		}
		return CheckLine{l.Area, StateFault, f.Title + ": " + f.Subject}
	}
	return l
}

func (e *Evidence) checkLinks() CheckLine {
	var s []string
	for _, l := range e.Host().Links {
		if l.Kind == "loopback" || !e.linkInUse(l) {
			continue
		}
		state := "up"
		switch {
		case !l.Up:
			state = "off"
		case !l.Carrier:
			state = "no carrier"
		}
		text := l.Name + " " + state
		if l.SpeedMbps > 0 && l.Carrier {
			text += ", " + rateText(float64(l.SpeedMbps)*1e6)
		}
		s = append(s, text)
	}
	line := CheckLine{"link", StateOK, joinMax(s, 3)}
	if len(s) == 0 {
		return CheckLine{"link", StateUnknown, "no interface in use besides loopback"}
	}
	if e.After == nil {
		line.State = StateRunning
		line.Text += "; watching its counters"
	} else {
		line.Text += "; no errors or drops " + e.windowText()
	}
	return line
}

func (e *Evidence) checkAddresses() CheckLine {
	if s := e.addressList(); s != "" {
		return CheckLine{"addresses", StateOK, s}
	}
	return CheckLine{"addresses", StateUnknown, "no address besides loopback"}
}

func (e *Evidence) checkGateway() CheckLine {
	gws := e.Gateways()
	if len(gws) == 0 {
		return CheckLine{"gateway", StateInfo, "no default gateway configured"}
	}
	if e.Question.Passive {
		return CheckLine{"gateway", StateUnknown, gws[0].Addr.String() + ": not asked (passive)"}
	}
	var s []string
	state := StateOK
	for _, g := range gws {
		p := e.Ping(zoned(g.Addr, g.Link))
		m, asked := e.Get(WantPingLocal(zoned(g.Addr, g.Link)))
		switch {
		case p == nil && asked && m.Error != "":
			state = StateUnknown
			s = append(s, g.Addr.String()+": could not be asked")
		case p == nil:
			state = StateRunning
			s = append(s, g.Addr.String())
		case p.Echo != nil && p.Echo.Received > 0:
			s = append(s, fmt.Sprintf("%s answers %d of %d, median %s", g.Addr, p.Echo.Received, p.Echo.Sent, median(p.Echo.RTTs)))
		case e.heardThrough(g):
			s = append(s, fmt.Sprintf("%s ignores ping, but forwards", g.Addr))
		default:
			if state == StateOK {
				state = StateUnknown
			}
			s = append(s, fmt.Sprintf("%s does not answer ping", g.Addr))
		}
	}
	return CheckLine{"gateway", state, joinMax(s, 2)}
}

func (e *Evidence) checkResolvers() CheckLine {
	if e.Question.Passive && len(e.nameTargets()) == 0 {
		return CheckLine{"resolvers", StateUnknown, "not asked (passive)"}
	}
	var s []string
	state := StateOK
	for _, st := range e.serverStates() {
		a := st.Server.Addr()
		switch {
		case st.Asked == 0 && e.Lookup(a) != nil && !e.Usable(a):
			state = StateUnknown
			s = append(s, a.String()+": no route")
		case st.Asked == 0:
			state = StateRunning
			s = append(s, a.String())
		case st.Answered > 0:
			s = append(s, fmt.Sprintf("%s answers in %s", a, median(st.Times)))
		default:
			if state == StateOK {
				state = StateUnknown
			}
			s = append(s, fmt.Sprintf("%s: %s", a, st.Last.Outcome))
		}
	}
	return CheckLine{"resolvers", state, joinMax(s, 3)}
}

func (e *Evidence) checkWayOut() CheckLine {
	var ok, silent []string
	running := false
	for _, a := range e.Question.Anchors {
		switch p := e.Ping(a); {
		case e.Lookup(a) == nil, p == nil && e.Usable(a):
			running = true
		case p == nil:
		case p.Echo != nil && p.Echo.Received > 0:
			ok = append(ok, fmt.Sprintf("%s in %s", a, median(p.Echo.RTTs)))
		default:
			silent = append(silent, a.String())
		}
	}
	switch {
	case len(ok) > 0:
		return CheckLine{"way out", StateOK, "outside answers: " + joinMax(ok, 3)}
	case running:
		return CheckLine{"way out", StateRunning, "asking " + addrList(e.Question.Anchors)}
	case len(silent) > 0:
		return CheckLine{"way out", StateInfo, fmt.Sprintf("none of %s answers: no way out, or none is meant to be", joinMax(silent, 3))}
	}
	return CheckLine{"way out", StateInfo, "no route to the outside: an isolated host"}
}

func (e *Evidence) checkStack() CheckLine {
	if e.After == nil {
		return CheckLine{"stack", StateRunning, "watching sockets and counters"}
	}
	var s []string
	if c := e.Host().Conntrack; c != nil && c.Max > 0 {
		s = append(s, fmt.Sprintf("conntrack %d of %d", c.Count, c.Max))
	}
	if k := e.Host().Sockets; k != nil {
		s = append(s, fmt.Sprintf("%s, %s", plural(k.Total, "TCP socket", "TCP sockets"), plural(len(k.Listeners), "listener", "listeners")))
	}
	if n, ok := e.Delta("Tcp.RetransSegs"); ok {
		out, _ := e.Delta("Tcp.OutSegs")
		s = append(s, fmt.Sprintf("%d segments sent, %d again", out, n))
	}
	if len(s) == 0 {
		return CheckLine{"stack", StateUnknown, "not readable"}
	}
	return CheckLine{"stack", StateOK, strings.Join(s, ", ")}
}

func (e *Evidence) checkTarget(t Target) CheckLine {
	addrs := e.TargetAddrs(t)
	if len(addrs) == 0 {
		if e.Resolve(t.Host).Pending {
			return CheckLine{t.Raw, StateRunning, "resolving " + t.Host}
		}
		return CheckLine{t.Raw, StateUnknown, t.Host + " has no address"}
	}
	var s []string
	state := StateOK
	for _, a := range addrs {
		text, st := e.addressText(t, a)
		s = append(s, text)
		if st == StateRunning || state == StateOK {
			state = st
		}
	}
	text := joinMax(s, 2)
	if _, lit := t.Literal(); !lit && e.Resolve(t.Host).From == "hosts" {
		text += " (address from the hosts file)"
	}
	return CheckLine{t.Raw, state, text}
}

// addressText sums up what is known of one address of a target.
func (e *Evidence) addressText(t Target, a netip.Addr) (string, string) {
	if l := e.Lookup(a); l == nil {
		return a.String(), StateRunning
	} else if why, bad := routeRefuses(l); bad {
		return a.String() + ": " + why, StateUnknown
	}
	parts := []string{}
	state := StateRunning
	if p := e.Ping(a); p != nil && p.Echo != nil {
		state = StateUnknown
		if p.Echo.Received > 0 {
			state = StateOK
			parts = append(parts, fmt.Sprintf("echo %d/%d in %s", p.Echo.Received, p.Echo.Sent-p.Echo.SendErrors, median(p.Echo.RTTs)))
		} else {
			parts = append(parts, "no echo")
		}
	}
	if tr := e.Trace(a, ""); tr != nil && tr.Path.Reached {
		parts = append(parts, plural(reachedAt(tr.Path), "hop", "hops"))
	}
	if t.Port != 0 {
		if r, _ := e.asked(targetPair{t, a}); r != nil {
			if r.Outcome == probe.OK {
				state = StateOK
				parts = append(parts, fmt.Sprintf("port %d open", t.Port))
			} else {
				state = StateUnknown
				parts = append(parts, fmt.Sprintf("port %d %s", t.Port, r.Outcome))
			}
		} else {
			state = StateRunning
		}
	}
	if i := slices.IndexFunc(e.requests(), func(q request) bool { return q.target.Raw == t.Raw && q.addr == a }); i >= 0 {
		if h := e.requests()[i].result.HTTP; h.Status > 0 {
			parts = append(parts, fmt.Sprintf("HTTP %d", h.Status))
		}
	}
	if len(parts) == 0 {
		return a.String(), state
	}
	return a.String() + ": " + strings.Join(parts, ", "), state
}
