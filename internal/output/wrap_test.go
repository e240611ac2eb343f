package output

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  []string
	}{
		{"", 10, []string{""}},
		{"one two three", 7, []string{"one two", "three"}},
		{"median 0.42 ms", 11, []string{"median", "0.42 ms"}}, // a number keeps its unit
		{"abcdefghijkl m", 5, []string{"abcde", "fghij", "kl m"}},
		{"日本語日本", 5, []string{"日本", "語日", "本"}},
		{"  a   b  ", 10, []string{"a b"}},
	} {
		if d := cmp.Diff(c.want, wrap(c.in, c.width)); d != "" {
			t.Errorf("wrap(%q, %d): %s", c.in, c.width, d)
		}
	}
}

// A continued command must still be the same command for a shell.
func TestWrapCommand(t *testing.T) {
	cmd := `tcpdump -ni eth0 'host 192.0.2.7 and (icmp or tcp)' -w "a b" --immediate-mode`
	lines := wrapCommand(cmd, 30)
	want := []string{"tcpdump -ni eth0", "'host 192.0.2.7 and (icmp or tcp)'", `-w "a b" --immediate-mode`}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
	if got := strings.Join(lines, " "); got != cmd {
		t.Errorf("became %q", got)
	}
}

func TestFit(t *testing.T) {
	u, a := Options{Unicode: true}, Options{}
	for _, c := range []struct {
		got, want string
	}{{u.fit("abcdef", 6), "abcdef"}, {u.fit("abcdef", 5), "abcd…"}, {a.fit("abcdef", 5), "ab..."}, {u.fit("日本語", 5), "日本…"}, {u.fit("日本語", 4), "日…"}, {a.fit("abcdef", 2), ".."}, {u.fit("abc", 0), ""}} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestDetect(t *testing.T) {
	env := func(kv ...string) func(string) string {
		return func(k string) string {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == k {
					return kv[i+1]
				}
			}
			return ""
		}
	}
	for name, c := range map[string]struct {
		env  func(string) string
		term bool
		cols int
		want Options
	}{
		"terminal":        {env("TERM", "xterm", "LANG", "de_DE.UTF-8"), true, 100, Options{Color: true, Unicode: true, Width: 100}},
		"piped":           {env("TERM", "xterm", "LANG", "C.utf8"), false, 0, Options{Unicode: true, Width: 80}},
		"dumb":            {env("TERM", "dumb"), true, 80, Options{Width: 80}},
		"no TERM":         {env(), true, 80, Options{Width: 80}},
		"NO_COLOR":        {env("TERM", "xterm", "NO_COLOR", "1", "CLICOLOR_FORCE", "1"), true, 80, Options{Width: 80}},
		"empty NO_COLOR":  {env("TERM", "xterm", "NO_COLOR", ""), true, 80, Options{Color: true, Width: 80}},
		"forced":          {env("CLICOLOR_FORCE", "1"), false, 0, Options{Color: true, Width: 80}},
		"not forced":      {env("CLICOLOR_FORCE", "0"), false, 0, Options{Width: 80}},
		"LC_ALL wins":     {env("LC_ALL", "C", "LANG", "en_US.UTF-8"), false, 0, Options{Width: 80}},
		"COLUMNS":         {env("COLUMNS", "60"), true, 100, Options{Width: 60}},
		"absurd COLUMNS":  {env("COLUMNS", "-5"), true, 100, Options{Width: 100}},
		"never below":     {env("COLUMNS", "10"), false, 0, Options{Width: 40}},
		"at most":         {env("TERM", "xterm"), true, 300, Options{Color: true, Width: 120}},
		"linux console":   {env("TERM", "linux", "LANG", "C.UTF-8"), true, 80, Options{Color: true, Width: 80}},
		"file of a log":   {env("TERM", "linux", "LANG", "C.UTF-8"), false, 0, Options{Unicode: true, Width: 80}},
		"LC_CTYPE before": {env("LC_CTYPE", "en_US.UTF-8", "LANG", "C"), false, 0, Options{Unicode: true, Width: 80}},
	} {
		if got := detect(c.env, c.term, c.cols); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if o := DetectOptions(nil); o.Width < minWidth {
		t.Errorf("nil file: %+v", o)
	}
}
