package fathom_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// modulePath begins every import of our own.
const modulePath = "fathom/"

// pkg is one package of this module as its files spell it, whatever their build tags.
type pkg struct {
	path  string // below the module: "probe/icmp"
	files []file // without tests
}

type file struct {
	name    string // below the module: "probe/icmp/icmp.go"
	ast     *ast.File
	lines   int
	imports []string // as written: "fathom/sample", "net/netip"
}

var fset = token.NewFileSet()

// load parses the whole module once. It reads source, not `go list`, so that
// files for other build tags are held to the same rules.
var load = sync.OnceValues(func() (map[string]*pkg, error) {
	pkgs := map[string]*pkg{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && skipDir(name, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		a, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		f := file{name: filepath.ToSlash(name), ast: a, lines: fset.File(a.Pos()).LineCount()}
		for _, s := range a.Imports {
			p, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, p)
		}
		dir := path.Dir(f.name)
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{path: dir}
		}
		pkgs[dir].files = append(pkgs[dir].files, f)
		return nil
	})
	return pkgs, err
})

// skipDir leaves out what `go list ./...` leaves out: hidden folders, testdata,
// and modules of their own.
func skipDir(name, base string) bool {
	if name == "." {
		return false
	}
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return true
	}
	nested, _ := filepath.Glob(filepath.Join(name, "go.mod"))
	return len(nested) > 0
}

func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	pkgs, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 30 {
		t.Fatalf("only %d packages found: the test looks in the wrong place", len(pkgs))
	}
	return pkgs
}

// under reports whether p is the package prefix or lies below it.
func under(p, prefix string) bool { return p == prefix || strings.HasPrefix(p, prefix+"/") }

// calls yields every use of a name out of an imported package, as "time.Now".
func (f file) uses(yield func(name string, pos token.Pos)) {
	local := map[string]string{}
	for _, s := range f.ast.Imports {
		p, _ := strconv.Unquote(s.Path.Value)
		name := path.Base(p)
		if s.Name != nil {
			name = s.Name.Name
		}
		local[name] = p
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && id.Obj == nil && local[id.Name] != "" { // syntactic resolution is enough here, and 30 times faster than types
			yield(local[id.Name]+"."+sel.Sel.Name, sel.Pos())
		}
		return true
	})
}
