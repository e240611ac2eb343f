package config

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fathom/internal/diagnose"
	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

func evidence() *diagnose.Evidence {
	at := time.Date(2026, 5, 1, 12, 0, 0, 123456000, time.UTC)
	a := netip.MustParseAddr("192.0.2.1")
	auto := true
	host := func(at time.Time) *facts.Host {
		return &facts.Host{
			Taken: at, Hostname: "h", Links: []facts.Link{{Index: 2, Name: "eth0", MTU: 1500, Autoneg: &auto}},
			Addrs:    []facts.Addr{{Link: "eth0", Prefix: netip.MustParsePrefix("192.0.2.7/24"), Scope: "global"}},
			Counters: map[string]uint64{"Tcp.OutSegs": 1 << 63}, Sockstat: map[string]int64{"TCP.mem": -1},
			Firewall: &facts.Firewall{Chains: []facts.FWChain{{Name: "input", Priority: -200}}},
		}
	}
	return &diagnose.Evidence{
		Schema: diagnose.EvidenceSchema, Version: "test", Started: at, Finished: at.Add(2 * time.Second),
		Question: diagnose.Question{Targets: []diagnose.Target{{Raw: "192.0.2.1", Host: "192.0.2.1"}}, Anchors: []netip.Addr{a}},
		Before:   host(at), After: host(at.Add(2 * time.Second)),
		Lookups: []facts.Lookup{{Destination: a, Route: facts.Route{Dst: netip.MustParsePrefix("192.0.2.0/24"), Link: "eth0"}}},
		Measured: []diagnose.Measured{{Want: diagnose.WantPing(a), Result: &probe.Result{
			Kind: "icmp", Target: "192.0.2.1", Address: a, Start: at, Outcome: probe.OK,
			Echo: &probe.Echo{Sent: 2, Received: 1, RTTs: []sample.Duration{123457}, Lost: []int{1}},
			TLS:  &probe.TLS{Chain: []probe.Certificate{{Subject: "CN=x", NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}}},
		}}},
	}
}

func TestEvidenceRoundTrip(t *testing.T) {
	e := evidence()
	var b bytes.Buffer
	if err := WriteEvidence(&b, e); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEvidence(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	addrs := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(e, got, addrs, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
	var again bytes.Buffer
	if err := WriteEvidence(&again, got); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("other bytes the second time: %v", err)
	}
}

// Whatever the struct holds, reading back what was written gives the same.
func TestEvidenceReadsEveryField(t *testing.T) {
	e := evidence()
	fill(reflect.ValueOf(&e.Measured[0]).Elem(), 0)
	fill(reflect.ValueOf(e.After).Elem(), 0)
	e.After.Taken = e.Before.Taken.Add(time.Second)
	fill(reflect.ValueOf(&e.Wire).Elem(), 0)
	fill(reflect.ValueOf(&e.Events).Elem(), 0)
	r := e.Measured[0].Result
	r.Echo.Sent, r.TCP.Attempts, r.DNS.Tries = 10, 10, 10
	r.Start = e.Started
	var b, again bytes.Buffer
	if err := WriteEvidence(&b, e); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEvidence(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteEvidence(&again, got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b.String(), again.String()); d != "" {
		t.Error(d)
	}
}

// fill sets everything that can be reached to something that is not zero.
func fill(v reflect.Value, depth int) {
	if depth > 12 {
		return
	}
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
		return
	case *netip.Addr:
		*x = netip.MustParseAddr("192.0.2.1")
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("192.0.2.0/24")
		return
	case *netip.AddrPort:
		*x = netip.MustParseAddrPort("192.0.2.1:53")
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), e)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i), depth+1)
			}
		}
	case reflect.String:
		v.SetString("s")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(3)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(3)
	}
}

