// Package fathom_test guards the architecture: which way imports point, what
// pure packages may touch, and that everything that is compiled in stands on the
// page that lists it. docs/architecture.md tells the same in words.
package fathom_test

import (
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fathom/internal/diagnose"
)

// layers: an import points to a smaller number. The longest prefix counts.
var layers = []struct {
	prefix string
	layer  int
}{
	{"sample", 0},
	{"internal/facts", 0},
	{"internal/lab/emulator/unit", 0},
	{"internal/version", 0},

	{"internal/wire", 1},
	{"internal/sys", 1},
	{"internal/sys/ipsock", 1},
	{"internal/attempts", 1},
	{"internal/testkit", 1},

	{"internal/sys/dial", 2},
	{"internal/sys/inetdiag", 2},
	{"internal/sys/neigh", 2},
	{"internal/sys/sock", 2},
	{"probe", 2}, // the contract; the kinds below it are 3
	{"internal/collect", 2},
	{"internal/collect/nl", 2},
	{"internal/lab/emulator", 2},

	{"probe/*", 3},
	{"internal/collect/*", 3},
	{"internal/witness", 3},
	{"internal/lab/service", 3},

	{"internal/builtin", 4},
	{"internal/diagnose", 5},
	{"internal/config", 6}, // files into checked questions and evidence: knows the engine's types
	{"internal/output", 6},
	{"internal/agent", 8},
	{"internal/lab", 8}, // beside the agent, and a stranger to it: see forbidden
	{"internal/cli", 9},
	{"cmd", 10},
	{"tools", 10},
}

// sideways lists the imports within a layer, each with its reason.
var sideways = []struct{ from, to, reason string }{
	{"internal/facts", "sample", "facts are built from the vocabulary's units"},
	{"internal/sys/neigh", "internal/sys/sock", "asking a neighbour needs a packet socket"},
	{"probe/http", "probe/tls", "an HTTPS request reports the same handshake facts as the tls probe"},
	{"probe/http3", "probe/tls", "so does QUIC"},
	{"probe/http3", "probe/http", "one summary of a response, whatever carried it"},
}

// testHelpers may be imported by tests and by each other only.
var testHelpers = []string{
	"internal/testkit", "internal/testkit/netns", "probe/tls/tlstest",
}

// pure packages give the same answer for the same input: no clock, no files, no network.
var pure = []string{"sample", "internal/facts", "internal/wire", "internal/diagnose", "internal/lab/emulator/unit"}

// impure is what a pure package may not import. net/netip and net/url are values only.
var impure = []string{
	"net", "net/http", "os", "os/exec", "os/signal", "os/user", "syscall", "unsafe", "log", "log/slog",
	"math/rand", "math/rand/v2", "crypto/rand", "io/fs", "io/ioutil", "path/filepath", "runtime", "golang.org/x/sys", "golang.org/x/net",
}

// clock is what a pure package may not call: time is an argument.
var clock = []string{"time.Now", "time.Since", "time.Until", "time.After", "time.AfterFunc", "time.Sleep", "time.NewTimer", "time.NewTicker", "time.Tick"}

// forbidden imports beyond what the layers say.
var forbidden = []struct {
	from, to string
	except   []string // packages that may
	reason   string
}{
	{
		"", "os/exec", append([]string{"internal/lab", "tools"}, testHelpers...),
		"fathom measures by itself: no probe, collector or rule depends on a program being installed",
	},
	{"internal/diagnose", "fathom/internal", []string{"fathom/internal/facts"}, "the engine knows facts, probe results and samples, nothing that touches a host"},
	{"internal/lab", "fathom/internal", []string{"fathom/internal/lab"}, "the lab judges fathom from outside, by its JSON: shared code would share its mistakes"},
	{"internal/lab", "fathom/probe", nil, "the lab judges fathom from outside, by its JSON: shared code would share its mistakes"},
	{"probe", "fathom/internal/facts", nil, "probes are a public library: they know nothing of fathom's picture of a host"},
	{"", "flag", []string{"tools", "cmd"}, "options are fields of a struct; the command line belongs to internal/cli"},
	{"", "testing", testHelpers, "production code does not carry the test framework"},
}

