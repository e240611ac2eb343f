package output

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"fathom/internal/diagnose"
)

// fakeTerminal is a small terminal emulator: it keeps the cells, wraps at the
// last column, scrolls, and knows the few sequences that Live uses. Anything
// else fails the test.
type fakeTerminal struct {
	mu         sync.Mutex
	cols, rows int
	cells      []string // one string per row, without trailing spaces
	x, y       int
	scrolled   int
	writes     []time.Time
	unknown    []string
	broken     bool
}

func newFakeTerminal(cols, rows int) *fakeTerminal {
	return &fakeTerminal{cols: cols, rows: rows, cells: make([]string, rows)}
}

func (f *fakeTerminal) Size() (cols, rows int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cols, f.rows
}

func (f *fakeTerminal) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return 0, errors.New("terminal is gone")
	}
	f.writes = append(f.writes, time.Now())
	s := string(p)
	for s != "" {
		if rest, ok := strings.CutPrefix(s, "\x1b["); ok {
			end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' && r <= '~' })
			f.sequence(rest[:end], rest[end])
			s = rest[end+1:]
			continue
		}
		r, size := utf8.DecodeRuneInString(s)
		f.put(r)
		s = s[size:]
	}
	return len(p), nil
}

func (f *fakeTerminal) sequence(arg string, final byte) {
	switch {
	case final == 'A':
		n, _ := strconv.Atoi(arg)
		f.y = max(0, f.y-n)
	case final == 'K' && arg == "":
		f.cells[f.y] = f.left()
	case final == 'J' && arg == "":
		f.cells[f.y] = f.left()
		for i := f.y + 1; i < f.rows; i++ {
			f.cells[i] = ""
		}
	case final == 'm' || arg == "?2026" && (final == 'h' || final == 'l'):
	default:
		f.unknown = append(f.unknown, arg+string(final))
	}
}

// left is the part of the row before the cursor.
func (f *fakeTerminal) left() string { return clipTo(f.cells[f.y], f.x) }

func clipTo(s string, n int) string {
	r := []rune(s)
	return string(r[:min(n, len(r))])
}

func (f *fakeTerminal) put(r rune) {
	switch r {
	case '\r':
		f.x = 0
	case '\n':
		f.down()
	default:
		if f.x >= f.cols {
			f.x = 0
			f.down()
		}
		row := []rune(f.cells[f.y] + strings.Repeat(" ", max(0, f.x-len([]rune(f.cells[f.y])))))
		row = append(row[:f.x], append([]rune{r}, row[min(f.x+1, len(row)):]...)...)
		f.cells[f.y] = string(row)
		f.x++
	}
}

func (f *fakeTerminal) down() {
	if f.y++; f.y == f.rows {
		f.y--
		f.scrolled++
		f.cells = append(f.cells[1:], "")
	}
}

// narrow makes the terminal narrower and reflows, as most terminals do.
func (f *fakeTerminal) narrow(cols int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	y := 0
	for i, c := range f.cells {
		if i == f.y {
			y = len(out)
		}
		r := []rune(strings.TrimRight(c, " "))
		for len(r) > cols {
			out, r = append(out, string(r[:cols])), r[cols:]
		}
		out = append(out, string(r))
	}
	f.cols, f.cells, f.y = cols, out[:f.rows], min(y, f.rows-1)
}

func (f *fakeTerminal) frames() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.writes)
}

func (f *fakeTerminal) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var rows []string
	for _, c := range f.cells {
		rows = append(rows, strings.TrimRight(c, " "))
	}
	return strings.TrimRight(strings.Join(rows, "\n"), "\n")
}

func checks(n int, state string) []diagnose.CheckLine {
	var out []diagnose.CheckLine
	for i := range n {
		out = append(out, diagnose.CheckLine{Area: fmt.Sprintf("t%d", i), State: state, Text: "text " + hostile})
	}
	return out
}

