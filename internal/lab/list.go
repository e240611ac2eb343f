package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"fathom/internal/lab/service"
)

// MaybeChild must be the first thing in main of every program that uses the lab
// (and in TestMain): services with a process of their own are this program, run
// again. When handled is true, main must exit with the code at once.
func MaybeChild() (handled bool, exitCode int) { return service.Child() }

// Select picks scenarios by name and by tag; with neither it takes all. An
// unknown name is an error that suggests the nearest.
func Select(all []*Scenario, names, tags []string) ([]*Scenario, error) {
	var known []string
	for _, s := range all {
		known = append(known, s.Name)
	}
	for _, n := range names {
		if slices.Contains(known, n) {
			continue
		}
		if near := nearest(n, known); near != "" {
			return nil, fmt.Errorf("no scenario %q (did you mean %q?)", n, near)
		}
		return nil, fmt.Errorf("no scenario %q (fathom lab list shows them)", n)
	}
	var out []*Scenario
	for _, s := range all {
		byTag := slices.ContainsFunc(tags, func(t string) bool { return slices.Contains(s.Tags, t) })
		if len(names)+len(tags) == 0 || slices.Contains(names, s.Name) || byTag {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no scenario has a tag of %s", strings.Join(tags, ", "))
	}
	return out, nil
}

// WriteList writes the scenarios, one line each.
func WriteList(w io.Writer, all []*Scenario) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SCENARIO\tKIND\tTITLE\tTAGS")
	for _, s := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.Name, s.Kind, plain(s.Title), plain(strings.Join(s.Tags, " ")))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("list scenarios: %w", err)
	}
	return nil
}

// Write says how one run went: a line for the run, then what was wrong.
func (r RunResult) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s %s: %s\n", r.Outcome, r.Scenario, plain(r.Title))
	if r.Reason != "" {
		fmt.Fprintf(&b, "  %s\n", plain(r.Reason))
	}
	for _, a := range r.Asks {
		fmt.Fprintf(&b, "  fathom %s (as %s): %s in %.1f s: %s\n", plain(shellWords(a.Args)), a.User, orDash(a.Verdict), a.Seconds, plain(a.Headline))
		for _, m := range a.Judged.Missed {
			fmt.Fprintf(&b, "    missed: %s\n", plain(m))
		}
		for _, f := range a.Judged.FalsePositives {
			fmt.Fprintf(&b, "    false: %s\n", plain(f))
		}
		if a.Error != "" {
			fmt.Fprintf(&b, "    %s\n", plain(a.Error))
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}
