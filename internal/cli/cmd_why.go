package cli

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"fathom/internal/agent"
	"fathom/internal/config"
	"fathom/internal/diagnose"
	"fathom/internal/output"
	"fathom/internal/version"
)

// whyOptions are the flags of why.
type whyOptions struct {
	json, nagios, quick, deep, v4, v6, redact bool
	passive, insecure, verbose, noLive        bool
	watch, timeout, iface, source             string
	file, save, from                          string
	anchors, resolve                          []string
}

func (a *app) whyCommand() *cobra.Command {
	var o whyOptions
	c := &cobra.Command{
		Use:   "why [TARGET...]",
		Short: "Diagnose this host and its way out, or the way to targets",
		Long: `Measures all layers at the same time and says what is wrong, where and why, with
the evidence; or that nothing is.

Without a target it looks at the links, the addresses, the neighbours, the
gateway, the resolvers, a way out and this host's own stack. With targets it
looks at all that and at the way to them. A target is

  example.com          a host, by name or address
  example.com:443      a TCP port of it; [2001:db8::1]:443 for IPv6
  https://example.com/ a page; http, https, tcp, udp, tls, dns and icmp are known

The way out is judged by whether one of the anchors answers an echo request:
1.1.1.1, 9.9.9.9 and 2606:4700:4700::1111 unless others are given. A host that
is cut off on purpose is described as such: --anchor none asks nobody outside.

It works without root, and says what root would add. Ctrl-C gives the verdict
from what was measured so far.

Exit codes: 0 healthy, 1 a problem was found, 2 fathom could not do it or too
little could be measured to say. With --nagios those of monitoring plugins.`,
		Example: `  fathom why
  fathom why example.com 192.0.2.7:5432
  fathom why https://example.com/ --deep
  fathom why --file targets.yaml --json
  fathom why example.com --save run.json     and later: fathom why --from run.json
  fathom why --from run.json --redact --save for-a-bug-report.json
  fathom why example.com --watch=30`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(c, args); err != nil {
				return err
			}
			return a.why(c.Context(), o, args)
		},
	}
	o.register(c)
	return c
}

func (o *whyOptions) register(c *cobra.Command) {
	f := c.Flags()
	f.SortFlags = false
	jsonFlag(c, &o.json)
	f.BoolVar(&o.nagios, "nagios", false, "one line and the exit code of a monitoring plugin")
	f.StringVar(&o.watch, "watch", "", "again every `SECONDS` (60 if none are given), printing what changed")
	f.Lookup("watch").NoOptDefVal = "60"
	f.BoolVar(&o.quick, "quick", false, "answer within 10 s (the default)")
	f.BoolVar(&o.deep, "deep", false, "dig for up to 30 s")
	f.StringVar(&o.timeout, "timeout", "", "answer within this `DURATION` instead, such as 5s")
	f.StringVar(&o.iface, "iface", "", "measure through this `INTERFACE`")
	f.StringVar(&o.source, "source", "", "measure from this local `ADDRESS`")
	f.BoolVarP(&o.v4, "ipv4", "4", false, "IPv4 only")
	f.BoolVarP(&o.v6, "ipv6", "6", false, "IPv6 only")
	f.StringVar(&o.file, "file", "", "read targets from this YAML `FILE` (- is stdin)")
	f.StringVar(&o.save, "save", "", "save the evidence to `FILE` (- is stdout)")
	f.StringVar(&o.from, "from", "", "measure nothing, judge the evidence in `FILE` (- is stdin)")
	f.BoolVar(&o.redact, "redact", false, "replace names, addresses and the like by pseudonyms, in what is shown and saved")
	f.BoolVar(&o.passive, "passive", false, "send nothing except to the targets named (and to the resolvers, for their names)")
	f.StringArrayVar(&o.anchors, "anchor", nil, "an `ADDRESS` that stands for the outside (repeatable), or none")
	f.BoolVar(&o.insecure, "insecure", false, "go on after a bad certificate (it is still reported)")
	f.StringArrayVar(&o.resolve, "resolve", nil, "use an address for a host whatever it resolves to, as `HOST:ADDRESS` (repeatable)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show all that was ruled out and how to check")
	f.BoolVar(&o.noLive, "no-live", false, "no checklist while measuring")
}

