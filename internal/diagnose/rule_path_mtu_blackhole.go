package diagnose

import (
	"fmt"
	"net/netip"

	"fathom/probe"
	"fathom/sample"
)

var ruleMTUBlackhole = Rule{
	ID: "path.mtu_blackhole", Layer: LayerNetwork,
	Title:       "Large packets vanish on the way",
	Explanation: "Somewhere on the path a link takes smaller packets than this host sends, and the message that should say so never arrives. Small packets pass: connections open, then hang at the first full-size segment (TLS hello, upload, large query).",
	TellApart:   "Small echo requests are answered, large ones with DF are not, a small one sent at the same moment is, and no router sent \"fragmentation needed\". If a router does say it, path MTU discovery works and all is well.",
	Remedy:      []string{"Let ICMP type 3 code 4 (IPv6: packet too big) through every filter on the path", "Clamp the TCP MSS at the tunnel or router: nft add rule … tcp option maxseg size set rt mtu", "Until then lower the MTU of this route: ip route change … mtu <size>", "net.ipv4.tcp_mtu_probing=1 lets TCP find its way around"},
	Validate:    []string{"ping -M do -s <link mtu - 28> <address> is answered, or answered with frag needed"},
	Sceptic:     "ping -c 3 -M do -s <size> <address>; tracepath -n <address>",
	References:  []string{"RFC 2923 section 2.1 (black hole detection)", "RFC 1191", "RFC 8201", "RFC 4821"},
	Explains:    []string{"tls.*", "http.*", "dns.edns_broken"},
	Check:       checkMTUBlackhole,
}

