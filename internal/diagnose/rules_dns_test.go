package diagnose

import (
	"net/netip"
	"slices"
	"testing"

	"fathom/internal/facts"
	"fathom/probe"
)

func slowDNS(server string, d float64, only match) option {
	return change(both(kind("dns"), to(server), only), func(r *probe.Result) { r.DNS.Times = repeat(ms(d), len(r.DNS.Times)) })
}

func first(w Want) bool { return w.Round == 0 }
func every(Want) bool   { return true }
func overTCP(w Want) bool {
	return w.Protocol == "tcp"
}

func nxdomain(d *probe.DNS) { d.Rcode, d.Answers = "NXDOMAIN", nil }

// saysFor makes a server answer an address for a name.
func saysFor(server, fqdn, addr string) option {
	return dnsAnswer(server, func(d *probe.DNS) {
		if d.Name == fqdn && d.Type == "A" {
			d.Rcode, d.Answers = "NOERROR", []probe.DNSRecord{{Name: fqdn, Type: "A", TTL: 60, Data: addr}}
		}
	})
}

func TestResolverRules(t *testing.T) {
	judge(t, []verdictOf{
		{
			name: "first resolver dead", opts: opts(askURL(webURL), twoResolvers, silent(to(dns1))),
			cause: "dns.first_resolver_dead", subject: dns1, location: "10.0.0.53, port 53", severity: major, conf: Confirmed, proof: "resolver number 2",
		},
		{
			name: "first resolver refuses, nothing asked", opts: opts(twoResolvers, refused(to(dns1))),
			cause: "dns.first_resolver_dead", subject: dns1, location: "port 53", severity: major,
		},
		{name: "first resolver loses one question", opts: opts(askURL(webURL), twoResolvers, silent(func(w Want) bool { return w.Kind == "dns" && w.Name == "." && wantAddr(w) == ip(dns1) }))},
		{name: "first resolver ignores ping", opts: opts(askURL(webURL), twoResolvers, silent(both(kind("icmp"), to(dns1))))},

		{
			name: "only resolver silent", opts: opts(askURL(webURL), silent(both(kind("dns"), to(dns1)))),
			cause: "dns.resolver_down", subject: dns1, location: "port 53", severity: critical, conf: Confirmed, proof: "by TCP",
		},
		{
			name: "both resolvers silent, nothing asked", opts: opts(twoResolvers, silent(kind("dns"))),
			cause: "dns.resolver_down", subject: dns1, location: "port 53", severity: critical,
		},
		{
			name: "second resolver dead", opts: opts(askURL(webURL), twoResolvers, silent(to(dns2))),
			cause: "dns.resolver_down", subject: dns2, location: dns2, severity: minor,
		},
		{
			name: "only resolver answers by TCP alone, as no program asks it", opts: opts(askURL(webURL), silent(func(w Want) bool { return w.Kind == "dns" && w.Protocol == "udp" })),
			cause: "dns.resolver_down", subject: dns1, location: "port 53", severity: critical,
		},
		{
			name: "no resolver configured and a name asked", opts: opts(askURL(webURL), refused(to("127.0.0.1")), host(func(h *facts.Host) {
				h.Resolver.Servers, h.Resolver.Implicit = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, true
			})),
			cause: "dns.resolver_down", subject: "127.0.0.1", location: "port 53", severity: critical, proof: "/etc/resolv.conf",
		},

		{
			name: "resolver slow, twice", opts: opts(askURL(webURL), slowDNS(dns1, 800, every)),
			cause: "dns.resolver_slow", subject: dns1, location: dns1, severity: major, conf: Confirmed,
		},
		{
			name: "resolver slow for what is new", opts: opts(askURL(webURL), slowDNS(dns1, 1100, first)),
			cause: "dns.resolver_slow", subject: dns1, location: dns1, severity: minor, conf: Likely,
		},
		{
			name: "resolver later than we ask for, but in time for programs", opts: opts(askURL(webURL), silent(func(w Want) bool { return w.Kind == "dns" && w.Round == 0 && !overTCP(w) }), slowDNS(dns1, 2500, every)),
			cause: "dns.resolver_slow", subject: dns1, location: dns1, severity: major,
		},
		{name: "resolver slow: a cold cache", opts: opts(askURL(webURL), slowDNS(dns1, 400, first))},
		{name: "resolver slow: behind a satellite", opts: opts(askURL(webURL), roundTrip(dns1, ms(600)))},

		{
			name: "resolver invents addresses", opts: opts(askURL(webURL), saysFor(dns1, cannotExist, "10.0.66.66")),
			cause: "dns.resolver_lies", subject: dns1, location: dns1, severity: major, conf: Confirmed, proof: cannotExist,
		},
		{
			name: "one resolver sends elsewhere, where nothing serves", opts: opts(askURL(webURL), twoResolvers, saysFor(dns2, webFQDN, "10.0.66.66"), refused(to("10.0.66.66"))),
			cause: "dns.resolver_lies", subject: dns2, location: webName, severity: major, conf: Likely, proof: "10.0.66.66",
		},
		{
			name: "the first resolver lies, and its address is refused", opts: opts(askURL(webURL), twoResolvers, saysFor(dns1, webFQDN, "10.0.66.66"), refused(to("10.0.66.66"))),
			cause: "dns.resolver_lies", subject: dns1, location: webName, severity: critical, masks: []string{"tcp.refused"},
		},
		{
			name: "the first resolver denies a name that works", opts: opts(askURL(webURL), twoResolvers, dnsAnswer(dns1, func(d *probe.DNS) {
				if d.Name == webFQDN {
					nxdomain(d)
				}
			})),
			cause: "dns.resolver_lies", subject: dns1, location: webName, severity: major,
		},
		{name: "resolvers differ and both work", opts: opts(askURL(webURL), twoResolvers, saysFor(dns2, webFQDN, "10.0.9.10")), notes: "ordinary load distribution"},
		{name: "resolvers overlap", opts: opts(askURL(webURL), twoResolvers, named(webFQDN, webAddr, "10.0.9.10"), saysFor(dns2, webFQDN, "10.0.9.10"))},
		{name: "resolver fails for a name that cannot exist", opts: opts(askURL(webURL), dnsAnswer(dns1, func(d *probe.DNS) {
			if d.Name == cannotExist {
				d.Rcode = "SERVFAIL"
			}
		}))},

		{
			name: "servfail, and the other resolver knows it", opts: opts(askURL(webURL), twoResolvers, dnsAnswer(dns1, func(d *probe.DNS) {
				if d.Name == webFQDN {
					d.Rcode, d.Answers, d.EDE = "SERVFAIL", nil, []string{"22 No Reachable Authority"}
				}
			})),
			cause: "dns.resolver_servfail", subject: dns1, location: webName, severity: major, conf: Confirmed, proof: "22 No Reachable Authority",
		},
		{
			name: "servfail: DNSSEC", opts: opts(askURL(webURL), change(func(w Want) bool { return w.Name == webFQDN && w.Kind == "dns" && !w.CheckingDisabled }, func(r *probe.Result) {
				r.DNS.Rcode, r.DNS.Answers, r.Outcome = "SERVFAIL", nil, probe.BadAnswer
			})),
			cause: "dns.resolver_servfail", subject: dns1, location: webName, severity: critical, conf: Confirmed, proof: "checking disabled",
		},
		{
			name: "truncated, and TCP is closed", opts: opts(askURL(webURL), change(func(w Want) bool { return w.Name == webFQDN && w.Kind == "dns" }, func(r *probe.Result) {
				r.DNS.Flags, r.DNS.Answers, r.DNS.Size, r.Outcome = append(r.DNS.Flags, "tc"), nil, 40, probe.Refused
			})),
			cause: "dns.tcp_blocked", subject: dns1, location: "TCP port 53", severity: critical, conf: Confirmed, proof: "40 bytes with the TC bit",
		},
		{name: "truncated, and fetched by TCP", opts: opts(askURL(webURL), change(func(w Want) bool { return w.Name == webFQDN && w.Kind == "dns" }, func(r *probe.Result) {
			r.DNS.Flags = append(r.DNS.Flags, "tc")
		}))},
		{
			name: "refused by the only resolver", opts: opts(askURL(webURL), dnsAnswer(dns1, func(d *probe.DNS) { d.Rcode, d.Answers = "REFUSED", nil })),
			cause: "dns.resolver_servfail", subject: dns1, location: webName, severity: critical, proof: "REFUSED",
		},
		{name: "servfail for the IPv6 question only", opts: opts(askURL(webURL), dnsAnswer(dns1, func(d *probe.DNS) {
			if d.Type == "AAAA" {
				d.Rcode, d.Answers = "SERVFAIL", nil
			}
		}))},
		{name: "refused for the root, which nobody needs", opts: opts(askURL(webURL), dnsAnswer(dns1, func(d *probe.DNS) {
			if d.Name == rootName {
				d.Rcode, d.Answers = "REFUSED", nil
			}
		}))},
	})
}

