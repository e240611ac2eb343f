package diagnose

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"fathom/probe"
	"fathom/sample"
)

// How many, how fast, how long. Each number has its reason beside it.
const (
	// echoCount and echoEvery make two seconds of probing: 100 probes show a loss
	// of 3 % with 95 % probability, and fit the three seconds of a healthy verdict.
	echoCount = 100
	echoEvery = 18 * time.Millisecond
	// echoMoreCount is what a suspicion costs: it separates one unlucky packet
	// from 1 % of loss.
	echoMoreCount = 300
	echoMoreEvery = 10 * time.Millisecond
	// echoTimeout is longer than any terrestrial path and than a geostationary hop.
	echoTimeout = time.Second
	// localCount is enough for the gateway and for resolvers, which are close.
	localCount = 20
	localEvery = 50 * time.Millisecond
	// connectTimeout lets the first two SYN retransmissions (1 s and 3 s) happen.
	connectTimeout = 3500 * time.Millisecond
	// connectCount and connectEvery: enough to notice a server that drops one SYN
	// in four, and slow enough that a simple server with a backlog of five is not
	// itself made to drop them.
	connectCount = 5
	connectEvery = 200 * time.Millisecond
	// connectMoreCount makes SYN loss of 10 % visible and its interval useful.
	connectMoreCount = 40
	// dnsTimeout is what a first look waits for. Who is silent then is asked once
	// more with the patience of a program (patientQuestion: glibc waits 5 s), so
	// that slow and dead are told apart.
	dnsTimeout = 1200 * time.Millisecond
	// httpTimeout and tlsTimeout are longer than a user waits, and leave time for
	// what a hanging server makes us ask next.
	httpTimeout = 6 * time.Second
	tlsTimeout  = 5 * time.Second
)

// Key is the want in one line: stable, unique, readable. It names the
// measurement in proofs.
func (w Want) Key() string {
	var b strings.Builder
	b.WriteString(w.Kind)
	b.WriteByte(' ')
	b.WriteString(w.Target)
	add := func(name, v string) {
		if v != "" {
			fmt.Fprintf(&b, " %s=%s", name, v)
		}
	}
	num := func(name string, v int) {
		if v != 0 {
			add(name, strconv.Itoa(v))
		}
	}
	add("proto", w.Protocol)
	num("port", int(w.Port))
	add("name", w.Name)
	add("type", w.Type)
	num("n", w.Count)
	num("size", w.Size)
	if w.DF {
		add("df", "1")
	}
	if w.Every != 0 {
		add("every", w.Every.Std().String())
	}
	if w.Timeout != 0 {
		add("timeout", w.Timeout.Std().String())
	}
	if w.Via.IsValid() {
		add("via", w.Via.String())
	}
	add("link", w.Link)
	if w.Pin.IsValid() {
		add("pin", w.Pin.String())
	}
	if w.CheckingDisabled {
		add("cd", "1")
	}
	if w.NoRecurse {
		add("rd", "0")
	}
	num("round", w.Round)
	return b.String()
}

// WantLookup asks the kernel how it would route to a.
func WantLookup(a netip.Addr) Want { return Want{Kind: KindLookup, Target: a.String()} }

// WantWindow keeps the counter window open for at least d.
func WantWindow(d time.Duration) Want { return Want{Kind: KindWindow, Timeout: sample.D(d)} }

// WantPing is the standard echo series to a target.
func WantPing(a netip.Addr) Want {
	return Want{Kind: probe.KindICMP, Target: a.String(), Count: echoCount, Every: sample.D(echoEvery), Timeout: sample.D(echoTimeout)}
}

// WantPingMore is the long series that settles a suspicion of loss.
func WantPingMore(a netip.Addr) Want {
	return Want{Kind: probe.KindICMP, Target: a.String(), Count: echoMoreCount, Every: sample.D(echoMoreEvery), Timeout: sample.D(echoTimeout), Round: 2}
}

// WantPingAgain repeats the long series: bursts may have paused during the first.
func WantPingAgain(a netip.Addr) Want {
	w := WantPingMore(a)
	w.Round = 3
	return w
}