// check refuses combinations that mean nothing.
func (o *whyOptions) check(c *cobra.Command, args []string) error {
	for _, err := range []error{
		exclusive(c, "one output at a time", "json", "nagios"),
		exclusive(c, "they are opposites", "quick", "deep"),
		exclusive(c, "together nothing is left", "ipv4", "ipv6"),
		exclusive(c, "saved evidence does not change", "from", "watch"),
		exclusive(c, "a plugin is called again by its scheduler", "nagios", "watch"),
		exclusive(c, "each round would overwrite the file", "save", "watch"),
	} {
		if err != nil {
			return err
		}
	}
	if o.from != "" {
		if len(args) > 0 {
			return usagef("--from judges what was measured then; the target %q cannot be added", args[0])
		}
		for _, n := range []string{"file", "deep", "quick", "timeout", "iface", "source", "ipv4", "ipv6", "passive", "anchor", "resolve", "insecure"} {
			if c.Flags().Changed(n) {
				return usagef("--%s is about measuring, and --from measures nothing", n)
			}
		}
	}
	if o.save == "-" && (o.json || o.nagios) {
		return usagef("--save - and --%s would both write to stdout", map[bool]string{true: "json", false: "nagios"}[o.json])
	}
	return nil
}

func (a *app) why(ctx context.Context, o whyOptions, args []string) error {
	if o.from != "" {
		e, err := config.LoadEvidence(o.from, a.in)
		if err != nil {
			return err
		}
		_, err = a.conclude(e, o)
		return err
	}
	q, budget, err := o.question(args, a)
	if err != nil {
		return err
	}
	if o.watch != "" {
		every, err := watchInterval(o.watch)
		if err != nil {
			return err
		}
		return a.watch(ctx, o, q, budget, every)
	}
	e, err := a.investigate(ctx, o, q, budget)
	if err != nil {
		return err
	}
	_, err = a.conclude(e, o)
	return err
}

// investigate measures, with the checklist on the terminal while it lasts, and
// returns the evidence as it would be read back from a file.
func (a *app) investigate(ctx context.Context, o whyOptions, q diagnose.Question, budget time.Duration) (*diagnose.Evidence, error) {
	opts := agent.Options{Question: q, Budget: budget, Version: version.Get().Version}
	stop := func() {}
	if !o.noLive && !o.json && !o.nagios && !o.redact && o.save != "-" {
		if f, ok := isTerminal(a.out); ok {
			live := output.NewLive(f, a.outputOptions(o.verbose))
			live.Start()
			opts.OnUpdate = func(e *diagnose.Evidence) { live.Update(checklist(e)) }
			stop = live.Finish
		}
	}
	e, err := agent.Investigate(ctx, opts)
	stop()
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("interrupted before anything was measured")
		}
		return nil, err
	}
	e.Interrupted = ctx.Err() != nil
	return config.Normalise(e)
}

// checklist is how far e has come.
func checklist(e *diagnose.Evidence) []diagnose.CheckLine {
	if e.Before == nil {
		return diagnose.Checklist(e, diagnose.Report{}) // nothing to decide from yet
	}
	return diagnose.Decide(e).Checks
}

// decide is Decide, and says so when the user did not let it finish.
func decide(e *diagnose.Evidence) diagnose.Report {
	r := diagnose.Decide(e)
	if e.Interrupted {
		r.Notes = append(r.Notes, "Interrupted: judged from what had been measured so far.")
	}
	return r
}

// conclude redacts, saves and shows; its error is the exit code.
func (a *app) conclude(e *diagnose.Evidence, o whyOptions) (diagnose.Report, error) {
	if o.redact {
		e = diagnose.Redact(e)
	}
	r := decide(e)
	if o.save != "" {
		if err := config.SaveEvidence(o.save, a.out, e); err != nil {
			return r, err
		}
		if o.save == "-" {
			return r, verdictExit(r.Verdict)
		}
	}
	switch {
	case o.json:
		if err := output.JSON(a.out, r); err != nil {
			return r, err
		}
	case o.nagios:
		return r, codeExit(output.Nagios(a.out, r, output.PerfOf(e)...))
	default:
		if err := output.Text(a.out, r, a.outputOptions(o.verbose)); err != nil {
			return r, err
		}
	}
	return r, verdictExit(r.Verdict)
}

func codeExit(code int) error {
	if code == exitHealthy {
		return nil
	}
	return exit(code)
}

func verdictExit(v diagnose.Verdict) error {
	switch v {
	case diagnose.Healthy:
		return nil
	case diagnose.Faulty:
		return exit(exitProblem)
	}
	return exit(exitFailed)
}

