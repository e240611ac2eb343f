// Package diagnose is the engine: from Evidence to a verdict. It is pure — no
// sockets, no files, no clock — so that saved evidence gives the same verdict
// again, byte for byte, and a bug report is a test.
//
// Data flow: Question → Plan (wants) → the agent measures → Evidence → rules
// return findings or further wants → Decide masks symptoms and writes a Report.
package diagnose

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

// EvidenceSchema is the version of the JSON form of Evidence. It only grows;
// a file with a larger number is refused.
const EvidenceSchema = 1

// Evidence is all that a diagnosis works from.
type Evidence struct {
	Schema   int              `json:"schema"`
	Version  string           `json:"fathom_version"`
	Question Question         `json:"question"`
	Started  time.Time        `json:"started"`
	Finished time.Time        `json:"finished"`
	Before   *facts.Host      `json:"before,omitempty"` // snapshot at the start of the window
	After    *facts.Host      `json:"after,omitempty"`  // snapshot at its end; nil while measuring
	Lookups  []facts.Lookup   `json:"lookups,omitempty"`
	Measured []Measured       `json:"measured,omitempty"` // ordered by want
	Witness  bool             `json:"witness,omitempty"`  // a packet socket watched: what is not in Wire was not on any interface
	Wire     []facts.WireFlow `json:"wire,omitempty"`
	Events   []sample.Event   `json:"events,omitempty"` // seen during the window
	Gaps     []facts.Gap      `json:"gaps,omitempty"`   // what could not be measured

	Interrupted bool `json:"interrupted,omitempty"` // the user ended it before everything was measured
}

// Measured is a want with what came of it.
type Measured struct {
	Want   Want          `json:"want"`
	Result *probe.Result `json:"result,omitempty"`
	Error  string        `json:"error,omitempty"` // why it could not be measured at all
}

// Question is what the user wants to know.
type Question struct {
	Targets      []Target     `json:"targets,omitempty"`       // empty: this host and its way out
	Anchors      []netip.Addr `json:"anchors,omitempty"`       // addresses that stand for "outside"
	AnchorsGiven bool         `json:"anchors_given,omitempty"` // the user named them: they are expected to answer
	Deep         bool         `json:"deep,omitempty"`
	Passive      bool         `json:"passive,omitempty"` // send nothing but to the named targets
	V4Only       bool         `json:"v4_only,omitempty"`
	V6Only       bool         `json:"v6_only,omitempty"`
	Link         string       `json:"link,omitempty"`  // measure through this interface
	Source       netip.Addr   `json:"source,omitzero"` // measure from this address
}

// Target is one thing the user asked about.
type Target struct {
	Raw      string     `json:"raw"`              // as typed: the subject of findings
	Scheme   string     `json:"scheme,omitempty"` // http | https | tcp | udp | dns | tls; "" for a bare host
	Host     string     `json:"host"`             // name or address literal, no brackets
	Port     uint16     `json:"port,omitempty"`   // 0: none given and none implied
	URL      string     `json:"url,omitempty"`    // for http and https
	Pin      netip.Addr `json:"pin,omitzero"`     // use this address for Host (like curl --resolve)
	Insecure bool       `json:"insecure,omitempty"`
}

// Literal returns the address when Host is one, or the pinned one.
func (t Target) Literal() (netip.Addr, bool) {
	if t.Pin.IsValid() {
		return t.Pin, true
	}
	a, err := netip.ParseAddr(t.Host)
	return a.Unmap(), err == nil
}

// Want names one measurement. It is comparable: two equal wants are one
// measurement. Build it with the Want… constructors, so that the plan and the
// rules ask for the same thing in the same words.
type Want struct {
	Kind             string          `json:"kind"`   // a probe kind, or lookup, window
	Target           string          `json:"target"` // address, address:port, URL or domain name
	Count            int             `json:"count,omitempty"`
	Every            sample.Duration `json:"every_s,omitempty"` // interval between probes of a series
	Timeout          sample.Duration `json:"timeout_s,omitempty"`
	Size             int             `json:"size,omitempty"` // whole IP packet, bytes
	DF               bool            `json:"df,omitempty"`
	Protocol         string          `json:"protocol,omitempty"` // of a trace: icmp udp tcp; of dns: udp tcp
	Port             uint16          `json:"port,omitempty"`
	Via              netip.Addr      `json:"via,omitzero"` // force this next hop (raw frame)
	Link             string          `json:"link,omitempty"`
	Name             string          `json:"name,omitempty"`       // TLS server name, DNS question
	Type             string          `json:"type,omitempty"`       // DNS type
	Pin              netip.AddrPort  `json:"pin,omitzero"`         // HTTP: connect here whatever the name resolves to
	CheckingDisabled bool            `json:"cd,omitempty"`         // DNS: set CD
	NoRecurse        bool            `json:"no_recurse,omitempty"` // DNS: clear RD (asking an authority)
	Round            int             `json:"round,omitempty"`      // tells a repeat of the same measurement from the first
}

