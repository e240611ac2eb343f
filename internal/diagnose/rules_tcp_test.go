package diagnose

import (
	"net/netip"
	"testing"

	"fathom/internal/facts"
	"fathom/probe"
)

func TestStackRules(t *testing.T) {
	listener := func(recvQ, sendQ uint32) func(h *facts.Host) {
		return func(h *facts.Host) {
			h.Sockets.Listeners = append(h.Sockets.Listeners, facts.Socket{Proto: "tcp", Local: netip.MustParseAddrPort("0.0.0.0:8080"), RecvQ: recvQ, SendQ: sendQ, Process: "app[700]"})
		}
	}
	closeWait := func(g facts.SocketGroup) func(h *facts.Host) {
		return func(h *facts.Host) { g.Process = "app[700]"; h.Sockets.CloseWait = []facts.SocketGroup{g} }
	}
	judge(t, []verdictOf{
		{
			name: "conntrack full", opts: opts(host(func(h *facts.Host) { h.Conntrack.Count = 65536 }), later(func(h *facts.Host) { h.Conntrack.Drop = 40 })),
			cause: "nat.conntrack_full", subject: "nf_conntrack", location: "this host", severity: critical, conf: Confirmed, proof: "40 new connections dropped",
		},
		{
			name: "conntrack nearly full", opts: opts(host(func(h *facts.Host) { h.Conntrack.Count = 62000 })),
			cause: "nat.conntrack_full", subject: "nf_conntrack", location: "this host", severity: minor, conf: Likely,
		},
		{name: "conntrack: large and idle", opts: opts(host(func(h *facts.Host) { h.Conntrack.Count, h.Conntrack.Max = 200000, 262144 }))},
		{name: "conntrack: a drop after a clash of two entries, with the table nearly empty", opts: opts(later(func(h *facts.Host) { h.Conntrack.Drop, h.Conntrack.InsertFailed = 1, 1 }))},
		{name: "conntrack: old drops", opts: opts(host(func(h *facts.Host) { h.Conntrack.Drop = 900 }))},

		{
			name: "no local port left", opts: opts(askTCP(webAddr, 443), change(both(kind("tcp", "tls"), portIs(443)), func(r *probe.Result) {
				silence(r)
				r.Outcome, r.Errno = probe.NoPort, "EADDRNOTAVAIL"
				if r.TCP != nil {
					*r.TCP = probe.TCP{Attempts: 3}
				}
			}), host(func(h *facts.Host) { h.Sockets.Destinations[0].Ports = 28232 })),
			cause: "tcp.ports_exhausted", subject: "10.0.9.9:443", location: "this host, local ports", severity: critical, conf: Confirmed, proof: "28232 of 28232",
		},
		{
			name: "few local ports left", opts: opts(host(func(h *facts.Host) { h.Sockets.Destinations[0].Ports = 27000 })),
			cause: "tcp.ports_exhausted", subject: "10.0.9.9:443", location: "this host", severity: major, conf: Likely,
		},
		{name: "thirty thousand TIME_WAIT over many destinations", opts: opts(host(func(h *facts.Host) { h.Sockets.States["TIME_WAIT"] = 30000 }))},

		{
			name: "accept queue full and overflowing", opts: opts(host(listener(129, 128)), later(func(h *facts.Host) { h.Counters["TcpExt.ListenOverflows"] += 20 })),
			cause: "tcp.listen_overflow", subject: "0.0.0.0:8080", location: "app[700]", severity: critical, conf: Confirmed, proof: "+20",
		},
		{
			name: "accept queue full, and our connects to it hang", opts: opts(askTCP("10.0.0.2", 8080), host(listener(129, 128)), silent(both(kind("tcp"), portIs(8080)))),
			cause: "tcp.listen_overflow", subject: "0.0.0.0:8080", location: "app[700]", severity: critical, masks: []string{"tcp.filtered"},
		},
		{name: "accept queue half full", opts: opts(host(listener(64, 128)))},
		{name: "accept queue at its limit for a moment, nothing overflows", opts: opts(host(listener(0, 5)), later(func(h *facts.Host) { h.Sockets.Listeners[1].RecvQ = 5 }))},
		{name: "accept queue: old overflows", opts: opts(host(func(h *facts.Host) { h.Counters["TcpExt.ListenOverflows"] = 90000 }))},

		{
			name: "close wait leak, old and growing", opts: opts(host(closeWait(facts.SocketGroup{Count: 80, MedianAge: ms(90_000), OldestAge: ms(900_000)})), later(func(h *facts.Host) { h.Sockets.CloseWait[0].Count = 95 })),
			cause: "tcp.close_wait_leak", subject: "app[700]", location: "app[700]", severity: major, conf: Confirmed, proof: "15 more",
		},
		{name: "close wait: nine old ones", opts: opts(host(closeWait(facts.SocketGroup{Count: 9, MedianAge: ms(90_000), OldestAge: ms(900_000)})))},
		{name: "close wait: a busy server closes sixty at once", opts: opts(host(closeWait(facts.SocketGroup{Count: 15, MedianAge: ms(20), OldestAge: ms(40)})), later(func(h *facts.Host) { h.Sockets.CloseWait[0].Count = 60 }))},

		{
			name: "udp reader too slow", opts: opts(later(func(h *facts.Host) {
				h.Counters["Udp.RcvbufErrors"] += 500
				h.Counters["Udp.InDatagrams"] += 2000
				h.Sockets.UDP[0].Drops, h.Sockets.UDP[0].RecvQ = 600, 212000
			})),
			cause: "udp.rcvbuf_overflow", subject: "0.0.0.0:514", location: "rsyslogd[600]", severity: major, conf: Confirmed, proof: "dropped 500 datagrams",
		},
		{name: "udp: three dropped", opts: opts(later(func(h *facts.Host) { h.Counters["Udp.RcvbufErrors"] += 3 }))},
		{name: "udp: six of ten million", opts: opts(later(func(h *facts.Host) { h.Counters["Udp.RcvbufErrors"] += 6; h.Counters["Udp.InDatagrams"] += 1e7 }))},
	})
}

