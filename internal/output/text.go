package output

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"fathom/internal/diagnose"
	"fathom/internal/facts"
	"fathom/sample"
)

// How much the short form shows; Verbose shows all.
const (
	shortFindings = 5 // in full; the others get a line each
	shortRuledOut = 5
	shortGaps     = 3
	shortNotes    = 3
	shortChecks   = 30
)

// areaColumn is the width of the checklist's first column when some areas
// (targets) are long: those then get a line of their own.
const areaColumn = 12

// Text writes a report the way an expert would tell a colleague: the verdict,
// what is wrong, how we know, what to do, how to check it; then what it is not,
// and what could not be looked at.
func Text(w io.Writer, r diagnose.Report, o Options) error {
	p := newPage(o)
	p.headline(r)
	faults, infos := splitInfo(r.Findings)
	for i, f := range faults {
		if i >= shortFindings && !o.Verbose {
			p.blank()
			p.otherFindings(faults[i:])
			break
		}
		p.blank()
		p.finding(f, strings.HasPrefix(r.Headline, f.Summary))
	}
	if len(r.Checks) > 0 && (len(faults) == 0 || o.Verbose) {
		p.blank()
		p.checklist(r.Checks)
	}
	for _, f := range infos {
		p.blank()
		p.finding(f, false)
	}
	if len(r.RuledOut)+len(r.NotMeasured)+len(r.Notes) > 0 {
		p.blank()
	}
	p.ruledOut(r)
	p.notMeasured(r.NotMeasured)
	p.notes(r.Notes)
	p.lastLine(r, faults)
	return p.flush(w)
}

func splitInfo(fs []diagnose.Finding) (faults, infos []diagnose.Finding) {
	for _, f := range fs {
		if f.Severity == sample.Info {
			infos = append(infos, f)
		} else {
			faults = append(faults, f)
		}
	}
	return faults, infos
}

func (p *page) headline(r diagnose.Report) {
	mark, st := p.verdictMark(r.Verdict)
	lead, hang := p.paint(st, mark)+"  ", columns(mark)+2
	if p.width() < narrow {
		hang = labelIndent
	}
	p.para(lead, columns(mark)+2, hang, bold, p.clean(r.Headline))
	var about []string
	if r.Host != "" {
		about = append(about, "host "+p.clean(r.Host))
	}
	if n := len(r.Targets); n > 0 {
		about = append(about, "asked about "+p.clean(joinSome(r.Targets, 3, p.Verbose)))
	}
	about = append(about, p.clean(r.Elapsed.String()))
	p.para(strings.Repeat(" ", hang), hang, hang, faint, strings.Join(about, p.glyph(" · ", ", ")))
}

// finding writes one cause. told is true when the headline has just said its
// sentence; then its title stands there instead.
func (p *page) finding(f diagnose.Finding, told bool) {
	st := severityStyle(f.Severity)
	title := p.severityMark(f.Severity) + " " + p.fit(p.clean(f.Cause), p.width()/2)
	rest := ""
	for _, w := range []string{string(f.Severity), string(f.Confidence)} {
		if w != "" {
			rest += p.glyph(" · ", ", ") + p.clean(w)
		}
	}
	p.line(p.paint(st, title) + p.fit(rest, p.width()-columns(title)))
	sentence := f.Summary
	if told || sentence == "" {
		sentence = fullStop(f.Title)
	}
	p.para("  ", labelIndent, labelIndent, bold, p.clean(sentence))
	if f.Severity == sample.Info && !p.Verbose { // no fault: no orders
		p.block("evidence", false, p.proofs(f.Evidence[:min(len(f.Evidence), 2)]))
		return
	}
	p.block("where", false, p.cleanAll(one(f.Location)))
	p.block("since", false, p.cleanAll(one(f.Since)))
	p.block("evidence", false, p.proofs(f.Evidence))
	if p.Verbose {
		p.block("it is not", false, p.cleanAll(f.RulesOut))
	}
	p.block("therefore", false, p.therefore(f.Explains))
	p.block("what to do", true, p.cleanAll(f.Remedy))
	p.block("check the fix", false, p.cleanAll(f.Validate))
	p.commands("see it with", p.cleanAll(f.Sceptic))
}

// maxProofs is how many lines of evidence the short form shows.
const maxProofs = 5

func (p *page) proofs(ps []diagnose.Proof) []string {
	var out []string
	for i, pr := range ps {
		if i == maxProofs && len(ps) > maxProofs && !p.Verbose {
			return append(out, fmt.Sprintf("and %d more", len(ps)-i))
		}
		text := p.clean(pr.Text)
		if p.Verbose && pr.Measurement != "" {
			text += " [" + p.clean(pr.Measurement) + "]"
		}
		out = append(out, text)
	}
	return out
}

// therefore names the symptoms that go away with the cause.
func (p *page) therefore(xs []diagnose.Explained) []string {
	if len(xs) == 0 {
		return nil
	}
	if p.Verbose {
		var out []string
		for _, x := range xs {
			out = append(out, p.clean(x.Cause)+" ("+p.clean(x.Subject)+"): "+p.clean(x.Summary))
		}
		return out
	}
	var names []string
	for _, x := range xs {
		names = append(names, p.clean(x.Cause)+" ("+p.clean(x.Subject)+")")
	}
	return []string{"also " + joinSome(names, 4, false) + ": only symptoms of this"}
}

