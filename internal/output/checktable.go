package output

import (
	"fmt"
	"io"
	"strings"

	"fathom/internal/diagnose"
)

// CheckRow is one target of `fathom check`, in words. A cell that does not
// apply stays empty.
type CheckRow struct {
	Target string
	State  string // a state of diagnose.CheckLine: ok, fault, info, unknown
	Ping   string // "100/100 in 0.42 ms"
	Port   string // "443 open in 0.61 ms"
	DNS    string // "192.0.2.7 in 3.10 ms"
	Path   string // "4 hops"
	Note   string // what is wrong, in a sentence; below the row
}

// cells in the order of the header.
func (r CheckRow) cells() [5]string { return [5]string{r.Target, r.Ping, r.Port, r.DNS, r.Path} }

var checkHeader = [5]string{"TARGET", "PING", "PORT", "DNS", "PATH"}

// CheckTable writes a row per target, columns under each other; where the
// terminal is too narrow for that, a block per target. A last line counts.
func CheckTable(w io.Writer, rows []CheckRow, o Options) error {
	p := newPage(o)
	var width [5]int
	for i, h := range checkHeader {
		width[i] = columns(h)
		for _, r := range rows {
			width[i] = max(width[i], columns(p.clean(r.cells()[i])))
		}
	}
	width[0] = min(width[0], max(p.width()*2/5, 20))
	total := 2 + 2*(len(width)-1)
	for _, n := range width {
		total += n
	}
	if len(rows) > 0 {
		if total <= p.width() {
			p.checkColumns(rows, width)
		} else {
			p.checkBlocks(rows)
		}
		p.blank()
	}
	p.line(checkCount(rows))
	return p.flush(w)
}

func (p *page) checkColumns(rows []CheckRow, width [5]int) {
	head := "  "
	for i, h := range checkHeader {
		head += pad(h, width[i]) + "  "
	}
	p.line(p.paint(faint, strings.TrimRight(head, " ")))
	for _, r := range rows {
		mark, st := p.stateMark(r.State)
		line := p.paint(st, mark) + " "
		for i, c := range r.cells() {
			c = p.clean(c)
			if c == "" {
				c = "-"
			}
			line += pad(p.fit(c, width[i]), width[i]) + "  "
		}
		p.line(line)
		if r.Note != "" {
			p.para("    ", 4, 4, plainText, p.clean(r.Note))
		}
	}
}

func (p *page) checkBlocks(rows []CheckRow) {
	for _, r := range rows {
		mark, st := p.stateMark(r.State)
		p.para(p.paint(st, mark)+" ", 2, 2, bold, p.clean(r.Target))
		for i, c := range r.cells() {
			if i > 0 && c != "" {
				p.para("    "+p.paint(faint, pad(strings.ToLower(checkHeader[i]), 5)), 9, 9, plainText, p.clean(c))
			}
		}
		if r.Note != "" {
			p.para("    ", 4, 4, plainText, p.clean(r.Note))
		}
	}
}

func checkCount(rows []CheckRow) string {
	var fine, bad, unknown int
	for _, r := range rows {
		switch r.State {
		case diagnose.StateOK, diagnose.StateInfo:
			fine++
		case diagnose.StateFault:
			bad++
		default:
			unknown++
		}
	}
	word := "targets"
	if len(rows) == 1 {
		word = "target"
	}
	return fmt.Sprintf("%d %s: %d fine, %d faulty, %d unknown", len(rows), word, fine, bad, unknown)
}