func TestPortRules(t *testing.T) {
	udp := Target{Raw: "udp://10.0.9.9:9999", Scheme: "udp", Host: webAddr, Port: 9999}
	judge(t, []verdictOf{
		{
			name: "udp port closed", opts: opts(asking(udp), says(kind("udp"), webAddr, 3, 3)),
			cause: "udp.no_port", subject: udp.Raw, location: "10.0.9.9:9999", severity: critical, conf: Confirmed,
		},
		{
			name: "refused", opts: opts(askTCP(webAddr, 8080), refused(to(webAddr))),
			cause: "tcp.refused", subject: "10.0.9.9:8080", location: "10.0.9.9, TCP port 8080", severity: critical, conf: Confirmed, proof: "5 of 5 SYNs",
		},
		{
			name: "refused: a page", opts: opts(askURL(webURL), refused(to(webAddr))),
			cause: "tcp.refused", subject: webURL, location: "port 80", severity: critical,
		},
		{
			name: "refused on this host: it listens on loopback only", opts: opts(askTCP("10.0.0.2", 8080), refused(portIs(8080)), host(func(h *facts.Host) {
				h.Sockets.Listeners = append(h.Sockets.Listeners, facts.Socket{Proto: "tcp", Local: netip.MustParseAddrPort("127.0.0.1:8080"), SendQ: 5, Process: "app[700]"})
			})),
			cause: "tcp.refused", subject: "10.0.0.2:8080", location: "port 8080", severity: critical, proof: "127.0.0.1:8080 only",
		},
		{name: "another port of the target is closed", opts: opts(askTCP(webAddr, 8080), refused(both(to(webAddr), portIs(80))), lossy(webAddr, 0.01))},
		{
			name: "filtered at the target", opts: opts(askTCP(webAddr, 8080), silent(both(to(webAddr), portIs(8080))), silent(func(w Want) bool { return w.Kind == "path" && w.Protocol == "tcp" })),
			cause: "tcp.filtered", subject: "10.0.9.9:8080", location: "10.0.9.9, TCP port 8080", severity: critical, conf: Confirmed,
		},
		{name: "filtered: no ping, port open", opts: opts(askTCP(webAddr, 8080), silent(both(kind("icmp"), to(webAddr))))},
		{
			name: "syn loss while echo is clean", opts: opts(askTCP(webAddr, 8080), change(both(kind("tcp"), to(webAddr)), func(r *probe.Result) {
				r.TCP.Retried, r.TCP.SYNRetrans, r.TCP.Slow = r.TCP.Attempts/3, r.TCP.Attempts/3, r.TCP.Attempts/3
				r.TCP.Connects[0] = ms(1010)
			})),
			cause: "tcp.syn_loss", subject: "10.0.9.9:8080", location: "port 8080", severity: major, conf: Confirmed, proof: "13 needed SYN",
		},
		{name: "syn loss: one retry of the first three, none of forty", opts: opts(askTCP(webAddr, 8080), change(func(w Want) bool { return w.Kind == "tcp" && w.Count == connectCount }, func(r *probe.Result) { r.TCP.Retried = 1 }))},
		{name: "syn loss: one of forty", opts: opts(askTCP(webAddr, 8080), change(both(kind("tcp"), to(webAddr)), func(r *probe.Result) { r.TCP.Retried = 1 }))},
	})
}

// What was asked and not answered must not be called healthy (principle 1),
// even where no rule can say why.
func TestWhatWasNotJudgedIsNotHealthy(t *testing.T) {
	udp := Target{Raw: "udp://10.0.9.9:9999", Scheme: "udp", Host: webAddr, Port: 9999}
	judge(t, []verdictOf{
		{name: "a silent udp port of a host that answers ping", unknown: true, opts: opts(asking(udp), silent(kind("udp")))},
		{name: "the port could not be measured", unknown: true, opts: opts(askTCP(webAddr, 8080), edit(both(kind("tcp"), portIs(8080)), func(_ Want, m *Measured) {
			m.Result, m.Error = nil, "socket: too many open files"
		}))},
		{name: "the page could not be measured", unknown: true, opts: opts(askURL(literalURL), edit(kind("http"), func(_ Want, m *Measured) {
			m.Result, m.Error = nil, "time budget used up"
		}))},
		{name: "a name that no server could be asked for", unknown: true, opts: opts(askURL(webURL), host(func(h *facts.Host) { h.Resolver = nil }))},
	})
	e := evidence(t, asking(Target{Raw: "127.0.0.53", Host: "127.0.0.53"}))
	if r := Decide(e); r.Verdict != Healthy {
		t.Errorf("this host's own loopback address: %s (%s)", r.Verdict, r.Headline)
	}
}
