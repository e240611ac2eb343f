package output

import (
	"strings"
	"unicode"
)

// columns is how many terminal cells s takes. s is sanitised.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

// wide are the ranges of characters that take two cells (East Asian Width W
// and F, and emoji), coarse: where a terminal disagrees a line is a cell off.
var wide = [][2]rune{
	{0x1100, 0x115f},
	{0x231a, 0x231b},
	{0x2329, 0x232a},
	{0x23e9, 0x23ec},
	{0x25fd, 0x25fe},
	{0x2614, 0x2615},
	{0x2648, 0x2653},
	{0x26a1, 0x26a1},
	{0x2705, 0x2705},
	{0x274c, 0x274c},
	{0x2753, 0x2757},
	{0x2e80, 0x303e},
	{0x3041, 0xa4cf},
	{0xa960, 0xa97f},
	{0xac00, 0xd7a3},
	{0xf900, 0xfaff},
	{0xfe30, 0xfe6f},
	{0xff01, 0xff60},
	{0xffe0, 0xffe6},
	{0x16fe0, 0x18cff},
	{0x1b000, 0x1b2ff},
	{0x1f004, 0x1f004},
	{0x1f0cf, 0x1f0cf},
	{0x1f18e, 0x1f18e},
	{0x1f191, 0x1f19a},
	{0x1f200, 0x1f64f},
	{0x1f680, 0x1f6ff},
	{0x1f7e0, 0x1f7eb},
	{0x1f900, 0x1f9ff},
	{0x1fa70, 0x1faff},
	{0x20000, 0x3fffd},
}

func runeColumns(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r):
		return 0
	}
	for _, w := range wide {
		if r >= w[0] && r <= w[1] {
			return 2
		}
	}
	return 1
}

// wrap breaks s at spaces into lines of at most width cells. A word that is
// too long for any line is broken anywhere. It answers at least one line.
func wrap(s string, width int) []string {
	width = max(width, 2)
	var lines []string
	line, used := "", 0
	for _, word := range words(s) {
		n := columns(word)
		if used > 0 && used+1+n <= width {
			line, used = line+" "+word, used+1+n
			continue
		}
		if used > 0 {
			lines = append(lines, line)
		}
		for n > width {
			head := clip(word, width)
			lines, word = append(lines, head), word[len(head):]
			n = columns(word)
		}
		line, used = word, n
	}
	return append(lines, line)
}

// units stay on the line of their number.
var units = map[string]bool{"s": true, "ms": true, "µs": true, "us": true, "%": true, "bytes": true, "bit/s": true, "kbit/s": true, "Mbit/s": true, "Gbit/s": true}

// words splits at spaces, but keeps "0.42 ms" together.
func words(s string) []string {
	var out []string
	for _, f := range strings.Fields(s) {
		if n := len(out); n > 0 && units[strings.TrimRight(f, ".,;:)")] && len(out[n-1]) < 12 && endsInDigit(out[n-1]) {
			out[n-1] += " " + f
			continue
		}
		out = append(out, f)
	}
	return out
}

func endsInDigit(s string) bool { return s != "" && s[len(s)-1] >= '0' && s[len(s)-1] <= '9' }

// clip is the longest beginning of s that fits into width cells, at least one character.
func clip(s string, width int) string {
	n := 0
	for i, r := range s {
		if n += runeColumns(r); n > width && i > 0 {
			return s[:i]
		}
	}
	return s
}

// fit cuts s to width cells, with an ellipsis when something is missing.
func (o Options) fit(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	dots := o.glyph("…", "...")
	if width <= columns(dots) {
		return strings.Repeat(".", max(width, 0))
	}
	return strings.TrimRight(clip(s, width-columns(dots)), " ") + dots
}

// pad fills s with spaces to width cells.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(width-columns(s), 0))
}
