package output

import (
	"strings"
	"time"

	"fathom/internal/diagnose"
	"fathom/internal/facts"
	"fathom/sample"
)

// The reports that the golden files show.

var started = time.Date(2026, 11, 22, 8, 43, 16, 0, time.UTC)

func healthyReport() diagnose.Report {
	return diagnose.Report{
		Schema: 1, Verdict: diagnose.Healthy, Headline: "No fault found on this host, nor on the way to https://shop.example/.",
		Host: "web1", Targets: []string{"https://shop.example/"}, Started: started, Elapsed: sample.D(2140 * time.Millisecond),
		Findings: []diagnose.Finding{},
		RuledOut: []diagnose.RuledOut{
			{Cause: "link.down", Subject: "eth0", Text: "eth0 has carrier"},
			{Cause: "link.errors", Subject: "eth0", Text: "eth0: 0 errors in 1,204 packets"},
			{Cause: "ip.no_address", Text: "eth0 carries 10.0.0.7/24"},
			{Cause: "path.loss", Subject: "192.0.2.7", Text: "192.0.2.7: 0 of 100 lost (excludes 3.0 % and more)"},
			{Cause: "path.loss", Subject: "192.0.2.8", Text: "192.0.2.8: 0 of 100 lost (excludes 3.0 % and more)"},
			{Cause: "dns.resolver_down", Subject: "10.0.0.53", Text: "resolver 10.0.0.53 answers, median 1.20 ms"},
			{Cause: "tls.expired", Subject: "https://shop.example/", Text: "valid until 2027-02-01"},
		},
		NotMeasured: []facts.Gap{{What: "what leaves and enters the interfaces", Why: "open packet socket: operation not permitted", Unlock: "run as root, or with CAP_NET_RAW"}},
		Checks: []diagnose.CheckLine{
			{Area: "link", State: "ok", Text: "eth0 up, 1.00 Gbit/s; no errors or drops in 2.1 s"},
			{Area: "addresses", State: "ok", Text: "eth0 10.0.0.7/24, 2001:db8::7/64"},
			{Area: "gateway", State: "ok", Text: "10.0.0.1 answers 20 of 20, median 0.31 ms"},
			{Area: "resolvers", State: "ok", Text: "10.0.0.53 answers in 1.20 ms"},
			{Area: "way out", State: "info", Text: "none of 1.1.1.1, 9.9.9.9 answers: no way out, or none is meant to be"},
			{Area: "stack", State: "ok", Text: "conntrack 412 of 262144, 34 TCP sockets, 9 listeners, 0 of 318 segments sent again"},
			{Area: "https://shop.example/", State: "ok", Text: "192.0.2.7: echo 100/100 in 8.42 ms, 6 hops, port 443 open, HTTP 200"},
		},
	}
}

func faultReport() diagnose.Report {
	r := healthyReport()
	rule := diagnose.RuleByID("link.down")
	f := diagnose.Finding{
		Cause: "link.down", Layer: diagnose.LayerLink, Title: "The link is down", Subject: "eth0", SubjectKind: sample.KindInterface,
		Location: "this host, eth0", Severity: sample.Critical, Confidence: diagnose.Confirmed,
		Summary: "eth0 is switched on but has no carrier: the cable, the port or the peer at the other end is down.",
		Evidence: []diagnose.Proof{
			{Text: "eth0: UP set, LOWER_UP clear, state down", Measurement: "links"},
			{Text: "carrier changed 7 times since the interface came to be", Measurement: "links"},
			{Text: "the default route goes through eth0", Measurement: "routes"},
			{Text: "kernel at 08:40:02: e1000e 0000:00:1f.6 eth0: NIC Link is Down", Measurement: "kernel log"},
		},
		RulesOut: []string{"link.admin_down: the interface is switched on"},
		Remedy:   rule.Remedy, Validate: rule.Validate, Sceptic: []string{"ip -d -s link show dev eth0"}, Since: "2026-11-22T08:40:02Z",
		Explains: []diagnose.Explained{
			{Cause: "ip.gateway_unreachable", Subject: "10.0.0.1", Summary: "The gateway 10.0.0.1 does not answer."},
			{Cause: "dns.resolver_down", Subject: "10.0.0.53", Summary: "This host's only resolver 10.0.0.53 does not answer."},
		},
	}
	r.Verdict, r.Headline, r.Findings = diagnose.Faulty, f.Summary, []diagnose.Finding{f}
	r.RuledOut = append([]diagnose.RuledOut{{Cause: "link.admin_down", Subject: "eth0", Text: "eth0 is switched on"}}, r.RuledOut[1:]...)
	r.Checks[0] = diagnose.CheckLine{Area: "link", State: "fault", Text: "The link is down: eth0"}
	return r
}

