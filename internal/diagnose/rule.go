package diagnose

import (
	"fathom/internal/facts"
	"fathom/sample"
)

// Layer is where in the stack a cause lies.
type Layer string

// The layers, from the bottom up.
const (
	LayerLink        Layer = "link"      // physical and data link
	LayerNetwork     Layer = "network"   // IP
	LayerTransport   Layer = "transport" // TCP, UDP, this host's stack
	LayerName        Layer = "dns"
	LayerApplication Layer = "application" // TLS, HTTP
)

// Confidence says how sure a finding is.
type Confidence string

// The confidences.
const (
	Confirmed    Confidence = "confirmed"    // two independent measurements, or the guilty party's own words
	Likely       Confidence = "likely"       // one discriminating measurement; alternatives ruled out or improbable
	Inconclusive Confidence = "inconclusive" // fits, but something else would fit as well
)

// Rule is one cause: its words for people, and how it is recognised. One file
// per rule, rule_<area>_<cause>.go, and one line in rules.go.
type Rule struct {
	ID          string // link.down; never changes once released
	Layer       Layer
	Title       string   // "The link is down": a short sentence, no full stop
	Explanation string   // what it means, for someone who never saw it; one short paragraph
	TellApart   string   // which evidence proves it, and what it is often confused with
	Remedy      []string // what to do, most likely first
	Validate    []string // how to check the fix
	Sceptic     string   // an ordinary command that shows the same; <iface>, <address>, … as place-holders
	References  []string // RFC sections, kernel documents
	Needs       string   // privilege or facility the rule cannot work without; "" for none

	// Explains lists the causes that are only symptoms of this one when they
	// concern something that this finding breaks. "path.*" stands for an area.
	Explains []string

	// Check reads evidence. It must be pure and must not keep e. It is called
	// many times while measurements arrive: with After == nil as well.
	Check func(e *Evidence) Answer
}

// Answer is what a rule makes of the evidence.
type Answer struct {
	Findings []Finding
	Wants    []Want      // measurements that would settle it
	RuledOut []RuledOut  // what was looked at and is fine, with numbers
	Gaps     []facts.Gap // what the rule could not judge, and what would help
	Notes    []string    // worth telling, but no fault
}

// Finding is a cause found, with its proof. Rules fill in what is particular to
// the case; layer, title, remedy and so on default to the rule's own.
type Finding struct {
	Cause       string             `json:"cause"`
	Layer       Layer              `json:"layer"`
	Title       string             `json:"title"`
	Subject     string             `json:"subject"` // name of what it is about: eth0, 192.0.2.1, https://…
	SubjectKind sample.SubjectKind `json:"subject_kind"`
	Location    string             `json:"location"` // where: "this host, eth0", "between hop 2 (10.0.2.1) and hop 3 (10.0.3.1)", "10.0.3.9"
	Severity    sample.Severity    `json:"severity"`
	Confidence  Confidence         `json:"confidence"`
	Summary     string             `json:"summary"`             // one sentence: the cause, as to a colleague
	Evidence    []Proof            `json:"evidence"`            // two to five lines with numbers
	RulesOut    []string           `json:"rules_out,omitempty"` // what it is not, and why
	Remedy      []string           `json:"remedy"`
	Validate    []string           `json:"validate"`
	Sceptic     []string           `json:"sceptic,omitempty"` // commands with the real names filled in
	Since       string             `json:"since,omitempty"`
	Explains    []Explained        `json:"explains"` // symptoms that this finding accounts for

	// Affects are the things this finding breaks, Depends those its subject
	// relies on: tags made by TagLink, TagAddr, TagTarget, TagResolver, TagHost.
	// Finding A explains B when A's rule lists B's cause and A.Affects meets B.Depends.
	Affects []string `json:"-"`
	Depends []string `json:"-"`
}

// Proof is one line of evidence and the measurement it comes from.
type Proof struct {
	Text        string `json:"text"`
	Measurement string `json:"measurement,omitempty"` // key of the want, or the name of the fact: "counters", "links"
}

// Explained is a symptom absorbed by a finding.
type Explained struct {
	Cause   string `json:"cause"`
	Subject string `json:"subject"`
	Summary string `json:"summary"`
}

// RuledOut is a cause that was looked for and is not there.
type RuledOut struct {
	Cause   string `json:"cause"`
	Subject string `json:"subject,omitempty"`
	Text    string `json:"text"` // with numbers: "10.0.0.1 answered 10 of 10, median 0.2 ms"
}

// Tags for Finding.Affects and Finding.Depends.

// TagHost is met by everything.
const TagHost = "host"

// TagLink is an interface of this host.
func TagLink(name string) string { return "link:" + name }

// TagAddr is a remote (or own) address.
func TagAddr(a interface{ String() string }) string { return "addr:" + a.String() }

// TagTarget is a target of the question, by its Raw text.
func TagTarget(raw string) string { return "target:" + raw }

// TagName is a domain name.
func TagName(name string) string { return "name:" + name }
