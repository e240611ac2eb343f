package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"fathom/internal/diagnose"
	"fathom/internal/output"
)

// watch diagnoses again and again until ctx ends. The first round is shown
// whole, later ones by what changed; as JSON, each changed report is one line.
func (a *app) watch(ctx context.Context, o whyOptions, q diagnose.Question, budget, every time.Duration) error {
	var last *diagnose.Report
	for {
		began := time.Now()
		if last != nil {
			o.noLive = true // the checklist belongs to the first round only
		}
		e, err := a.investigate(ctx, o, q, budget)
		if ctx.Err() != nil && last != nil {
			return verdictExit(last.Verdict) // a round that was cut off says less than the one before
		}
		if err != nil {
			return err
		}
		if o.redact {
			e = diagnose.Redact(e)
		}
		r := decide(e)
		if err := a.showRound(o, last, &r); err != nil {
			return err
		}
		last = &r
		if ctx.Err() != nil || !sleep(ctx, every-time.Since(began)) {
			return verdictExit(r.Verdict)
		}
	}
}

// sleep waits, and reports whether it was left to wait to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (a *app) showRound(o whyOptions, last, r *diagnose.Report) error {
	if last == nil && !o.json {
		return output.Text(a.out, *r, a.outputOptions(o.verbose))
	}
	if !o.json {
		output.Changes(a.out, *last, *r, a.outputOptions(o.verbose))
		return nil
	}
	if last != nil && !output.Changes(io.Discard, *last, *r, output.Options{}) {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "%s\n", b)
	return err
}
