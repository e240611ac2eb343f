package lab

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// ScoreOptions say how a scoreboard is made.
type ScoreOptions struct {
	Options
	Parallel int // scenarios at a time, default 1; exclusive ones always run alone
	Repeat   int // runs of each scenario, default 1
	// Progress is called after each run, from one goroutine at a time.
	Progress func(done, total int, r RunResult)
}

// Scoreboard is how fathom did over many scenarios.
type Scoreboard struct {
	Date   time.Time     `json:"date"`
	Kernel string        `json:"kernel,omitempty"`
	User   string        `json:"user,omitempty"` // when overridden
	Repeat int           `json:"repeat"`
	Lines  []ScoreLine   `json:"scenarios"`
	Totals Totals        `json:"totals"`
	Runs   [][]RunResult `json:"runs"` // by line
}

// ScoreLine is one scenario over all its runs.
type ScoreLine struct {
	Scenario       string   `json:"scenario"`
	Title          string   `json:"title"`
	Kind           Kind     `json:"kind"`
	Outcome        Outcome  `json:"outcome"` // the worst of the runs
	Runs           int      `json:"runs"`    // without skipped ones
	Identified     int      `json:"identified"`
	FalsePositives int      `json:"false_positive_runs"`
	Slow           int      `json:"slow_runs"`
	Failed         int      `json:"failed_runs"`
	Verdict        string   `json:"verdict"`
	Causes         []string `json:"causes,omitempty"` // of the last run
	MedianSeconds  float64  `json:"median_s"`
	WorstSeconds   float64  `json:"worst_s"`
	Notes          []string `json:"notes,omitempty"` // what was missed or false, why skipped
}

// Totals sum up a scoreboard. Shares are 0…1 of runs that were not skipped.
type Totals struct {
	Scenarios           int     `json:"scenarios"`
	Faults              int     `json:"faults"`
	Healthy             int     `json:"healthy"`
	Skipped             int     `json:"skipped"`
	Runs                int     `json:"runs"`
	Passed              int     `json:"passed_runs"`
	FaultRuns           int     `json:"fault_runs"`
	IdentifiedRuns      int     `json:"identified_fault_runs"`
	Identified          float64 `json:"identified_ratio"` // of fault runs: right cause, place, subject
	FalsePositiveRuns   int     `json:"false_positive_runs"`
	FalsePositives      float64 `json:"false_positive_ratio"` // of all runs
	MedianFaultSeconds  float64 `json:"median_fault_s"`
	WorstFaultSeconds   float64 `json:"worst_fault_s"`
	MedianHealthySecond float64 `json:"median_healthy_s"`
	WorstHealthySeconds float64 `json:"worst_healthy_s"`
}

// Good reports whether every run passed.
func (t Totals) Good() bool { return t.Runs > 0 && t.Passed == t.Runs }

// Score runs scenarios and adds up. Scenarios that an ordinary user cannot
// answer are left out when o.User is nobody. When ctx ends, the error says so and
// the scoreboard holds what was done.
func Score(ctx context.Context, scenarios []*Scenario, o ScoreOptions) (Scoreboard, error) {
	b := Scoreboard{Date: time.Now(), Kernel: kernelRelease(), User: o.User, Repeat: max(o.Repeat, 1)}
	var todo []*Scenario
	for _, s := range scenarios {
		if !(o.User == "nobody" && s.RootOnly) {
			todo = append(todo, s)
		}
	}
	b.Runs = make([][]RunResult, len(todo))
	r := scoreRun{o: o, board: &b, total: len(todo) * b.Repeat, parallel: max(o.Parallel, 1)}
	for range b.Repeat {
		r.round(ctx, todo, false)
		r.round(ctx, todo, true)
	}
	b.sum()
	return b, ctx.Err()
}

// scoreRun is the state of a Score under way.
type scoreRun struct {
	o        ScoreOptions
	total    int
	parallel int
	mu       sync.Mutex // guards the rest
	board    *Scoreboard
	done     int
}

// round runs each scenario once: the exclusive ones alone, or the others
// several at a time.
func (r *scoreRun) round(ctx context.Context, todo []*Scenario, exclusive bool) {
	parallel := r.parallel
	if exclusive {
		parallel = 1
	}
	var wg sync.WaitGroup
	work := make(chan int)
	for range parallel {
		wg.Go(func() {
			for i := range work {
				if ctx.Err() == nil {
					res, err := Run(ctx, todo[i], r.o.Options)
					r.record(ctx, i, res, err)
				}
			}
		})
	}
	for i, s := range todo {
		if s.Exclusive == exclusive {
			work <- i
		}
	}
	close(work)
	wg.Wait()
}