func layerOf(p string) (int, bool) {
	best, layer := -1, 0
	for _, l := range layers {
		prefix, below := strings.CutSuffix(l.prefix, "/*")
		match := under(p, prefix) && (!below || p != prefix)
		n := 2 * len(prefix)
		if below || p == prefix {
			n++
		}
		if match && n > best {
			best, layer = n, l.layer
		}
	}
	return layer, best >= 0
}

func TestImportsPointDown(t *testing.T) {
	used := map[[2]string]bool{}
	for _, p := range packages(t) {
		from, ok := layerOf(p.path)
		if !ok {
			t.Errorf("%s has no layer: give it one in arch_test.go and in docs/architecture.md", p.path)
			continue
		}
		for _, f := range p.files {
			for _, i := range f.imports {
				to, own := strings.CutPrefix(i, modulePath)
				if !own {
					continue
				}
				helper := slices.Contains(testHelpers, p.path) // may know what it helps to test
				if l, ok := layerOf(to); ok && (l < from || l == from && (helper || allowedSideways(p.path, to, used))) {
					continue
				} else if ok {
					t.Errorf("%s (layer %d) imports %s (layer %d): an import points to a lower layer", f.name, from, to, l)
				}
			}
		}
	}
	for _, s := range sideways {
		if !used[[2]string{s.from, s.to}] {
			t.Errorf("%s no longer imports %s: take the line out of sideways", s.from, s.to)
		}
	}
}

func allowedSideways(from, to string, used map[[2]string]bool) bool {
	if under(from, "internal/lab") && under(to, "internal/lab") {
		return true // one folder, whose inner order is its own
	}
	for _, s := range sideways {
		if s.from == from && s.to == to {
			used[[2]string{from, to}] = true
			return true
		}
	}
	return false
}

func TestForbiddenImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range p.files {
			for _, i := range f.imports {
				checkForbidden(t, p, f, i)
			}
		}
	}
}

func checkForbidden(t *testing.T, p *pkg, f file, imported string) {
	t.Helper()
	if to, own := strings.CutPrefix(imported, modulePath); own && slices.Contains(testHelpers, to) && !slices.Contains(testHelpers, p.path) {
		t.Errorf("%s imports %s, which is for tests only", f.name, to)
	}
	for _, r := range forbidden {
		if r.from != "" && !under(p.path, r.from) || !under(imported, r.to) {
			continue
		}
		if strings.HasPrefix(r.to, modulePath) { // exceptions are what is imported
			if slices.ContainsFunc(r.except, func(e string) bool { return under(imported, e) }) {
				continue
			}
		} else if slices.ContainsFunc(r.except, func(e string) bool { return under(p.path, e) }) { // exceptions are who imports
			continue
		}
		if slices.Contains(testHelpers, p.path) {
			continue
		}
		t.Errorf("%s imports %s: %s", f.name, imported, r.reason)
	}
}

func TestPurePackages(t *testing.T) {
	pkgs := packages(t)
	for _, name := range pure {
		p := pkgs[name]
		if p == nil {
			t.Errorf("pure package %s is gone: take it off the list", name)
			continue
		}
		for _, f := range p.files {
			for _, i := range f.imports {
				if slices.Contains(impure, i) || under(i, "golang.org/x/sys") {
					t.Errorf("%s imports %s, but %s is pure", f.name, i, name)
				}
			}
			f.uses(func(used string, pos token.Pos) {
				if slices.Contains(clock, used) {
					t.Errorf("%s: %s in a pure package: time is an argument", fset.Position(pos), used)
				}
			})
		}
	}
}

