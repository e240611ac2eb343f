package diagnose

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"fathom/probe"
	"fathom/sample"
)

var rulePortsExhausted = Rule{
	ID: "tcp.ports_exhausted", Layer: LayerTransport,
	Title:       "No local port is left towards the target",
	Explanation: "Every connection to one destination address and port needs a local port of its own. All ports of the ephemeral range are taken, by open connections or by TIME_WAIT, so new connects to that destination fail at once on this host.",
	TellApart:   "connect() fails with EADDRNOTAVAIL, or the local ports in use towards one destination reach the size of ip_local_port_range. A large number of TIME_WAIT over many destinations is no fault.",
	Remedy:      []string{"Keep connections open and reuse them (HTTP keep-alive, a connection pool)", "Widen net.ipv4.ip_local_port_range, or use more source or destination addresses", "net.ipv4.tcp_tw_reuse=1 helps when TIME_WAIT holds the ports; tcp_fin_timeout does not"},
	Validate:    []string{"ss -tan dst <address> | wc -l stays well below the range"},
	Sceptic:     "ss -tan dst <address>:<port> | wc -l; sysctl net.ipv4.ip_local_port_range",
	References:  []string{"Linux Documentation/networking/ip-sysctl.rst (ip_local_port_range, tcp_tw_reuse)", "RFC 6056"},
	Explains:    []string{"tcp.filtered", "tcp.syn_loss", "http.*", "tls.*", "ip.v6_broken"},
	Check: func(e *Evidence) (a Answer) {
		size := e.portRange()
		var seen []string
		for i := range e.Measured {
			m := &e.Measured[i]
			if m.Want.Kind != probe.KindTCP || m.Result == nil || m.Result.Outcome != probe.NoPort || slices.Contains(seen, m.Want.Target) {
				continue
			}
			seen = append(seen, m.Want.Target)
			f := portFinding(e, m.Want.Target, size)
			f.Severity, f.Confidence = sample.Critical, Confirmed
			f.Evidence = append([]Proof{proof(m.Want.Key(), "connect to %s fails on this host with EADDRNOTAVAIL", m.Want.Target)}, f.Evidence...)
			f.Affects = append(f.Affects, TagAddr(m.Result.Address))
			a.Findings = append(a.Findings, f)
		}
		if s := e.Host().Sockets; s != nil && size > 0 {
			worst := 0
			for _, d := range s.Destinations {
				worst = max(worst, d.Ports)
				if d.Ports < size*9/10 || slices.Contains(seen, d.Remote.String()) {
					continue
				}
				f := portFinding(e, d.Remote.String(), size)
				f.Severity, f.Confidence = sample.Major, Likely
				f.Affects = append(f.Affects, TagAddr(d.Remote.Addr()))
				a.Findings = append(a.Findings, f)
			}
			if len(a.Findings) == 0 {
				a.RuledOut = append(a.RuledOut, RuledOut{Cause: "tcp.ports_exhausted", Text: fmt.Sprintf("at most %d of %d local ports in use towards any one destination", worst, size)})
			}
		}
		return a
	},
}

func portFinding(e *Evidence, dest string, size int) Finding {
	f := Finding{
		Subject: dest, SubjectKind: sample.KindSocket, Location: "this host, local ports",
		Summary: fmt.Sprintf("This host has no local port left for new connections to %s.", dest),
		Sceptic: []string{"ss -tan | grep -c '" + dest + "'", "sysctl net.ipv4.ip_local_port_range"},
	}
	if s := e.Host().Sockets; s != nil {
		for _, d := range s.Destinations {
			if d.Remote.String() == dest {
				f.Evidence = append(f.Evidence, proof("sockets", "%d of %d local ports towards %s are taken, %d of them by TIME_WAIT", d.Ports, size, dest, d.TimeWait))
			}
		}
	}
	if r := e.Host().Sysctls["net.ipv4.ip_local_port_range"]; r != "" {
		f.Evidence = append(f.Evidence, proof("sysctl", "net.ipv4.ip_local_port_range = %s: with 60 s of TIME_WAIT that is %.0f new connections per second to one destination", strings.Join(strings.Fields(r), " "), float64(size)/60))
	}
	for _, t := range e.Question.Targets {
		for _, addr := range e.TargetAddrs(t) {
			if dest == fmt.Sprintf("%s:%d", addr, t.Port) || dest == fmt.Sprintf("[%s]:%d", addr, t.Port) {
				f.Affects = addTags(f.Affects, TagTarget(t.Raw))
			}
		}
	}
	return f
}

// portRange is how many ephemeral ports there are, 0 when it is not known.
func (e *Evidence) portRange() int {
	w := strings.Fields(e.Host().Sysctls["net.ipv4.ip_local_port_range"])
	if len(w) != 2 {
		return 0
	}
	lo, err1 := strconv.Atoi(w[0])
	hi, err2 := strconv.Atoi(w[1])
	if err1 != nil || err2 != nil || hi < lo {
		return 0
	}
	return hi - lo + 1
}