func (r *scoreRun) record(ctx context.Context, i int, res RunResult, err error) {
	if ctx.Err() != nil { // half a run says nothing
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		res.Outcome = Failed
		if res.Reason == "" {
			res.Reason = err.Error()
		}
	}
	r.board.Runs[i] = append(r.board.Runs[i], res)
	r.done++
	if r.o.Progress != nil {
		r.o.Progress(r.done, r.total, res)
	}
}

// sum makes the lines and totals out of the runs. It is pure.
func (b *Scoreboard) sum() {
	b.Lines, b.Totals = nil, Totals{}
	var faultSeconds, healthySeconds []float64
	t := &b.Totals
	for _, runs := range b.Runs {
		if len(runs) == 0 {
			continue
		}
		line := newScoreLine(runs)
		b.Lines = append(b.Lines, line)
		t.Scenarios++
		if line.Runs == 0 {
			t.Skipped++
			continue
		}
		if line.Kind == Fault {
			t.Faults++
			t.FaultRuns += line.Runs
			t.IdentifiedRuns += line.Identified
		} else {
			t.Healthy++
		}
		t.Runs += line.Runs
		t.FalsePositiveRuns += line.FalsePositives
		for _, r := range runs {
			if r.Outcome == Passed {
				t.Passed++
			}
			if len(r.Asks) > 0 && r.Kind == Fault {
				faultSeconds = append(faultSeconds, r.Seconds())
			} else if len(r.Asks) > 0 {
				healthySeconds = append(healthySeconds, r.Seconds())
			}
		}
	}
	t.Identified, t.FalsePositives = ratio(t.IdentifiedRuns, t.FaultRuns), ratio(t.FalsePositiveRuns, t.Runs)
	t.MedianFaultSeconds, t.WorstFaultSeconds = medianAndWorst(faultSeconds)
	t.MedianHealthySecond, t.WorstHealthySeconds = medianAndWorst(healthySeconds)
}

func newScoreLine(runs []RunResult) ScoreLine {
	l := ScoreLine{Scenario: runs[0].Scenario, Title: runs[0].Title, Kind: runs[0].Kind, Outcome: Skipped}
	order := []Outcome{Skipped, Passed, Slow, FalsePositive, Missed, Failed}
	var seconds []float64
	note := func(s string) {
		if s != "" && !slices.Contains(l.Notes, s) {
			l.Notes = append(l.Notes, s)
		}
	}
	for _, r := range runs {
		if slices.Index(order, r.Outcome) > slices.Index(order, l.Outcome) {
			l.Outcome = r.Outcome
		}
		note(r.Reason)
		if r.Outcome == Skipped {
			continue
		}
		l.Runs++
		l.count(r, note)
		if len(r.Asks) > 0 {
			seconds = append(seconds, r.Seconds())
		}
	}
	l.MedianSeconds, l.WorstSeconds = medianAndWorst(seconds)
	return l
}

// count adds one run to a line.
func (l *ScoreLine) count(r RunResult, note func(string)) {
	if r.Outcome == Failed {
		l.Failed++
	} else if r.Identified() {
		l.Identified++
	}
	if len(r.FalsePositives()) > 0 {
		l.FalsePositives++
	}
	slow := false
	l.Causes = nil
	for _, a := range r.Asks {
		l.Verdict = a.Verdict
		l.Causes = append(l.Causes, a.Causes...)
		note(a.Error)
		for _, m := range a.Judged.Missed {
			note("missed: " + m)
		}
		for _, f := range a.Judged.FalsePositives {
			note("false: " + f)
		}
		slow = slow || a.Slow
	}
	if slow {
		l.Slow++
		note(fmt.Sprintf("slow: %.1f s", r.Seconds()))
	}
}

func ratio(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

func medianAndWorst(v []float64) (median, worst float64) {
	if len(v) == 0 {
		return 0, 0
	}
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2, v[n-1]
}

// WriteTable writes the scoreboard for a terminal.
func (b Scoreboard) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SCENARIO\tKIND\tOUTCOME\tRIGHT\tFALSE\tVERDICT\tSECONDS\tCAUSES")
	for _, l := range b.Lines {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d/%d\t%d\t%s\t%.1f\t%s\n", l.Scenario, l.Kind, l.Outcome, l.Identified, l.Runs, l.FalsePositives, orDash(l.Verdict), l.WorstSeconds, causesText(l.Causes))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write scoreboard: %w", err)
	}
	var s strings.Builder // notes would tear the columns apart
	for _, l := range b.Lines {
		for _, n := range l.Notes {
			fmt.Fprintf(&s, "\n%s: %s", l.Scenario, plain(n))
		}
	}
	s.WriteString("\n\n" + strings.Join(b.Totals.sentences(), "\n") + "\n")
	if _, err := io.WriteString(w, s.String()); err != nil {
		return fmt.Errorf("write scoreboard: %w", err)
	}
	return nil
}
