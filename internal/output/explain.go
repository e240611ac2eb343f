package output

import (
	"fmt"
	"io"
	"strings"

	"fathom/internal/diagnose"
)

// Explain writes what a cause means, how it is told apart and how it is mended.
func Explain(w io.Writer, r *diagnose.Rule, o Options) error {
	p := newPage(o)
	if r == nil {
		return fmt.Errorf("explain: no such cause")
	}
	p.para(p.paint(bold, p.clean(r.ID))+"  ", columns(p.clean(r.ID))+2, labelIndent, bold, p.clean(fullStop(r.Title)))
	p.line(p.paint(faint, "layer: "+layerWord(r.Layer)))
	p.section("What it means", one(r.Explanation), false)
	p.section("How it is told apart", one(r.TellApart), false)
	p.section("What to do", r.Remedy, true)
	p.section("Check the fix", r.Validate, true)
	if r.Sceptic != "" {
		p.blank()
		p.line(p.paint(bold, "See for yourself"))
		p.line("  $ " + p.clean(r.Sceptic))
	}
	p.section("What it brings about", one(symptoms(r)), false)
	p.section("Needs", one(r.Needs), false)
	p.section("References", r.References, false)
	return p.flush(w)
}

func (p *page) section(title string, lines []string, numbered bool) {
	if len(lines) == 0 {
		return
	}
	p.blank()
	p.line(p.paint(bold, title))
	for i, l := range lines {
		lead := "  "
		switch {
		case numbered && len(lines) > 1:
			lead += fmt.Sprintf("%d. ", i+1)
		case len(lines) > 1:
			lead += p.glyph("· ", "- ")
		}
		p.para(lead, columns(lead), columns(lead), plainText, p.clean(l))
	}
}

// symptoms names the causes that are only symptoms of this one.
func symptoms(r *diagnose.Rule) string {
	if len(r.Explains) == 0 {
		return ""
	}
	return "Where they depend on the same thing, these are only symptoms of it: " + strings.Join(r.Explains, ", ") + "."
}

func layerWord(l diagnose.Layer) string {
	for _, x := range layers {
		if x.id == l {
			return x.word
		}
	}
	return string(l)
}

// ExplainList writes every cause fathom can name, by layer.
func ExplainList(w io.Writer, o Options) error {
	p := newPage(o)
	col := 0
	for _, r := range diagnose.Rules {
		col = max(col, columns(r.ID))
	}
	for i, l := range layers {
		if i > 0 {
			p.blank()
		}
		p.line(p.paint(bold, strings.ToUpper(l.word[:1])+l.word[1:]))
		for _, r := range diagnose.Rules {
			if r.Layer == l.id {
				p.para("  "+pad(p.clean(r.ID), col)+"  ", col+4, col+4, plainText, p.clean(r.Title))
			}
		}
	}
	p.blank()
	p.para("", 0, 0, faint, fmt.Sprintf("%d causes. fathom explain CAUSE tells more about one.", len(diagnose.Rules)))
	return p.flush(w)
}
