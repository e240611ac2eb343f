package cli

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"fathom/internal/diagnose"
	"fathom/internal/output"
	"fathom/probe"
	"fathom/sample"
)

// checkSchema is the version of the JSON of fathom check. It only grows.
const checkSchema = 1

// checkReport is the JSON of fathom check. Times are in milliseconds where the
// name says so, as in the checker that it takes the place of.
type checkReport struct {
	Schema      int             `json:"schema"`
	Started     time.Time       `json:"started"`
	Elapsed     sample.Duration `json:"elapsed_s"`
	Interrupted bool            `json:"interrupted,omitempty"`
	Summary     checkSummary    `json:"summary"`
	Targets     []checkResult   `json:"targets"` // in the order of the file
}

type checkSummary struct {
	OK      int `json:"ok"`
	Problem int `json:"problem"`
	Unknown int `json:"unknown"`
}

// The states of a target.
const (
	checkOK      = "ok"
	checkProblem = "problem"
	checkUnknown = "unknown"
)

type checkResult struct {
	Target     string           `json:"target"`
	Name       string           `json:"name,omitempty"`
	Host       string           `json:"host"`
	Address    netip.Addr       `json:"address,omitzero"` // the one that was measured
	Status     string           `json:"status"`           // ok | problem | unknown
	Problems   []string         `json:"problems"`
	Notes      []string         `json:"notes,omitempty"`
	Ping       *checkPing       `json:"ping,omitempty"`
	Port       *checkPort       `json:"port,omitempty"`
	DNS        *checkDNS        `json:"dns,omitempty"`
	Traceroute *checkTraceroute `json:"traceroute,omitempty"`
	HTTP       *checkHTTP       `json:"http,omitempty"`
}

type checkPing struct {
	Status     string   `json:"status"` // success | failed | error
	Sent       int      `json:"sent"`
	Received   int      `json:"received"`
	Loss       float64  `json:"loss"`     // ratio
	LossLow    float64  `json:"loss_low"` // 95 % interval
	LossHigh   float64  `json:"loss_high"`
	AvgLatency *float64 `json:"avg_latency_ms,omitempty"`
	MinLatency *float64 `json:"min_latency_ms,omitempty"`
	Median     *float64 `json:"median_latency_ms,omitempty"`
	MaxLatency *float64 `json:"max_latency_ms,omitempty"`
	Jitter     *float64 `json:"jitter_ms,omitempty"`
	Duplicates int      `json:"duplicates,omitempty"`
	Method     string   `json:"method,omitempty"`
	Error      string   `json:"error,omitempty"`
	median     time.Duration
}

type checkPort struct {
	Number       uint16   `json:"port"`
	Status       string   `json:"status"` // open | refused | filtered | unreachable | reset | failed | error; of UDP: open | refused | no_answer
	Protocol     string   `json:"protocol"`
	ResponseTime *float64 `json:"response_time_ms,omitempty"` // of connecting, without resolution
	SYNRetries   int      `json:"syn_retransmissions,omitempty"`
	Error        string   `json:"error,omitempty"`
}

type checkDNS struct {
	Status         string          `json:"status"` // success | failed | literal | pinned
	Source         string          `json:"source,omitempty"`
	IPs            []netip.Addr    `json:"ips"`
	ResolutionTime *float64        `json:"resolution_time_ms,omitempty"` // until the answer that a program would have got
	Resolvers      []checkResolver `json:"resolvers,omitempty"`
	Error          string          `json:"error,omitempty"`
}

type checkResolver struct {
	Server         string       `json:"server"`
	Status         string       `json:"status"` // success | the rcode | timeout | …
	Name           string       `json:"name"`
	IPs            []netip.Addr `json:"ips"`
	ResolutionTime *float64     `json:"resolution_time_ms,omitempty"`
	Error          string       `json:"error,omitempty"`
}

