// Package unit holds the numbers that a scenario file writes with a unit: a rate
// ("10mbit"), a share ("5%") and a size ("64kB"). They decode from YAML and JSON
// text and from bare numbers, so that a scenario reads like a sentence.
package unit

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Rate is in bit/s. Text: "800", "64kbit", "10mbit", "1.5gbit" (powers of 1000,
// as tc writes them); "10Mbit/s" and "10Mbps" mean the same.
type Rate int64

// Share is a probability or a part of a whole, 0…1. Text: "0.05" or "5%".
type Share float64

// Size is in bytes. Text: "1500", "64kB" (1000), "64KiB" (1024), "1MB", "1MiB".
type Size int64

// UnmarshalText reads a rate; negative and non-finite ones are refused.
func (r *Rate) UnmarshalText(b []byte) error {
	s := strings.ToLower(strings.TrimSpace(string(b)))
	s = strings.TrimSuffix(s, "/s")
	s = strings.TrimSuffix(s, "ps")
	s = strings.TrimSuffix(strings.TrimSuffix(s, "bit"), "b")
	v, err := scaled(s, map[string]float64{"k": 1e3, "m": 1e6, "g": 1e9})
	if err != nil {
		return fmt.Errorf("read rate %q: %w (write bit/s, or 64kbit, 10mbit, 1gbit)", b, err)
	}
	*r = Rate(v)
	return nil
}

// MarshalText writes bit/s with the largest exact unit.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// String gives "10mbit" for 10,000,000.
func (r Rate) String() string {
	switch {
	case r != 0 && r%1e9 == 0:
		return strconv.FormatInt(int64(r/1e9), 10) + "gbit"
	case r != 0 && r%1e6 == 0:
		return strconv.FormatInt(int64(r/1e6), 10) + "mbit"
	case r != 0 && r%1e3 == 0:
		return strconv.FormatInt(int64(r/1e3), 10) + "kbit"
	}
	return strconv.FormatInt(int64(r), 10) + "bit"
}

// Serialise is how long n bytes take on the wire at this rate; 0 for no rate.
func (r Rate) Serialise(n int) time.Duration {
	if r <= 0 || n <= 0 {
		return 0
	}
	d := float64(n) * 8 / float64(r) * float64(time.Second)
	if d > math.MaxInt64/4 { // 1 bit/s and a huge frame: years are forever
		return math.MaxInt64 / 4
	}
	return time.Duration(d)
}

// UnmarshalText reads a share; outside 0…1 is refused.
func (s *Share) UnmarshalText(b []byte) error {
	t := strings.TrimSpace(string(b))
	div := 1.0
	if p, ok := strings.CutSuffix(t, "%"); ok {
		t, div = strings.TrimSpace(p), 100
	}
	v, err := strconv.ParseFloat(t, 64)
	if err != nil {
		return fmt.Errorf("read share %q: not a number (write 0.05 or 5%%)", b)
	}
	if v /= div; !(v >= 0 && v <= 1) {
		return fmt.Errorf("read share %q: outside 0…1", b)
	}
	*s = Share(v)
	return nil
}

// MarshalText writes the plain number.
func (s Share) MarshalText() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(s), 'g', -1, 64), nil
}

// UnmarshalText reads a size; negative ones are refused.
func (z *Size) UnmarshalText(b []byte) error {
	s := strings.ToLower(strings.TrimSpace(string(b)))
	s = strings.TrimSuffix(s, "b")
	v, err := scaled(s, map[string]float64{"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "k": 1e3, "m": 1e6, "g": 1e9})
	if err != nil {
		return fmt.Errorf("read size %q: %w (write bytes, or 64kB, 64KiB, 1MB)", b, err)
	}
	*z = Size(v)
	return nil
}

// MarshalText writes plain bytes.
func (z Size) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(z), 10), nil }

// scaled reads a number with one of the given suffixes; a two-letter suffix wins.
func scaled(s string, units map[string]float64) (int64, error) {
	mul := 1.0
	for n := 2; n >= 1; n-- {
		if len(s) > n {
			if m, ok := units[s[len(s)-n:]]; ok {
				s, mul = s[:len(s)-n], m
				break
			}
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil {
		return 0, fmt.Errorf("not a number")
	}
	v = math.Round(v * mul)
	if !(v >= 0 && v <= 1e15) {
		return 0, fmt.Errorf("outside 0…1e15")
	}
	return int64(v), nil
}