func TestLiveDrawsAndErases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeTerminal(60, 10)
		fmt.Fprint(f, "$ fathom why\r\n")
		l := newLive(f, Options{Unicode: true, Color: true})
		l.Start()
		if got := f.text(); got != "$ fathom why\n⠋ looking, 0.0 s" {
			t.Errorf("first frame:\n%s", got)
		}
		l.Update([]diagnose.CheckLine{{Area: "link", State: "ok", Text: "eth0 up"}, {Area: "https://shop.example/with/a/long/path", State: "running", Text: strings.Repeat("long ", 30)}})
		time.Sleep(3050 * time.Millisecond)
		want := "$ fathom why\n⠋ looking, 3.0 s, 1 of 2 done\n  ✓ link                  eth0 up\n  ⠋ https://shop.exampl…  long long long long long long lo…"
		if d := cmp.Diff(want, f.text()); d != "" {
			t.Errorf("after 3 s:\n%s", d)
		}
		if n := f.frames(); n > 33 {
			t.Errorf("%d writes in 3 s", n)
		}
		l.Finish()
		l.Finish()
		if got := f.text(); got != "$ fathom why" || f.x != 0 || f.y != 1 {
			t.Errorf("after Finish, cursor %d,%d:\n%s", f.x, f.y, got)
		}
		n := len(f.writes)
		l.Update(checks(3, "ok"))
		l.Start()
		time.Sleep(time.Second)
		if len(f.writes) != n {
			t.Error("drawn after Finish")
		}
		if len(f.unknown) > 0 {
			t.Errorf("unexpected sequences: %q", f.unknown)
		}
	})
}

// Whatever the size, nothing may wrap, scroll more than once per row of the
// block, or be left behind.
func TestLiveFitsEveryTerminal(t *testing.T) {
	for cols := 1; cols <= 90; cols += 7 {
		for rows := 1; rows <= 30; rows += 4 {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeTerminal(cols, rows)
				l := newLive(f, Options{Unicode: cols%2 == 0})
				l.Start()
				l.Update(append(checks(20, "running"), checks(20, "fault")...))
				time.Sleep(time.Second)
				l.Finish()
				if f.scrolled > 0 && rows > 1 { // a single row has no place for block and cursor
					t.Errorf("%dx%d: scrolled %d rows", cols, rows, f.scrolled)
				}
				if got := f.text(); got != "" && rows > 1 {
					t.Errorf("%dx%d: left behind:\n%s", cols, rows, got)
				}
				if len(f.unknown) > 0 {
					t.Errorf("unexpected sequences: %q", f.unknown)
				}
			})
		}
	}
}

func TestLiveResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeTerminal(80, 24)
		fmt.Fprint(f, "$ fathom\r\n")
		l := newLive(f, Options{Unicode: true})
		l.Start()
		l.Update(checks(3, "running"))
		time.Sleep(350 * time.Millisecond)
		f.narrow(30)
		time.Sleep(300 * time.Millisecond)
		if n := strings.Count(f.text(), "looking"); n != 1 {
			t.Errorf("%d headings:\n%s", n, f.text())
		}
		l.Finish()
		if got := f.text(); got != "$ fathom" {
			t.Errorf("left behind:\n%s", got)
		}
	})
}

func TestLiveSummarises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeTerminal(40, 8)
		l := newLive(f, Options{Unicode: true})
		l.Start()
		lines := append(checks(30, "ok"), diagnose.CheckLine{Area: "bad", State: "fault", Text: "broken"}, diagnose.CheckLine{Area: "slow", State: "running", Text: "waiting"})
		l.Update(lines)
		time.Sleep(200 * time.Millisecond)
		got := f.text()
		for _, want := range []string{"✗ bad", "slow", "… 27 more: 27 ok", "31 of 32 done"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		l.Finish()
	})
}

func TestLiveOnABrokenTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeTerminal(40, 8)
		l := newLive(f, Options{})
		l.Start()
		f.mu.Lock()
		f.broken = true
		f.mu.Unlock()
		time.Sleep(time.Second)
		l.Finish() // must return
		f = newFakeTerminal(40, 8)
		f.broken = true
		l = newLive(f, Options{})
		l.Start()
		l.Finish()
	})
}

func TestLiveWithoutTerminal(t *testing.T) {
	for _, l := range []*Live{NewLive(nil, Options{}), newLive(nil, Options{})} {
		l.Update(checks(1, "ok"))
		l.Start()
		l.Update(checks(1, "ok"))
		l.Finish()
		l.Finish()
	}
	l := newLive(newFakeTerminal(80, 24), Options{})
	l.Finish() // before Start
	l.Start()
}

func TestLiveConcurrent(t *testing.T) {
	f := newFakeTerminal(80, 24)
	l := newLive(f, Options{})
	l.Start()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				l.Update(checks(3, "running"))
			}
			l.Finish()
		})
	}
	wg.Wait()
	if got := f.text(); got != "" {
		t.Errorf("left behind: %q", got)
	}
}