func severalReport() diagnose.Report {
	r := faultReport()
	first := r.Findings[0]
	r.Headline += " (and 7 more)"
	r.Findings = append(r.Findings, diagnose.Finding{
		Cause: "path.loss", Layer: diagnose.LayerNetwork, Title: "Packets are lost on the way", Subject: "192.0.2.7", SubjectKind: sample.KindPath,
		Location: "between hop 2 (10.0.2.1) and hop 3 (10.0.3.1)", Severity: sample.Major, Confidence: diagnose.Likely,
		Summary:  "4.2 % of the packets to 192.0.2.7 are lost, between hop 2 (10.0.2.1) and hop 3 (10.0.3.1).",
		Evidence: []diagnose.Proof{{Text: "second series: 13 of 300 lost (4.3 %; 95 % sure: 2.5 %–7.3 %)", Measurement: "icmp 192.0.2.7 n=300 every=10ms"}},
		Remedy:   []string{"Look at the named link: error counters and queue drops at both of its ends"}, Validate: []string{"300 probes without a loss (that excludes 1 % at 95 %)"},
		Sceptic: []string{"mtr -n -r -c 200 -i 0.1 192.0.2.7", "tcpdump -ni eth0 -c 100 'host 192.0.2.7 and (icmp or tcp port 443)' --immediate-mode -w /tmp/loss.pcap"},
	})
	for _, id := range []string{"tcp.refused", "dns.nxdomain", "tls.expired", "http.server_slow", "udp.no_port"} {
		f := first
		f.Cause, f.Title, f.Severity, f.Confidence = id, diagnose.RuleByID(id).Title, sample.Minor, diagnose.Inconclusive
		f.Summary, f.Evidence, f.Explains, f.Since = "Something about "+id+" is the matter with a target that has a rather long name.", f.Evidence[:1], nil, ""
		r.Findings = append(r.Findings, f)
	}
	info := first
	info.Cause, info.Severity, info.Summary, info.Explains = "tls.expiring_soon", sample.Info, "The certificate of shop.example ends in 20 days.", nil
	r.Findings = append(r.Findings, info)
	r.Notes = []string{"192.0.2.1 leaves some echo requests unanswered but TCP to it is clean: it limits its ICMP answers. Harmless."}
	return r
}

// hostile is what a name or banner may hold: a title change, a cursor jump, C1
// CSI, a bidirectional override, a line end, invalid UTF-8, and a lot of marks.
const hostile = "a\x1b]0;owned\x07b\x1b[2Jc\u009b31md\u202egnp.exe\u2066e\nf\r\xff\xc3g|h\u200bi\x00j\x7f"

// hostileReport has something hostile in every string.
func hostileReport() diagnose.Report {
	bad := hostile + strings.Repeat("\u0301", 50)
	r := diagnose.Report{
		Verdict: diagnose.Faulty, Headline: bad, Host: bad, Targets: []string{bad}, Started: started,
		Findings: []diagnose.Finding{{
			Cause: bad, Title: bad, Subject: bad, Location: bad, Severity: sample.Severity(bad), Confidence: diagnose.Confidence(bad), Summary: "s" + bad, Since: bad,
			Evidence: []diagnose.Proof{{Text: bad, Measurement: bad}, {Text: strings.Repeat("x", 100000)}}, RulesOut: []string{bad}, Remedy: []string{bad}, Validate: []string{bad}, Sceptic: []string{bad},
			Explains: []diagnose.Explained{{Cause: bad, Subject: bad, Summary: bad}},
		}, {Severity: sample.Info}},
		RuledOut: []diagnose.RuledOut{{Cause: bad, Subject: bad, Text: bad}}, NotMeasured: []facts.Gap{{What: bad, Why: bad, Unlock: bad}},
		Notes: []string{bad, bad}, Checks: []diagnose.CheckLine{{Area: bad, State: bad, Text: bad}},
	}
	r.NotMeasured = append(r.NotMeasured, r.NotMeasured...)
	for range shortFindings { // so that some are shown in short
		r.Findings = append(r.Findings, r.Findings[0])
	}
	return r
}

func unknownReport() diagnose.Report {
	return diagnose.Report{
		Verdict: diagnose.Unknown, Headline: "Nothing was heard from 192.0.2.9, and what was measured does not say why.", Host: "web1", Targets: []string{"192.0.2.9"}, Started: started, Elapsed: sample.D(9 * time.Second),
		Checks: []diagnose.CheckLine{{Area: "link", State: "ok", Text: "eth0 up"}, {Area: "192.0.2.9", State: "unknown", Text: "no echo"}, {Area: "gateway", State: "running", Text: "10.0.0.1"}},
	}
}