func TestReadEvidenceErrors(t *testing.T) {
	var b bytes.Buffer
	if err := WriteEvidence(&b, evidence()); err != nil {
		t.Fatal(err)
	}
	good := b.String()
	swap := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in\n%s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, c := range []struct{ situation, in, want string }{
		{"nothing", "", "empty"},
		{"white space", strings.Repeat(" ", 5000), "white space"},
		{"text", "hello", "no evidence"},
		{"a list", "[]", "no evidence"},
		{"an empty object", "{}", "schema 0"},
		{"no host", `{"schema":1}`, "before: the snapshot"},
		{"a newer schema", swap(`"schema": 1`, `"schema": 2, "new_thing": {}`), "newer than this fathom"},
		{"schema as text", swap(`"schema": 1`, `"schema": "1"`), "schema: expected a whole number, found string"},
		{"an unknown key", swap(`"mtu"`, `"mtuu"`), `before.links[0]: unknown key "mtuu" (did you mean mtu?)`},
		{"another case", swap(`"mtu"`, `"MTU"`), `did you mean mtu?`},
		{"a key twice", swap(`"mtu": 1500`, `"mtu": 1500, "mtu": 1`), "given twice"},
		{"a wrong type", swap(`"mtu": 1500`, `"mtu": "big"`), "before.links[0].mtu: expected a whole number, found string"},
		{"a fraction", swap(`"mtu": 1500`, `"mtu": 1.5`), "before.links[0].mtu"},
		{"a list for an object", swap(`"question": {`, `"question": [{`), "question: expected an object, found a list"},
		{"a bad address", swap(`"destination": "192.0.2.1"`, `"destination": "x"`), "lookups[0].destination"},
		{"a negative number", swap(`"mtu": 1500`, `"mtu": -1`), "before.links[0].mtu: -1 is not a plausible number"},
		{"a negative duration", swap(`0.000123457`, `-1`), "measured[0].result.echo.rtts_s[0]: a negative duration"},
		{"a duration of centuries", swap(`0.000123457`, `1e12`), "out of range"},
		{"more answers than questions", swap(`"received": 1`, `"received": 3`), "measured[0].result: echo"},
		{"a distant year", swap(`"finished": "2026`, `"finished": "9998`), "finished: year 9998"},
		{"an end before the beginning", swap(`"finished": "2026`, `"finished": "2025`), "earlier"},
		{"a boolean as text", swap(`"autoneg": true`, `"autoneg": "x"`), "before.links[0].autoneg"},
		{"something behind it", good + "{}", "behind"},
		{"cut off", good[:len(good)/2], "cut off"},
		{"deep noise", `{"schema":1,"before":` + strings.Repeat("[", 100_000), "expected an object"},
		{"deep noise in a map", `{"schema":1,"before":{"counters":` + strings.Repeat("[", 100_000), ""},
		{"an escape in a key", "{\"\\u001b[2J\": 1}", `unknown key "\x1b[2J"`},
	} {
		_, err := ReadEvidence(strings.NewReader(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want …%s…", c.situation, err, c.want)
		}
		if err != nil && strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: escape in %q", c.situation, err)
		}
	}
}

// endless gives the same byte for ever and counts.
type endless struct {
	n     int64
	first string
}

func (e *endless) Read(b []byte) (int, error) {
	if e.first != "" {
		n := copy(b, e.first)
		e.first = e.first[n:]
		return n, nil
	}
	for i := range b {
		b[i] = 'a'
	}
	e.n += int64(len(b))
	return len(b), nil
}

func TestNoiseIsRefusedAtOnce(t *testing.T) {
	for _, begin := range []string{"", `{"schema":1,"x`[:12], `{"schema":1,"before":a`, `{"nonsense":1,"x":"`} {
		in := &endless{first: begin}
		if _, err := ReadEvidence(in); err == nil {
			t.Errorf("%s accepted", begin)
		}
		if in.n > 1<<20 {
			t.Errorf("%s: %d bytes read before it was refused", begin, in.n)
		}
	}
}

func TestSaveEvidence(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "e.json")
	for range 2 {
		if err := SaveEvidence(p, nil, evidence()); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(p); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if es, _ := os.ReadDir(dir); len(es) != 1 {
		t.Errorf("left over: %v", es)
	}
	if _, err := LoadEvidence(p, nil); err != nil {
		t.Error(err)
	}
	if err := SaveEvidence("/dev/null", nil, evidence()); err != nil {
		t.Error(err)
	}
	if err := SaveEvidence(filepath.Join(dir, "no", "e.json"), nil, evidence()); err == nil {
		t.Error("no directory, no error")
	}
	var b bytes.Buffer
	if err := SaveEvidence("-", &b, evidence()); err != nil || b.Len() == 0 {
		t.Error(err)
	}
}

func TestNormaliseEqualsReadingBack(t *testing.T) {
	e := evidence()
	e.Started = time.Now() // with its monotonic clock
	e.Finished = e.Started.Add(time.Second)
	e.Measured = append(e.Measured, diagnose.Measured{Want: diagnose.WantARP(netip.MustParseAddr("192.0.2.1"), "eth0"), Error: "no"})
	n, err := Normalise(e)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteEvidence(&b, n); err != nil {
		t.Fatal(err)
	}
	back, err := ReadEvidence(io.Reader(&b))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(n, back) {
		t.Error("a normalised one differs from the one read back")
	}
	if n.Measured[0].Want.Kind != "arp" {
		t.Error("not sorted")
	}
}

func FuzzReadEvidence(f *testing.F) {
	var b bytes.Buffer
	if err := WriteEvidence(&b, evidence()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"schema":1,"before":{"links":[{"autoneg":null}]},"measured":[{"want":{},"result":null}]}`))
	f.Add([]byte(`{"schema":1,"before":{},"question":{"targets":[{"raw":"x","host":"x"}]}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := ReadEvidence(bytes.NewReader(in))
		if err != nil {
			return
		}
		diagnose.Decide(e)
		diagnose.Decide(diagnose.Redact(e))
	})
}
