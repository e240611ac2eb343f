package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func finding(cause, subject, location, severity string) ReportFinding {
	return ReportFinding{Cause: cause, Subject: subject, Location: location, Severity: severity}
}

func TestJudge(t *testing.T) {
	loss := ExpectedFinding{Cause: "path.loss", Subject: "web.lab.test", Location: "10.0.2.2"}
	good := finding("path.loss", "https://web.lab.test/", "between hop 1 (10.0.1.1) and hop 2 (10.0.2.2)", "major")
	fault := func(f ...ReportFinding) *Report { return &Report{Verdict: "fault", Findings: f} }
	for name, c := range map[string]struct {
		expect     Expect
		report     *Report
		identified bool
		false_     int
	}{
		"right":                    {Expect{Verdict: "fault", ExpectedFinding: loss}, fault(good), true, 0},
		"wrong cause":              {Expect{Verdict: "fault", ExpectedFinding: loss}, fault(finding("link.down", "eth0", "this host", "critical")), false, 1},
		"right cause, wrong place": {Expect{Verdict: "fault", ExpectedFinding: loss}, fault(finding("path.loss", "web.lab.test", "10.0.2.20", "major")), false, 1},
		"only info":                {Expect{Verdict: "fault", ExpectedFinding: loss}, fault(finding(good.Cause, good.Subject, good.Location, "info")), false, 0},
		"one too many":             {Expect{Verdict: "fault", ExpectedFinding: loss}, fault(good, finding("dns.nxdomain", "x", "y", "minor")), true, 1},
		"info beside it":           {Expect{Verdict: "fault", ExpectedFinding: loss}, fault(good, finding("ip.asymmetric", "x", "y", "info")), true, 0},
		"optional is there":        {Expect{Verdict: "fault", ExpectedFinding: loss, Also: []ExpectedFinding{{Cause: "dns.*", Optional: true}}}, fault(good, finding("dns.nxdomain", "x", "y", "minor")), true, 0},
		"optional is not there":    {Expect{Verdict: "fault", ExpectedFinding: loss, Also: []ExpectedFinding{{Cause: "dns.*", Optional: true}}}, fault(good), true, 0},
		"second one is missing":    {Expect{Verdict: "fault", ExpectedFinding: loss, Also: []ExpectedFinding{{Cause: "dns.nxdomain"}}}, fault(good), false, 0},
		"any of":                   {Expect{Verdict: "fault", ExpectedFinding: ExpectedFinding{AnyOf: []string{"a.b", "path.loss"}}}, fault(good), true, 0},
		"twice the same cause":     {Expect{Verdict: "fault", ExpectedFinding: loss}, fault(good, finding("path.loss", "other", "10.9.9.9", "minor")), true, 1},
		"severity":                 {Expect{Verdict: "fault", ExpectedFinding: ExpectedFinding{Cause: "path.loss", Severity: "minor"}}, fault(good), false, 1},
		"healthy":                  {Expect{Verdict: "healthy"}, &Report{Verdict: "healthy"}, true, 0},
		"healthy called faulty":    {Expect{Verdict: "healthy"}, fault(good), false, 2},
		"healthy called unknown":   {Expect{Verdict: "healthy"}, &Report{Verdict: "unknown"}, false, 0},
		"healthy with an info":     {Expect{Verdict: "healthy", ExpectedFinding: ExpectedFinding{Cause: "ip.asymmetric", Severity: "info"}}, &Report{Verdict: "healthy", Findings: []ReportFinding{finding("ip.asymmetric", "x", "y", "info")}}, true, 0},
		"fault called healthy":     {Expect{Verdict: "fault", ExpectedFinding: loss}, &Report{Verdict: "healthy"}, false, 0},
		"absent as info":           {Expect{Verdict: "healthy", Absent: []string{"path.*"}}, &Report{Verdict: "healthy", Findings: []ReportFinding{finding("path.jitter", "x", "y", "info")}}, true, 1},
		"absent as symptom": {
			Expect{Verdict: "fault", ExpectedFinding: loss, Absent: []string{"tcp.filtered"}},
			fault(ReportFinding{Cause: good.Cause, Subject: good.Subject, Location: good.Location, Severity: "major", Explains: []ReportExplains{{Cause: "tcp.filtered"}}}), true, 1,
		},
	} {
		j := Judge(&c.expect, c.report)
		if j.Identified != c.identified || len(j.FalsePositives) != c.false_ {
			t.Errorf("%s: %+v, want identified %v and %d false", name, j, c.identified, c.false_)
		}
	}
}

func TestMatchText(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "anything", true},
		{"10.0.1.1", "hop 1 (10.0.1.1) and", true},
		{"10.0.1.1", "10.0.1.12", false},
		{"10.0.1.1", "110.0.1.1", false},
		{"10.0.1.1", "10.0.1.12, then 10.0.1.1:80", true},
		{"fd06::1", "hop 1 (fd06::1), then", true},
		{"fd06::1", "fd06::12", false},
		{"fd06::1", "fd06::1:2", false},
		{"fd06::1", "[fd06::1]:80", true},
		{"ETH0", "this host, eth0", true},
		{"eth0", "eth01", false},
		{"=eth0", "eth0", true},
		{"=eth0", "this host, eth0", false},
		{"/hop [23]\\b/", "between Hop 2 and", true},
		{"/hop [23]\\b/", "hop 23", false},
		{"/(/", "(", false},
		{"/", "a/b", true},
	} {
		if got := matchText(c.pattern, c.text); got != c.want {
			t.Errorf("%q in %q: %v", c.pattern, c.text, got)
		}
	}
}

