package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say how scenarios are run.
type Options struct {
	// Binary is the fathom to ask; "" is this program itself.
	Binary string
	// User overrides who asks: root or nobody; "" is what the scenario says.
	User string
	// ExtraArgs are put behind the arguments of every ask.
	ExtraArgs []string
}

// Outcome is one word for how a scenario went.
type Outcome string

// The outcomes, best first.
const (
	Passed        Outcome = "passed"         // identified (or found healthy), nothing false, in time
	Slow          Outcome = "slow"           // right, but later than max_seconds
	FalsePositive Outcome = "false positive" // something was reported that is not there
	Missed        Outcome = "missed"         // the cause, place or subject was not found
	Failed        Outcome = "failed"         // no report: fathom or the lab itself failed
	Skipped       Outcome = "skipped"        // this machine lacks something
)

// RunResult is one run of one scenario.
type RunResult struct {
	Scenario     string      `json:"scenario"`
	Title        string      `json:"title"`
	Kind         Kind        `json:"kind"`
	Outcome      Outcome     `json:"outcome"`
	Reason       string      `json:"reason,omitempty"` // of skipped and failed
	BuildSeconds float64     `json:"build_s"`
	Asks         []AskResult `json:"asks"`
}

// AskResult is one question with its answer.
type AskResult struct {
	Args     []string  `json:"args"`
	User     string    `json:"user"`
	Seconds  float64   `json:"seconds"` // from start to end of the program
	ExitCode int       `json:"exit_code"`
	Verdict  string    `json:"verdict,omitempty"`
	Headline string    `json:"headline,omitempty"`
	Causes   []string  `json:"causes,omitempty"` // of the top-level findings
	Judged   Judgement `json:"judged"`
	Slow     bool      `json:"slow,omitempty"`
	Error    string    `json:"error,omitempty"` // why there is no report

	Report []byte `json:"-"` // as fathom wrote it
	Stderr string `json:"stderr,omitempty"`
}

// Seconds is the longest answer.
func (r RunResult) Seconds() float64 {
	var worst float64
	for _, a := range r.Asks {
		worst = max(worst, a.Seconds)
	}
	return worst
}

// Identified reports whether every question was answered with what is expected.
func (r RunResult) Identified() bool {
	return len(r.Asks) > 0 && !slices.ContainsFunc(r.Asks, func(a AskResult) bool { return a.Error != "" || !a.Judged.Identified })
}

// FalsePositives are those of all questions.
func (r RunResult) FalsePositives() []string {
	var out []string
	for _, a := range r.Asks {
		out = append(out, a.Judged.FalsePositives...)
	}
	return out
}

// Bounds of what is kept of a program's output, in bytes.
const (
	maxReport = 64 << 20
	maxStderr = 64 << 10
)

// askGrace is how long beyond max_seconds fathom may take before it is killed:
// a late answer is worth more to the reader than none.
const askGrace = 20 * time.Second

// Run builds a scenario's network, asks fathom and judges the answers. The error
// is for what is wrong with the lab or when ctx ended; a wrong answer, a missing
// kernel feature and a fathom that fails are results.
func Run(ctx context.Context, s *Scenario, o Options) (res RunResult, err error) {
	res = RunResult{Scenario: s.Name, Title: s.Title, Kind: s.Kind, Outcome: Failed}
	binary, err := o.binary()
	if err != nil {
		return res, err
	}
	if _, err := CleanUp(); err != nil {
		return res, err
	}
	net, err := Build(ctx, s)
	var missing *MissingError
	if errors.As(err, &missing) {
		res.Outcome, res.Reason = Skipped, missing.Error()
		return res, nil
	}
	if err != nil {
		res.Reason = err.Error()
		return res, fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	defer func() {
		if cerr := net.Close(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("scenario %s: take down: %w", s.Name, cerr))
		}
	}()
	res.BuildSeconds = net.Built.Seconds()
	if res.Asks, err = net.askAll(ctx, binary, o); err != nil {
		res.Reason = err.Error()
		return res, fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	res.Outcome = res.outcome()
	return res, nil
}

func (o Options) binary() (string, error) {
	b := o.Binary
	if b == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find own program: %w", err)
		}
		b = exe
	}
	p, err := exec.LookPath(b)
	if err != nil {
		return "", fmt.Errorf("find the fathom to ask: %w", err)
	}
	return filepath.Abs(p)
}

