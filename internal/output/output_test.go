package output

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"fathom/internal/diagnose"
	"fathom/probe"
	"fathom/sample"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// golden compares got with testdata/<name>.golden; escape bytes are shown as ␛.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	got = bytes.ReplaceAll(got, []byte("\x1b"), []byte("␛"))
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; go test -update when it is meant):\n%s", file, d)
	}
}

func TestTextGolden(t *testing.T) {
	utf8, colour := Options{Unicode: true, Width: 80}, Options{Unicode: true, Color: true, Width: 80}
	for _, c := range []struct {
		name string
		r    diagnose.Report
		o    Options
	}{
		{"healthy", healthyReport(), utf8},
		{"healthy-verbose", healthyReport(), Options{Unicode: true, Width: 80, Verbose: true}},
		{"fault", faultReport(), utf8},
		{"fault-120", faultReport(), Options{Unicode: true, Width: 120}},
		{"fault-verbose", faultReport(), Options{Unicode: true, Width: 80, Verbose: true}},
		{"fault-colour", faultReport(), colour},
		{"fault-ascii", faultReport(), Options{Width: 80}},
		{"fault-narrow", faultReport(), Options{Unicode: true, Width: 50}},
		{"several", severalReport(), utf8},
		{"several-40", severalReport(), Options{Unicode: true, Width: 1}},
		{"hostile", hostileReport(), utf8},
		{"hostile-ascii-verbose", hostileReport(), Options{Width: 80, Verbose: true}},
		{"unknown", unknownReport(), utf8},
		{"empty", diagnose.Report{}, utf8},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := Text(&b, c.r, c.o); err != nil {
				t.Fatal(err)
			}
			golden(t, c.name, b.Bytes())
			safe(t, b.String(), c.o)
			inWidth(t, b.String(), c.o)
		})
	}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// safe checks what holds for every text: no control bytes but line ends and our
// own colours, ASCII where asked, no trailing spaces.
func safe(t *testing.T, s string, o Options) {
	t.Helper()
	if o.Color {
		s = sgr.ReplaceAllString(s, "")
	}
	for i, line := range strings.Split(s, "\n") {
		for _, r := range line {
			if !unicode.IsPrint(r) || !o.Unicode && r > '~' {
				t.Errorf("line %d holds %U: %q", i+1, r, line)
			}
		}
		if !utf8.ValidString(line) || strings.HasSuffix(line, " ") {
			t.Errorf("line %d is not valid or ends in a space: %q", i+1, line)
		}
	}
}

