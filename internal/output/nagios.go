package output

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"fathom/internal/diagnose"
	"fathom/probe"
	"fathom/sample"
)

// Exit codes of the monitoring-plugin convention.
const (
	NagiosOK       = 0
	NagiosWarning  = 1
	NagiosCritical = 2
	NagiosUnknown  = 3
)

// maxNagios keeps the answer within the 4 KiB that older NRPE can carry.
const maxNagios = 4000

// Perf is one value of performance data.
type Perf struct {
	Label string
	Value float64
	Unit  string // s, %, B or empty
}

// PerfOf takes round trip (s) and loss (%) of each target address from the evidence.
func PerfOf(e *diagnose.Evidence) []Perf {
	var out []Perf
	for _, t := range e.Question.Targets {
		addrs := e.TargetAddrs(t)
		for _, a := range addrs {
			r := e.Ping(a)
			if r == nil || r.Echo == nil || r.Echo.Sent-r.Echo.SendErrors <= 0 {
				continue
			}
			label := t.Raw
			if len(addrs) > 1 {
				label += " " + a.String()
			}
			n := r.Echo.Sent - r.Echo.SendErrors
			if r.Echo.Received > 0 {
				out = append(out, Perf{label + " rtt", probe.Median(r.Echo.RTTs).Seconds(), "s"})
			}
			out = append(out, Perf{label + " loss", 100 * float64(n-r.Echo.Received) / float64(n), "%"})
		}
	}
	return out
}

// Nagios writes a report as a monitoring plugin does, with perf after the
// standard values, and answers the exit code: critical and major findings are
// CRITICAL, minor ones WARNING, an unknown verdict UNKNOWN.
func Nagios(w io.Writer, r diagnose.Report, perf ...Perf) int {
	count := map[sample.Severity]int{}
	for _, f := range r.Findings {
		count[f.Severity]++
	}
	code, word := nagiosState(r, count)
	values := []Perf{
		{"critical", float64(count[sample.Critical]), ""},
		{"major", float64(count[sample.Major]), ""},
		{"minor", float64(count[sample.Minor]), ""},
		{"not_measured", float64(len(r.NotMeasured)), ""},
		{"elapsed", r.Elapsed.Seconds(), "s"},
	}
	var b strings.Builder
	headline := nagiosText(r.Headline, 300)
	if headline == "" {
		headline = string(r.Verdict)
	}
	fmt.Fprintf(&b, "FATHOM %s - %s |", word, headline)
	for _, v := range append(values, perf...) {
		s := " " + v.String()
		if b.Len()+len(s) > maxNagios/2 {
			break
		}
		b.WriteString(s)
	}
	b.WriteByte('\n')
	for _, l := range nagiosLong(r) {
		if b.Len()+len(l) >= maxNagios {
			break
		}
		b.WriteString(l + "\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return NagiosUnknown // nobody has heard the answer
	}
	return code
}

func nagiosState(r diagnose.Report, count map[sample.Severity]int) (int, string) {
	switch {
	case count[sample.Critical]+count[sample.Major] > 0:
		return NagiosCritical, "CRITICAL"
	case count[sample.Minor] > 0:
		return NagiosWarning, "WARNING"
	case r.Verdict == diagnose.Healthy:
		return NagiosOK, "OK"
	}
	return NagiosUnknown, "UNKNOWN"
}

// nagiosLong are the lines below the status line: findings, else the checklist.
func nagiosLong(r diagnose.Report) []string {
	var out []string
	for _, f := range r.Findings {
		text := fmt.Sprintf("%s %s (%s, %s): %s", f.Severity, f.Cause, f.Subject, f.Confidence, f.Summary)
		if f.Location != "" && !strings.Contains(f.Summary, f.Location) {
			text += " Where: " + f.Location + "."
		}
		out = append(out, nagiosText(text, 400))
		if len(f.Remedy) > 0 && f.Severity != sample.Info {
			out = append(out, nagiosText("  do: "+f.Remedy[0], 200))
		}
	}
	for _, c := range r.Checks {
		out = append(out, nagiosText(fmt.Sprintf("[%s] %s: %s", c.State, c.Area, c.Text), 200))
	}
	return out
}

// nagiosText is safe in plugin output: one line, without the bar that starts
// performance data, at most limit bytes.
func nagiosText(s string, limit int) string {
	s = strings.TrimRight(strings.ReplaceAll(Sanitize(s), "|", "/"), " ")
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-3], "") + "..."
}

// String is 'label'=valueunit, with what would end the label replaced.
func (p Perf) String() string {
	label := strings.NewReplacer("'", "_", "=", "_", `"`, "_", "|", "_").Replace(nagiosText(p.Label, 100))
	if strings.ContainsAny(label, " \t") || label == "" {
		label = "'" + label + "'"
	}
	if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
		return label + "=U" // the convention's word for "could not be determined"
	}
	v := math.Round(p.Value*1e6) / 1e6 // a microsecond; hides what binary fractions leave over
	return label + "=" + strconv.FormatFloat(v, 'f', -1, 64) + p.Unit
}
