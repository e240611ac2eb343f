package output

import (
	"fathom/internal/diagnose"
	"fathom/sample"
)

// style is a terminal style: the parameters of an SGR sequence (ECMA-48 8.3.117).
// Orange against blue can be told apart with every common colour blindness, and
// no style ever carries meaning alone: there is always a mark and a word.
type style string

const (
	plainText style = ""
	bold      style = "1"
	faint     style = "2"
	alarm     style = "1;38;5;202" // vermilion, bold
	caution   style = "38;5;172"   // orange
	good      style = "38;5;33"    // blue
)

func (o Options) paint(st style, s string) string {
	if !o.Color || st == plainText || s == "" {
		return s
	}
	return "\x1b[" + string(st) + "m" + s + "\x1b[0m"
}

// glyph picks what the terminal can show.
func (o Options) glyph(unicode, ascii string) string {
	if o.Unicode {
		return unicode
	}
	return ascii
}

// verdictMark is the mark, the word and the style of a verdict.
func (o Options) verdictMark(v diagnose.Verdict) (string, style) {
	switch v {
	case diagnose.Healthy:
		return o.glyph("✓", "+") + " HEALTHY", style("1;" + string(good))
	case diagnose.Faulty:
		return o.glyph("✗", "x") + " FAULT", alarm
	}
	return "? UNKNOWN", bold
}

// stateMark is the mark of a checklist line; all are one cell wide.
func (o Options) stateMark(state string) (string, style) {
	switch state {
	case diagnose.StateOK:
		return o.glyph("✓", "+"), good
	case diagnose.StateFault:
		return o.glyph("✗", "x"), alarm
	case diagnose.StateInfo:
		return o.glyph("·", "-"), plainText
	case diagnose.StateRunning:
		return o.glyph("…", "~"), faint
	}
	return "?", bold
}

func severityStyle(s sample.Severity) style {
	switch s {
	case sample.Critical, sample.Major:
		return alarm
	case sample.Minor:
		return caution
	}
	return bold
}

func (o Options) severityMark(s sample.Severity) string {
	if s == sample.Info {
		return "i"
	}
	return o.glyph("✗", "x")
}
