package config

import (
	"bufio"
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"fathom/internal/diagnose"
	"fathom/probe"
	"fathom/sample"
)

// MaxEvidence is the largest evidence file that is read, in bytes. A run with
// 256 targets writes some 40 MB.
const MaxEvidence = 256 << 20

// maxMeasured bounds the lists that rules walk more than once.
const maxMeasured = 50_000

// LoadEvidence reads an evidence file; "-" is stdin.
func LoadEvidence(path string, stdin io.Reader) (*diagnose.Evidence, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open evidence %s: %w", path, cause(err))
		}
		defer f.Close()
		r = f
	}
	e, err := ReadEvidence(r)
	if err != nil {
		return nil, fmt.Errorf("evidence %s: %w", path, err)
	}
	return e, nil
}

// cause takes the path out of an error that names it already.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// ReadEvidence reads evidence strictly: unknown keys, wrong types and values
// that no measurement gives are errors that name the place. It streams; noise
// is refused where it begins.
func ReadEvidence(r io.Reader) (*diagnose.Evidence, error) {
	in := &limited{r: bufio.NewReaderSize(r, 64<<10), left: MaxEvidence}
	if err := in.expectObject(); err != nil {
		return nil, err
	}
	s := strict{dec: json.NewDecoder(in)}
	e := new(diagnose.Evidence)
	if err := s.value(reflect.ValueOf(e).Elem()); err != nil {
		return nil, s.explain(err)
	}
	if _, err := s.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the evidence")
	}
	if err := checkEvidence(e); err != nil {
		return nil, err
	}
	return e, nil
}

// limited reads at most left bytes, and says so rather than ending silently.
type limited struct {
	r    *bufio.Reader
	left int64
}

var errTooLarge = fmt.Errorf("larger than %d MiB", MaxEvidence>>20)

func (l *limited) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLarge
	}
	n, err := l.r.Read(b[:min(int64(len(b)), l.left)])
	l.left -= int64(n)
	return n, err
}

// expectObject looks at the first character that is not white space. A json.Decoder
// would first read all of a string of 100 MB.
func (l *limited) expectObject() error {
	for range 1024 {
		b, err := l.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return errors.New("it is empty")
		}
		if err != nil {
			return err
		}
		switch b {
		case ' ', '\t', '\r', '\n':
		case '{':
			return l.r.UnreadByte()
		default:
			return fmt.Errorf("it is no evidence: expected \"{\", found %q", b)
		}
	}
	return errors.New("it is no evidence: nothing but white space")
}

// strict decodes JSON into a value and knows where it is.
type strict struct {
	dec  *json.Decoder
	path []string
}

func (s *strict) explain(err error) error {
	if errors.Is(err, errTooLarge) {
		return errTooLarge
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = errors.New("the file ends too early: it has been cut off")
	}
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		err = fmt.Errorf("expected %s, found %s", kindWord(te.Type), te.Value)
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if p := strings.TrimPrefix(strings.Join(s.path, ""), "."); p != "" {
		return fmt.Errorf("%s: %s", quotePath(p), text)
	}
	return errors.New(text)
}

func kindWord(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number of %d bits, not negative", t.Bits())
	}
	return "a number"
}

func quotePath(p string) string {
	q := strconv.QuoteToGraphic(p)
	return q[1 : len(q)-1]
}

func (s *strict) at(part string, f func() error) error {
	s.path = append(s.path, part)
	if err := f(); err != nil {
		return err // the path stays for the message
	}
	s.path = s.path[:len(s.path)-1]
	return nil
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func isLeaf(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	if p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler) {
		return true
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Pointer:
		return false
	case reflect.Slice, reflect.Map:
		e := t.Elem()
		return isLeaf(e) && e.Kind() != reflect.Slice && e.Kind() != reflect.Map
	}
	return true
}

func (s *strict) value(v reflect.Value) error {
	t := v.Type()
	if isLeaf(t) {
		return s.dec.Decode(v.Addr().Interface())
	}
	tok, err := s.dec.Token()
	if err != nil {
		return err
	}
	if tok == nil && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) {
		return nil
	}
	return s.composite(v, tok)
}

// composite decodes what begins with the token that has just been read.
func (s *strict) composite(v reflect.Value, tok json.Token) error {
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct && !isLeaf(t.Elem()):
		v.Set(reflect.New(t.Elem()))
		return s.composite(v.Elem(), tok)
	case t.Kind() == reflect.Pointer:
		return s.scalarPointer(v, tok)
	case t.Kind() == reflect.Slice:
		if tok != json.Delim('[') {
			return fmt.Errorf("expected a list, found %s", tokenWord(tok))
		}
		return s.list(v)
	case t.Kind() == reflect.Struct:
		if tok != json.Delim('{') {
			return fmt.Errorf("expected an object, found %s", tokenWord(tok))
		}
		return s.object(v)
	}
	return fmt.Errorf("values of type %s are not supported", t)
}

