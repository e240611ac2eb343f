package output

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// page builds a text before it is written in one piece, so that a slow or
// broken reader never sees half a line of ours mixed with someone else's.
type page struct {
	Options
	buf bytes.Buffer
}

func newPage(o Options) *page { return &page{Options: o} }

func (p *page) flush(w io.Writer) error {
	if _, err := w.Write(p.buf.Bytes()); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func (p *page) blank() { p.buf.WriteByte('\n') }

// line writes a line that is already clean, styled and narrow enough.
func (p *page) line(s string) { p.buf.WriteString(strings.TrimRight(s, " ") + "\n") }

// para writes clean text behind lead (which may be styled and takes leadCols
// cells), the following lines indented as far as hang cells.
func (p *page) para(lead string, leadCols, hang int, st style, text string) {
	width := p.width()
	first := wrap(text, width-leadCols)
	if leadCols == hang {
		for i, l := range first {
			if i > 0 {
				lead = strings.Repeat(" ", hang)
			}
			p.line(lead + p.paint(st, l))
		}
		return
	}
	p.line(lead + p.paint(st, first[0]))
	rest := strings.TrimPrefix(strings.Join(strings.Fields(text), " "), first[0])
	if rest = strings.TrimSpace(rest); rest == "" {
		return
	}
	for _, l := range wrap(rest, width-hang) {
		p.line(strings.Repeat(" ", hang) + p.paint(st, l))
	}
}

// item writes text behind a bullet or number, indented.
func (p *page) item(indent int, bullet, text string) {
	lead := strings.Repeat(" ", indent) + bullet + " "
	p.para(lead, columns(lead), columns(lead), plainText, text)
}

// Where the text of a labelled block begins; on a narrow terminal labels get a
// line of their own.
const (
	labelIndent = 2
	labelText   = labelIndent + len("check the fix") + 2
	narrow      = 60
)

// block writes a label with its lines: one line bare, several with bullets
// (or numbers, when their order matters).
func (p *page) block(label string, numbered bool, lines []string) {
	if len(lines) == 0 {
		return
	}
	at := labelText
	lead := strings.Repeat(" ", labelIndent) + p.paint(faint, label) + strings.Repeat(" ", labelText-labelIndent-columns(label))
	if p.width() < narrow {
		p.line(strings.Repeat(" ", labelIndent) + p.paint(faint, label))
		at = 2 * labelIndent
		lead = strings.Repeat(" ", at)
	}
	for i, l := range lines {
		bullet := ""
		switch {
		case numbered && len(lines) > 1:
			bullet = fmt.Sprintf("%d. ", i+1)
		case len(lines) > 1:
			bullet = p.glyph("· ", "- ")
		}
		p.para(lead+bullet, at+columns(bullet), at+columns(bullet), plainText, l)
		lead = strings.Repeat(" ", at)
	}
}

// commands writes shell lines that can be copied: a long one is continued with
// a backslash, not simply broken.
func (p *page) commands(label string, cmds []string) {
	if len(cmds) == 0 {
		return
	}
	at := labelText
	lead := strings.Repeat(" ", labelIndent) + p.paint(faint, label) + strings.Repeat(" ", labelText-labelIndent-columns(label))
	if p.width() < narrow {
		p.line(strings.Repeat(" ", labelIndent) + p.paint(faint, label))
		at, lead = 2*labelIndent, strings.Repeat(" ", 2*labelIndent)
	}
	for _, c := range cmds {
		lines := wrapCommand(c, p.width()-at-4)
		for i, l := range lines {
			mark := "$ "
			if i > 0 {
				mark = "    "
			}
			if i < len(lines)-1 {
				l += ` \`
			}
			p.line(lead + mark + p.paint(bold, l))
			lead = strings.Repeat(" ", at)
		}
	}
}

// wrapCommand breaks at spaces outside of quotes only: a word that is too long
// stays whole, or it could not be copied any more.
func wrapCommand(s string, width int) []string {
	var lines []string
	line := ""
	for _, word := range shellWords(s) {
		if line != "" && columns(line)+1+columns(word) > width-2 {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// shellWords splits at spaces that no quote encloses.
func shellWords(s string) []string {
	var out []string
	open := ""
	for _, f := range strings.Fields(s) {
		if open != "" {
			out[len(out)-1] += " " + f
		} else {
			out = append(out, f)
		}
		for _, r := range f {
			switch q := string(r); {
			case q == open:
				open = ""
			case open == "" && (r == '\'' || r == '"'):
				open = q
			}
		}
	}
	return out
}
