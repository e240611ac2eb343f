package config

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"fathom/internal/diagnose"
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
