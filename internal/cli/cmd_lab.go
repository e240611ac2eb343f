package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"fathom/internal/config"
	"fathom/internal/lab"
	"fathom/internal/output"
)

// labOptions are the flags that the lab's commands share.
type labOptions struct {
	dir, user, binary string
	json              bool
}

func (a *app) labCommand() *cobra.Command {
	o := &labOptions{}
	c := &cobra.Command{
		Use:   "lab",
		Short: "Throw-away networks with faults: to try fathom, to prove its rules",
		Long: `Builds a network of namespaces from a scenario file (docs/lab.md), breaks it in a
known way, asks fathom what is wrong and compares the answer with the truth.
Nothing outside of the namespaces is touched. It needs root.`,
		Example: "  fathom lab list\n  fathom lab run mtu-blackhole-at-hop-2\n  fathom lab play healthy-silent-router\n  fathom lab score",
		RunE:    unknownCommand,
	}
	c.PersistentFlags().StringVar(&o.dir, "dir", filepath.Join("testdata", "scenarios"), "`DIRECTORY` of the scenario files")
	c.AddCommand(a.labListCommand(o), a.labRunCommand(o), a.labPlayCommand(o), a.labScoreCommand(o))
	return c
}

func (a *app) labListCommand(o *labOptions) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the scenarios", Example: "  fathom lab list --json", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := lab.LoadDir(o.dir)
			if len(all) == 0 && err != nil {
				return fmt.Errorf("%w (--dir names the directory)", err)
			}
			if o.json {
				type line struct {
					Name  string   `json:"name"`
					Kind  lab.Kind `json:"kind"`
					Title string   `json:"title"`
					Path  string   `json:"path"`
				}
				list := []line{}
				for _, s := range all {
					list = append(list, line{s.Name, s.Kind, s.Title, s.Path})
				}
				return errors.Join(output.JSON(a.out, list), err)
			}
			width := 0
			for _, s := range all {
				width = max(width, len(s.Name))
			}
			for _, s := range all {
				fmt.Fprintf(a.out, "%-*s  %-7s  %s\n", width, s.Name, s.Kind, output.Sanitize(s.Title))
			}
			return err
		},
	}
	jsonFlag(c, &o.json)
	return c
}

// scenario finds one by its name in the directory, or by its path.
func (o *labOptions) scenario(name string) (*lab.Scenario, error) {
	if strings.ContainsRune(name, '/') || strings.HasSuffix(name, ".yaml") {
		return lab.LoadFile(name)
	}
	s, err := lab.LoadFile(filepath.Join(o.dir, name+".yaml"))
	if !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	var names []string
	all, lerr := lab.LoadDir(o.dir)
	for _, s := range all {
		names = append(names, s.Name)
	}
	if len(all) == 0 && lerr != nil {
		return nil, fmt.Errorf("scenario %s: %w (--dir names the directory)", name, lerr)
	}
	err = fmt.Errorf("there is no scenario %q in %s", name, o.dir)
	if n := config.Nearest(name, names); n != "" {
		err = fmt.Errorf("%w; did you mean %s?", err, n)
	}
	return nil, err
}

