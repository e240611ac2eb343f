package diagnose

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"fathom/probe"
	"fathom/sample"
)

var ruleH3Blocked = Rule{
	ID: "http.h3_blocked", Layer: LayerApplication,
	Title:       "HTTP/3 is announced but UDP does not get through",
	Explanation: "The server tells clients to come back by HTTP/3 (QUIC over UDP), and QUIC does not work from here: a firewall drops UDP 443, or the server's QUIC listener is down. Browsers try it, wait, and fall back to TCP: pages start slowly now and then.",
	TellApart:   "Alt-Svc announces h3, TCP to the same server works, and the QUIC handshake to the announced port stays unanswered or is refused. A server that announces no h3 is not asked.",
	Remedy:      []string{"Allow UDP to that port through the firewall", "Check the server's QUIC listener, or take the Alt-Svc header away"},
	Validate:    []string{"curl --http3-only -sv <url> connects"},
	Sceptic:     "curl --http3-only -sv -o /dev/null <url>",
	References:  []string{"RFC 9114 section 3.1.1", "RFC 7838 (Alt-Svc)", "RFC 9000"},
	Check: func(e *Evidence) (a Answer) {
		for _, q := range e.requests() {
			alt := q.result.HTTP.AltSvcH3
			if alt == "" || q.result.Outcome != probe.OK {
				continue
			}
			host, portText, err := splitAuthority(alt)
			if err != nil || host != "" && host != q.target.Host {
				continue // another host: not what the user asked about
			}
			port, err := strconv.ParseUint(portText, 10, 16)
			if err != nil || port == 0 {
				continue
			}
			w := WantHTTP3(q.target.URL, netip.AddrPortFrom(q.addr, uint16(port)))
			m, ok := e.Get(w)
			if !ok {
				a.Wants = append(a.Wants, w)
				continue
			}
			if m.Result == nil {
				continue
			}
			if m.Result.Outcome == probe.OK || m.Result.Outcome == probe.BadAnswer {
				a.RuledOut = append(a.RuledOut, RuledOut{"http.h3_blocked", q.target.Raw, fmt.Sprintf("%s: HTTP/3 works on UDP port %d", q.addr, port)})
				continue
			}
			f := e.requestFinding(q)
			f.Severity, f.Location = sample.Minor, fmt.Sprintf("%s, UDP port %d", q.addr, port)
			f.Summary = fmt.Sprintf("%s announces HTTP/3, but QUIC on UDP port %d does not work from here.", q.target.Raw, port)
			f.Evidence = []Proof{
				proof(q.want.Key(), "over TCP: HTTP %d, Alt-Svc announces h3=%q", q.result.HTTP.Status, alt),
				proof(w.Key(), "QUIC handshake with %s port %d: %s%s", q.addr, port, m.Result.Outcome, detailText(m.Result)),
			}
			a.Findings = append(a.Findings, f)
		}
		return mergeByTarget(a)
	},
}

func detailText(r *probe.Result) string {
	if r.Detail == "" {
		return ""
	}
	return " (" + r.Detail + ")"
}

// splitAuthority splits "host:port" (host may be empty, or a bracketed address).
func splitAuthority(s string) (host, port string, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", fmt.Errorf("authority %q has no port", s)
	}
	return strings.Trim(s[:i], "[]"), s[i+1:], nil
}