// WantPingLocal is the short series to something near: a gateway, a resolver.
func WantPingLocal(a netip.Addr) Want {
	return Want{Kind: probe.KindICMP, Target: a.String(), Count: localCount, Every: sample.D(localEvery), Timeout: sample.D(echoTimeout)}
}

// WantPingAnchor asks whether the outside answers at all.
func WantPingAnchor(a netip.Addr) Want {
	return Want{Kind: probe.KindICMP, Target: a.String(), Count: 4, Every: sample.D(150 * time.Millisecond), Timeout: sample.D(echoTimeout)}
}

// WantPingSize asks whether whole packets of size bytes get through unfragmented.
func WantPingSize(a netip.Addr, size int) Want {
	return Want{Kind: probe.KindICMP, Target: a.String(), Count: 6, Every: sample.D(30 * time.Millisecond), Timeout: sample.D(700 * time.Millisecond), Size: size, DF: true}
}

// WantPingVia asks whether a answers when the packet is handed to another next
// hop than the routing table's.
func WantPingVia(a, via netip.Addr, link string) Want {
	return Want{Kind: probe.KindICMP, Target: a.String(), Count: 5, Every: sample.D(50 * time.Millisecond), Timeout: sample.D(echoTimeout), Via: via, Link: link}
}

// WantTCP is the standard connect to a port.
func WantTCP(ap netip.AddrPort) Want {
	return Want{Kind: probe.KindTCP, Target: ap.String(), Count: connectCount, Every: sample.D(connectEvery), Timeout: sample.D(connectTimeout)}
}

// WantTCPMore is a series of connects that makes SYN loss measurable.
func WantTCPMore(ap netip.AddrPort) Want {
	return Want{Kind: probe.KindTCP, Target: ap.String(), Count: connectMoreCount, Every: sample.D(20 * time.Millisecond), Timeout: sample.D(connectTimeout), Round: 2}
}

// WantUDP sends datagrams to a port to see whether it is refused.
func WantUDP(ap netip.AddrPort) Want {
	return Want{Kind: probe.KindUDP, Target: ap.String(), Count: 3, Every: sample.D(200 * time.Millisecond), Timeout: sample.D(time.Second)}
}

// WantTrace is a TTL-stepped trace; port is for tcp and udp.
func WantTrace(a netip.Addr, protocol string, port uint16) Want {
	return Want{Kind: probe.KindPath, Target: a.String(), Protocol: protocol, Port: port, Count: 3, Timeout: sample.D(time.Second)}
}

// WantTraceLong is a trace that waits until a Linux router in front of a missing
// target says host unreachable: three seconds.
func WantTraceLong(a netip.Addr) Want {
	w := WantTrace(a, "icmp", 0)
	w.Round = 2
	return w
}

// WantMTU searches for the largest packet that reaches a.
func WantMTU(a netip.Addr) Want {
	return Want{Kind: probe.KindMTU, Target: a.String(), Timeout: sample.D(500 * time.Millisecond)}
}

// WantARP asks who on the link answers for a.
func WantARP(a netip.Addr, link string) Want {
	return Want{Kind: probe.KindARP, Target: a.String(), Link: link, Count: 3}
}

// WantDNS asks one server one question.
func WantDNS(server netip.AddrPort, name, qtype, protocol string) Want {
	return Want{Kind: probe.KindDNS, Target: server.String(), Name: name, Type: qtype, Protocol: protocol, Count: 2, Timeout: sample.D(dnsTimeout)}
}

// WantTLS is a handshake with SNI name.
func WantTLS(ap netip.AddrPort, name string) Want {
	return Want{Kind: probe.KindTLS, Target: ap.String(), Name: name, Timeout: sample.D(tlsTimeout)}
}

// WantHTTP fetches url from the given address.
func WantHTTP(url string, pin netip.AddrPort) Want {
	return Want{Kind: probe.KindHTTP, Target: url, Pin: pin, Count: 3, Timeout: sample.D(httpTimeout)}
}

// WantHTTP3 fetches url over QUIC from the given address.
func WantHTTP3(url string, pin netip.AddrPort) Want {
	return Want{Kind: probe.KindHTTP3, Target: url, Pin: pin, Timeout: sample.D(3 * time.Second)}
}
