package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile is the largest scenario file that is read, in bytes.
const MaxFile = 1 << 20

// LoadFile reads and checks one scenario file.
func LoadFile(file string) (*Scenario, error) {
	return loadFrom(os.DirFS(filepath.Dir(file)), filepath.Base(file), file)
}

// LoadDir reads all *.yaml files of a folder, ordered by name. A broken file is
// an error that does not keep the others from being loaded.
func LoadDir(dir string) ([]*Scenario, error) { return loadAll(os.DirFS(dir), dir) }

// LoadFS is LoadDir for the root of any file system, such as an embedded one.
func LoadFS(fsys fs.FS) ([]*Scenario, error) { return loadAll(fsys, "") }

func loadAll(fsys fs.FS, dir string) ([]*Scenario, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read scenarios: %w", err)
	}
	var out []*Scenario
	var errs []error
	for _, e := range entries {
		if e.IsDir() || path.Ext(e.Name()) != ".yaml" {
			continue
		}
		s, err := loadFrom(fsys, e.Name(), filepath.Join(dir, e.Name()))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}

// loadFrom reads one file; shown is its name for people.
func loadFrom(fsys fs.FS, name, shown string) (*Scenario, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open scenario %s: %w", shown, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read scenario %s: %w", shown, err)
	}
	s, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("scenario %s: %w", shown, err)
	}
	if want := strings.TrimSuffix(name, ".yaml"); s.Name != want {
		return nil, fmt.Errorf("scenario %s: name is %q, the file name says %q", shown, s.Name, want)
	}
	s.Path = shown
	return s, nil
}

