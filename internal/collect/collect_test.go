package collect

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fathom/internal/facts"

	"github.com/google/go-cmp/cmp"
)

func ok(name string, d time.Duration, f func(*facts.Host)) Collector {
	return Collector{name, func(ctx context.Context, h *facts.Host) error {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return ctx.Err()
		}
		f(h)
		return nil
	}}
}

func TestRunIsOrderedByNameWhoeverFinishesFirst(t *testing.T) {
	for _, slow := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			delay := map[string]time.Duration{slow: time.Second}
			h := Run(t.Context(), []Collector{
				ok("b", delay["b"], func(h *facts.Host) {
					h.Links = []facts.Link{{Name: "b"}}
					h.Counters = map[string]uint64{"x": 2, "y": 3}
					h.Hostname = "b"
				}),
				ok("a", delay["a"], func(h *facts.Host) {
					h.Links = []facts.Link{{Name: "a"}}
					h.Counters = map[string]uint64{"x": 1}
					h.Hostname = "a"
					h.Gaps = []facts.Gap{{What: "a bit"}}
				}),
			})
			want := &facts.Host{
				Taken: h.Taken, Hostname: "a",
				Links:    []facts.Link{{Name: "a"}, {Name: "b"}},
				Counters: map[string]uint64{"x": 1, "y": 3},
				Gaps:     []facts.Gap{{What: "a bit"}},
			}
			if d := cmp.Diff(want, h, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); d != "" {
				t.Error(d)
			}
		})
	}
}

type needs struct{ error }

func (needs) Unlock() string { return "run as root" }

func TestFailuresBecomeGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		start := time.Now()
		h := Run(t.Context(), []Collector{
			{"1 error after a partial read", func(_ context.Context, h *facts.Host) error {
				h.Hostname = "kept"
				return needs{errors.New("no right")}
			}},
			{"2 panic", func(context.Context, *facts.Host) error { panic("assignment to entry in nil map") }},
			{"3 obeys the time-out", func(ctx context.Context, _ *facts.Host) error { <-ctx.Done(); return ctx.Err() }},
			{"4 hangs", func(_ context.Context, h *facts.Host) error { <-release; h.Kernel = "late"; return nil }},
			{"5 nothing", nil},
		})
		if d := time.Since(start); d != Timeout+grace {
			t.Errorf("took %v", d)
		}
		close(release)
		synctest.Wait()
		if h.Hostname != "kept" || h.Kernel != "" {
			t.Errorf("kept %q, late %q", h.Hostname, h.Kernel)
		}
		var got []string
		for _, g := range h.Gaps {
			got = append(got, g.What+"|"+g.Why+"|"+g.Unlock)
		}
		want := []string{
			"1 error after a partial read|no right|run as root",
			"2 panic|panic in the collector: assignment to entry in nil map|",
			"3 obeys the time-out|context deadline exceeded|try again when the host is less busy",
			"4 hangs|did not stop in time: context deadline exceeded|try again when the host is less busy",
			"5 nothing|the collector has no Collect function|",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

func TestRunStopsWhenCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		start := time.Now()
		h := Run(ctx, []Collector{ok("slow", time.Minute, func(*facts.Host) {})})
		if time.Since(start) != 10*time.Millisecond || len(h.Gaps) != 1 || !strings.Contains(h.Gaps[0].Why, "canceled") {
			t.Errorf("after %v: %+v", time.Since(start), h.Gaps)
		}
	})
}

// Every field of facts.Host must survive a merge, also those added later.
func TestMergeTakesEveryField(t *testing.T) {
	typ := reflect.TypeFor[facts.Host]()
	for i := range typ.NumField() {
		src := &facts.Host{}
		f := reflect.ValueOf(src).Elem().Field(i)
		switch f.Kind() {
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Map:
			f.Set(reflect.MakeMap(f.Type()))
			f.SetMapIndex(reflect.ValueOf("k"), reflect.Zero(f.Type().Elem()))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.String:
			f.SetString("x")
		case reflect.Struct:
			switch v := f.Addr().Interface().(type) {
			case *time.Time:
				*v = time.Unix(1, 0)
			case *facts.Privilege:
				v.NetRaw = true
			default:
				t.Fatalf("%s: teach merge and this test about %s", typ.Field(i).Name, f.Type())
			}
		default:
			t.Fatalf("%s: teach merge and this test about %s", typ.Field(i).Name, f.Type())
		}
		dst := &facts.Host{}
		merge(dst, src)
		if !reflect.DeepEqual(dst, src) {
			t.Errorf("%s is lost", typ.Field(i).Name)
		}
	}
}
