// Package sample is fathom's public vocabulary: durations that carry their
// unit into JSON, the subjects that statements are about, and events.
// It is the lowest layer: pure, and it imports nothing of fathom.
package sample

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Duration is a time.Duration whose JSON form is a number of seconds, the base
// unit of Prometheus and of every fathom output. Nanoseconds survive the round
// trip up to 104 days, so that saved evidence replays to the same bytes.
type Duration time.Duration

// D shortens the conversion from time.Duration.
func D(d time.Duration) Duration { return Duration(d) }

// Std returns the value as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Seconds returns the value in seconds.
func (d Duration) Seconds() float64 { return time.Duration(d).Seconds() }

// Milliseconds returns the value in milliseconds, fractions kept.
func (d Duration) Milliseconds() float64 { return float64(d) / 1e6 }

// MarshalJSON writes seconds with at most nine decimals.
func (d Duration) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(d).Seconds(), 'f', -1, 64), nil
}

// UnmarshalJSON reads seconds. Values beyond ±104 days or not a number are an error.
func (d *Duration) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return fmt.Errorf("duration: %q is not a number of seconds", clip(b))
	}
	ns := math.Round(f * 1e9)
	if math.IsNaN(ns) || math.Abs(ns) > 9e15 {
		return fmt.Errorf("duration: %v s is out of range", f)
	}
	*d = Duration(ns)
	return nil
}

// String is the short human form: three significant digits with a unit (1.23 ms).
func (d Duration) String() string {
	v, abs := float64(d), math.Abs(float64(d))
	switch {
	case d == 0:
		return "0 ms"
	case abs < 1e6:
		return trim3(v/1e3) + " µs"
	case abs < 1e9:
		return trim3(v/1e6) + " ms"
	case abs < 120e9:
		return trim3(v/1e9) + " s"
	default:
		return time.Duration(d).Round(time.Second).String()
	}
}

func trim3(v float64) string {
	switch a := math.Abs(v); {
	case a >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

func clip(b []byte) string {
	if len(b) > 40 {
		return string(b[:40]) + "…"
	}
	return string(b)
}

// SubjectKind says what sort of thing a Subject is.
type SubjectKind string

// The kinds of subject. New kinds may be added; existing ones never change meaning.
const (
	KindHost      SubjectKind = "host"      // this host as a whole
	KindInterface SubjectKind = "interface" // name: eth0
	KindAddress   SubjectKind = "address"   // name: 192.0.2.7
	KindNeighbour SubjectKind = "neighbour" // an on-link next hop; name: its address
	KindGateway   SubjectKind = "gateway"   // name: its address
	KindHop       SubjectKind = "hop"       // a router on the path; name: its address
	KindPath      SubjectKind = "path"      // the way to a target; name: the target
	KindTarget    SubjectKind = "target"    // name: host, host:port or URL as the user gave it
	KindResolver  SubjectKind = "resolver"  // name: its address
	KindName      SubjectKind = "name"      // a domain name
	KindSocket    SubjectKind = "socket"    // name: address:port
	KindProcess   SubjectKind = "process"   // name: comm[pid]
	KindRoute     SubjectKind = "route"     // name: destination prefix
	KindTable     SubjectKind = "table"     // a kernel table: conntrack, neighbour
	KindRule      SubjectKind = "rule"      // a firewall rule or chain
)

// Subject is what a statement is about.
type Subject struct {
	Kind SubjectKind `json:"kind"`
	Name string      `json:"name"`
}

func (s Subject) String() string { return s.Name }

// Severity of an event or finding.
type Severity string

// The severities, from worst to least.
const (
	Critical Severity = "critical" // the subject does not work
	Major    Severity = "major"    // it works badly, users notice
	Minor    Severity = "minor"    // degraded or about to fail
	Info     Severity = "info"     // worth knowing, not a fault
)

// Rank orders severities: 0 is the worst. Unknown values rank last.
func (s Severity) Rank() int {
	switch s {
	case Critical:
		return 0
	case Major:
		return 1
	case Minor:
		return 2
	}
	return 3
}

// Event is something that happened at a time.
type Event struct {
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`             // link.down, link.up, route.changed, kernel, arp, …
	Subject Subject   `json:"subject,omitzero"` // what it happened to
	Text    string    `json:"text,omitempty"`   // the source's own words, unescaped: escape before showing
	Source  string    `json:"source,omitempty"` // rtnetlink, kmsg, …
}
