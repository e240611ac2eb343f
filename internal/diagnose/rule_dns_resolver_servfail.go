package diagnose

import (
	"fmt"
	"strings"

	"fathom/probe"
	"fathom/sample"
)

var ruleResolverServfail = Rule{
	ID: "dns.resolver_servfail", Layer: LayerName,
	Title:       "The resolver cannot or will not resolve the name",
	Explanation: "The resolver is reachable and answers, but with an error (SERVFAIL or REFUSED) instead of an address: it cannot reach the name's authorities, its DNSSEC validation fails, or it does not serve this client.",
	TellApart:   "Another resolver answers the same question, or the same resolver answers with validation switched off (CD: then DNSSEC is the reason), or it fails for every name (then its upstream is). NXDOMAIN is not an error: that is dns.nxdomain.",
	Remedy:      []string{"Look at the resolver's log for this name; test its forwarders and its way to the authorities", "If it answers with checking disabled: repair the zone's DNSSEC, or the resolver's clock and trust anchor", "REFUSED: add this client to the resolver's access list"},
	Validate:    []string{"dig @<server> <name> says NOERROR"},
	Sceptic:     "dig @<server> <name>; dig @<server> <name> +cd",
	References:  []string{"RFC 1035 section 4.1.1 (RCODE)", "RFC 8914 (extended DNS errors)", "RFC 4035 section 3.2.2 (CD bit)"},
	Explains:    []string{"http.*", "tls.*", "dns.resolver_slow"},
	Check:       checkServfail,
}

func checkServfail(e *Evidence) (a Answer) {
	done := map[string]bool{}
	for _, t := range e.nameTargets() {
		res := e.Resolve(t.Host)
		for _, sa := range res.Answers {
			rc := sa.Rcode()
			if rc == "" || rc == rcodeTruncated || rc == "NOERROR" || rc == "NXDOMAIN" || done[sa.Server.String()+t.Host] {
				continue
			}
			done[sa.Server.String()+t.Host] = true
			cd := WantDNS(sa.Server, res.FQDN, e.queryTypes()[0], "udp")
			cd.CheckingDisabled = true
			if _, ok := e.Get(cd); !ok {
				a.Wants = append(a.Wants, cd)
				continue
			}
			a.Findings = append(a.Findings, e.servfailFinding(t, res, sa, rc, cd))
		}
	}
	return a
}

func (e *Evidence) servfailFinding(t Target, res Resolution, sa ServerAnswer, rc string, cd Want) Finding {
	addr := sa.Server.Addr()
	key := WantDNS(sa.Server, res.FQDN, e.queryTypes()[0], "udp").Key()
	f := Finding{
		Subject: addr.String(), SubjectKind: sample.KindResolver, Location: fmt.Sprintf("%s, for %s", addr, t.Host),
		Severity: sample.Critical, Confidence: Likely,
		Summary:  fmt.Sprintf("The resolver %s answers %s for %s.", addr, rc, t.Host),
		Evidence: []Proof{proof(key, "%s asked for %s: %s", addr, res.FQDN, rc)},
		Sceptic:  []string{fmt.Sprintf("dig @%s %s", addr, t.Host), fmt.Sprintf("dig @%s %s +cd", addr, t.Host)},
		Affects:  []string{TagName(t.Host), TagTarget(t.Raw)}, Depends: e.DependsOnAddr(addr),
	}
	for _, r := range []*probe.Result{sa.A, sa.AAAA} {
		if r != nil && r.DNS != nil && len(r.DNS.EDE) > 0 {
			f.Evidence = append(f.Evidence, proof(key, "it adds: %s", strings.Join(r.DNS.EDE, "; ")))
			break
		}
	}
	if len(AnswerAddrs(e.Result(cd))) > 0 {
		f.Confidence = Confirmed
		f.Summary = fmt.Sprintf("The resolver %s rejects %s: its DNSSEC validation fails.", addr, t.Host)
		f.Evidence = append(f.Evidence, proof(cd.Key(), "with checking disabled (CD) the same server answers %s", addrList(AnswerAddrs(e.Result(cd)))))
	}
	for _, o := range res.Answers {
		if o.Server != sa.Server && len(o.Addrs()) > 0 {
			f.Confidence, f.Severity = Confirmed, sample.Major
			f.Evidence = append(f.Evidence, proof("dns "+o.Server.String(), "%s answers the same question with %s", o.Server.Addr(), addrList(o.Addrs())))
			break
		}
	}
	if r := e.Result(WantDNS(sa.Server, rootName, "NS", "udp")); r != nil && r.DNS != nil && r.DNS.Rcode != "" {
		f.Evidence = append(f.Evidence, proof(WantDNS(sa.Server, rootName, "NS", "udp").Key(), "for the root it answers %s", r.DNS.Rcode))
	}
	return f
}
