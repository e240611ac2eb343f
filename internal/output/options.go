// Package output shows what fathom found: for a terminal, as JSON, for Nagios
// and its kin, and as Markdown. It decides nothing. Every string that came from
// outside the program passes through Sanitize before a terminal may see it.
package output

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// Widths in columns.
const (
	defaultWidth = 80
	minWidth     = 40
	maxWidth     = 120 // prose in longer lines is hard to read
)

// Options say what the reader's terminal can show and how much is wanted.
type Options struct {
	Color   bool
	Unicode bool // UTF-8 may be written; otherwise pure ASCII
	Width   int  // columns; 0 means 80; kept within 40 and 120
	Verbose bool
}

// DetectOptions finds out what f can show, from f itself and from the
// environment: NO_COLOR (no-color.org), CLICOLOR_FORCE, TERM, COLUMNS and the
// locale. Verbose is left to the caller.
func DetectOptions(f *os.File) Options {
	cols, isTerm := 0, false
	if f != nil {
		fd := int(f.Fd())
		if isTerm = term.IsTerminal(fd); isTerm {
			if c, _, err := term.GetSize(fd); err == nil {
				cols = c
			}
		}
	}
	return detect(os.Getenv, isTerm, cols)
}

func detect(getenv func(string) string, isTerm bool, cols int) Options {
	if c, err := strconv.Atoi(getenv("COLUMNS")); err == nil && c > 0 {
		cols = c
	}
	o := Options{Width: cols, Unicode: utf8Locale(getenv)}
	name := getenv("TERM")
	o.Color = isTerm && !dumb(name)
	if v := getenv("CLICOLOR_FORCE"); v != "" && v != "0" {
		o.Color = true
	}
	if getenv("NO_COLOR") != "" {
		o.Color = false
	}
	if isTerm && name == "linux" {
		o.Unicode = false // the console's font has few of the marks we use
	}
	o.Width = o.width()
	return o
}

func dumb(name string) bool { return name == "" || name == "dumb" }

// utf8Locale follows setlocale(3): the first of the three that is set decides.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// width is Width within its bounds.
func (o Options) width() int {
	if o.Width <= 0 {
		return defaultWidth
	}
	return min(max(o.Width, minWidth), maxWidth)
}

// clean makes an outside string fit to be shown.
func (o Options) clean(s string) string {
	s = Sanitize(s)
	if !o.Unicode {
		s = foldASCII(s)
	}
	return s
}
