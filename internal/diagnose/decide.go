package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

// Decide turns evidence into a report. It is deterministic: the same evidence
// gives the same report.
func Decide(e *Evidence) Report {
	r := Report{
		Schema: ReportSchema, Host: e.Host().Hostname, Started: e.Started,
		Elapsed: sample.D(e.Finished.Sub(e.Started)), Targets: []string{},
		Findings: []Finding{}, RuledOut: []RuledOut{}, NotMeasured: []facts.Gap{},
	}
	for _, t := range e.Question.Targets {
		r.Targets = append(r.Targets, t.Raw)
	}
	var found []candidate
	for i := range Rules {
		rule := &Rules[i]
		if rule.Check == nil {
			continue
		}
		a := rule.Check(e)
		for _, f := range a.Findings {
			found = append(found, candidate{Finding: complete(rule, f), rule: rule, order: i})
		}
		r.RuledOut = append(r.RuledOut, a.RuledOut...)
		r.NotMeasured = append(r.NotMeasured, a.Gaps...)
		r.Notes = append(r.Notes, a.Notes...)
	}
	r.Findings = mask(found)
	r.NotMeasured = unique(append(r.NotMeasured, gaps(e)...))
	r.RuledOut = unique(dropFound(r.RuledOut, found))
	r.Notes = unique(r.Notes)
	r.Verdict, r.Headline = verdict(e, r)
	r.Checks = Checklist(e, r)
	return r
}

// candidate is a finding before symptoms are absorbed.
type candidate struct {
	Finding
	rule  *Rule
	order int
	root  int // index of the candidate that explains it; -1: it is a root
}

// complete fills what a rule leaves to its defaults.
func complete(rule *Rule, f Finding) Finding {
	f.Cause, f.Layer = rule.ID, rule.Layer
	if f.Title == "" {
		f.Title = rule.Title
	}
	if f.Severity == "" {
		f.Severity = sample.Major
	}
	if f.Confidence == "" {
		f.Confidence = Likely
	}
	if f.Evidence == nil {
		f.Evidence = []Proof{}
	}
	own := subjectTag(f)
	if len(f.Affects) == 0 {
		f.Affects = []string{own}
	}
	if len(f.Depends) == 0 {
		f.Depends = []string{own}
	}
	f.Depends = append(slices.Clone(f.Depends), TagHost)
	if len(f.Remedy) == 0 {
		f.Remedy = fillAll(rule.Remedy, f)
	}
	if len(f.Validate) == 0 {
		f.Validate = fillAll(rule.Validate, f)
	}
	if len(f.Sceptic) == 0 {
		f.Sceptic = commands(rule.Sceptic, f)
	}
	f.Explains = []Explained{}
	return f
}

// fillAll puts real names where a rule's text has place-holders; what is not
// known stays as it is.
func fillAll(texts []string, f Finding) []string {
	r := placeholders(f)
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = r.Replace(t)
	}
	return out
}

// commands are the rule's commands with the real names, without those that
// still lack one: nobody can run them.
func commands(text string, f Finding) (out []string) {
	pieces := []string{text}
	if !strings.Contains(text, "; do ") {
		pieces = strings.Split(text, "; ")
	}
	for _, c := range fillAll(pieces, f) {
		if open := strings.IndexByte(c, '<'); open < 0 || !strings.Contains(c[open:], ">") || strings.HasPrefix(c[open:], "</") {
			out = append(out, c)
		}
	}
	return out
}

// placeholders knows the subject, and what the finding's tags say about it: the
// address and interface its subject depends on come first among them.
func placeholders(f Finding) *strings.Replacer {
	var pairs []string
	set := func(value string, names ...string) {
		for _, n := range names {
			if value != "" {
				pairs = append(pairs, "<"+n+">", value)
			}
		}
	}
	tagged := func(prefix string) string {
		for _, t := range f.Depends {
			if v, ok := strings.CutPrefix(t, prefix); ok {
				return v
			}
		}
		return ""
	}
	switch f.SubjectKind {
	case sample.KindInterface:
		set(f.Subject, "iface")
	case sample.KindAddress, sample.KindNeighbour, sample.KindGateway, sample.KindResolver, sample.KindHop:
		set(f.Subject, "address", "server", "gateway", "neighbour")
		set(tagged("link:"), "iface")
	case sample.KindName:
		set(f.Subject, "name")
	case sample.KindTarget, sample.KindPath:
		host, port := hostPort(f.Subject)
		set(host, "name")
		set(port, "port")
		if strings.Contains(f.Subject, "://") {
			set(f.Subject, "url")
		}
		set(tagged("addr:"), "address")
		set(tagged("link:"), "iface")
	}
	return strings.NewReplacer(pairs...)
}