func TestOnlyTheCommandLineExits(t *testing.T) {
	exits := []string{"os.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln", "syscall.Exit"}
	for _, p := range packages(t) {
		if p.path == "internal/cli" || under(p.path, "cmd") || under(p.path, "tools") {
			continue
		}
		for _, f := range p.files {
			f.uses(func(used string, pos token.Pos) {
				if slices.Contains(exits, used) {
					t.Errorf("%s: %s: a library returns an error", fset.Position(pos), used)
				}
			})
		}
	}
}

// Package-level state couples what should be apart, and init() runs before
// anybody asked: both make order matter.
func TestNoInitAndNoPackageState(t *testing.T) {
	for _, p := range packages(t) {
		vars := packageVars(p)
		for _, f := range p.files {
			for _, d := range f.ast.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				if fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: init(): call it from where it is needed", fset.Position(fn.Pos()))
				}
				for _, w := range writes(fn, vars) {
					t.Errorf("%s: package variable %s is assigned: keep the state in a struct", fset.Position(w.Pos()), w.Name)
				}
			}
		}
	}
}

func packageVars(p *pkg) map[string]bool {
	vars := map[string]bool{}
	for _, f := range p.files {
		for _, d := range f.ast.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, n := range s.(*ast.ValueSpec).Names {
					vars[n.Name] = n.Name != "_"
				}
			}
		}
	}
	return vars
}

// writes lists assignments in fn to package variables. A name that the parser
// resolved to a declaration inside a function is not one.
func writes(fn *ast.FuncDecl, vars map[string]bool) []*ast.Ident {
	var out []*ast.Ident
	note := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.SelectorExpr:
				e = x.X
				continue
			case *ast.ParenExpr:
				e = x.X
				continue
			}
			break
		}
		id, ok := e.(*ast.Ident)
		if !ok || !vars[id.Name] {
			return
		}
		if id.Obj != nil { // the parser's own scopes are enough to tell local from global
			if s, ok := id.Obj.Decl.(*ast.ValueSpec); !ok || s.Pos() >= fn.Pos() && s.End() <= fn.End() {
				return
			}
		}
		out = append(out, id)
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch s := n.(type) {
		case *ast.AssignStmt:
			if s.Tok != token.DEFINE {
				for _, l := range s.Lhs {
					note(l)
				}
			}
		case *ast.IncDecStmt:
			note(s.X)
		}
		return true
	})
	return out
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range packages(t) {
		found := ""
		for _, f := range p.files {
			if f.ast.Doc == nil {
				continue
			}
			text := f.ast.Doc.Text()
			if found != "" && !strings.HasPrefix(text, "Code generated") {
				t.Errorf("%s: %s and %s both carry a package comment", p.path, found, f.name)
			}
			found = f.name
			want := "Package " + f.ast.Name.Name + " "
			if f.ast.Name.Name == "main" {
				want = "Command "
			}
			if !strings.HasPrefix(text, want) {
				t.Errorf("%s: the package comment begins with %q, want %q", f.name, strings.SplitN(text, "\n", 2)[0], want+"…")
			}
		}
		if found == "" {
			t.Errorf("package %s has no comment: one sentence on what it is for", p.path)
		}
	}
}

func TestMainIsShort(t *testing.T) {
	p := packages(t)["cmd/fathom"]
	if p == nil || len(p.files) != 1 {
		t.Fatal("cmd/fathom is to be one file, main.go")
	}
	if f := p.files[0]; f.lines >= 30 {
		t.Errorf("%s has %d lines, want fewer than 30: arguments in, exit code out", f.name, f.lines)
	}
	for name := range packages(t) {
		if under(name, "cmd") && name != "cmd/fathom" {
			t.Errorf("%s: one binary; what it does is a command in internal/cli", name)
		}
	}
}