func checkMTUBlackhole(e *Evidence) (a Answer) {
	for _, addr := range e.remoteAddrs() {
		gw, link, _ := e.NextHop(addr)
		if !gw.IsValid() {
			continue
		}
		m, ok := e.Get(WantMTU(addr))
		if !ok || m.Result == nil || m.Result.MTU == nil || m.Result.MTU.Works == 0 {
			l, _ := e.Host().LinkByName(link)
			if f, ok := e.mtuByHops(&a, addr, l.MTU); ok {
				a.Findings = append(a.Findings, f)
			}
			continue
		}
		x := m.Result.MTU
		if x.Fails == 0 || x.Signalled || x.Works >= x.LinkMTU {
			text := fmt.Sprintf("packets of %d bytes reach %s", x.Works, addr)
			if x.Signalled {
				text += fmt.Sprintf("; %s says so for larger ones, as it should", x.By)
			}
			a.RuledOut = append(a.RuledOut, RuledOut{"path.mtu_blackhole", addr.String(), text})
			continue
		}
		if p := e.Ping(addr); p == nil || p.Echo == nil || p.Echo.Loss() > 0.3 {
			continue // too lossy to blame the size
		}
		t := e.addrTargets(addr)[0]
		f := Finding{
			Subject: t.Raw, SubjectKind: sample.KindPath, Location: mtuWhere(x, addr),
			Severity: sample.Major, Confidence: Likely,
			Summary: fmt.Sprintf("Packets above %d bytes to %s vanish silently %s.", x.Works, sideOf(t, addr), mtuWhere(x, addr)),
			Evidence: []Proof{
				proof(WantMTU(addr).Key(), "%d bytes with DF are answered, %d bytes are not (each tried %d times; this host's MTU is %d)", x.Works, x.Fails, max(x.Tries, 1), x.LinkMTU),
				proof(WantMTU(addr).Key(), "nobody sent \"fragmentation needed\" or \"packet too big\""),
			},
			Remedy:   append([]string{fmt.Sprintf("Clamp the TCP MSS to %d (IPv4) or lower the route's MTU to %d until the ICMP messages get through", x.Works-40, x.Works)}, ruleMTURemedy...),
			Sceptic:  []string{fmt.Sprintf("ping -c 3 -M do -s %d %s", x.Fails-headerBytes(addr), addr), fmt.Sprintf("ping -c 3 -M do -s %d %s", x.Works-headerBytes(addr), addr)},
			Validate: []string{fmt.Sprintf("ping -M do -s %d %s is answered, or answered with frag needed", x.LinkMTU-headerBytes(addr), addr)},
			Affects:  []string{TagAddr(addr), TagTarget(t.Raw)}, Depends: e.pairDepends(t, addr),
		}
		if x.LastGood.IsValid() {
			f.Evidence = append(f.Evidence, proof(WantMTU(addr).Key(), "hop %d (%s) answers full-size packets", x.LastGoodTTL, x.LastGood))
		}
		if x.FirstBad.IsValid() {
			if x.FirstBad != addr { // a host may drop large pings on purpose, routers forward
				f.Confidence = Confirmed
			}
			f.Evidence = append(f.Evidence, proof(WantMTU(addr).Key(), "%s answers small packets only", mtuEnd(x, addr)))
		}
		if h := e.httpHung(t, addr); h != "" {
			f.Evidence = append(f.Evidence, proof("http", "%s", h))
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

var ruleMTURemedy = []string{"Let ICMP type 3 code 4 (IPv6: packet too big) through every filter on the path", "net.ipv4.tcp_mtu_probing=1 lets this host's TCP find its way around"}

// headerBytes is IP plus ICMP header: what ping's -s does not count.
func headerBytes(a netip.Addr) int {
	if a.Is4() {
		return 28
	}
	return 48
}

func mtuEnd(x *probe.MTU, addr netip.Addr) string {
	if x.FirstBad == addr {
		return fmt.Sprintf("the target %s", addr)
	}
	return fmt.Sprintf("hop %d (%s)", x.FirstBadTTL, x.FirstBad)
}

func mtuWhere(x *probe.MTU, addr netip.Addr) string {
	switch {
	case x.LastGood.IsValid() && x.FirstBad.IsValid():
		return fmt.Sprintf("between hop %d (%s) and %s", x.LastGoodTTL, x.LastGood, mtuEnd(x, addr))
	case x.FirstBad.IsValid():
		return "before " + mtuEnd(x, addr)
	}
	return "on the way to " + addr.String()
}

// httpHung: the connection opened and then nothing came, as it does with a size problem.
func (e *Evidence) httpHung(t Target, addr netip.Addr) string {
	if t.URL == "" {
		return ""
	}
	r := e.Result(WantHTTP(t.URL, netip.AddrPortFrom(addr, t.Port)))
	if r == nil || r.Outcome != probe.Timeout {
		return ""
	}
	if _, ok := r.PhaseNamed("connect"); !ok {
		return ""
	}
	return fmt.Sprintf("the connection to %s opened and then hung: %s", addr, r.Detail)
}

// mtuByHops judges a target that answers no ping but hangs after connecting: the
// routers before it are asked for full-size packets instead.
func (e *Evidence) mtuByHops(a *Answer, addr netip.Addr, mtu int) (Finding, bool) {
	t := e.addrTargets(addr)[0]
	hung, tr, ping := e.httpHung(t, addr), e.Trace(addr, ""), e.Ping(addr)
	if tr == nil || mtu == 0 || t.URL == "" || ping == nil || ping.Echo == nil || ping.Echo.Received > 0 || !e.Heard(addr) {
		return Finding{}, false
	}
	var good probe.Hop
	for _, h := range e.lossHops(tr.Path, addr) {
		small, large := WantPingLocal(h.Address), WantPingSize(h.Address, mtu)
		ms, ok1 := e.Get(small)
		ml, ok2 := e.Get(large)
		if !ok1 || !ok2 {
			a.Wants = append(a.Wants, small, large) // before it is known to hang: there is no time then
			continue
		}
		if hung == "" {
			continue
		}
		if ms.Result == nil || ml.Result == nil || ms.Result.Echo == nil || ms.Result.Echo.Received < ms.Result.Echo.Sent*3/4 {
			continue
		}
		if ml.Result.Outcome == probe.OK {
			good = h
			continue
		}
		if ml.Result.Outcome != probe.Timeout {
			return Finding{}, false // somebody said frag needed: discovery works
		}
		where := "before " + hopText(h)
		if good.Address.IsValid() {
			where = fmt.Sprintf("between %s and %s", hopText(good), hopText(h))
		}
		return Finding{
			Subject: t.Raw, SubjectKind: sample.KindPath, Location: where,
			Severity: sample.Major, Confidence: Likely,
			Summary: fmt.Sprintf("Full-size packets on the way to %s vanish silently %s.", sideOf(t, addr), where),
			Evidence: []Proof{
				proof(large.Key(), "%s answers small echo requests (%d of %d), but none of %d bytes", hopText(h), ms.Result.Echo.Received, ms.Result.Echo.Sent, mtu),
				proof(large.Key(), "nobody sent \"fragmentation needed\" or \"packet too big\""),
				proof("http", "%s", hung),
			},
			Validate: []string{fmt.Sprintf("ping -M do -s %d %s is answered, or answered with frag needed", mtu-headerBytes(addr), h.Address)},
			Affects:  []string{TagAddr(addr), TagTarget(t.Raw)}, Depends: e.pairDepends(t, addr),
		}, true
	}
	return Finding{}, false
}
