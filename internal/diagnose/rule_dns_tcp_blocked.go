package diagnose

import (
	"fmt"

	"fathom/probe"
	"fathom/sample"
)

var ruleTCPBlocked = Rule{
	ID: "dns.tcp_blocked", Layer: LayerName,
	Title:       "Truncated answers cannot be fetched by TCP",
	Explanation: "The resolver's answer does not fit into a datagram; it says so (TC bit), and the question must be asked again by TCP. TCP to port 53 does not work, so this name cannot be resolved although small answers come through.",
	TellApart:   "The UDP answer carries the TC bit and no address, and TCP to the same server times out or is refused. If UDP itself is silent it is dns.resolver_down.",
	Remedy:      []string{"Open TCP port 53 to the resolver (RFC 7766 makes it mandatory)", "Start the resolver's TCP listener"},
	Validate:    []string{"dig +tcp @<server> . NS answers"},
	Sceptic:     "dig +tcp @<server> . NS",
	References:  []string{"RFC 7766 section 5", "RFC 1035 section 4.2.1 (TC)"},
	Explains:    []string{"dns.no_data", "dns.nxdomain", "http.*", "tls.*"},
	Check: func(e *Evidence) (a Answer) {
		seen := map[string]bool{}
		for _, t := range e.nameTargets() {
			res := e.Resolve(t.Host)
			for _, sa := range res.Answers {
				for _, r := range []*probe.Result{sa.A, sa.AAAA} {
					if !truncatedAway(r) || seen[sa.Server.String()] {
						continue
					}
					seen[sa.Server.String()] = true
					f := Finding{
						Subject: sa.Server.Addr().String(), SubjectKind: sample.KindResolver, Location: fmt.Sprintf("%s, TCP port %d", sa.Server.Addr(), sa.Server.Port()),
						Severity: sample.Major, Confidence: Confirmed,
						Summary: fmt.Sprintf("The resolver %s truncates its answer for %s, and TCP to it does not work (%s).", sa.Server.Addr(), t.Host, r.Outcome),
						Evidence: []Proof{
							proof("dns "+sa.Server.String(), "by UDP: %d bytes with the TC bit and no address", r.DNS.Size),
							proof("dns "+sa.Server.String(), "by TCP: %s%s", r.Outcome, detailText(r)),
						},
						Affects: []string{TagAddr(sa.Server.Addr()), TagName(t.Host), TagTarget(t.Raw)}, Depends: e.DependsOnAddr(sa.Server.Addr()),
					}
					if len(res.Addrs) == 0 {
						f.Severity = sample.Critical
					}
					a.Findings = append(a.Findings, f)
				}
			}
		}
		return a
	},
}
