package config

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"fathom/internal/diagnose"
)

// This file reads JSON strictly, token by token, into a struct.

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
