package diagnose

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

// found makes a candidate by hand: "cause subject severity confidence | affects | depends".
func found(t testing.TB, rules []Rule, text string) candidate {
	t.Helper()
	parts := strings.Split(text, "|")
	w := strings.Fields(parts[0])
	for i := range rules {
		if rules[i].ID != w[0] {
			continue
		}
		f := Finding{Subject: w[1], SubjectKind: sample.KindTarget, Severity: sample.Severity(w[2]), Confidence: Confidence(w[3]), Summary: w[0] + "."}
		if len(parts) > 1 {
			f.Affects = strings.Fields(parts[1])
		}
		if len(parts) > 2 {
			f.Depends = strings.Fields(parts[2])
		}
		return candidate{Finding: complete(&rules[i], f), rule: &rules[i], order: i}
	}
	t.Fatalf("no rule %q", w[0])
	return candidate{}
}

// Three made-up rules: a over b over c.
var chain = []Rule{
	{ID: "x.a", Title: "A", Explains: []string{"x.b"}},
	{ID: "x.b", Title: "B", Explains: []string{"x.c", "x.m"}},
	{ID: "x.c", Title: "C"},
	{ID: "x.m", Title: "M", Explains: []string{"x.b"}}, // and b explains m: the first in the list wins
	{ID: "y.all", Title: "Y", Explains: []string{"x.*"}},
}