// hostPort takes a target as the user wrote it apart.
func hostPort(raw string) (host, port string) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		scheme, rest = "", raw
	}
	rest, _, _ = strings.Cut(rest, "/")
	if strings.Count(rest, ":") > 1 && !strings.HasPrefix(rest, "[") {
		return rest, "" // a bare IPv6 address
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		return strings.Trim(rest[:i], "[]"), rest[i+1:]
	}
	return strings.Trim(rest, "[]"), map[string]string{"https": "443", "http": "80"}[scheme]
}

func subjectTag(f Finding) string {
	switch f.SubjectKind {
	case sample.KindInterface:
		return "link:" + f.Subject
	case sample.KindAddress, sample.KindNeighbour, sample.KindGateway, sample.KindHop, sample.KindResolver:
		return "addr:" + f.Subject
	case sample.KindTarget, sample.KindPath:
		return "target:" + f.Subject
	case sample.KindName:
		return "name:" + f.Subject
	}
	return string(f.SubjectKind) + ":" + f.Subject
}

// mask absorbs symptoms into the findings that explain them and returns the roots.
func mask(c []candidate) []Finding {
	slices.SortStableFunc(c, func(a, b candidate) int { return a.order - b.order })
	for i := range c {
		c[i].root = -1
	}
	// From the top of the catalogue down, so that where findings explain each
	// other, directly or in a ring, the lowest stays a root.
	for b := len(c) - 1; b >= 0; b-- {
		for a := range c {
			if a != b && explains(&c[a], &c[b]) && !leadsTo(c, a, b) {
				c[b].root = a
				break
			}
		}
	}
	for b := range c {
		top := c[b].root
		for top >= 0 && c[top].root >= 0 {
			top = c[top].root
		}
		if top < 0 {
			continue
		}
		x := Explained{Cause: c[b].Cause, Subject: c[b].Subject, Summary: c[b].Summary}
		if !slices.Contains(c[top].Explains, x) {
			c[top].Explains = append(c[top].Explains, x)
		}
		c[top].Severity = worse(c[top].Severity, c[b].Severity)
	}
	var out []candidate
	for i := range c {
		if c[i].root < 0 {
			out = append(out, c[i])
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int {
		return cmp.Or(a.Severity.Rank()-b.Severity.Rank(), confidenceRank(a.Confidence)-confidenceRank(b.Confidence), a.order-b.order)
	})
	fs := make([]Finding, len(out))
	for i := range out {
		fs[i] = out[i].Finding
	}
	return fs
}

// receivedFromTarget are causes known from what the target itself sent: nothing
// below them kept it from arriving, unless the wrong machine answered.
var receivedFromTarget = map[string]bool{
	"http.server_error": true, "http.redirect_loop": true, "http.redirect_broken": true,
	"tls.expired": true, "tls.not_yet_valid": true, "tls.name_mismatch": true, "tls.untrusted": true, "tls.expiring_soon": true,
	"dns.nxdomain": true, "dns.no_data": true, "dns.resolver_servfail": true,
}

var wrongMachine = map[string]bool{"l2.duplicate_ip": true, "l2.gateway_conflict": true}

// leadsTo: the explanations of a end at, or pass, b.
func leadsTo(c []candidate, a, b int) bool {
	for ; a >= 0; a = c[a].root {
		if a == b {
			return true
		}
	}
	return false
}

// explains: the rule lists the cause, what it breaks is what the other relies
// on, and a guess never explains away something better known.
func explains(a, b *candidate) bool {
	if a.Severity == sample.Info && b.Severity != sample.Info {
		return false
	}
	if confidenceRank(a.Confidence) > confidenceRank(b.Confidence) && a.Confidence == Inconclusive {
		return false
	}
	if receivedFromTarget[b.Cause] && a.Layer != LayerName && a.Layer != LayerApplication && !wrongMachine[a.Cause] {
		return false
	}
	listed := slices.ContainsFunc(a.rule.Explains, func(pat string) bool {
		if area, ok := strings.CutSuffix(pat, ".*"); ok {
			return strings.HasPrefix(b.Cause, area+".")
		}
		return pat == b.Cause
	})
	return listed && slices.ContainsFunc(a.Affects, func(t string) bool { return slices.Contains(b.Depends, t) })
}

func worse(a, b sample.Severity) sample.Severity {
	if b.Rank() < a.Rank() {
		return b
	}
	return a
}

func confidenceRank(c Confidence) int {
	switch c {
	case Confirmed:
		return 0
	case Likely:
		return 1
	}
	return 2
}

// gaps are the measurements that failed and what collectors could not read.
func gaps(e *Evidence) []facts.Gap {
	out := slices.Clone(e.Gaps)
	out = append(out, e.Host().Gaps...)
	for _, m := range e.Measured {
		if m.Error != "" {
			out = append(out, facts.Gap{What: m.Want.Kind + " " + m.Want.Target, Why: m.Error})
		}
	}
	return out
}

func unique[T comparable](in []T) []T {
	seen := map[T]bool{}
	out := in[:0:0]
	for _, x := range in {
		if !seen[x] {
			seen[x] = true
			out = append(out, x)
		}
	}
	if out == nil {
		out = []T{}
	}
	return out
}

// dropFound removes from "ruled out" what was found after all for the same subject.
func dropFound(in []RuledOut, found []candidate) []RuledOut {
	return slices.DeleteFunc(in, func(r RuledOut) bool {
		return slices.ContainsFunc(found, func(c candidate) bool { return c.Cause == r.Cause && c.Subject == r.Subject })
	})
}

func verdict(e *Evidence, r Report) (Verdict, string) {
	var faults []Finding
	for _, f := range r.Findings {
		if f.Severity != sample.Info {
			faults = append(faults, f)
		}
	}
	if len(faults) > 0 {
		h := faults[0].Summary
		if n := len(faults) - 1; n > 0 {
			h = strings.TrimSuffix(h, ".") + fmt.Sprintf(" (and %d more).", n)
		}
		return Faulty, h
	}
	if e.Before == nil {
		return Unknown, "Nothing could be measured."
	}
	if u := unjudged(e); u != "" {
		return Unknown, u
	}
	if len(r.Targets) == 0 && e.Question.Passive {
		return Healthy, "No fault found in this host's own state (passive: gateway, resolvers and the way out were not asked)."
	}
	if len(r.Targets) == 0 && e.cutOff() {
		return Healthy, "No fault found on this host. Nothing outside answered: the network is isolated on purpose, or cut off beyond the gateway."
	}
	if len(r.Targets) == 0 {
		return Healthy, "No fault found on this host and its way out."
	}
	return Healthy, "No fault found on this host, nor on the way to " + joinMax(r.Targets, 3) + "."
}

func joinMax(s []string, n int) string {
	if len(s) > n {
		return strings.Join(s[:n], ", ") + fmt.Sprintf(" and %d more", len(s)-n)
	}
	return strings.Join(s, ", ")
}

// cutOff: there is a default route, anchors were asked, and none answered.
func (e *Evidence) cutOff() bool {
	asked := false
	for _, a := range e.Question.Anchors {
		if e.Heard(a) {
			return false
		}
		asked = asked || e.Ping(a) != nil
	}
	return asked && e.countDefaults(false)+e.countDefaults(true) > 0
}

// unjudged says why a target without findings still cannot be called healthy:
// what was asked of it did not work, or could not be measured.
func unjudged(e *Evidence) string {
	if e.After == nil {
		return ""
	}
	for _, t := range e.Question.Targets {
		as := e.TargetAddrs(t)
		if len(as) == 0 {
			return t.Raw + " has no address that could be measured."
		}
		works, heard := false, false
		for _, a := range as {
			works, heard = works || e.servesAsked(t, a), heard || e.Heard(a)
		}
		switch {
		case works:
		case !heard:
			return "Nothing was heard from " + t.Raw + ", and what was measured does not say why."
		default:
			return "What was asked of " + t.Raw + " could not be judged: its machine answers, but the rest was not measured, or stays silent as UDP may."
		}
	}
	return ""
}

// servesAsked: the very thing the user asked was seen to work on this address.
func (e *Evidence) servesAsked(t Target, a netip.Addr) bool {
	if t.Port == 0 {
		return e.Heard(a)
	}
	ap := netip.AddrPortFrom(a, t.Port)
	w := WantTCP(ap)
	switch t.Scheme {
	case "http", "https":
		w = WantHTTP(t.URL, ap)
	case "tls":
		w = WantTLS(ap, t.Host)
	case "udp":
		w = WantUDP(ap)
	case "dns":
		w = WantDNS(ap, rootName, "NS", "udp")
	}
	r := e.Result(w)
	// A bad answer is an answer: if it is a fault a rule has said so, or chose not to.
	return r != nil && (r.Outcome == probe.OK || r.Outcome == probe.BadAnswer)
}
