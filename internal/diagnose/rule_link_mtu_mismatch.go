package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"fathom/probe"
	"fathom/sample"
)

var ruleLinkMTUMismatch = Rule{
	ID: "link.mtu_mismatch", Layer: LayerLink,
	Title:       "This host and its neighbour disagree on the MTU",
	Explanation: "The interface sends frames of a size that the neighbour on the same link, or the switch between, does not accept. They vanish without a message, since no router is involved that could send one. Small packets pass, so connections open and then hang.",
	TellApart:   "A small echo to the on-link neighbour is answered, a full-size one with DF is not and nobody says frag needed. When the neighbour is fine and the loss is further away it is path.mtu_blackhole.",
	Remedy:      []string{"Use the same MTU on every host and switch port of the segment", "ip link set dev <iface> mtu <value>, and make it lasting in the network configuration"},
	Validate:    []string{"ping -M do -s <mtu-28> <neighbour> is answered"},
	Sceptic:     "ping -c 3 -M do -s <mtu-28> <neighbour>",
	References:  []string{"RFC 1191 section 1", "RFC 894 (Ethernet MTU)"},
	Explains:    []string{"path.mtu_blackhole", "path.loss", "tls.handshake_slow", "http.*", "tls.*"},
	Check:       checkLinkMTUMismatch,
}

func checkLinkMTUMismatch(e *Evidence) (a Answer) {
	type neighbour struct {
		addr netip.Addr
		link string
	}
	var ns []neighbour
	for _, g := range e.Gateways() {
		ns = append(ns, neighbour{zoned(g.Addr, g.Link), g.Link})
	}
	for _, t := range e.remoteAddrs() {
		if gw, link, ok := e.NextHop(t); ok && !gw.IsValid() {
			ns = append(ns, neighbour{t, link})
		}
	}
	for _, n := range ns {
		l, ok := e.Host().LinkByName(n.link)
		if !ok || slices.ContainsFunc(a.Findings, func(f Finding) bool { return f.Subject == n.link }) {
			continue
		}
		small := e.Ping(n.addr)
		if small == nil || small.Echo == nil || small.Echo.Received == 0 || small.Echo.Loss() > 0.3 {
			continue // silent, or losing packets of any size: not a question of size
		}
		large := e.Result(WantPingSize(n.addr, l.MTU))
		search := e.Result(WantMTU(n.addr))
		if large == nil && search == nil {
			continue
		}
		// A veth whose peer has a smaller MTU refuses large packets when they are sent.
		failed := large != nil && (large.Outcome == probe.Timeout || large.Outcome == probe.SendFailed) && large.Echo != nil && large.Echo.Received == 0
		if large == nil {
			failed = search.MTU != nil && search.MTU.Fails > 0
		}
		if !failed {
			if large != nil && large.Outcome == probe.OK {
				a.RuledOut = append(a.RuledOut, RuledOut{"link.mtu_mismatch", n.link, fmt.Sprintf("%s answers packets of %d bytes, the full MTU of %s", n.addr, l.MTU, n.link)})
			}
			continue
		}
		if search == nil {
			a.Wants = append(a.Wants, WantMTU(n.addr))
			continue
		}
		if search.MTU == nil || search.MTU.Works == 0 || search.MTU.Works >= l.MTU || search.MTU.Signalled || e.fullSizeBeyond(n.addr, l.MTU) {
			continue
		}
		a.Findings = append(a.Findings, Finding{
			Subject: n.link, SubjectKind: sample.KindInterface, Location: fmt.Sprintf("this host, %s, towards %s", n.link, n.addr),
			Severity: sample.Major, Confidence: Confirmed,
			Summary: fmt.Sprintf("%s has MTU %d, but its neighbour %s accepts only up to %d bytes; larger packets vanish.", n.link, l.MTU, n.addr, search.MTU.Works),
			Evidence: []Proof{
				proof(WantPingLocal(n.addr).Key(), "%s, small packets: %s", n.addr, echoText(small)),
				proof(WantMTU(n.addr).Key(), "%d bytes with DF are answered, %d bytes are not (each tried %d times)", search.MTU.Works, search.MTU.Fails, max(search.MTU.Tries, 1)),
				proof(WantMTU(n.addr).Key(), "nobody sent \"fragmentation needed\": the neighbour is on the same link"),
			},
			Remedy:   []string{fmt.Sprintf("Give both ends the same MTU: either raise %s's side, or ip link set dev %s mtu %d", n.addr, n.link, search.MTU.Works), "Check the switch between them for the same setting"},
			Sceptic:  []string{fmt.Sprintf("ping -c 3 -M do -s %d %s", l.MTU-headerBytes(n.addr), n.addr), fmt.Sprintf("ping -c 3 -M do -s %d %s", search.MTU.Works-headerBytes(n.addr), n.addr)},
			Validate: []string{fmt.Sprintf("ping -M do -s %d %s is answered", l.MTU-headerBytes(n.addr), n.addr)},
			Affects:  []string{TagLink(n.link), TagAddr(n.addr)}, Depends: e.DependsOnAddr(n.addr),
		})
	}
	return a
}

// fullSizeBeyond: something behind the neighbour answered full-size packets, so
// the neighbour forwards them and merely ignores large pings to itself.
func (e *Evidence) fullSizeBeyond(neighbour netip.Addr, mtu int) bool {
	for _, t := range e.remoteAddrs() {
		gw, _, ok := e.NextHop(t)
		if !ok || gw != neighbour.WithZone("") {
			continue
		}
		if r := e.Result(WantMTU(t)); r != nil && r.MTU != nil && (r.MTU.Works >= mtu || r.MTU.Signalled && r.MTU.By != neighbour.WithZone("")) {
			return true
		}
	}
	return false
}
