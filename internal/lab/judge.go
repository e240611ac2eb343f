package lab

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Report is the part of fathom's JSON report that the lab judges. It is read
// from the public format on purpose: the lab tests what users get.
type Report struct {
	Schema   int             `json:"schema"`
	Verdict  string          `json:"verdict"`
	Headline string          `json:"headline"`
	Elapsed  float64         `json:"elapsed_s"`
	Findings []ReportFinding `json:"findings"`
}

// ReportFinding is a top-level finding.
type ReportFinding struct {
	Cause      string           `json:"cause"`
	Subject    string           `json:"subject"`
	Location   string           `json:"location"`
	Severity   string           `json:"severity"`
	Confidence string           `json:"confidence"`
	Summary    string           `json:"summary"`
	Explains   []ReportExplains `json:"explains"`
}

// ReportExplains is a symptom below a finding.
type ReportExplains struct {
	Cause   string `json:"cause"`
	Subject string `json:"subject"`
}

func (f ReportFinding) String() string {
	return fmt.Sprintf("%s (%s) %s at %s", f.Cause, f.Severity, f.Subject, f.Location)
}

// ParseReport reads fathom's JSON.
func ParseReport(b []byte) (*Report, error) {
	r := new(Report)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read fathom's report: %w", err)
	}
	if !slices.Contains([]string{"healthy", "fault", "unknown"}, r.Verdict) {
		return nil, fmt.Errorf("read fathom's report: verdict %q is none of healthy, fault, unknown", clip(r.Verdict))
	}
	return r, nil
}

// Judgement is what the lab makes of one answer.
type Judgement struct {
	Identified     bool     `json:"identified"`
	Missed         []string `json:"missed,omitempty"`          // expected and not there; the verdict too
	FalsePositives []string `json:"false_positives,omitempty"` // there and not expected
}

// Judge compares an answer with what is expected. It is pure.
func Judge(e *Expect, r *Report) Judgement {
	var j Judgement
	if r.Verdict != e.Verdict {
		text := fmt.Sprintf("verdict %s, expected %s", r.Verdict, e.Verdict)
		if r.Verdict == "fault" {
			j.FalsePositives = append(j.FalsePositives, text)
		}
		j.Missed = append(j.Missed, text)
	}
	accounted := make([]bool, len(r.Findings))
	for _, w := range e.Findings() {
		found, near := false, ""
		for i, f := range r.Findings {
			ok, why := w.matches(f)
			if ok {
				found, accounted[i] = true, true
			} else if why != "" {
				near = "; near: " + f.String() + ": " + why
			}
		}
		if !found && !w.Optional {
			j.Missed = append(j.Missed, w.describe()+near)
		}
	}
	for i, f := range r.Findings {
		if !accounted[i] && f.Severity != "info" {
			j.FalsePositives = append(j.FalsePositives, f.String())
		}
	}
	j.FalsePositives = append(j.FalsePositives, e.absentOf(r)...)
	j.Identified = len(j.Missed) == 0
	return j
}

// matches compares one finding; why tells what is wrong about one with the
// right cause.
func (f ExpectedFinding) matches(got ReportFinding) (ok bool, why string) {
	if !slices.ContainsFunc(f.Causes(), func(c string) bool { return causeFits(c, got.Cause) }) {
		return false, ""
	}
	switch {
	case f.Severity != "" && f.Severity != got.Severity:
		return false, fmt.Sprintf("severity %s, expected %s", got.Severity, f.Severity)
	case f.Severity == "" && got.Severity == "info":
		return false, "only info"
	case !matchText(f.Subject, got.Subject):
		return false, fmt.Sprintf("subject %q, expected %q", got.Subject, f.Subject)
	case !matchText(f.Location, got.Location):
		return false, fmt.Sprintf("location %q, expected %q", got.Location, f.Location)
	}
	return true, ""
}

func (f ExpectedFinding) describe() string {
	t := strings.Join(f.Causes(), " or ")
	if f.Subject != "" {
		t += ", subject " + f.Subject
	}
	if f.Location != "" {
		t += ", location " + f.Location
	}
	return t
}

// absentOf lists the forbidden causes that are there, however unimportant.
func (e *Expect) absentOf(r *Report) []string {
	var out []string
	for _, a := range e.Absent {
		for _, f := range r.Findings {
			if causeFits(a, f.Cause) && f.Severity == "info" { // others are counted already, or are expected elsewhere
				out = append(out, "must be absent: "+f.String())
			} else if causeFits(a, f.Cause) {
				out = append(out, "must be absent: "+f.Cause)
			}
			for _, x := range f.Explains {
				if causeFits(a, x.Cause) {
					out = append(out, fmt.Sprintf("must be absent: %s %s, explained by %s", x.Cause, x.Subject, f.Cause))
				}
			}
		}
	}
	return out
}

// causeFits compares a cause with a pattern: equal, or area.*.
func causeFits(pattern, cause string) bool {
	if area, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(cause, area)
	}
	return pattern == cause
}

// newPattern checks a text pattern and returns its matcher.
func newPattern(p string) (func(string) bool, error) {
	switch {
	case p == "":
		return func(string) bool { return true }, nil
	case strings.HasPrefix(p, "="):
		return func(s string) bool { return strings.EqualFold(s, p[1:]) }, nil
	case len(p) > 2 && p[0] == '/' && p[len(p)-1] == '/':
		re, err := regexp.Compile("(?i)" + p[1:len(p)-1])
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w (Go's syntax: no lookahead; \\b is the edge of a word)", clip(p), err)
		}
		return re.MatchString, nil
	}
	return func(s string) bool { return containsWord(strings.ToLower(s), strings.ToLower(p)) }, nil
}

// matchText reports whether a text fits a pattern; a broken pattern fits nothing.
func matchText(pattern, s string) bool {
	m, err := newPattern(pattern)
	return err == nil && m(s)
}

// containsWord finds w in s where neither neighbour continues the word, so that
// 10.0.1.1 is not found in 10.0.1.12.
func containsWord(s, w string) bool {
	for from := 0; ; {
		i := strings.Index(s[from:], w)
		if i < 0 {
			return false
		}
		start, end := from+i, from+i+len(w)
		before, _ := utf8.DecodeLastRuneInString(s[:start])
		after, _ := utf8.DecodeRuneInString(s[end:])
		first, _ := utf8.DecodeRuneInString(w)
		last, _ := utf8.DecodeLastRuneInString(w)
		goesOn := isWord(after) && isWord(last) || strings.Count(w, ":") > 1 && colonGroup.MatchString(s[end:])
		if !(isWord(before) && isWord(first)) && !goesOn {
			return true
		}
		from = start + 1
	}
}

// colonGroup is more of an IPv6 address: fd00::1 is not found in fd00::1:2.
var colonGroup = regexp.MustCompile(`^:[0-9a-f]`)

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