func TestMask(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []string
		want string // "root(symptom, symptom)" by id and subject, in order
	}{
		{"what shares nothing stays apart", []string{"x.a s1 major confirmed|t1|t1", "x.b s2 major confirmed|t2|t2"}, "x.a/s1/major x.b/s2/major"},
		{"a symptom is absorbed", []string{"x.a s1 major confirmed|t1|t0", "x.b s2 minor confirmed|t2|t1"}, "x.a/s1/major(x.b/s2)"},
		{"the order of findings does not matter", []string{"x.b s2 minor confirmed|t2|t1", "x.a s1 major confirmed|t1|t0"}, "x.a/s1/major(x.b/s2)"},
		{"a chain ends at its root", []string{"x.a s1 major confirmed|t1|t0", "x.b s2 minor confirmed|t2|t1", "x.c s3 minor confirmed|t3|t2"}, "x.a/s1/major(x.b/s2, x.c/s3)"},
		{"without the middle the end is a root of its own", []string{"x.a s1 major confirmed|t1|t0", "x.c s3 minor confirmed|t3|t2"}, "x.a/s1/major x.c/s3/minor"},
		{"mutual: the first in the catalogue wins", []string{"x.m s2 major confirmed|t1|t1", "x.b s1 major confirmed|t1|t1"}, "x.b/s1/major(x.m/s2)"},
		{"two of the same cause do not explain each other", []string{"x.b s1 major confirmed|t1|t1", "x.b s2 major confirmed|t1|t1"}, "x.b/s1/major x.b/s2/major"},
		{"severity is lifted by the worst symptom", []string{"x.a s1 minor confirmed|t1|t0", "x.b s2 major confirmed|t2|t1", "x.c s3 critical likely|t3|t2"}, "x.a/s1/critical(x.b/s2, x.c/s3)"},
		{"information never absorbs a fault", []string{"x.a s1 info confirmed|t1|t0", "x.b s2 minor confirmed|t2|t1"}, "x.b/s2/minor x.a/s1/info"},
		{"information is absorbed by information", []string{"x.a s1 info confirmed|t1|t0", "x.b s2 info confirmed|t2|t1"}, "x.a/s1/info(x.b/s2)"},
		{"information is absorbed by a fault and lifts nothing", []string{"x.a s1 minor confirmed|t1|t0", "x.b s2 info confirmed|t2|t1"}, "x.a/s1/minor(x.b/s2)"},
		{"a guess does not absorb what is known", []string{"x.a s1 major inconclusive|t1|t0", "x.b s2 major likely|t2|t1"}, "x.b/s2/major x.a/s1/major"},
		{"a guess absorbs a guess", []string{"x.a s1 major inconclusive|t1|t0", "x.b s2 major inconclusive|t2|t1"}, "x.a/s1/major(x.b/s2)"},
		{"what is likely absorbs what is confirmed", []string{"x.a s1 major likely|t1|t0", "x.b s2 major confirmed|t2|t1"}, "x.a/s1/major(x.b/s2)"},
		{"a whole area", []string{"y.all s0 major confirmed|t1|t0", "x.c s3 minor confirmed|t3|t1"}, "y.all/s0/major(x.c/s3)"},
		{"of two explanations the lower in the stack", []string{"y.all s0 major confirmed|t1|t0", "x.a s1 major confirmed|t1|t0", "x.b s2 major confirmed|t2|t1"}, "x.a/s1/major(x.b/s2) y.all/s0/major"},
		{"host is met by everything", []string{"x.a s1 major confirmed|host|t0", "x.b s2 major confirmed|t2|t9"}, "x.a/s1/major(x.b/s2)"},
		{"the same symptom is told once", []string{"x.a s1 major confirmed|t1|t0", "x.b s2 major confirmed|t2|t1", "x.b s2 major confirmed|t2|t1"}, "x.a/s1/major(x.b/s2)"},
		{
			"worst first, then surest, then lowest",
			[]string{"x.c s3 major confirmed|t3|t3", "x.a s1 minor confirmed|t1|t1", "x.b s2 major likely|t2|t2", "y.all s4 critical likely|t4|t4", "x.b s5 major confirmed|t5|t5"},
			"y.all/s4/critical x.b/s5/major x.c/s3/major x.b/s2/major x.a/s1/minor",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in []candidate
			for _, s := range c.in {
				in = append(in, found(t, chain, s))
			}
			if got := maskText(mask(in)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func maskText(fs []Finding) string {
	var out []string
	for _, f := range fs {
		s := fmt.Sprintf("%s/%s/%s", f.Cause, f.Subject, f.Severity)
		var x []string
		for _, e := range f.Explains {
			x = append(x, e.Cause+"/"+e.Subject)
		}
		if len(x) > 0 {
			s += "(" + strings.Join(x, ", ") + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// Explanations in a ring of three must not make all of them vanish.
func TestMaskNeverLosesARing(t *testing.T) {
	ring := []Rule{{ID: "x.a", Explains: []string{"x.b"}}, {ID: "x.b", Explains: []string{"x.c"}}, {ID: "x.c", Explains: []string{"x.a"}}}
	got := mask([]candidate{found(t, ring, "x.a s1 major confirmed|t|t"), found(t, ring, "x.b s2 major confirmed|t|t"), found(t, ring, "x.c s3 critical confirmed|t|t")})
	if len(got) != 1 || got[0].Cause != "x.a" || got[0].Severity != critical || len(got[0].Explains) != 2 {
		t.Errorf("got %q, want x.a with the two others below it", maskText(got))
	}
}

// Among the real rules there is no such ring, whatever they concern.
func TestRulesExplainWithoutRings(t *testing.T) {
	explain := func(a, b int) bool {
		return slices.ContainsFunc(Rules[a].Explains, func(p string) bool { return slices.Contains(matching(p), Rules[b].ID) })
	}
	below := make([][]int, len(Rules)) // a absorbs b, mutual explanations decided as mask does
	for a := range Rules {
		for b := range Rules {
			if a != b && explain(a, b) && (!explain(b, a) || a < b) {
				below[a] = append(below[a], b)
			}
		}
	}
	state := make([]int, len(Rules)) // 1 on the way, 2 done
	var visit func(at int, way []string)
	visit = func(at int, way []string) {
		way = append(way, Rules[at].ID)
		if state[at] == 1 {
			t.Errorf("%s explain each other in a ring: with findings that share what they concern, all of them are absorbed", strings.Join(way[slices.Index(way, Rules[at].ID):], " → "))
			return
		}
		if state[at] == 2 {
			return
		}
		state[at] = 1
		for _, b := range below[at] {
			visit(b, slices.Clone(way))
		}
		state[at] = 2
	}
	for i := range Rules {
		visit(i, nil)
	}
}

// Whatever the real rules find together: each finding is a root or stands below one.
func TestMaskNeverLosesAFinding(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	tags := []string{"t1", "t2", "t3", TagHost}
	pick := func() (out []string) {
		for _, x := range tags {
			if rnd.IntN(3) == 0 {
				out = append(out, x)
			}
		}
		return out
	}
	for n := range 4000 {
		var in []candidate
		for i := range 2 + rnd.IntN(5) {
			r := rnd.IntN(len(Rules))
			f := Finding{
				Subject: fmt.Sprintf("s%d", i), SubjectKind: sample.KindTarget, Affects: pick(), Depends: pick(), Summary: "S.",
				Severity:   []sample.Severity{critical, major, minor, info}[rnd.IntN(4)],
				Confidence: []Confidence{Confirmed, Likely, Inconclusive}[rnd.IntN(3)],
			}
			in = append(in, candidate{Finding: complete(&Rules[r], f), rule: &Rules[r], order: r})
		}
		out := mask(slices.Clone(in))
		for _, c := range in {
			if !slices.ContainsFunc(out, func(f Finding) bool {
				return f.Subject == c.Subject || slices.ContainsFunc(f.Explains, func(x Explained) bool { return x.Subject == c.Subject })
			}) {
				var all []string
				for _, x := range in {
					all = append(all, fmt.Sprintf("%s %s %s %s|%v|%v", x.Cause, x.Subject, x.Severity, x.Confidence, x.Affects, x.Depends))
				}
				t.Fatalf("case %d: %s about %s is lost; left: %q; in:\n%s", n, c.Cause, c.Subject, maskText(out), strings.Join(all, "\n"))
			}
		}
	}
}

// What the combination of real faults shows: one root, its consequences below it.
func TestLowerExplainsUpper(t *testing.T) {
	judge(t, []verdictOf{
		{
			name: "gateway dead, three targets, resolver behind it", opts: opts(asking(httpTarget(webURL), tcpTarget("10.0.9.10", 22), tcpTarget("192.0.2.7", 443)),
				host(func(h *facts.Host) {
					h.Neighbours[0].State = "failed"
					h.Resolver.Servers = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
				}), everythingSilent),
			cause: "ip.gateway_unreachable", subject: gwAddr, severity: critical, masks: []string{"dns.resolver_down"},
		},
		{
			name: "cable pulled, several targets and names", opts: opts(asking(httpTarget(webURL), tcpTarget("10.0.9.10", 22)), eth0(cut), everythingSilent),
			cause: "link.down", subject: "eth0", severity: critical, masks: []string{"dns.resolver_down"},
		},
		{
			name: "refused page: no word about HTTP", opts: opts(askURL(literalURL), refused(to(webAddr))),
			cause: "tcp.refused", subject: literalURL, severity: critical,
		},
		{
			name: "resolver behind the black hole that the target has", opts: opts(askTCP(webAddr, 443), host(func(h *facts.Host) {
				h.Resolver.Servers = []netip.AddrPort{netip.MustParseAddrPort("10.0.9.9:53")}
			}), vanishAfter(webAddr, 2)),
			cause: "ip.blackhole_hop", subject: "10.0.9.9:443", severity: critical, masks: []string{"dns.resolver_down"},
		},
	})
	// Two independent faults stay two.
	r := Decide(evidence(t, askURL(webURLTLS), twoResolvers, silent(to(dns1)), badCertificate("expired", func(c *probe.Certificate) { c.NotAfter = days(-3) })))
	if got := maskText(r.Findings); got != "tls.expired/"+webURLTLS+"/critical dns.first_resolver_dead/10.0.0.53/major" {
		t.Errorf("two faults: %s", got)
	}
	if !strings.Contains(r.Headline, "(and 1 more)") || !strings.HasPrefix(r.Headline, strings.TrimSuffix(r.Findings[0].Summary, ".")) {
		t.Errorf("headline %q", r.Headline)
	}
}

func TestVerdictAndHeadline(t *testing.T) {
	for _, c := range []struct {
		name    string
		e       func() *Evidence
		verdict Verdict
		part    string
	}{
		{"nothing measured", func() *Evidence { return &Evidence{} }, Unknown, "Nothing could be measured."},
		{"healthy host", func() *Evidence { return evidence(t) }, Healthy, "this host and its way out"},
		{"healthy targets", func() *Evidence {
			return evidence(t, asking(tcpTarget(webAddr, 1), tcpTarget(webAddr, 2), tcpTarget(webAddr, 3), tcpTarget(webAddr, 4)))
		}, Healthy, "10.0.9.9:3 and 1 more"},
		{"only information", func() *Evidence {
			return evidence(t, askAddr(webAddr), roundTrip(hop2, ms(600)), roundTrip(hop3, ms(601)), roundTrip(webAddr, ms(602)))
		}, Healthy, "No fault"},
		{"a fault", func() *Evidence { return evidence(t, askTCP(webAddr, 80), refused(to(webAddr))) }, Faulty, "nothing listens"},
	} {
		r := Decide(c.e())
		if r.Verdict != c.verdict || !strings.Contains(r.Headline, c.part) {
			t.Errorf("%s: %s, %q; want %s, …%s…", c.name, r.Verdict, r.Headline, c.verdict, c.part)
		}
	}
}

// JSON readers rely on lists being lists, never null.
func TestReportHasNoNullLists(t *testing.T) {
	for name, e := range map[string]*Evidence{"empty": {}, "healthy": evidence(t, askURL(webURL)), "broken": evidence(t, askURL(webURL), refused(to(webAddr)))} {
		b, err := json.Marshal(Decide(e))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(":null")) {
			t.Errorf("%s: %s", name, b)
		}
	}
}

func TestGapsAreListedOnce(t *testing.T) {
	gap := facts.Gap{What: "firewall", Why: "permission denied", Unlock: "CAP_NET_ADMIN"}
	e := evidence(t, askTCP(webAddr, 22), host(func(h *facts.Host) { h.Gaps = []facts.Gap{gap, gap} }),
		edit(kind("arp"), func(_ Want, m *Measured) { m.Result, m.Error = nil, "permission denied" }), finally(func(e *Evidence) { e.Gaps = []facts.Gap{gap} }))
	r := Decide(e)
	n := 0
	for _, g := range r.NotMeasured {
		if g == gap {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the gap stands there %d times: %v", n, r.NotMeasured)
	}
	if !slices.ContainsFunc(r.NotMeasured, func(g facts.Gap) bool { return strings.HasPrefix(g.What, "arp ") && g.Why == "permission denied" }) {
		t.Errorf("the failed neighbour question is not among %v", r.NotMeasured)
	}
}

// shuffled returns the same evidence with its measurements in another order, sorted again.
func shuffled(t testing.TB, e *Evidence, seed uint64) *Evidence {
	t.Helper()
	x := clone(t, e)
	rnd := rand.New(rand.NewPCG(seed, 7))
	rnd.Shuffle(len(x.Measured), func(i, j int) { x.Measured[i], x.Measured[j] = x.Measured[j], x.Measured[i] })
	rnd.Shuffle(len(x.Lookups), func(i, j int) { x.Lookups[i], x.Lookups[j] = x.Lookups[j], x.Lookups[i] })
	rnd.Shuffle(len(x.Wire), func(i, j int) { x.Wire[i], x.Wire[j] = x.Wire[j], x.Wire[i] })
	x.Sort()
	return x
}

func clone(t testing.TB, e *Evidence) *Evidence {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	x := &Evidence{}
	if err := json.Unmarshal(b, x); err != nil {
		t.Fatal(err)
	}
	return x
}

func reportBytes(t testing.TB, e *Evidence) string {
	t.Helper()
	b, err := json.MarshalIndent(Decide(e), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Saved evidence gives the same verdict again, byte for byte, in whatever order
// the measurements ended.
func TestDecideIsDeterministic(t *testing.T) {
	for name, e := range map[string]*Evidence{"rich": rich(t), "healthy": evidence(t, askURL(webURLTLS), dualStack, twoResolvers), "empty": {}} {
		want := reportBytes(t, e)
		if got := reportBytes(t, clone(t, e)); got != want {
			t.Errorf("%s: after a JSON round trip:\n%s", name, firstDifference(got, want))
		}
		a, _ := json.Marshal(e)
		b, _ := json.Marshal(clone(t, e))
		if !bytes.Equal(a, b) {
			t.Errorf("%s: the evidence changes in a round trip:\n%s", name, firstDifference(string(b), string(a)))
		}
		for seed := range uint64(20) {
			if got := reportBytes(t, shuffled(t, e, seed)); got != want {
				t.Fatalf("%s: shuffled %d:\n%s", name, seed, firstDifference(got, want))
			}
		}
		if again, _ := json.Marshal(e); !bytes.Equal(a, again) {
			t.Errorf("%s: Decide changes the evidence", name)
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d: got %s, want %s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}