func TestParseReport(t *testing.T) {
	r, err := ParseReport([]byte(`{"schema":1,"verdict":"fault","elapsed_s":1.5,"new_key":[],"findings":[{"cause":"a.b","explains":[{"cause":"c.d","subject":"x"}]}]}`))
	if err != nil || r.Findings[0].Explains[0].Cause != "c.d" {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "panic: x", `{"verdict":"fine"}`, `{"verdict":"fault","findings":{}}`} {
		if _, err := ParseReport([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func run(kind Kind, o Outcome, seconds float64, j Judgement) RunResult {
	a := AskResult{Seconds: seconds, Judged: j, Verdict: "fault", Causes: []string{"a.b"}, Slow: o == Slow}
	if o == Failed {
		a.Error = "no report"
	}
	r := RunResult{Scenario: "s|" + string(o), Title: "t", Kind: kind, Outcome: o, Asks: []AskResult{a}}
	if o == Skipped {
		r.Asks, r.Reason = nil, "needs tun"
	}
	return r
}

func TestScoreboardSums(t *testing.T) {
	right, wrong := Judgement{Identified: true}, Judgement{Missed: []string{"x"}, FalsePositives: []string{"y \x1b[31m"}}
	b := Scoreboard{Repeat: 2, Date: time.Unix(0, 0), Runs: [][]RunResult{
		{run(Fault, Passed, 1, right), run(Fault, Missed, 3, wrong)},
		{run(Fault, Passed, 2, right), run(Fault, Failed, 9, Judgement{})},
		{run(Healthy, Passed, 1, right), run(Healthy, Slow, 5, right)},
		{run(Fault, Skipped, 0, Judgement{}), run(Fault, Skipped, 0, Judgement{})},
		nil, // never run
	}}
	b.sum()
	want := Totals{
		Scenarios: 4, Faults: 2, Healthy: 1, Skipped: 1, Runs: 6, Passed: 3, FaultRuns: 4, IdentifiedRuns: 2, Identified: 0.5,
		FalsePositiveRuns: 1, FalsePositives: 1.0 / 6, MedianFaultSeconds: 2.5, WorstFaultSeconds: 9, MedianHealthySecond: 3, WorstHealthySeconds: 5,
	}
	if b.Totals != want {
		t.Errorf("totals\n%+v, want\n%+v", b.Totals, want)
	}
	if b.Totals.Good() || (Totals{}).Good() || !(Totals{Runs: 2, Passed: 2}).Good() {
		t.Error("Good")
	}
	for i, o := range []Outcome{Missed, Failed, Slow, Skipped} {
		if b.Lines[i].Outcome != o {
			t.Errorf("line %d: %s, want the worst of its runs, %s", i, b.Lines[i].Outcome, o)
		}
	}
	var table, md, js bytes.Buffer
	if err := errors.Join(b.WriteTable(&table), b.WriteMarkdown(&md), b.WriteJSON(&js)); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{table.String(), md.String()} {
		if strings.Contains(text, "\x1b") || !strings.Contains(text, "2 of 4 fault runs (50.0 %)") || !strings.Contains(text, "needs tun") {
			t.Errorf("scoreboard:\n%s", text)
		}
	}
	if !strings.Contains(md.String(), `s\|missed`) && !strings.Contains(md.String(), "1970-01-01") {
		t.Errorf("markdown:\n%s", md.String())
	}
	if back := new(Scoreboard); json.Unmarshal(js.Bytes(), back) != nil || back.Totals != want {
		t.Errorf("JSON: %s", js.String())
	}
}

func TestScoreStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b, err := Score(ctx, []*Scenario{scenario(t, minimal)}, ScoreOptions{Options: Options{Binary: "/bin/true"}, Parallel: 3, Repeat: 2})
	if !errors.Is(err, context.Canceled) || b.Totals.Runs != 0 {
		t.Errorf("%+v, %v", b.Totals, err)
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"verdict":"fault","findings":[{"cause":"a.b","location":"10.0.1.1","severity":"major"}]}`), "10.0.1.1")
	f.Add([]byte(`{"verdict":"healthy","findings":null}`), "/a|b/")
	f.Add([]byte(`{"verdict":"unknown","findings":[{"explains":[{}]}]}`), "=x")
	f.Fuzz(func(t *testing.T, b []byte, pattern string) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		e := Expect{Verdict: "fault", ExpectedFinding: ExpectedFinding{Cause: "a.*", Location: pattern}, Absent: []string{"b.*"}}
		if j := Judge(&e, r); j.Identified && r.Verdict != "fault" {
			t.Errorf("%s is identified", b)
		}
	})
}
