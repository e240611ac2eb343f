package diagnose

import (
	"time"

	"fathom/internal/facts"
	"fathom/sample"
)

// ReportSchema is the version of the JSON form of Report. It only grows.
const ReportSchema = 1

// Verdict is the one word of a report.
type Verdict string

// The verdicts.
const (
	Healthy Verdict = "healthy" // everything that was measured is fine
	Faulty  Verdict = "fault"   // at least one finding of severity minor or worse
	Unknown Verdict = "unknown" // too little could be measured to say
)

// Report is the answer.
type Report struct {
	Schema      int             `json:"schema"`
	Verdict     Verdict         `json:"verdict"`
	Headline    string          `json:"headline"`
	Host        string          `json:"host,omitempty"`
	Targets     []string        `json:"targets"`
	Started     time.Time       `json:"started"`
	Elapsed     sample.Duration `json:"elapsed_s"`
	Findings    []Finding       `json:"findings"` // worst first; symptoms are inside explains
	RuledOut    []RuledOut      `json:"ruled_out"`
	NotMeasured []facts.Gap     `json:"not_measured"`
	Notes       []string        `json:"notes,omitempty"`
	Checks      []CheckLine     `json:"checks"` // the checklist a person sees: one line per area
}

// CheckLine is a line of the checklist.
type CheckLine struct {
	Area  string `json:"area"`  // link, address, neighbour, gateway, resolver, way out, host, target …
	State string `json:"state"` // ok | fault | warn | unknown | skipped | running
	Text  string `json:"text"`
}
