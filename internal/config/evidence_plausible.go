package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"fathom/internal/diagnose"
	"fathom/probe"
	"fathom/sample"
)

// This file refuses evidence that no measurement can have given.

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