// inWidth checks that all but commands keep to the width; those start with $ or
// continue a line that ends in a backslash.
func inWidth(t *testing.T, s string, o Options) {
	t.Helper()
	last := ""
	for i, line := range strings.Split(sgr.ReplaceAllString(s, ""), "\n") {
		command := strings.HasSuffix(last, ` \`)
		last = line
		if columns(line) > o.width() && !command && !strings.Contains(line, "$ ") && strings.Contains(strings.TrimSpace(line), " ") {
			t.Errorf("line %d is %d columns wide: %q", i+1, columns(line), line)
		}
	}
}

func TestHealthyFitsOnAScreen(t *testing.T) {
	var b bytes.Buffer
	if err := Text(&b, healthyReport(), Options{Unicode: true, Width: 80}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n > 20 { // with a prompt, and a line to spare, on the classic 24
		t.Errorf("%d lines:\n%s", n, b.String())
	}
}

// Colour must not change a word.
func TestColourAddsNothing(t *testing.T) {
	var plain, coloured bytes.Buffer
	_ = Text(&plain, severalReport(), Options{Unicode: true, Width: 80})
	_ = Text(&coloured, severalReport(), Options{Unicode: true, Width: 80, Color: true})
	if d := cmp.Diff(plain.String(), sgr.ReplaceAllString(coloured.String(), "")); d != "" {
		t.Error(d)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestWriteErrors(t *testing.T) {
	for name, err := range map[string]error{
		"text": Text(brokenWriter{}, healthyReport(), Options{}), "json": JSON(brokenWriter{}, 1), "list": ExplainList(brokenWriter{}, Options{}),
		"markdown": CausesMarkdown(brokenWriter{}), "table": CheckTable(brokenWriter{}, nil, Options{}), "no rule": Explain(&bytes.Buffer{}, nil, Options{}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if Nagios(brokenWriter{}, healthyReport()) != NagiosUnknown {
		t.Error("nagios: OK although nobody heard it")
	}
}

func TestJSON(t *testing.T) {
	in := map[string]string{"a": hostile + "<b>&\U000e0041", "z": "µ – ok"}
	var b bytes.Buffer
	if err := JSON(&b, in); err != nil {
		t.Fatal(err)
	}
	s := b.String()
	if !strings.HasSuffix(s, "}\n") || !strings.Contains(s, "<b>&") || !strings.Contains(s, "µ – ok") || !strings.Contains(s, `\u202e`) || !strings.Contains(s, `\u009b`) || !strings.Contains(s, `\udb40\udc41`) {
		t.Errorf("got %s", s)
	}
	safe(t, s, Options{Unicode: true, Width: 120})
	var out map[string]string
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	in["a"] = strings.ToValidUTF8(strings.ReplaceAll(in["a"], "\xff\xc3", "\ufffd\ufffd"), "")
	if d := cmp.Diff(in, out); d != "" {
		t.Error(d)
	}
	if err := JSON(&b, func() {}); err == nil {
		t.Error("a function was encoded")
	}
}

func TestNagios(t *testing.T) {
	minor := faultReport()
	minor.Findings[0].Severity = sample.Minor
	info := healthyReport()
	info.Findings = []diagnose.Finding{{Severity: sample.Info, Cause: "tls.expiring_soon"}}
	major := faultReport()
	major.Findings[0].Severity = sample.Major
	for _, c := range []struct {
		name, starts string
		r            diagnose.Report
		code         int
	}{
		{"healthy", "FATHOM OK - No fault", healthyReport(), 0},
		{"info", "FATHOM OK - ", info, 0},
		{"minor", "FATHOM WARNING - eth0", minor, 1},
		{"major", "FATHOM CRITICAL - eth0", major, 2},
		{"critical", "FATHOM CRITICAL - eth0", faultReport(), 2},
		{"unknown", "FATHOM UNKNOWN - Nothing", unknownReport(), 3},
		{"empty", "FATHOM UNKNOWN - ", diagnose.Report{}, 3},
		{"hostile", "FATHOM UNKNOWN - a\\x1b", hostileReport(), 3},
		{"several", "FATHOM CRITICAL - eth0", severalReport(), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			code := Nagios(&b, c.r, Perf{"https://a=b'c rtt", 0.00842, "s"}, Perf{"x loss", 0, "%"})
			if code != c.code || !strings.HasPrefix(b.String(), c.starts) {
				t.Errorf("code %d, %q", code, b.String())
			}
			if b.Len() > maxNagios+1 || strings.Count(b.String(), "|") != 1 {
				t.Errorf("%d bytes, bars: %d", b.Len(), strings.Count(b.String(), "|"))
			}
			first, _, _ := strings.Cut(b.String(), "\n")
			_, perf, _ := strings.Cut(first, "|")
			if ok := regexp.MustCompile(`^( ('[^'=]+'|[^'= ]+)=-?[0-9.]+(s|%|B)?)+$`).MatchString(perf); !ok {
				t.Errorf("performance data %q", perf)
			}
			safe(t, b.String(), Options{Unicode: true})
			golden(t, "nagios-"+c.name, b.Bytes())
		})
	}
}

func TestPerfOf(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.7")
	e := &diagnose.Evidence{
		Question: diagnose.Question{Targets: []diagnose.Target{{Raw: "192.0.2.7", Host: "192.0.2.7"}, {Raw: "192.0.2.8", Host: "192.0.2.8"}}},
		Measured: []diagnose.Measured{
			{Want: diagnose.WantPing(a), Result: &probe.Result{Address: a, Echo: &probe.Echo{Sent: 5, SendErrors: 1, Received: 3, RTTs: []sample.Duration{1e6, 2e6, 9e6}}}},
			{Want: diagnose.WantPing(netip.MustParseAddr("192.0.2.8")), Result: &probe.Result{Echo: &probe.Echo{Sent: 4}}},
		},
	}
	want := []Perf{{"192.0.2.7 rtt", 0.002, "s"}, {"192.0.2.7 loss", 25, "%"}, {"192.0.2.8 loss", 100, "%"}}
	if d := cmp.Diff(want, PerfOf(e)); d != "" {
		t.Error(d)
	}
	if got := (Perf{"x", 5.7544509999999995, "s"}).String(); got != "x=5.754451s" {
		t.Error(got)
	}
	if got := (Perf{"x", math.NaN(), "s"}).String(); got != "x=U" {
		t.Error(got)
	}
}

func TestExplainGolden(t *testing.T) {
	var b bytes.Buffer
	if err := Explain(&b, diagnose.RuleByID("path.loss"), Options{Unicode: true, Width: 80}); err != nil {
		t.Fatal(err)
	}
	golden(t, "explain-path.loss", b.Bytes())
}

// Every rule and the list of them are printable at any width, ASCII too.
func TestExplainEveryRule(t *testing.T) {
	for _, width := range []int{40, 80} {
		for _, uni := range []bool{true, false} {
			o := Options{Unicode: uni, Width: width}
			for i := range diagnose.Rules {
				var b bytes.Buffer
				if err := Explain(&b, &diagnose.Rules[i], o); err != nil {
					t.Fatal(err)
				}
				safe(t, b.String(), o)
				inWidth(t, b.String(), o)
			}
			var b bytes.Buffer
			if err := ExplainList(&b, o); err != nil {
				t.Fatal(err)
			}
			safe(t, b.String(), o)
			for _, r := range diagnose.Rules {
				if !strings.Contains(b.String(), "  "+r.ID+" ") {
					t.Errorf("the list lacks %s", r.ID)
				}
			}
		}
	}
}

func TestCausesMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := CausesMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	s := b.String()
	if !strings.Contains(strings.SplitN(s, "\n", 2)[0], "DO NOT EDIT") {
		t.Error("not marked as generated")
	}
	anchors := map[string]bool{}
	for _, r := range diagnose.Rules {
		if strings.Count(s, "\n### "+r.ID+"\n") != 1 {
			t.Errorf("%s has no section of its own", r.ID)
		}
		anchors[strings.ReplaceAll(r.ID, ".", "")] = true
	}
	links := regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(s, -1)
	if len(links) < len(diagnose.Rules) {
		t.Errorf("%d links", len(links))
	}
	for _, m := range links {
		if !anchors[m[1]] {
			t.Errorf("link to nowhere: %s", m[0])
		}
	}
	// A place-holder outside a code block would be taken for HTML.
	for i, part := range strings.Split(s, "```") {
		if j := strings.Index(strings.Replace(part, "<!-- Code", "", 1), "<"); i%2 == 0 && j >= 0 {
			t.Errorf("raw < in %.80q", part[j:])
		}
	}
}