// outcome is the one word for all asks together: the worst counts.
func (r RunResult) outcome() Outcome {
	switch {
	case slices.ContainsFunc(r.Asks, func(a AskResult) bool { return a.Error != "" }):
		return Failed
	case !r.Identified():
		return Missed
	case len(r.FalsePositives()) > 0:
		return FalsePositive
	case slices.ContainsFunc(r.Asks, func(a AskResult) bool { return a.Slow }):
		return Slow
	}
	return Passed
}

// askAll puts the questions one after the other while the timed events run. The
// clock of the events starts with the first question.
func (n *Network) askAll(ctx context.Context, binary string, o Options) ([]AskResult, error) {
	events := n.Scenario.timeline()
	clock := time.Now().Add(n.Scenario.lead(events))
	first, _ := slices.BinarySearchFunc(events, time.Duration(1), func(e Event, t time.Duration) int { return int(e.At - t) })
	if err := n.playEvents(ctx, events[:first], clock); err != nil {
		return nil, err
	}
	if err := sleepUntil(ctx, clock); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	played := make(chan error, 1)
	go func() {
		err := n.playEvents(ctx, events[first:], time.Now())
		if err != nil {
			stop() // no use to ask a network that is not as planned
		}
		played <- err
	}()
	var out []AskResult
	for _, a := range n.Scenario.Ask {
		if ctx.Err() != nil {
			break
		}
		out = append(out, n.ask(ctx, binary, a, o))
	}
	err := ctx.Err()
	stop()
	if perr := <-played; perr != nil {
		return out, perr
	}
	return out, err
}

func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// ask puts one question and judges the answer.
func (n *Network) ask(ctx context.Context, binary string, a Ask, o Options) AskResult {
	res := AskResult{User: a.User, Args: slices.Concat(a.Args, o.ExtraArgs)}
	if o.User != "" {
		res.User = o.User
	}
	if !slices.Contains(res.Args, "--json") {
		res.Args = append(res.Args, "--json")
	}
	limit := a.Timeout.Std()
	if limit == 0 {
		limit = a.Expect.Limit() + askGrace
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stdout, stderr := &capped{max: maxReport}, &capped{max: maxStderr}
	var began time.Time
	err := n.Exec(ctx, HostNode, Program{
		Path: binary, Args: res.Args, User: res.User, Env: a.Env, Stdout: stdout, Stderr: stderr, Started: func() { began = time.Now() },
	})
	if !began.IsZero() {
		res.Seconds = time.Since(began).Seconds()
	}
	res.Report, res.Stderr = stdout.bytes(), string(stderr.bytes())
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		res.Error = fmt.Sprintf("no answer within %s", limit)
		return res
	case errors.As(err, &exit): // 1 is fathom's way to say that it found a fault
		res.ExitCode = exit.ExitCode()
	case err != nil:
		res.Error = err.Error()
		return res
	}
	res.judge(a.Expect)
	return res
}

func (r *AskResult) judge(e *Expect) {
	rep, err := ParseReport(r.Report)
	if err != nil {
		r.Error = fmt.Sprintf("exit code %d: %v: %s", r.ExitCode, err, clip(strings.TrimSpace(r.Stderr)))
		return
	}
	r.Verdict, r.Headline = rep.Verdict, rep.Headline
	for _, f := range rep.Findings {
		r.Causes = append(r.Causes, f.Cause)
	}
	r.Judged = Judge(e, rep)
	r.Slow = r.Seconds > e.MaxSeconds
}