func watchInterval(s string) (time.Duration, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		d, derr := time.ParseDuration(s)
		if derr != nil {
			return 0, usagef("--watch=%s: expected a number of seconds", s)
		}
		n = d.Seconds()
	}
	if !(n >= 1 && n <= 86400) {
		return 0, usagef("--watch=%s: expected 1 to 86400 seconds", s)
	}
	return time.Duration(n * float64(time.Second)), nil
}

// question is what the flags and arguments ask.
func (o *whyOptions) question(args []string, a *app) (q diagnose.Question, budget time.Duration, err error) {
	q = diagnose.Question{Anchors: config.DefaultAnchors(), Deep: o.deep, Passive: o.passive, V4Only: o.v4, V6Only: o.v6, Link: o.iface}
	for _, arg := range args {
		t, err := config.ParseTarget(arg)
		if err != nil {
			return q, 0, usageError{err}
		}
		q.Targets = append(q.Targets, t)
	}
	if o.file != "" {
		tf, err := config.LoadTargets(o.file, a.in)
		if err != nil {
			return q, 0, err
		}
		for _, t := range tf.Targets {
			q.Targets = append(q.Targets, t.Target)
		}
		if tf.AnchorsSet {
			q.Anchors, q.AnchorsGiven = tf.Anchors, true
		}
		budget = tf.Timeout
	}
	if n := len(q.Targets); n > config.MaxWhyTargets {
		return q, 0, fmt.Errorf("%d targets are more than the %d that one diagnosis can look at; fathom check takes %d", n, config.MaxWhyTargets, config.MaxFileTargets)
	}
	if len(o.anchors) > 0 {
		q.AnchorsGiven = true
		if q.Anchors, err = config.ParseAnchors(o.anchors); err != nil {
			return q, 0, usageError{err}
		}
	}
	q.Anchors = slices.DeleteFunc(q.Anchors, func(x netip.Addr) bool { return o.v4 && x.Is6() || o.v6 && x.Is4() })
	if o.timeout != "" {
		if budget, err = config.ParseTimeout(o.timeout); err != nil {
			return q, 0, usagef("--timeout: %w", err)
		}
	}
	q.Targets = unrepeated(q.Targets)
	if err := o.applyToTargets(&q); err != nil {
		return q, 0, err
	}
	return q, budget, o.local(&q)
}

// unrepeated drops targets given twice: findings are told apart by their text.
func unrepeated(ts []diagnose.Target) []diagnose.Target {
	seen := map[string]bool{}
	return slices.DeleteFunc(ts, func(t diagnose.Target) bool {
		again := seen[t.Raw]
		seen[t.Raw] = true
		return again
	})
}

func (o *whyOptions) applyToTargets(q *diagnose.Question) error {
	pins := map[string]netip.Addr{}
	for _, s := range o.resolve {
		host, addr, err := config.ParsePin(s)
		if err != nil {
			return usageError{err}
		}
		if !slices.ContainsFunc(q.Targets, func(t diagnose.Target) bool { return t.Host == host }) {
			return usagef("--resolve %s: no target has the host %s", s, host)
		}
		pins[host] = addr
	}
	for i := range q.Targets {
		t := &q.Targets[i]
		t.Insecure = t.Insecure || o.insecure
		if a, ok := pins[t.Host]; ok {
			t.Pin = a
		}
		if a, ok := t.Literal(); ok && (o.v4 && a.Is6() || o.v6 && a.Is4()) {
			return usagef("target %s has an address of the other family than -4 or -6 allows", t.Raw)
		}
	}
	return nil
}

// local checks --iface and --source against what this host has.
func (o *whyOptions) local(q *diagnose.Question) error {
	if o.iface != "" {
		if _, err := net.InterfaceByName(o.iface); err != nil {
			return fmt.Errorf("--iface %s: there is no such interface%s", o.iface, nearestInterface(o.iface))
		}
	}
	if o.source == "" {
		return nil
	}
	src, err := netip.ParseAddr(o.source)
	if err != nil {
		return usagef("--source %s: expected an IP address of this host", o.source)
	}
	q.Source = src.Unmap()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list own addresses: %w", err)
	}
	for _, x := range addrs {
		if p, err := netip.ParsePrefix(x.String()); err == nil && p.Addr().Unmap() == q.Source.WithZone("") {
			return nil
		}
	}
	return fmt.Errorf("--source %s: this host does not have that address", q.Source)
}

func nearestInterface(name string) string {
	ifs, err := net.Interfaces()
	if err != nil {
		return ""
	}
	var names []string
	for _, i := range ifs {
		names = append(names, i.Name)
	}
	if n := config.Nearest(name, names); n != "" {
		return " (did you mean " + n + "?)"
	}
	return ""
}
