package unit

import (
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestTexts(t *testing.T) {
	for s, want := range map[string]Rate{"800": 800, "64kbit": 64_000, "10mbit": 1e7, "1.5gbit": 15e8, "10Mbit/s": 1e7, "10Mbps": 1e7, "10m": 1e7, "5 kbit": 5000} {
		var r Rate
		if err := r.UnmarshalText([]byte(s)); err != nil || r != want {
			t.Errorf("rate %q: %d, %v", s, r, err)
		}
		var back Rate
		if err := back.UnmarshalText([]byte(r.String())); err != nil || back != r {
			t.Errorf("rate %s does not come back: %d %v", r, back, err)
		}
	}
	for s, want := range map[string]Size{"1500": 1500, "64kB": 64_000, "64KiB": 65536, "1MB": 1e6, "1MiB": 1 << 20} {
		var z Size
		if err := z.UnmarshalText([]byte(s)); err != nil || z != want {
			t.Errorf("size %q: %d, %v", s, z, err)
		}
	}
	for s, want := range map[string]Share{"5%": 0.05, "0.05": 0.05, "100%": 1, "0": 0} {
		var p Share
		if err := p.UnmarshalText([]byte(s)); err != nil || p != want {
			t.Errorf("share %q: %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "x", "-1", "5k5", "NaN", "inf", "150%"} {
		if new(Share).UnmarshalText([]byte(s)) == nil {
			t.Errorf("share %q accepted", s)
		}
		if s != "150%" && (new(Rate).UnmarshalText([]byte(s)) == nil || new(Size).UnmarshalText([]byte(s)) == nil) {
			t.Errorf("rate or size %q accepted", s)
		}
	}
}

func TestYAML(t *testing.T) {
	var v struct {
		R Rate
		S Share
		Z Size
		D time.Duration
	}
	if err := yaml.Unmarshal([]byte("{r: 10mbit, s: 5%, z: 64kB, d: 20ms}"), &v); err != nil {
		t.Fatal(err)
	}
	if v.R != 1e7 || v.S != 0.05 || v.Z != 64000 || v.D != 20*time.Millisecond {
		t.Errorf("%+v", v)
	}
	if err := yaml.Unmarshal([]byte("{r: 800, s: 0.5, z: 12}"), &v); err != nil || v.R != 800 || v.S != 0.5 || v.Z != 12 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestSerialise(t *testing.T) {
	if d := Rate(1e6).Serialise(1250); d != 10*time.Millisecond {
		t.Error(d)
	}
	if d := Rate(0).Serialise(1250); d != 0 {
		t.Error(d)
	}
	if d := Rate(1).Serialise(1 << 60); d <= 0 {
		t.Error("overflow", d)
	}
}

func FuzzTexts(f *testing.F) {
	f.Add("5%")
	f.Add("10mbit")
	f.Add("64KiB")
	f.Fuzz(func(t *testing.T, s string) {
		var p Share
		if p.UnmarshalText([]byte(s)) == nil && !(p >= 0 && p <= 1) {
			t.Fatal(p)
		}
		var r Rate
		if r.UnmarshalText([]byte(s)) == nil {
			b, _ := r.MarshalText()
			var back Rate
			if r < 0 || back.UnmarshalText(b) != nil || back != r {
				t.Fatal(r, back)
			}
		}
		var z Size
		if z.UnmarshalText([]byte(s)) == nil && z < 0 {
			t.Fatal(z)
		}
	})
}