// A probe kind or collector that is not on its page would compile and never run.
func TestEveryFolderIsOnItsPage(t *testing.T) {
	pkgs := packages(t)
	for _, c := range []struct{ folder, page string }{
		{"probe", "internal/agent/measure.go"},
		{"internal/collect", "internal/builtin/builtin.go"},
	} {
		i := slices.IndexFunc(pkgs[path.Dir(c.page)].files, func(f file) bool { return f.name == c.page })
		if i < 0 {
			t.Fatalf("%s is gone", c.page)
		}
		listed := pkgs[path.Dir(c.page)].files[i].imports
		for _, name := range slices.Sorted(maps.Keys(pkgs)) {
			if l, _ := layerOf(name); path.Dir(name) != c.folder || l != 3 || slices.Contains(testHelpers, name) {
				continue
			}
			if !slices.Contains(listed, modulePath+name) {
				t.Errorf("%s is not on its page %s", name, c.page)
			}
		}
	}
}

func TestEveryKindOfMeasurementIsOnItsPage(t *testing.T) {
	pkgs := packages(t)
	var kinds []string
	for _, f := range pkgs["probe"].files {
		for name := range constants(f.ast, "Kind") {
			kinds = append(kinds, name)
		}
	}
	if len(kinds) < 5 {
		t.Fatalf("found %d kinds in package probe: the test looks in the wrong place", len(kinds))
	}
	used := map[string]bool{}
	for _, f := range pkgs["internal/agent"].files {
		if f.name == "internal/agent/measure.go" {
			f.uses(func(name string, _ token.Pos) { used[name] = true })
		}
	}
	for _, k := range kinds {
		if !used["fathom/probe."+k] {
			t.Errorf("probe.%s is not among the kinds in internal/agent/measure.go", k)
		}
	}
}

func constants(f *ast.File, prefix string) map[string]bool {
	out := map[string]bool{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			for _, n := range s.(*ast.ValueSpec).Names {
				if strings.HasPrefix(n.Name, prefix) {
					out[n.Name] = true
				}
			}
		}
	}
	return out
}

// rule_<area>_<cause>.go holds the rule <area>.<cause>, and Rules lists it.
func TestEveryRuleFileIsListed(t *testing.T) {
	files, err := filepath.Glob("internal/diagnose/rule_*.go")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d rule files (%v)", len(files), err)
	}
	inFile := map[string]bool{}
	for _, f := range files {
		base, isTest := strings.CutSuffix(strings.TrimSuffix(filepath.Base(f), ".go"), "_test")
		id := strings.Replace(strings.TrimPrefix(base, "rule_"), "_", ".", 1)
		inFile[id] = inFile[id] || !isTest
		if diagnose.RuleByID(id) == nil {
			t.Errorf("%s: no rule %s in internal/diagnose/rules.go", f, id)
		}
	}
	seen := map[string]bool{}
	for _, r := range diagnose.Rules {
		if !inFile[r.ID] {
			t.Errorf("rule %s has no file internal/diagnose/rule_%s.go", r.ID, strings.Replace(r.ID, ".", "_", 1))
		}
		if seen[r.ID] {
			t.Errorf("rule %s is listed twice", r.ID)
		}
		seen[r.ID] = true
	}
}

// noScenario lists the rules that no lab network can provoke, with the reason.
var noScenario = map[string]string{}

// A rule is proved by at least one broken network that it must recognise.
func TestEveryRuleHasAScenario(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios (%v)", err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, expect, _ := strings.Cut(string(b), "expect:")
		all.WriteString(expect)
	}
	for _, r := range diagnose.Rules {
		switch mentioned := strings.Contains(all.String(), r.ID); {
		case !mentioned && noScenario[r.ID] == "":
			t.Errorf("no scenario in testdata/scenarios expects %s", r.ID)
		case mentioned && noScenario[r.ID] != "":
			t.Errorf("%s has a scenario now: take it out of noScenario", r.ID)
		}
	}
}