// Kinds of want that are not probes.
const (
	KindLookup = "lookup" // the kernel's routing decision for Target
	KindWindow = "window" // keep the counter window open for Timeout
)

// Get returns what came of a want: ok is false while it has not been measured.
func (e *Evidence) Get(w Want) (Measured, bool) {
	for i := range e.Measured {
		if e.Measured[i].Want == w {
			return e.Measured[i], true
		}
	}
	return Measured{}, false
}

// Result returns the result of a want, nil when it has not been or could not be measured.
func (e *Evidence) Result(w Want) *probe.Result {
	m, _ := e.Get(w)
	return m.Result
}

// Results returns the results of one kind about one target (all targets when ""), in want order.
func (e *Evidence) Results(kind, target string) []*probe.Result {
	var out []*probe.Result
	for i := range e.Measured {
		m := &e.Measured[i]
		if m.Result != nil && m.Want.Kind == kind && (target == "" || m.Want.Target == target) {
			out = append(out, m.Result)
		}
	}
	return out
}

// Lookup returns the kernel's route to a, nil when it was not asked.
func (e *Evidence) Lookup(a netip.Addr) *facts.Lookup {
	for i := range e.Lookups {
		if e.Lookups[i].Destination == a {
			return &e.Lookups[i]
		}
	}
	return nil
}

// Host returns the latest snapshot, never nil.
func (e *Evidence) Host() *facts.Host {
	switch {
	case e.After != nil:
		return e.After
	case e.Before != nil:
		return e.Before
	}
	return &facts.Host{}
}

// Window is the time between the two snapshots, 0 while the second is missing.
func (e *Evidence) Window() time.Duration {
	if e.Before == nil || e.After == nil {
		return 0
	}
	return e.After.Taken.Sub(e.Before.Taken)
}

// Delta is the increase of a counter over the window; ok is false when it is
// not known at both ends. A counter that went backwards has been reset.
func (e *Evidence) Delta(counter string) (n uint64, ok bool) {
	if e.Before == nil || e.After == nil {
		return 0, false
	}
	a, ok1 := e.Before.Counters[counter]
	b, ok2 := e.After.Counters[counter]
	if !ok1 || !ok2 {
		return 0, false
	}
	if b < a {
		return b, true
	}
	return b - a, true
}

// LinkDelta is the increase of a link's counters over the window.
func (e *Evidence) LinkDelta(name string) (facts.LinkStats, bool) {
	if e.Before == nil || e.After == nil {
		return facts.LinkStats{}, false
	}
	a, ok1 := e.Before.LinkByName(name)
	b, ok2 := e.After.LinkByName(name)
	if !ok1 || !ok2 || a.Index != b.Index {
		return facts.LinkStats{}, false
	}
	return b.Stats.Sub(a.Stats), true
}

// Sort brings evidence into its canonical order, so that runs can be compared
// and a saved file gives the same bytes whatever order measurements ended in.
func (e *Evidence) Sort() {
	slices.SortStableFunc(e.Measured, func(a, b Measured) int { return compareWants(a.Want, b.Want) })
	slices.SortStableFunc(e.Lookups, func(a, b facts.Lookup) int { return a.Destination.Compare(b.Destination) })
	slices.SortStableFunc(e.Wire, func(a, b facts.WireFlow) int {
		return firstNonZero(a.Remote.Compare(b.Remote), strings.Compare(a.Proto, b.Proto), int(a.Port)-int(b.Port), strings.Compare(a.Link, b.Link))
	})
	slices.SortStableFunc(e.Events, func(a, b sample.Event) int { return a.Time.Compare(b.Time) })
}

func compareWants(a, b Want) int {
	return firstNonZero(
		strings.Compare(a.Kind, b.Kind), strings.Compare(a.Target, b.Target),
		strings.Compare(a.Protocol, b.Protocol), int(a.Port)-int(b.Port),
		strings.Compare(a.Name, b.Name), strings.Compare(a.Type, b.Type),
		a.Count-b.Count, a.Size-b.Size, a.Round-b.Round,
		strings.Compare(a.Key(), b.Key()))
}

func firstNonZero(v ...int) int {
	for _, x := range v {
		if x != 0 {
			return x
		}
	}
	return 0
}
