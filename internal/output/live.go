package output

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"fathom/internal/diagnose"
)

// framePeriod bounds drawing: ten frames a second look alive and cost nothing.
const framePeriod = 100 * time.Millisecond

// Control sequences (ECMA-48), and the synchronized-output mode that keeps a
// terminal from showing half a frame; those that do not know it ignore it.
const (
	syncOn     = "\x1b[?2026h"
	syncOff    = "\x1b[?2026l"
	clearRight = "\x1b[K"
	clearBelow = "\x1b[J"
)

// screen is what Live needs of a terminal.
type screen interface {
	io.Writer
	Size() (cols, rows int) // 0 when unknown
}

// Live is a checklist that redraws itself in place while measurements arrive,
// and erases itself at the end, so that the verdict takes its place. The cursor
// is never hidden and no mode of the terminal is changed, so that nothing has to
// be restored however the program ends. Without a terminal it does nothing.
type Live struct {
	o       Options
	scr     screen // nil: no terminal
	stop    chan struct{}
	stopped chan struct{}
	once    sync.Once // Finish

	mu      sync.Mutex
	started time.Time // zero: not running
	lines   []diagnose.CheckLine
	drawn   []int // widths of the lines on the screen
	frame   int
	over    bool
}

// NewLive prepares a checklist on f.
func NewLive(f *os.File, o Options) *Live {
	if f == nil || !term.IsTerminal(int(f.Fd())) || dumb(os.Getenv("TERM")) {
		return newLive(nil, o)
	}
	return newLive(terminal{f}, o)
}

func newLive(scr screen, o Options) *Live {
	return &Live{o: o, scr: scr, stop: make(chan struct{}), stopped: make(chan struct{})}
}

type terminal struct{ *os.File }

func (t terminal) Size() (cols, rows int) {
	cols, rows, err := term.GetSize(int(t.Fd()))
	if err != nil {
		return 0, 0
	}
	return cols, rows
}

// Start draws the first frame and goes on drawing until Finish.
func (l *Live) Start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.scr == nil || l.over || !l.started.IsZero() {
		return
	}
	l.started = time.Now()
	if !l.draw() {
		l.scr = nil
		return
	}
	go l.run()
}

func (l *Live) run() {
	defer close(l.stopped)
	tick := time.NewTicker(framePeriod)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		l.mu.Lock()
		ok := l.draw()
		l.mu.Unlock()
		if !ok {
			return // the terminal is gone
		}
	}
}

// Update gives the checklist as it stands now; it is drawn with the next frame.
func (l *Live) Update(lines []diagnose.CheckLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines[:0], lines...)
}

// Finish stops drawing and erases the checklist. It may be called at any time,
// from any goroutine and more than once; afterwards nothing is drawn any more.
func (l *Live) Finish() {
	l.once.Do(func() {
		l.mu.Lock()
		l.over = true
		running := l.scr != nil && !l.started.IsZero()
		l.mu.Unlock()
		if !running {
			return
		}
		close(l.stop)
		<-l.stopped
		l.mu.Lock()
		defer l.mu.Unlock()
		cols, rows := l.size()
		// An error here has no reader: the terminal is gone.
		_, _ = io.WriteString(l.scr, syncOn+l.rewind(cols, rows)+clearBelow+syncOff)
		l.drawn = nil
	})
}

// size falls back to the classic terminal when the real size is unknown.
func (l *Live) size() (cols, rows int) {
	cols, rows = l.scr.Size()
	if cols <= 0 {
		cols = defaultWidth
	}
	if rows <= 0 {
		rows = 24
	}
	return cols, rows
}

// rewind moves the cursor to the first line drawn. Lines drawn on a wider
// terminal have been wrapped since, and take more rows now.
func (l *Live) rewind(cols, rows int) string {
	up := 0
	for _, w := range l.drawn {
		up += max(1, (w+cols-1)/cols)
	}
	if up = min(up, rows-1); up <= 0 {
		return "\r"
	}
	return fmt.Sprintf("\r\x1b[%dA", up)
}

