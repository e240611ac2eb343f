package diagnose

import (
	"fmt"
	"strings"

	"fathom/internal/facts"
	"fathom/sample"
)

var ruleNXDomain = Rule{
	ID: "dns.nxdomain", Layer: LayerName,
	Title:       "The name does not exist",
	Explanation: "The resolvers work and say with authority that there is no such name: it is misspelt, was removed, or exists only in another view (inside or outside a company, with or without VPN).",
	TellApart:   "Every resolver that answers says NXDOMAIN, with the SOA of the zone that should hold the name. An error such as SERVFAIL would be the resolver's; an empty answer means that the name exists without an address (dns.no_data).",
	Remedy:      []string{"Check the spelling and the search domains", "Add the record in the zone named by the SOA", "Is this a name of an internal view? Then ask an internal resolver"},
	Validate:    []string{"dig <name> returns an address"},
	Sceptic:     "dig <name> A; dig <name> AAAA",
	References:  []string{"RFC 2308 (negative answers)", "RFC 8020 (nothing underneath)"},
	Explains:    []string{"http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		done := map[string]bool{}
		for _, t := range e.nameTargets() {
			res := e.Resolve(t.Host)
			if res.Pending || done[t.Host] {
				continue
			}
			done[t.Host] = true
			if len(res.Addrs) > 0 {
				a.RuledOut = append(a.RuledOut, RuledOut{"dns.nxdomain", t.Host, fmt.Sprintf("%s is %s (from %s)", t.Host, addrList(res.Addrs), res.Server.Addr())})
				continue
			}
			if res.Rcode != "NXDOMAIN" {
				continue
			}
			f := nameFinding(e, t, res)
			f.Summary = fmt.Sprintf("The name %s does not exist.", t.Host)
			for _, sa := range res.Answers {
				if rc := sa.Rcode(); rc != "" {
					f.Evidence = append(f.Evidence, proof("dns "+sa.Server.String(), "%s says %s for %s%s", sa.Server.Addr(), rc, res.FQDN, soaText(sa)))
				}
			}
			if c := facts.Candidates(e.Host().Resolver, t.Host); len(c) > 1 {
				f.Evidence = append(f.Evidence, proof("resolver", "tried in the order of the search list: %s", strings.Join(c, ", ")))
			}
			a.Findings = append(a.Findings, f)
		}
		return a
	},
}

func nameFinding(e *Evidence, t Target, res Resolution) Finding {
	return Finding{
		Subject: t.Host, SubjectKind: sample.KindName, Location: "DNS, " + res.FQDN,
		Severity: sample.Critical, Confidence: Confirmed,
		Sceptic: []string{"dig " + t.Host + " A", "dig " + t.Host + " AAAA"},
		Affects: []string{TagName(t.Host), TagTarget(t.Raw)}, Depends: append(e.DependsOnTarget(t), TagName(t.Host)),
	}
}

// soaText names the zone that denies the name.
func soaText(sa ServerAnswer) string {
	r := sa.A
	if r == nil {
		r = sa.AAAA
	}
	if r == nil || r.DNS == nil {
		return ""
	}
	for _, rr := range r.DNS.Authority {
		if rr.Type == "SOA" {
			return ", zone " + rr.Name
		}
	}
	return ""
}