func TestChanges(t *testing.T) {
	o := Options{Unicode: true, Width: 80}
	run := func(a, b diagnose.Report) (string, bool) {
		var buf bytes.Buffer
		changed := Changes(&buf, a, b, o)
		safe(t, buf.String(), o)
		inWidth(t, buf.String(), o)
		return buf.String(), changed
	}
	same := faultReport()
	same.Findings[0].Summary, same.Elapsed = "eth0 has no carrier, for 3 s now", sample.D(9e9)
	same.Checks[1].Text = "other numbers"
	if s, changed := run(faultReport(), same); changed || s != "" {
		t.Errorf("numbers alone: %q", s)
	}
	worse := faultReport()
	worse.Findings[0].Severity = sample.Minor
	moved := faultReport()
	moved.Findings[0].Location = "between hop 1 (10.0.0.1) and hop 2 (10.0.1.1)"
	symptom := faultReport()
	symptom.Findings = []diagnose.Finding{{Cause: "ip.gateway_unreachable", Subject: "10.0.0.1", Severity: sample.Critical, Summary: "The gateway is silent."}}
	var all strings.Builder
	for _, c := range []struct {
		name string
		a, b diagnose.Report
	}{{"breaks", healthyReport(), faultReport()}, {"heals", faultReport(), healthyReport()}, {"worse", worse, faultReport()}, {"moves", faultReport(), moved}, {"symptom", symptom, faultReport()}, {"hostile", healthyReport(), hostileReport()}} {
		s, changed := run(c.a, c.b)
		if !changed {
			t.Errorf("%s: no change seen", c.name)
		}
		fmt.Fprintf(&all, "== %s\n%s", c.name, s)
	}
	golden(t, "changes", []byte(all.String()))
}

func TestCheckTable(t *testing.T) {
	rows := []CheckRow{
		{Target: "shop.example:443", State: "ok", Ping: "4/4 in 8.42 ms", Port: "443 open in 9.10 ms", DNS: "192.0.2.7 in 3.10 ms", Path: "6 hops"},
		{Target: "10.0.0.9:22", State: "fault", Ping: "4/4 in 0.31 ms", Port: "22 refused", Path: "1 hop", Note: "Nothing listens on port 22 of 10.0.0.9."},
		{Target: "https://日本.example/" + strings.Repeat("x", 60), State: "unknown", Ping: hostile, Note: hostile},
	}
	for _, c := range []struct {
		name string
		rows []CheckRow
		o    Options
	}{
		{"check", rows[:2], Options{Unicode: true, Width: 100}},
		{"check-narrow", rows, Options{Unicode: true, Width: 60}},
		{"check-ascii", rows, Options{Width: 120}},
		{"check-none", nil, Options{Unicode: true}},
	} {
		var b bytes.Buffer
		if err := CheckTable(&b, c.rows, c.o); err != nil {
			t.Fatal(err)
		}
		safe(t, b.String(), c.o)
		inWidth(t, b.String(), c.o)
		golden(t, c.name, b.Bytes())
	}
}
