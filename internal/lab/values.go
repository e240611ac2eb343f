package lab

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Bounds of what a scenario may ask for. They are far above anything useful
// and keep a slip of the keyboard from taking the machine down.
const (
	maxDuration = 10 * time.Minute
	maxSkew     = 8760 * time.Hour
	maxDelay    = time.Minute
	minRate     = 1e3
	maxRate     = 100e9
)

// Duration is written like Go's: 20ms, 1.5s.
type Duration time.Duration

// Std returns the value as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// UnmarshalYAML reads a duration of at most a year either way; the places that
// allow less check it themselves.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(strings.ReplaceAll(n.Value, " ", ""))
	if n.Kind != yaml.ScalarNode || err != nil {
		return fmt.Errorf("line %d: %q is not a duration (write 20ms, 1.5s, 2m)", n.Line, clip(n.Value))
	}
	if v > maxSkew || v < -maxSkew {
		return fmt.Errorf("line %d: duration %s is out of range", n.Line, clip(n.Value))
	}
	*d = Duration(v)
	return nil
}

// Percent is 0 to 100, written with or without the sign.
type Percent float64

// Ratio is the value from 0 to 1.
func (p Percent) Ratio() float64 { return float64(p) / 100 }

// UnmarshalYAML reads 5, 0.1 or 5%.
func (p *Percent) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(n.Value, "%")), 64)
	if n.Kind != yaml.ScalarNode || err != nil || math.IsNaN(v) {
		return fmt.Errorf("line %d: %q is not a percentage (write 5 or 0.1%%)", n.Line, clip(n.Value))
	}
	if v < 0 || v > 100 {
		return fmt.Errorf("line %d: %s is not between 0 and 100 percent", n.Line, clip(n.Value))
	}
	*p = Percent(v)
	return nil
}

// Rate is in bit/s, written 800kbit, 10mbit, 1gbit or as a bare number.
type Rate float64

// BitsPerSecond is the value in bit/s.
func (r Rate) BitsPerSecond() float64 { return float64(r) }

// UnmarshalYAML reads a rate between 1 kbit/s and 100 Gbit/s.
func (r *Rate) UnmarshalYAML(n *yaml.Node) error {
	text, factor := strings.ToLower(strings.TrimSpace(n.Value)), 1.0
	for _, u := range []struct {
		suffix string
		factor float64
	}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}} {
		if t, ok := strings.CutSuffix(text, u.suffix); ok {
			text, factor = strings.TrimSpace(t), u.factor
			break
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	if n.Kind != yaml.ScalarNode || err != nil || math.IsNaN(v) {
		return fmt.Errorf("line %d: %q is not a rate (write 800kbit, 10mbit, 1gbit)", n.Line, clip(n.Value))
	}
	if v *= factor; v < minRate || v > maxRate {
		return fmt.Errorf("line %d: rate %s is not between 1kbit and 100gbit", n.Line, clip(n.Value))
	}
	*r = Rate(v)
	return nil
}

// clip shortens a text from a file for an error message.
func clip(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}
