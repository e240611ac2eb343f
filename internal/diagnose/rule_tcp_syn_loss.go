package diagnose

import (
	"fmt"
	"net/netip"
	"time"

	"fathom/probe"
	"fathom/sample"
)

var ruleSYNLoss = Rule{
	ID: "tcp.syn_loss", Layer: LayerTransport,
	Title:       "TCP handshakes need several attempts",
	Explanation: "A share of the connection attempts succeeds only after the SYN was sent again, one second later and then three. Users see requests that take a second longer for no visible reason.",
	TellApart:   "SYN retransmissions and connect times at the 1 s, 3 s, 7 s steps, while echo to the same address is clean: then SYNs are dropped on purpose or by an overflowing accept queue, not by the path. With loss of all packets it is path.loss.",
	Remedy:      []string{"On the server: nstat -az TcpExtListenOverflows TcpExtListenDrops TcpExtTCPReqQFullDrop, and ss -ltn for a full accept queue", "Look for SYN rate limits or flood protection in front of it", "Check load balancer members one by one: a single bad one gives this picture"},
	Validate:    []string{"40 connects without a retransmission"},
	Sceptic:     "for i in $(seq 40); do curl -o /dev/null -s -w '%{time_connect}\\n' <url>; done | sort -n | tail",
	References:  []string{"RFC 6298 section 2 (initial RTO of 1 s)", "Linux net/ipv4/tcp_input.c (tcp_conn_request)"},
	Explains:    []string{"http.server_slow", "tls.handshake_slow"},
	Check: func(e *Evidence) (a Answer) {
		for _, p := range e.allPairs() {
			if p.Target.Port == 0 || p.Target.Scheme == "udp" || p.Target.Scheme == "dns" {
				continue
			}
			ap := netip.AddrPortFrom(p.Addr, p.Target.Port)
			r := e.Result(WantTCP(ap))
			if r == nil || r.TCP == nil || r.TCP.Connected == 0 {
				continue
			}
			if len(r.TCP.Connects) > 0 && minOf(r.TCP.Connects) >= synRetry {
				if p := e.Ping(p.Addr); p == nil || p.RTT == nil || p.RTT.Value >= synRetry*9/10 {
					continue // the way is longer than the first time-out: nothing was lost
				}
			}
			if r.TCP.Retried == 0 && r.TCP.TimedOut == 0 && !e.slowConnect(p) {
				a.RuledOut = append(a.RuledOut, RuledOut{"tcp.syn_loss", p.Target.Raw, fmt.Sprintf("%s: %d connects, no SYN retransmission", ap, r.TCP.Attempts)})
				if m := e.Result(WantTCPMore(ap)); m == nil {
					continue
				}
			}
			if f, ok := e.synLoss(&a, p, ap); ok {
				a.Findings = append(a.Findings, f)
			}
		}
		return mergeByTarget(a)
	},
}

// slowConnect: the request's own connection took as long as a SYN sent twice.
func (e *Evidence) slowConnect(p targetPair) bool {
	if p.Target.URL == "" {
		return false
	}
	r := e.Result(WantHTTP(p.Target.URL, netip.AddrPortFrom(p.Addr, p.Target.Port)))
	if r == nil {
		return false
	}
	d, ok := r.PhaseNamed("connect")
	return ok && d >= synRetry
}

// synRetry is just below the first retransmission of a SYN (1 s, RFC 6298).
const synRetry = sample.Duration(950 * time.Millisecond)

func (e *Evidence) synLoss(a *Answer, p targetPair, ap netip.AddrPort) (Finding, bool) {
	w := WantTCPMore(ap)
	m, ok := e.Get(w)
	if !ok {
		a.Wants = append(a.Wants, w)
		return Finding{}, false
	}
	if m.Result == nil || m.Result.TCP == nil {
		return Finding{}, false
	}
	t := m.Result.TCP
	bad := t.Retried
	lo, _ := probe.LossInterval(bad, t.Attempts)
	if bad < 2 || lo < 0.01 {
		return Finding{}, false
	}
	f := Finding{
		Subject: p.Target.Raw, SubjectKind: sample.KindTarget, Location: fmt.Sprintf("%s, TCP port %d", p.Addr, p.Target.Port),
		Severity: sample.Major, Confidence: Likely,
		Summary: fmt.Sprintf("%d of %d connects to %s needed the SYN sent again: each costs a second or more.", bad, t.Attempts, ap),
		Evidence: []Proof{
			proof(w.Key(), "%d connects: %d needed SYN retransmissions (%d in all), %d never connected", t.Attempts, bad, t.SYNRetrans, t.TimedOut),
			proof(w.Key(), "connect time: median %s, slowest %s", median(t.Connects), maxOf(t.Connects)),
		},
		Affects: []string{TagTarget(p.Target.Raw)}, Depends: e.pairDepends(p.Target, p.Addr),
	}
	if pr := e.Ping(p.Addr); pr != nil && pr.Echo != nil && pr.Echo.Received > 0 {
		n := pr.Echo.Sent - pr.Echo.SendErrors
		lost := n - pr.Echo.Received
		if more := e.Result(WantPingMore(p.Addr)); more != nil && more.Echo != nil {
			n += more.Echo.Sent - more.Echo.SendErrors
			lost += more.Echo.Sent - more.Echo.SendErrors - more.Echo.Received
		}
		f.Evidence = append(f.Evidence, proof(WantPing(p.Addr).Key(), "echo to the same address at the same time: %s", lossText(lost, n)))
		if _, hi := probe.LossInterval(lost, n); hi < lo {
			f.Confidence = Confirmed
			f.RulesOut = append(f.RulesOut, "path.loss: echo on the same path is clean")
		}
	}
	return f, true
}
