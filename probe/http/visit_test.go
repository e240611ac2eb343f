package http

import (
	"testing"
	"time"

	"fathom/probe"
)

// net/http's writer may report after its reader: no phase may be negative then.
func TestWriterReportsAfterTheResponseBegan(t *testing.T) {
	began := time.Now()
	for _, wrote := range []time.Time{{}, began.Add(3 * time.Second)} {
		ts := times{wrote: wrote, first: began.Add(2 * time.Second)}
		w, f := ts.get()
		var r probe.Result
		ts.phases(&r, began, w, f, began.Add(5*time.Second))
		req, _ := r.PhaseNamed("request")
		first, ok := r.PhaseNamed("first_byte")
		body, _ := r.PhaseNamed("body")
		if req.Std() != 2*time.Second || first != 0 || !ok || body.Std() != 3*time.Second {
			t.Errorf("wrote %v: %+v", wrote, r.Phases)
		}
	}
}
