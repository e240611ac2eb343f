package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"fathom/internal/diagnose"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"fathom": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the command lines of testdata/script. None of them measures
// anything but loopback. FATHOM_UPDATE=1 writes the golden files anew.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("FATHOM_UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			for _, f := range []string{"healthy.json", "fault.json"} {
				b, err := os.ReadFile(filepath.Join("testdata", f))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(e.WorkDir, f), b, 0o600); err != nil {
					return err
				}
			}
			e.Setenv("LANG", "C.UTF-8")
			e.Setenv("COLUMNS", "100")
			return nil
		},
	})
}

func run(stdin string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = Main(args, strings.NewReader(stdin), &o, &e)
	return code, o.String(), e.String()
}

// Every command explains itself: a short line, an example that begins with its
// own name, a group on the first page, and a file of its own.
func TestEveryCommandIsDocumented(t *testing.T) {
	root := (&app{}).root()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for _, s := range c.Commands() {
			if s.Short == "" || strings.HasSuffix(s.Short, ".") {
				t.Errorf("%s: short text %q", s.CommandPath(), s.Short)
			}
			if !s.Hidden && (s.Example == "" || !strings.Contains(s.Example, "fathom "+strings.Fields(s.CommandPath())[1])) {
				t.Errorf("%s: no example", s.CommandPath())
			}
			visit(s)
		}
	}
	visit(root)
	for _, c := range root.Commands() {
		if _, err := os.Stat("cmd_" + c.Name() + ".go"); err != nil {
			t.Errorf("%s has no file of its own", c.Name())
		}
		if !c.Hidden && c.GroupID == "" {
			t.Errorf("%s is in no group", c.Name())
		}
	}
	files, _ := filepath.Glob("cmd_*.go")
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(f, "cmd_"), ".go")
		if c, _, err := root.Find([]string{name}); err != nil || c.Name() != name {
			t.Errorf("%s is not listed in commands.go", f)
		}
	}
}

func TestRewrite(t *testing.T) {
	root := (&app{}).root()
	for in, want := range map[string]string{
		"":                    "why",
		"--json":              "why --json",
		"-4 example.com":      "why -4 example.com",
		"example.com --json":  "why example.com --json",
		"https://example.com": "why https://example.com",
		"[::1]:80":            "why [::1]:80",
		"localhost":           "why localhost",
		"check x.yaml":        "check x.yaml",
		"help why":            "help why",
		"--help":              "--help",
		"--version":           "version",
		"example":             "example",
		"__complete why x":    "__complete why x",
	} {
		if got := strings.Join(rewrite(root, strings.Fields(in)), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// The whole of --from, byte for byte, with and without redaction.
func TestReplayIsTheSame(t *testing.T) {
	for _, f := range []string{"testdata/healthy.json", "testdata/fault.json"} {
		_, first, _ := run("", "why", "--from", f, "--json")
		saved := filepath.Join(t.TempDir(), "again.json")
		_, again, errs := run("", "why", "--from", f, "--json", "--save", saved)
		_, third, _ := run("", "why", "--from", saved, "--json")
		if first == "" || first != again || first != third {
			t.Errorf("%s: the JSON differs (%s)", f, errs)
		}
		_, red, _ := run("", "why", "--from", f, "--json", "--redact", "--save", saved)
		_, back, _ := run("", "why", "--from", saved, "--json")
		if red == "" || red != back || red == first {
			t.Errorf("%s: the redacted JSON differs", f)
		}
	}
}

func TestNonsenseNeverPanics(t *testing.T) {
	words := []string{"", " ", "-", "--", "---", "-x", "--json=maybe", "\x1b[31m", strings.Repeat("a", 5000), "why", "check", "probe", "lab", "explain", "docs", "://", "[", "%", "\xff", "--watch=x", "--watch=0", "--from=/", "--save=/nonexistent/x", "completion", "0.0.0.0:0"}
	for _, a := range words {
		for _, b := range words {
			if strings.HasPrefix(a, "--watch") || a == "" || a == "-" || a == "--" || strings.HasPrefix(a, "--save") || strings.HasPrefix(b, "--save") {
				continue // may be a valid question about this host
			}
			if code, out, errs := run("", a, b, "--from", "/nonexistent"); code == 0 && out == "" || strings.Contains(out+errs, "\x1b") || strings.Contains(out+errs, "\xff") {
				t.Errorf("%q %q: exit %d, %q %q", a, b, code, out, errs)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	for v, want := range map[diagnose.Verdict]error{diagnose.Healthy: nil, diagnose.Faulty: exit(1), diagnose.Unknown: exit(2)} {
		if got := verdictExit(v); got != want {
			t.Errorf("%s: %v", v, got)
		}
	}
}

func BenchmarkHelp(b *testing.B) {
	for b.Loop() {
		run("", "--help")
	}
}