// scenarios are those named, or all.
func (o *labOptions) scenarios(names []string) ([]*lab.Scenario, error) {
	if len(names) == 0 {
		return lab.LoadDir(o.dir)
	}
	var out []*lab.Scenario
	for _, n := range names {
		s, err := o.scenario(n)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (o *labOptions) completeScenarios(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, _ := lab.LoadDir(o.dir) // a broken file must not keep the others from being offered
	var out []string
	for _, s := range all {
		out = append(out, s.Name+"\t"+s.Title)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (o *labOptions) askFlags(c *cobra.Command) {
	c.Flags().StringVar(&o.user, "user", "", "ask as root or nobody, whatever the scenario says")
	c.Flags().StringVar(&o.binary, "binary", "", "ask this `PROGRAM` instead of this fathom")
}

func (o *labOptions) options() (lab.Options, error) {
	if o.user != "" && o.user != "root" && o.user != "nobody" {
		return lab.Options{}, usagef("--user %s: expected root or nobody", o.user)
	}
	return lab.Options{Binary: o.binary, User: o.user}, nil
}

func (a *app) labRunCommand(o *labOptions) *cobra.Command {
	c := &cobra.Command{
		Use: "run SCENARIO...", Short: "Build a network, ask fathom, judge the answer",
		Example:           "  fathom lab run mtu-blackhole-at-hop-2\n  fathom lab run --user nobody ./my-scenario.yaml",
		ValidArgsFunction: o.completeScenarios,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("which scenario? fathom lab list names them")
			}
			return a.labRun(c, o, args)
		},
	}
	o.askFlags(c)
	jsonFlag(c, &o.json)
	return c
}

func (a *app) labRun(c *cobra.Command, o *labOptions, args []string) error {
	opts, err := o.options()
	if err != nil {
		return err
	}
	list, err := o.scenarios(args)
	if err != nil {
		return err
	}
	results, failed := []lab.RunResult{}, false
	for _, s := range list {
		r, err := lab.Run(c.Context(), s, opts)
		if err != nil {
			return err
		}
		results = append(results, r)
		failed = failed || r.Outcome != lab.Passed && r.Outcome != lab.Skipped
		if !o.json {
			a.labResult(r)
		}
	}
	if o.json {
		if err := output.JSON(a.out, results); err != nil {
			return err
		}
	}
	if failed {
		return exit(exitProblem)
	}
	return nil
}

func (a *app) labResult(r lab.RunResult) {
	fmt.Fprintf(a.out, "%s: %s (%.1f s)\n", output.Sanitize(r.Scenario), r.Outcome, r.Seconds())
	if r.Reason != "" {
		fmt.Fprintf(a.out, "  %s\n", output.Sanitize(r.Reason))
	}
	for _, ask := range r.Asks {
		fmt.Fprintf(a.out, "  fathom %s: %s: %s\n", output.Sanitize(strings.Join(ask.Args, " ")), ask.Verdict, output.Sanitize(ask.Headline))
		if ask.Error != "" {
			fmt.Fprintf(a.out, "    error: %s\n", output.Sanitize(ask.Error))
		}
		for _, m := range ask.Judged.Missed {
			fmt.Fprintf(a.out, "    missed: %s\n", output.Sanitize(m))
		}
		for _, f := range ask.Judged.FalsePositives {
			fmt.Fprintf(a.out, "    false:  %s\n", output.Sanitize(f))
		}
	}
}

func (a *app) labPlayCommand(o *labOptions) *cobra.Command {
	c := &cobra.Command{
		Use: "play SCENARIO", Short: "Build a network and keep it until Ctrl-C, to look around in it",
		Example:           "  fathom lab play mtu-blackhole-at-hop-2",
		ValidArgsFunction: o.completeScenarios,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("which scenario? one at a time")
			}
			opts, err := o.options()
			if err != nil {
				return err
			}
			s, err := o.scenario(args[0])
			if err != nil {
				return err
			}
			return lab.Play(c.Context(), s, a.out, opts)
		},
	}
	o.askFlags(c)
	return c
}

func (a *app) labScoreCommand(o *labOptions) *cobra.Command {
	var repeat, parallel int
	var markdown string
	c := &cobra.Command{
		Use: "score [SCENARIO...]", Short: "Run the scenarios and count what was found, missed and made up",
		Example:           "  fathom lab score\n  fathom lab score --repeat 3 --markdown docs/scoreboard.md",
		ValidArgsFunction: o.completeScenarios,
		RunE: func(c *cobra.Command, args []string) error {
			if repeat < 1 || repeat > 1000 || parallel < 1 || parallel > 64 {
				return usagef("--repeat must be 1 to 1000, --parallel 1 to 64")
			}
			return a.labScore(c, o, args, repeat, parallel, markdown)
		},
	}
	c.Flags().IntVar(&repeat, "repeat", 1, "runs of each scenario")
	c.Flags().IntVar(&parallel, "parallel", 1, "scenarios at the same time")
	c.Flags().StringVar(&markdown, "markdown", "", "write the scoreboard to `FILE` as well")
	o.askFlags(c)
	jsonFlag(c, &o.json)
	return c
}

func (a *app) labScore(c *cobra.Command, o *labOptions, args []string, repeat, parallel int, markdown string) error {
	opts, err := o.options()
	if err != nil {
		return err
	}
	list, err := o.scenarios(args)
	if err != nil {
		return err
	}
	so := lab.ScoreOptions{Options: opts, Repeat: repeat, Parallel: parallel}
	so.Progress = func(done, total int, r lab.RunResult) {
		fmt.Fprintf(a.err, "[%d/%d] %s: %s (%.1f s)\n", done, total, output.Sanitize(r.Scenario), r.Outcome, r.Seconds())
	}
	b, err := lab.Score(c.Context(), list, so)
	if err != nil && len(b.Lines) == 0 {
		return err
	}
	if markdown != "" {
		if werr := writeFile(markdown, b.WriteMarkdown); werr != nil {
			return errors.Join(err, werr)
		}
	}
	show := b.WriteTable
	if o.json {
		show = b.WriteJSON
	}
	if err := errors.Join(show(a.out), err); err != nil {
		return err
	}
	if b.Totals.Passed < b.Totals.Runs {
		return exit(exitProblem)
	}
	return nil
}