// scalarPointer sets a *bool and the like from a token.
func (s *strict) scalarPointer(v reflect.Value, tok json.Token) error {
	tv := reflect.ValueOf(tok)
	if !tv.IsValid() || tv.Kind() != v.Type().Elem().Kind() {
		return fmt.Errorf("expected %s, found %s", kindWord(v.Type().Elem()), tokenWord(tok))
	}
	p := reflect.New(v.Type().Elem())
	p.Elem().Set(tv.Convert(v.Type().Elem()))
	v.Set(p)
	return nil
}

func tokenWord(t json.Token) string {
	switch t := t.(type) {
	case nil:
		return "null"
	case json.Delim:
		if t == '{' {
			return "an object"
		}
		return "a list"
	case string:
		return quote(t)
	}
	return fmt.Sprint(t)
}

func (s *strict) list(v reflect.Value) error {
	for i := 0; s.dec.More(); i++ {
		err := s.at("["+strconv.Itoa(i)+"]", func() error {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			return s.value(v.Index(i))
		})
		if err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

func (s *strict) object(v reflect.Value) error {
	f := fieldsOf(v.Type())
	seen := make([]bool, v.NumField())
	for s.dec.More() {
		tok, err := s.dec.Token()
		if err != nil {
			return err
		}
		key, ok := tok.(string)
		if !ok {
			return fmt.Errorf("expected a key, found %s", tokenWord(tok))
		}
		i, known := f.index[key]
		switch {
		case !known:
			return fmt.Errorf("unknown key %s%s", quote(key), didYouMean(key, f.names))
		case seen[i]:
			return fmt.Errorf("key %s is given twice", quote(key))
		}
		seen[i] = true
		if err := s.at("."+key, func() error { return s.value(v.Field(i)) }); err != nil {
			return err
		}
		if e, ok := v.Addr().Interface().(*diagnose.Evidence); ok && key == "schema" {
			if err := checkSchema(e.Schema); err != nil {
				return err // at once: what follows may have keys that we do not know
			}
		}
	}
	_, err := s.dec.Token()
	return err
}

type fields struct {
	names []string
	index map[string]int
}

var fieldCache sync.Map // reflect.Type → fields

func fieldsOf(t reflect.Type) fields {
	if f, ok := fieldCache.Load(t); ok {
		return f.(fields)
	}
	f := fields{index: map[string]int{}}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "-" || !t.Field(i).IsExported() {
			continue
		}
		if name == "" {
			name = t.Field(i).Name
		}
		f.names = append(f.names, name)
		f.index[name] = i
	}
	fieldCache.Store(t, f)
	return f
}

func checkSchema(n int) error {
	switch {
	case n > diagnose.EvidenceSchema:
		return fmt.Errorf("schema %d is newer than this fathom, which reads up to %d: use a newer fathom", n, diagnose.EvidenceSchema)
	case n < 1:
		return fmt.Errorf("schema %d does not exist", n)
	}
	return nil
}

// checkEvidence refuses values that no measurement gives: they would be printed
// as nonsense, or make rules reckon with it.
func checkEvidence(e *diagnose.Evidence) error {
	if err := checkSchema(e.Schema); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	for _, l := range []struct {
		name string
		n    int
		max  int
	}{{"question.targets", len(e.Question.Targets), MaxWhyTargets}, {"measured", len(e.Measured), maxMeasured}, {"lookups", len(e.Lookups), maxMeasured}, {"wire", len(e.Wire), maxMeasured}, {"events", len(e.Events), maxMeasured}} {
		if l.n > l.max {
			return fmt.Errorf("%s: %d entries are more than %d", l.name, l.n, l.max)
		}
	}
	if e.Before == nil {
		return errors.New("before: the snapshot of the host is missing")
	}
	if e.Finished.Before(e.Started) {
		return errors.New("finished: earlier than started")
	}
	if e.After != nil && e.Before != nil && e.After.Taken.Before(e.Before.Taken) {
		return errors.New("after.taken: earlier than before.taken")
	}
	for i := range e.Measured {
		if err := checkResult(e.Measured[i].Result); err != nil {
			return fmt.Errorf("measured[%d].result: %w", i, err)
		}
	}
	return plausible(reflect.ValueOf(e).Elem(), "")
}

// checkResult looks at numbers that belong together.
func checkResult(r *probe.Result) error {
	if r == nil {
		return nil
	}
	if c := r.Echo; c != nil && (c.Received+c.SendErrors > c.Sent || len(c.RTTs) > c.Sent) {
		return fmt.Errorf("echo: %d received of %d sent", c.Received, c.Sent)
	}
	if c := r.TCP; c != nil && c.Connected+c.Refused+c.TimedOut > c.Attempts {
		return fmt.Errorf("tcp: %d connected, %d refused and %d timed out of %d attempts", c.Connected, c.Refused, c.TimedOut, c.Attempts)
	}
	if d := r.DNS; d != nil && d.Lost > d.Tries {
		return fmt.Errorf("dns: %d lost of %d tries", d.Lost, d.Tries)
	}
	if p := r.Path; p != nil && len(p.Hops) > 255 {
		return fmt.Errorf("path: %d hops", len(p.Hops))
	}
	return nil
}

// mayBeNegative are the signed fields in which a negative number means something.
var mayBeNegative = []string{"FWChain.Priority", "Host.Sockstat", "Privilege.UID"}

// plausible walks all numbers and times: no negative counts and durations, no
// number that JSON cannot hold exactly, no time outside of living memory.
func plausible(v reflect.Value, path string) error {
	switch x := v.Interface().(type) {
	case time.Time:
		return plausibleTime(x, path)
	case sample.Duration:
		if x < 0 {
			return fmt.Errorf("%s: a negative duration (%s)", strings.TrimPrefix(path, "."), x)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return plausible(v.Elem(), path)
		}
	case reflect.Slice:
		if !hasNumbers(v.Type().Elem()) {
			return nil
		}
		for i := range v.Len() {
			if err := plausible(v.Index(i), path+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case reflect.Struct:
		return plausibleStruct(v, path)
	case reflect.Int, reflect.Int64:
		if n := v.Int(); n < 0 || n > 1<<53 {
			return fmt.Errorf("%s: %d is not a plausible number", strings.TrimPrefix(path, "."), n)
		}
	case reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("%s: not a number", strings.TrimPrefix(path, "."))
		}
	}
	return nil
}

func hasNumbers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Uint8, reflect.Uint16:
		return false
	}
	return true
}