// otherFindings are those beyond the first few, a paragraph each.
func (p *page) otherFindings(fs []diagnose.Finding) {
	p.line(p.paint(bold, fmt.Sprintf("And %d more (in full with --verbose):", len(fs))))
	for _, f := range fs {
		mark := p.severityMark(f.Severity)
		p.para("  "+p.paint(severityStyle(f.Severity), mark)+" ", 4, 4, plainText, p.clean(f.Cause)+p.glyph(" – ", " - ")+p.clean(f.Summary))
	}
}

// checklist writes one line per area, its texts under each other.
func (p *page) checklist(cs []diagnose.CheckLine) {
	var hidden []diagnose.CheckLine
	if !p.Verbose {
		cs, hidden = choose(cs, shortChecks)
	}
	col := 0
	for _, c := range cs {
		col = max(col, columns(p.clean(c.Area)))
	}
	if col > p.width()/4 {
		col = areaColumn
	}
	for _, c := range cs {
		if c.State == diagnose.StateRunning { // the time was over first
			c.State, c.Text = diagnose.StateUnknown, c.Text+" (not finished)"
		}
		mark, st := p.stateMark(c.State)
		area := p.clean(c.Area)
		lead := "  " + p.paint(st, mark) + " "
		if columns(area) > col { // a long target: its text goes below
			p.para(lead, 4, 4, plainText, area)
			lead = strings.Repeat(" ", 4+col+2)
		} else {
			lead += pad(area, col) + "  "
		}
		p.para(lead, 4+col+2, 4+col+2, plainText, p.clean(c.Text))
	}
	if len(hidden) > 0 {
		p.item(labelIndent, p.glyph("…", "..."), tally(hidden)+" (--verbose)")
	}
}

func (p *page) heading(text, rest string) {
	text = p.clean(text)
	p.para(p.paint(bold, text)+" ", columns(text)+1, labelIndent, plainText, rest)
}

func (p *page) notMeasured(gs []facts.Gap) {
	if len(gs) == 0 {
		return
	}
	if len(gs) == 1 {
		p.heading("Not measured:", p.gap(gs[0]))
		return
	}
	p.heading("Not measured:", fmt.Sprint(len(gs)))
	for i, g := range gs {
		if i == shortGaps && len(gs) > shortGaps && !p.Verbose {
			p.item(labelIndent, p.glyph("·", "-"), fmt.Sprintf("and %d more (--verbose)", len(gs)-i))
			return
		}
		p.item(labelIndent, p.glyph("·", "-"), p.gap(g))
	}
}

// gap: what, why, and what would unlock it.
func (p *page) gap(g facts.Gap) string {
	text := p.clean(g.What) + ": " + p.clean(g.Why)
	if g.Unlock != "" {
		text += p.glyph(" → ", " -> ") + p.clean(g.Unlock)
	}
	return text
}

func (p *page) notes(ns []string) {
	if len(ns) == 0 {
		return
	}
	if len(ns) == 1 {
		p.heading("Note:", p.clean(ns[0]))
		return
	}
	p.heading("Notes:", "")
	for i, n := range ns {
		if i == shortNotes && len(ns) > shortNotes && !p.Verbose {
			p.item(labelIndent, p.glyph("·", "-"), fmt.Sprintf("and %d more (--verbose)", len(ns)-i))
			return
		}
		p.item(labelIndent, p.glyph("·", "-"), p.clean(n))
	}
}

// lastLine says what to type next.
func (p *page) lastLine(r diagnose.Report, faults []diagnose.Finding) {
	var hints []string
	if len(faults) > 0 {
		hints = append(hints, "fathom explain "+p.clean(faults[0].Cause)+" tells more about this cause")
	}
	if !p.Verbose && (len(r.RuledOut) > 0 || len(faults) > 0) {
		hints = append(hints, "--verbose shows everything that was looked at")
	}
	p.blank()
	text := "Done in " + p.clean(r.Elapsed.String())
	if !r.Started.IsZero() {
		text = r.Started.UTC().Format("2006-01-02 15:04:05") + " UTC, " + p.clean(r.Elapsed.String())
	}
	text += "."
	if len(hints) > 0 {
		text += " " + strings.Join(hints, "; ") + "."
	}
	p.para("", 0, 0, faint, text)
}

func (p *page) cleanAll(in []string) []string {
	out := make([]string, 0, len(in))
	for _, s := range in {
		out = append(out, p.clean(s))
	}
	return out
}

// one is s as a list, empty when s is.
func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func fullStop(s string) string {
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?") {
		return s
	}
	return s + "."
}

// joinSome joins at most n strings and counts the rest; all of them when asked.
func joinSome(s []string, n int, all bool) string {
	if all || len(s) <= n {
		return strings.Join(s, ", ")
	}
	return strings.Join(slices.Clone(s[:n]), ", ") + fmt.Sprintf(" and %d more", len(s)-n)
}