// draw writes one frame in a single write. The cursor rests below it.
func (l *Live) draw() bool {
	cols, rows := l.size()
	var b strings.Builder
	b.WriteString(syncOn + l.rewind(cols, rows))
	l.drawn = l.drawn[:0]
	for _, ln := range l.render(cols, rows) {
		b.WriteString(ln.text + clearRight + "\r\n")
		l.drawn = append(l.drawn, ln.cols)
	}
	b.WriteString(clearBelow + syncOff)
	l.frame++
	_, err := io.WriteString(l.scr, b.String())
	return err == nil
}

// liveLine is a line ready to be written, and its width without the styling.
type liveLine struct {
	text string
	cols int
}

// render lays the frame out for a terminal of this size. One column stays free:
// some terminals wrap when the last one is written.
func (l *Live) render(cols, rows int) []liveLine {
	width := cols - 1
	shown, hidden := choose(l.lines, max(rows-3, 0)) // the heading, a summary and the cursor's line
	out := []liveLine{l.heading(width)}
	area := 0
	for _, c := range shown {
		area = max(area, columns(l.o.clean(c.Area)))
	}
	area = min(area, max(cols/3, 10), 32)
	for _, c := range shown {
		out = append(out, l.entry(c, area, width))
	}
	if len(hidden) > 0 {
		out = append(out, l.styled("", plainText, l.o.clean("  … "+tally(hidden)), width))
	}
	return out[:min(len(out), max(rows-1, 1))]
}

func (l *Live) heading(width int) liveLine {
	done := 0
	for _, c := range l.lines {
		if c.State != diagnose.StateRunning {
			done++
		}
	}
	text := fmt.Sprintf(" looking, %.1f s", time.Since(l.started).Seconds())
	if n := len(l.lines); n > 0 {
		text += fmt.Sprintf(", %d of %d done", done, n)
	}
	return l.styled(l.spinner(), bold, text, width)
}

func (l *Live) entry(c diagnose.CheckLine, area, width int) liveLine {
	mark, st := l.o.stateMark(c.State)
	if c.State == diagnose.StateRunning {
		mark = l.spinner()
	}
	text := " " + pad(l.o.fit(l.o.clean(c.Area), area), area) + "  " + l.o.clean(c.Text)
	ln := l.styled(mark, st, text, width-2)
	if width > 2 {
		ln.text, ln.cols = "  "+ln.text, ln.cols+2
	}
	return ln
}

// styled is a mark in its style and text behind it, cut to width.
func (l *Live) styled(mark string, st style, text string, width int) liveLine {
	width = max(width, 1)
	text = strings.TrimRight(l.o.fit(text, width-columns(mark)), " ")
	return liveLine{l.o.paint(st, mark) + text, columns(mark) + columns(text)}
}

func (l *Live) spinner() string {
	frames := []string{".", "o", "O", "o"} // none of them is a mark
	if l.o.Unicode {
		frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}
	}
	return frames[l.frame%len(frames)]
}

// choose picks at most n lines to show, those first that a reader waits for:
// faults, then what is still running. The order stays.
func choose(lines []diagnose.CheckLine, n int) (shown, hidden []diagnose.CheckLine) {
	if len(lines) <= n+1 { // the summary's own row would hold the last one
		return lines, nil
	}
	pick := make([]bool, len(lines))
	for _, want := range []string{diagnose.StateFault, diagnose.StateRunning, diagnose.StateUnknown, ""} {
		for i, c := range lines {
			if n > 0 && !pick[i] && (want == "" || c.State == want) {
				pick[i] = true
				n--
			}
		}
	}
	for i, c := range lines {
		if pick[i] {
			shown = append(shown, c)
		} else {
			hidden = append(hidden, c)
		}
	}
	return shown, hidden
}

// tally sums lines up by state: "180 more: 120 ok, 60 running".
func tally(lines []diagnose.CheckLine) string {
	count := map[string]int{}
	for _, c := range lines {
		count[c.State]++
	}
	var parts []string
	known := 0
	for _, s := range []string{diagnose.StateFault, diagnose.StateRunning, diagnose.StateUnknown, diagnose.StateOK, diagnose.StateInfo} {
		if count[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[s], s))
			known += count[s]
		}
	}
	if n := len(lines) - known; n > 0 {
		parts = append(parts, fmt.Sprintf("%d other", n))
	}
	return fmt.Sprintf("%d more: %s", len(lines), strings.Join(parts, ", "))
}
