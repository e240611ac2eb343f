package diagnose

import (
	"net/netip"
	"testing"

	"fathom/internal/facts"
)

// Quiet: what is healthy yields no finding, whatever is asked of it.
func TestHealthyNetworks(t *testing.T) {
	judge(t, []verdictOf{
		{name: "nothing asked"},
		{name: "nothing asked, anchors answer", opts: opts(question(func(q *Question) { q.Anchors = []netip.Addr{ip(anchorAddr)} }))},
		{name: "nothing asked, nobody outside answers", opts: opts(question(func(q *Question) { q.Anchors = []netip.Addr{ip(anchorAddr)} }), silent(to(anchorAddr)))},
		{name: "bare address", opts: opts(askAddr(webAddr))},
		{name: "bare name", opts: opts(asking(Target{Raw: webName, Host: webName}))},
		{name: "tcp port", opts: opts(askTCP(webAddr, 22))},
		{name: "tls port", opts: opts(asking(Target{Raw: "tls://web.lab.test:853", Scheme: "tls", Host: webName, Port: 853}))},
		{name: "web page", opts: opts(askURL(webURL))},
		{name: "web page over TLS", opts: opts(askURL(webURLTLS), twoResolvers)},
		{name: "dual stack", opts: opts(askURL(webURLTLS), dualStack)},
		{name: "several targets", opts: opts(asking(httpTarget(webURL), tcpTarget("10.0.9.10", 5432), Target{Raw: "10.0.0.77", Host: "10.0.0.77"}))},
		{name: "dns server", opts: opts(asking(Target{Raw: "dns://10.0.9.9", Scheme: "dns", Host: webAddr, Port: 53}))},
		{name: "udp port that answers", opts: opts(asking(Target{Raw: "udp://10.0.9.9:123", Scheme: "udp", Host: webAddr, Port: 123}))},
		{name: "on-link target", opts: opts(askTCP(neighbour77, 22))},
		{name: "this host's own port", opts: opts(askTCP("10.0.0.2", 22))},
		{name: "loopback port", opts: opts(askTCP("127.0.0.1", 22))},
		{name: "passive", opts: opts(askURL(webURL), question(func(q *Question) { q.Passive = true }))},
		{name: "no default route, an isolated host", opts: opts(host(func(h *facts.Host) { h.Routes = h.Routes[1:] })), notes: "no default route"},
		{name: "no resolver configured and no name asked", opts: opts(askAddr(webAddr), host(func(h *facts.Host) {
			h.Resolver.Servers, h.Resolver.Implicit = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, true
		}), silent(to("127.0.0.1")))},
		{name: "unprivileged: no neighbour questions, no firewall, no process names", opts: opts(askURL(webURL),
			edit(kind("arp"), func(_ Want, m *Measured) { m.Result, m.Error = nil, "permission denied" }),
			host(func(h *facts.Host) { h.Firewall, h.Privilege = nil, facts.Privilege{UID: 1000} }))},
	})
}