func plausibleStruct(v reflect.Value, path string) error {
	t := v.Type()
	if t.PkgPath() == "net/netip" {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || slices.Contains(mayBeNegative, t.Name()+"."+f.Name) {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if err := plausible(v.Field(i), path+"."+name); err != nil {
			return err
		}
	}
	return nil
}

// plausibleTime accepts the zero time, and for certificates anything: RFC 5280
// §4.1.2.5 has 9999-12-31 stand for "never expires".
func plausibleTime(t time.Time, path string) error {
	if t.IsZero() || strings.HasSuffix(path, ".not_before") || strings.HasSuffix(path, ".not_after") {
		return nil
	}
	if y := t.Year(); y < 1970 || y > 2200 {
		return fmt.Errorf("%s: year %d", strings.TrimPrefix(path, "."), y)
	}
	return nil
}

// WriteEvidence writes e as indented JSON in its canonical order: the same
// evidence gives the same bytes.
func WriteEvidence(w io.Writer, e *diagnose.Evidence) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(e); err != nil {
		return fmt.Errorf("encode evidence: %w", err)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write evidence: %w", err)
	}
	return nil
}

// SaveEvidence writes e to path so that there is either the whole file or the
// one that was there before; "-" is stdout. The file is for its owner only: it
// describes a network.
func SaveEvidence(path string, stdout io.Writer, e *diagnose.Evidence) (err error) {
	if path == "-" {
		return WriteEvidence(stdout, e)
	}
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return saveInPlace(path, e) // /dev/null, a pipe: nothing to rename over
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("save evidence: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := WriteEvidence(f, e); err != nil {
		return fmt.Errorf("save evidence: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("save evidence: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("save evidence: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("save evidence: %w", err)
	}
	return nil
}

func saveInPlace(path string, e *diagnose.Evidence) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("save evidence: %w", err)
	}
	return errors.Join(WriteEvidence(f, e), f.Close())
}

// Normalise returns e as it will be read back: in canonical order, without
// monotonic clocks, with empty lists as absent ones. A verdict from it is the
// verdict of the saved file, byte for byte.
func Normalise(e *diagnose.Evidence) (*diagnose.Evidence, error) {
	c := *e
	c.Measured, c.Lookups = slices.Clone(e.Measured), slices.Clone(e.Lookups)
	c.Wire, c.Events = slices.Clone(e.Wire), slices.Clone(e.Events)
	c.Sort()
	b, err := json.Marshal(&c)
	if err != nil {
		return nil, fmt.Errorf("encode evidence: %w", err)
	}
	out := new(diagnose.Evidence)
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("read evidence back: %w", err)
	}
	return out, nil
}