// Decode reads a scenario, fills in the defaults and checks it. Errors name the
// line.
func Decode(b []byte) (*Scenario, error) {
	if len(b) > MaxFile {
		return nil, fmt.Errorf("larger than %d bytes", MaxFile)
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, tidy(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document in the file")
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("line 1: a scenario is a map of keys")
	}
	if err := checkKeys(doc.Content[0], reflect.TypeFor[Scenario](), "scenario"); err != nil {
		return nil, err
	}
	s := new(Scenario)
	if err := doc.Decode(s); err != nil {
		return nil, tidy(err)
	}
	s.fillDefaults()
	if err := s.validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// tidy drops yaml's own prefix and Go's type names from its messages.
func tidy(err error) error {
	var te *yaml.TypeError
	if errors.As(err, &te) && len(te.Errors) > 0 {
		t := te.Errors[0]
		for from, to := range map[string]string{"!!seq": "a list", "!!map": "a map", "!!str ": "", "!!int ": "", "!!float ": "", "!!bool ": "", "into []string": "into a list of texts", "map[string]string": "a map of texts"} {
			t = strings.ReplaceAll(t, from, to)
		}
		return errors.New(strings.NewReplacer("cannot unmarshal", "cannot read", " into ", " as ", "lab.", "").Replace(t))
	}
	return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
}

// checkKeys walks the document along the Go type and reports the first key
// that the type does not have, with its line and the nearest known key.
// (yaml's KnownFields is lost inside custom decoders and does not suggest.)
func checkKeys(n *yaml.Node, t reflect.Type, where string) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return fmt.Errorf("line %d: YAML anchors and aliases are not supported here; quote a text that starts with & or *", n.Line)
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch n.Kind {
	case yaml.SequenceNode:
		elem := t
		if t.Kind() == reflect.Slice {
			elem = t.Elem()
		}
		for _, c := range n.Content {
			if err := checkKeys(c, elem, where); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		return checkMapping(n, t, where)
	}
	return nil
}

// maxKeys bounds one map: the YAML library compares every key with every other.
const maxKeys = 20000

func checkMapping(n *yaml.Node, t reflect.Type, where string) error {
	if len(n.Content)/2 > maxKeys {
		return fmt.Errorf("line %d: in %s: %d keys, at most %d", n.Line, where, len(n.Content)/2, maxKeys)
	}
	var known map[string]reflect.Type
	if t.Kind() == reflect.Struct {
		known = map[string]reflect.Type{}
		addKeys(t, known)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Anchor != "" {
			return fmt.Errorf("line %d: in %s: a key must be a plain text", k.Line, where)
		}
		if k.Tag == "!!merge" {
			return fmt.Errorf("line %d: YAML merge keys are not supported here", k.Line)
		}
		if seen[k.Value] {
			return fmt.Errorf("line %d: in %s: key %q is there twice", k.Line, where, clip(k.Value))
		}
		seen[k.Value] = true
		ft := t
		switch {
		case known != nil:
			var ok bool
			if ft, ok = known[k.Value]; !ok || len(known) == 0 {
				return unknownKey(k, where, known)
			}
		case t.Kind() == reflect.Map:
			ft = t.Elem()
		}
		if err := checkKeys(v, ft, k.Value); err != nil {
			return err
		}
	}
	return nil
}

func unknownKey(k *yaml.Node, where string, known map[string]reflect.Type) error {
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	hint := "known: " + strings.Join(names, " ")
	if near := nearest(k.Value, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Errorf("line %d: in %s: unknown key %q (%s)", k.Line, where, clip(k.Value), hint)
}

// addKeys collects the YAML keys of a struct, those of inlined ones as well.
func addKeys(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case opts == "inline":
			addKeys(f.Type, into)
		case f.IsExported() && name != "" && name != "-":
			into[name] = f.Type
		}
	}
}

// nearest returns the known word closest to w, "" when none is close.
func nearest(w string, known []string) string {
	if len(w) > 64 {
		return ""
	}
	best, bestDist := "", max(2, len(w)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(w), k); d < bestDist {
			best, bestDist = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			sub := diag
			if a[i] != b[j] {
				sub++
			}
			diag = row[j+1]
			row[j+1] = min(sub, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}

// The decoders below only remember lines, and accept short forms.

// UnmarshalYAML keeps the line.
func (n *Node) UnmarshalYAML(y *yaml.Node) error {
	type plain Node
	n.line = y.Line
	return y.Decode((*plain)(n))
}

// UnmarshalYAML keeps the line.
func (l *Link) UnmarshalYAML(y *yaml.Node) error {
	type plain Link
	l.line = y.Line
	return y.Decode((*plain)(l))
}

// UnmarshalYAML keeps the line and accepts the short form node/interface.
func (e *End) UnmarshalYAML(y *yaml.Node) error {
	type plain End
	e.line = y.Line
	if y.Kind == yaml.ScalarNode {
		return y.Decode(&e.Iface)
	}
	return y.Decode((*plain)(e))
}

// UnmarshalYAML keeps the line.
func (d *Direction) UnmarshalYAML(y *yaml.Node) error {
	type plain Direction
	d.line = y.Line
	return y.Decode((*plain)(d))
}

// UnmarshalYAML keeps the line and the keys.
func (v *Service) UnmarshalYAML(y *yaml.Node) error {
	type plain Service
	v.line, v.keys = y.Line, keysOf(y)
	return y.Decode((*plain)(v))
}

// UnmarshalYAML keeps the line and the keys.
func (a *Action) UnmarshalYAML(y *yaml.Node) error {
	type plain Action
	a.line, a.keys = y.Line, keysOf(y)
	return y.Decode((*plain)(a))
}

// UnmarshalYAML accepts one question as a list of words, or a list of questions.
func (a *Asks) UnmarshalYAML(y *yaml.Node) error {
	if y.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: ask is a list of words, or a list of maps with args", y.Line)
	}
	words := 0
	for _, c := range y.Content {
		if c.Kind == yaml.ScalarNode {
			words++
		}
	}
	switch words {
	case 0:
		return y.Decode((*[]Ask)(a))
	case len(y.Content):
		one := Ask{line: y.Line}
		err := y.Decode(&one.Args)
		*a = Asks{one}
		return err
	}
	return fmt.Errorf("line %d: ask mixes words and maps", y.Line)
}

// UnmarshalYAML keeps the line.
func (a *Ask) UnmarshalYAML(y *yaml.Node) error {
	type plain Ask
	a.line = y.Line
	return y.Decode((*plain)(a))
}

// UnmarshalYAML keeps the line.
func (e *Expect) UnmarshalYAML(y *yaml.Node) error {
	type plain Expect
	e.line = y.Line
	return y.Decode((*plain)(e))
}

func keysOf(y *yaml.Node) []string {
	var out []string
	if y.Kind == yaml.MappingNode {
		for i := 0; i < len(y.Content); i += 2 {
			out = append(out, y.Content[i].Value)
		}
	}
	return out
}