type checkTraceroute struct {
	Status   string     `json:"status"`              // success: the target was reached | failed | error
	HopCount int        `json:"hop_count,omitempty"` // only when it was reached
	Protocol string     `json:"protocol,omitempty"`
	LastHop  netip.Addr `json:"last_hop,omitzero"` // the last that answered, when it was not
	Hops     []checkHop `json:"hops,omitempty"`
	Error    string     `json:"error,omitempty"`
}

type checkHop struct {
	TTL     int        `json:"ttl"`
	Address netip.Addr `json:"address,omitzero"`
	RTT     *float64   `json:"rtt_ms,omitempty"`
}

type checkHTTP struct {
	Status       string             `json:"status"` // ok | unexpected_status | bad_certificate | failed | error
	StatusCode   int                `json:"status_code,omitempty"`
	Protocol     string             `json:"protocol,omitempty"`
	ResponseTime *float64           `json:"response_time_ms,omitempty"` // the whole request, redirects included
	Phases       map[string]float64 `json:"phases_ms,omitempty"`
	Error        string             `json:"error,omitempty"`
}

// ms is a duration in milliseconds, to the microsecond.
func ms(d sample.Duration) *float64 {
	v := float64(d.Std().Round(time.Microsecond)) / 1e6
	return &v
}

// row is the result in the words of the table.
func (r checkResult) row() output.CheckRow {
	row := output.CheckRow{Target: r.label(), State: diagnose.StateOK, Note: strings.Join(append(append([]string{}, r.Problems...), r.Notes...), "; ")}
	switch r.Status {
	case checkProblem:
		row.State = diagnose.StateFault
	case checkUnknown:
		row.State = diagnose.StateUnknown
	}
	if p := r.Ping; p != nil {
		row.Ping = p.Status
		if p.Status != "error" {
			row.Ping = fmt.Sprintf("%d/%d", p.Received, p.Sent)
		}
		if p.Median != nil {
			row.Ping += " in " + sample.D(p.median).String()
		}
	}
	if p := r.Port; p != nil {
		row.Port = fmt.Sprintf("%d %s", p.Number, strings.ReplaceAll(p.Status, "_", " "))
		if p.ResponseTime != nil {
			row.Port += fmt.Sprintf(" in %s", sample.Duration(*p.ResponseTime*1e6))
		}
	}
	if h := r.HTTP; h != nil && h.StatusCode > 0 {
		row.Port += fmt.Sprintf(", HTTP %d", h.StatusCode)
		if h.ResponseTime != nil {
			row.Port += fmt.Sprintf(" in %s", sample.Duration(*h.ResponseTime*1e6))
		}
	}
	if d := r.DNS; d != nil {
		row.DNS = d.text()
	}
	if t := r.Traceroute; t != nil {
		row.Path = "not reached"
		switch {
		case t.HopCount > 0:
			row.Path = hops(t.HopCount)
		case t.Status == "error":
			row.Path = "error"
		}
	}
	return row
}

func (r checkResult) label() string {
	if r.Name != "" {
		return r.Name
	}
	return r.Target
}

func (d *checkDNS) text() string {
	switch {
	case d.Status == "literal" || d.Status == "pinned":
		return d.Status
	case len(d.IPs) == 0:
		return "failed"
	}
	s := d.IPs[0].String()
	if n := len(d.IPs) - 1; n > 0 {
		s += fmt.Sprintf(" +%d", n)
	}
	if d.ResolutionTime != nil {
		s += fmt.Sprintf(" in %s", sample.Duration(*d.ResolutionTime*1e6))
	} else {
		s += " (" + d.Source + ")"
	}
	return s
}

// portStatus is an outcome in the words of the check.
func portStatus(r probe.Result, protocol string) string {
	switch r.Outcome {
	case probe.OK:
		return "open"
	case probe.Refused, probe.Reset:
		return string(r.Outcome)
	case probe.Timeout:
		if protocol == "udp" {
			return "no_answer"
		}
		return "filtered"
	case probe.Prohibited, probe.LocalDrop:
		return "filtered"
	case probe.Unreachable, probe.NoRoute, probe.TTLExceeded:
		return "unreachable"
	}
	return "failed"
}
