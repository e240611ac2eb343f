package output

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxRunes bounds one sanitised string: several times the longest sentence a
	// rule writes, and no banner can push the verdict off the screen.
	maxRunes = 600
	// maxMarks is how many combining marks may sit on one character. Real scripts
	// need two; hundreds paint over the neighbouring lines.
	maxMarks = 2
)

// Sanitize makes a string from outside (a name, a banner, a certificate, a kernel
// log line) safe to print: what is not printable — control characters, C1,
// line ends, bidirectional overrides, invisible characters, invalid UTF-8 —
// becomes a visible escape such as \x1b or \u202e, and a long string is cut with
// an ellipsis. The result holds no line end, and sanitising it again changes nothing.
func Sanitize(s string) string {
	if plain(s) {
		return s
	}
	var b strings.Builder
	n, marks := 0, maxMarks // at the start a mark would sit on what we print before it
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+size]
		switch {
		case r == utf8.RuneError && size == 1:
			piece, marks = fmt.Sprintf(`\x%02x`, s[i]), 0
		case unicode.Is(unicode.M, r) && marks < maxMarks && !invisible(r):
			marks++
		case unicode.Is(unicode.M, r) || invisible(r):
			piece, marks = escapeRune(r), 0
		default:
			marks = 0
		}
		i += size
		w := utf8.RuneCountInString(piece)
		if n+w > maxRunes || n+w == maxRunes && i < len(s) {
			b.WriteString("…")
			break
		}
		b.WriteString(piece)
		n += w
	}
	return b.String()
}

// plain is the fast path: short printable ASCII.
func plain(s string) bool {
	if len(s) > maxRunes {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// invisible: it would not show, or change how its neighbours show.
func invisible(r rune) bool {
	switch {
	case !unicode.IsPrint(r): // Cc, Cf (bidi, zero width), Zl, Zp, odd spaces, unassigned
		return true
	case r == 0x115f || r == 0x1160 || r == 0x3164 || r == 0xffa0: // Hangul fillers: letters without a shape
		return true
	case r >= 0xfe00 && r <= 0xfe0f || r >= 0xe0100 && r <= 0xe01ef: // variation selectors change widths
		return true
	}
	return r == 0x034f || r >= 0x17b4 && r <= 0x17b5 || r >= 0x180b && r <= 0x180f
}

func escapeRune(r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\t':
		return `\t`
	case r == '\r':
		return `\r`
	case r < 0x80:
		return fmt.Sprintf(`\x%02x`, r)
	case r <= 0xffff:
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}

// asciiFor spells what fathom itself writes beyond ASCII.
var asciiFor = map[rune]string{
	'µ': "u", 'μ': "u", '–': "-", '—': "-", '…': "...", '·': "-", '•': "-", '×': "x", '→': "->", '←': "<-",
	'≥': ">=", '≤': "<=", '≈': "~", '±': "+/-", '°': " deg", '’': "'", '‘': "'", '“': `"`, '”': `"`, '✓': "+", '✗': "x",
}

// foldASCII spells a sanitised string in ASCII.
func foldASCII(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch t, ok := asciiFor[r]; {
		case r < 0x80:
			b.WriteRune(r)
		case ok:
			b.WriteString(t)
		default:
			b.WriteString(escapeRune(r))
		}
	}
	return b.String()
}