func TestNameRules(t *testing.T) {
	bare := asking(Target{Raw: "web", Host: "web"})
	search := host(func(h *facts.Host) { h.Resolver.Search = []string{"corp.test", "lab.test"} })
	judge(t, []verdictOf{
		{
			name: "no such name", opts: opts(askURL("http://wbe.lab.test/")),
			cause: "dns.nxdomain", subject: "wbe.lab.test", location: "wbe.lab.test.", severity: critical, conf: Confirmed, proof: "zone lab.test.",
		},
		{
			name: "no such name in any search domain", opts: opts(bare, search, func(w *world) { delete(w.names, webFQDN) }),
			cause: "dns.nxdomain", subject: "web", location: "DNS", severity: critical, proof: "web.corp.test., web.lab.test., web.",
		},
		{name: "the second search domain has it", opts: opts(bare, search)},
		{name: "the hosts file has it, and no server does", opts: opts(askURL("http://db/"), host(func(h *facts.Host) {
			h.Resolver.Hosts = []facts.HostsEntry{{Address: ip("10.0.9.10"), Names: []string{"db"}}}
		}))},
		{
			name: "a name without an address", opts: opts(askURL("http://mail.lab.test/"), named("mail.lab.test.", "")),
			cause: "dns.no_data", subject: "mail.lab.test", location: "mail.lab.test.", severity: critical,
		},
		{
			name: "a name with IPv4 only, asked with -6", opts: opts(askURL(webURL), dualStack, named(webFQDN, webAddr), question(func(q *Question) { q.V6Only = true })),
			cause: "dns.no_data", subject: webName, location: webFQDN, severity: critical,
		},
		{name: "a name with IPv4 only, asked from a host with both", opts: opts(askURL(webURL), dualStack, named(webFQDN, webAddr))},
		{
			name: "the search domain has the name without an address, the root has not", opts: opts(bare, host(func(h *facts.Host) { h.Resolver.Search = []string{"lab.test"} }), named(webFQDN, "")),
			cause: "dns.no_data", subject: "web", location: "DNS", severity: critical,
		},
	})
}

