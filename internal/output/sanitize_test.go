package output

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSanitize(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"eth0":                        "eth0",
		"Zürich 日本 µs – ok":           "Zürich 日本 µs – ok",
		"a\x1b[31mb":                  `a\x1b[31mb`,
		"l1\nl2\r\n\tx":               `l1\nl2\r\n\tx`,
		"\x00\x07\x7f":                `\x00\x07\x7f`,
		"\u009b31m":                   `\u009b31m`,
		"\x9b31m":                     `\x9b31m`,
		"\u202eevil\u2066":            `\u202eevil\u2066`,
		"a\u200bb\u00a0c\ufeff\u00ad": `a\u200bb\u00a0c\ufeff\u00ad`,
		"\u2028\u3164\u115f":          `\u2028\u3164\u115f`,
		"\xff\xc3(\xed\xa0\x80":       `\xff\xc3(\xed\xa0\x80`,
		"e\u0301\u0302\u0303":         "e\u0301\u0302" + `\u0303`,
		"\u0301a":                     `\u0301a`,
		"\U000e0041":                  `\U000e0041`,
		`already \x1b`:                `already \x1b`,
	} {
		if got := Sanitize(in); got != want {
			t.Errorf("Sanitize(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSanitizeBounds(t *testing.T) {
	for _, in := range []string{strings.Repeat("a", 1<<20), strings.Repeat("\x1b", 1<<20), strings.Repeat("é", maxRunes+1), strings.Repeat("a", maxRunes-1) + "\x1b"} {
		got := Sanitize(in)
		if n := utf8.RuneCountInString(got); n > maxRunes || !strings.HasSuffix(got, "…") {
			t.Errorf("%d runes, ends in %q", n, got[len(got)-8:])
		}
	}
	if in := strings.Repeat("a", maxRunes); Sanitize(in) != in {
		t.Error("a string of just the largest length was cut")
	}
}

func FuzzSanitize(f *testing.F) {
	for _, s := range []string{"", hostile, "日本\u0301\u0301\u0301", strings.Repeat("\x1b", 300), strings.Repeat("e\u0301", 400), "\xf0\x9f", "\\x1b", "\U0010ffff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Sanitize(s)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > maxRunes {
			t.Fatalf("invalid or too long: %q", got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) || unicode.Is(unicode.Cf, r) || r == '\n' {
				t.Fatalf("%U is let through in %q", r, got)
			}
		}
		if again := Sanitize(got); again != got {
			t.Fatalf("not idempotent: %q, then %q", got, again)
		}
		if a := (Options{}).clean(s); a != foldASCII(a) || !plainASCII(a) {
			t.Fatalf("not ASCII: %q", a)
		}
		for _, l := range wrap(got, 20) {
			if columns(l) > 20 {
				t.Fatalf("line of %d columns: %q", columns(l), l)
			}
		}
	})
}

func plainASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

func BenchmarkSanitizePlain(b *testing.B) {
	for b.Loop() {
		Sanitize("eth0 is switched on but has no carrier: the cable, the port or the peer at the other end is down.")
	}
}

func BenchmarkSanitizeUnicode(b *testing.B) {
	for b.Loop() {
		Sanitize("100 of 100 echo requests answered, median 312 µs – all well…")
	}
}
