package diagnose

import (
	"fmt"
)

var ruleNoData = Rule{
	ID: "dns.no_data", Layer: LayerName,
	Title:       "The name exists but has no address",
	Explanation: "The name is in the DNS, with other records only (mail, text, or the other address family than the one asked for). Programs report it like a missing name.",
	TellApart:   "The answer is NOERROR with no A or AAAA record. NXDOMAIN would mean that the name does not exist at all.",
	Remedy:      []string{"Add the address record", "Is a subdomain such as www. meant?", "With -4 or -6 try the other family"},
	Validate:    []string{"dig <name> returns an address"},
	Sceptic:     "dig <name> ANY; dig <name> A; dig <name> AAAA",
	References:  []string{"RFC 2308 section 2.2 (NODATA)"},
	Explains:    []string{"http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		for _, t := range e.nameTargets() {
			res := e.Resolve(t.Host)
			if res.Pending || len(res.Addrs) > 0 || res.Rcode != "NOERROR" {
				continue
			}
			f := nameFinding(e, t, res)
			f.Summary = fmt.Sprintf("The name %s exists but has no address of the wanted kind.", t.Host)
			for _, sa := range res.Answers {
				if rc := sa.Rcode(); rc != "" {
					f.Evidence = append(f.Evidence, proof("dns "+sa.Server.String(), "%s says %s with no address for %s", sa.Server.Addr(), rc, res.FQDN))
				}
			}
			a.Findings = append(a.Findings, f)
		}
		return a
	},
}