func resolution(t *testing.T, name string, o ...option) Resolution {
	t.Helper()
	o = append([]option{asking(Target{Raw: name, Host: name})}, o...)
	return evidence(t, o...).Resolve(name)
}

func TestResolve(t *testing.T) {
	addrs := func(s ...string) (out []netip.Addr) {
		for _, x := range s {
			out = append(out, ip(x))
		}
		return out
	}
	onlyFor := func(server, fqdn, rcode string) option {
		return dnsAnswer(server, func(d *probe.DNS) {
			if d.Name == fqdn {
				d.Rcode, d.Answers = rcode, nil
			}
		})
	}
	hosts := func(lines ...facts.HostsEntry) option {
		return host(func(h *facts.Host) { h.Resolver.Hosts = lines })
	}
	search := func(s ...string) option { return host(func(h *facts.Host) { h.Resolver.Search = s }) }
	for _, c := range []struct {
		name, ask string
		opts      []option
		want      []netip.Addr
		from      string
		server    string
		fqdn      string
		rcode     string
	}{
		{name: "address literal", ask: "10.0.9.9", want: addrs("10.0.9.9"), from: "literal"},
		{name: "mapped literal", ask: "::ffff:10.0.9.9", want: addrs("10.0.9.9"), from: "literal"},
		{name: "hosts file before DNS", ask: "WEB.lab.test", opts: opts(hosts(facts.HostsEntry{Address: ip("10.0.9.10"), Names: []string{"other", "web.lab.test"}})), want: addrs("10.0.9.10"), from: "hosts"},
		{name: "hosts file, of the wrong family, then DNS", ask: webName, opts: opts(question(func(q *Question) { q.V4Only = true }),
			hosts(facts.HostsEntry{Address: ip("fd00::7"), Names: []string{webName}})), want: addrs(webAddr), from: "dns", server: dns1, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "one server", ask: webName, want: addrs(webAddr), from: "dns", server: dns1, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "both families, IPv6 first", ask: webName, opts: opts(dualStack), want: addrs(v6Web, webAddr), from: "dns", server: dns1, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "first server says SERVFAIL", ask: webName, opts: opts(twoResolvers, onlyFor(dns1, webFQDN, "SERVFAIL")), want: addrs(webAddr), from: "dns", server: dns2, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "first server silent", ask: webName, opts: opts(twoResolvers, silent(to(dns1))), want: addrs(webAddr), from: "dns", server: dns2, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "first server denies it, the second knows it", ask: webName, opts: opts(twoResolvers, onlyFor(dns1, webFQDN, "NXDOMAIN")), want: addrs(webAddr), from: "dns", server: dns2, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "both fail", ask: webName, opts: opts(twoResolvers, onlyFor(dns1, webFQDN, "SERVFAIL"), onlyFor(dns2, webFQDN, "REFUSED")), from: "dns", server: dns1, fqdn: webFQDN, rcode: "SERVFAIL"},
		{name: "search list, second domain", ask: "web", opts: opts(search("corp.test", "lab.test")), want: addrs(webAddr), from: "dns", server: dns1, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "search list, a trailing dot stops it", ask: "web.", opts: opts(search("lab.test")), from: "dns", fqdn: "web.", server: dns1, rcode: "NXDOMAIN"},
		{name: "search list goes no further after a failure", ask: "web", opts: opts(search("corp.test", "lab.test"), onlyFor(dns1, "web.corp.test.", "SERVFAIL")), from: "dns", server: dns1, fqdn: "web.corp.test.", rcode: "SERVFAIL"},
		{name: "absolute name", ask: webFQDN, want: addrs(webAddr), from: "dns", server: dns1, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "alias", ask: webName, opts: opts(dnsAnswer(dns1, func(d *probe.DNS) {
			if d.Name == webFQDN && d.Type == "A" {
				d.Answers = []probe.DNSRecord{
					{Name: webFQDN, Type: "CNAME", Data: "edge.cdn.test."},
					{Name: "edge.cdn.test.", Type: "A", Data: "10.0.8.8"},
					{Name: "edge.cdn.test.", Type: "A", Data: "10.0.8.8"},
					{Name: "edge.cdn.test.", Type: "A", Data: "not an address"},
				}
			}
		})), want: addrs("10.0.8.8"), from: "dns", server: dns1, fqdn: webFQDN, rcode: "NOERROR"},
		{name: "no server configured", ask: webName, opts: opts(host(func(h *facts.Host) { h.Resolver.Servers = nil })), from: "dns", fqdn: webFQDN},
		{name: "nothing known of the resolver", ask: webName, opts: opts(host(func(h *facts.Host) { h.Resolver = nil }))},
		{name: "a name that fits no message", ask: "a..b", from: "dns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := resolution(t, c.ask, c.opts...)
			server := ""
			if r.Server.IsValid() {
				server = r.Server.Addr().String()
			}
			if !slices.Equal(r.Addrs, c.want) || r.From != c.from || server != c.server || r.FQDN != c.fqdn || r.Rcode != c.rcode || r.Pending {
				t.Errorf("got %v from %q server %q fqdn %q rcode %q pending %v\nwant %v from %q server %q fqdn %q rcode %q",
					r.Addrs, r.From, server, r.FQDN, r.Rcode, r.Pending, c.want, c.from, c.server, c.fqdn, c.rcode)
			}
		})
	}
}

// A name is pending until it can be decided, and no longer.
func TestResolveIsPendingUntilDecided(t *testing.T) {
	w := newWorld(askURL(webURL), twoResolvers)
	if r := w.e.Resolve(webName); !r.Pending || len(r.Addrs) > 0 {
		t.Errorf("before any answer: %+v", r)
	}
	q := func(s, ty string) Want {
		return WantDNS(netip.AddrPortFrom(ip(s), 53), webFQDN, ty, "udp")
	}
	w.e.Measured = append(w.e.Measured, w.answer(q(dns1, "A")))
	if r := w.e.Resolve(webName); r.Pending || len(r.Addrs) != 1 {
		t.Errorf("with the first server's address: %+v", r)
	}
	empty := &Evidence{Question: w.e.Question}
	if r := empty.Resolve(webName); !r.Pending {
		t.Errorf("before the first snapshot: %+v", r)
	}
}
