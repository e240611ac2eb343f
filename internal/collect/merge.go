package collect

import (
	"reflect"

	"fathom/internal/facts"
)

// merge adds src to dst: lists are appended, maps united (the first writer of
// a key wins), and anything else is taken when dst has nothing yet. It goes by
// reflection so that a field added to facts.Host is merged without a change
// here; a kind of field it does not know is caught by its test.
func merge(dst, src *facts.Host) {
	if src == nil {
		return
	}
	d, s := reflect.ValueOf(dst).Elem(), reflect.ValueOf(src).Elem()
	for i := range d.NumField() {
		mergeField(d.Field(i), s.Field(i))
	}
}

func mergeField(d, s reflect.Value) {
	switch {
	case s.IsZero():
	case d.Kind() == reflect.Slice:
		d.Set(reflect.AppendSlice(d, s))
	case d.Kind() == reflect.Map:
		if d.IsNil() {
			d.Set(reflect.MakeMapWithSize(d.Type(), s.Len()))
		}
		for it := s.MapRange(); it.Next(); {
			if !d.MapIndex(it.Key()).IsValid() {
				d.SetMapIndex(it.Key(), it.Value())
			}
		}
	case d.IsZero():
		d.Set(s)
	}
}
