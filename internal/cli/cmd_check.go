package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"fathom/internal/config"
	"fathom/internal/output"
)

// checkOptions are the flags of check.
type checkOptions struct {
	json, v4, v6, insecure bool
	noPath                 bool
	concurrency, count     int
	timeout                time.Duration
}

func (a *app) checkCommand() *cobra.Command {
	o := checkOptions{}
	c := &cobra.Command{
		Use:   "check FILE.yaml",
		Short: "Health check of a list of targets: ping, port, DNS, path, HTTP",
		Long: `Measures each target of the file, many at a time: echo requests, the port, the
resolution of the name by each resolver, the path, and the page when there is a
URL. A target is well when its name resolves, its port is open (or, without
port, it answers echo requests), its page has the right status and loss is not
proven to be above 1 %. It tells what is; fathom why tells why.

The file is YAML:

  targets:
    - example.com:443
    - https://example.com/
    - {name: database, host: db.example.com, port: 5432}
    - {url: "https://example.com/health", expect_status: [200, 204]}
  timeout: 10s

Exit codes: 0 all are well, 1 at least one is not, 2 it could not be checked.`,
		Example: "  fathom check targets.yaml\n  fathom check targets.yaml --json --concurrency 100\n  echo 'targets: [example.com:443]' | fathom check -",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("expected one file of targets (- is stdin)")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.check(c, o, args[0]) },
	}
	f := c.Flags()
	f.SortFlags = false
	jsonFlag(c, &o.json)
	f.IntVar(&o.concurrency, "concurrency", 32, "targets at the same time")
	f.DurationVar(&o.timeout, "timeout", 0, "for each target (default the file's, or 15s)")
	f.IntVar(&o.count, "count", 10, "echo requests to each target")
	f.BoolVar(&o.noPath, "no-path", false, "do not trace the path")
	f.BoolVarP(&o.v4, "ipv4", "4", false, "IPv4 only")
	f.BoolVarP(&o.v6, "ipv6", "6", false, "IPv6 only")
	f.BoolVar(&o.insecure, "insecure", false, "a bad certificate is no fault")
	return c
}

func (o *checkOptions) validate(c *cobra.Command) error {
	switch {
	case o.concurrency < 1 || o.concurrency > 1000:
		return usagef("--concurrency %d: expected 1 to 1000", o.concurrency)
	case o.count < 1 || o.count > 1000:
		return usagef("--count %d: expected 1 to 1000", o.count)
	case o.timeout != 0 && (o.timeout < 100*time.Millisecond || o.timeout > time.Hour):
		return usagef("--timeout %s: expected 100ms to 1h", o.timeout)
	}
	return exclusive(c, "together nothing is left", "ipv4", "ipv6")
}

func (a *app) check(c *cobra.Command, o checkOptions, path string) error {
	if err := o.validate(c); err != nil {
		return err
	}
	tf, err := config.LoadTargets(path, a.in)
	if err != nil {
		return err
	}
	if o.timeout == 0 {
		o.timeout = tf.Timeout
	}
	if o.timeout == 0 {
		o.timeout = 15 * time.Second
	}
	done := a.checkProgress(o, len(tf.Targets))
	rep, err := runChecks(c.Context(), o, tf.Targets, done)
	a.clearProgress(o)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return errors.New("interrupted before anything was measured")
		}
		return err
	}
	if o.json {
		err = output.JSON(a.out, rep)
	} else {
		err = a.showChecks(rep)
	}
	if err != nil {
		return err
	}
	switch {
	case rep.Summary.Problem > 0:
		return exit(exitProblem)
	case rep.Summary.Unknown > 0:
		return exit(exitFailed)
	}
	return nil
}

func (a *app) showChecks(rep checkReport) error {
	var rows []output.CheckRow
	for _, r := range rep.Targets {
		rows = append(rows, r.row())
	}
	if err := output.CheckTable(a.out, rows, a.outputOptions(false)); err != nil {
		return err
	}
	if rep.Interrupted {
		_, err := fmt.Fprintln(a.out, "Interrupted: targets not measured are unknown.")
		return err
	}
	return nil
}

// checkProgress counts on a terminal what is done.
func (a *app) checkProgress(o checkOptions, total int) func(done int) {
	if _, ok := isTerminal(a.out); !ok || o.json {
		return func(int) {}
	}
	return func(done int) { fmt.Fprintf(a.out, "\r%d of %d targets measured", done, total) }
}

func (a *app) clearProgress(o checkOptions) {
	if _, ok := isTerminal(a.out); ok && !o.json {
		fmt.Fprint(a.out, "\r\x1b[K")
	}
}
