// Package cli turns a command line into calls of the packages that do the work,
// and their answers into text, JSON and an exit code. One file per command,
// cmd_<name>.go; all of them are listed in commands.go.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"fathom/internal/config"
	"fathom/internal/output"
)

// Exit codes (docs/cli.md).
const (
	exitHealthy = 0 // done; nothing wrong was found
	exitProblem = 1 // a problem was found
	exitFailed  = 2 // fathom could not do what was asked
)

// app is what commands share: the outside world.
type app struct {
	in       io.Reader
	out, err io.Writer
}

// exit is an error that only carries an exit code: what there was to say has been said.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a command line that means nothing; it comes with a pointer to the help.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Main runs fathom with the arguments behind the program's name and returns its exit code.
func Main(args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// The first Ctrl-C ends the measuring, the second one the program.
	defer context.AfterFunc(ctx, stop)()
	cobra.EnableCommandSorting = false // the order of commands.go is meant
	a := &app{in: in, out: out, err: errw}
	root := a.root()
	root.SetArgs(rewrite(root, args))
	cmd, err := root.ExecuteContextC(ctx)
	return a.exitCode(cmd, err)
}

func (a *app) exitCode(cmd *cobra.Command, err error) int {
	var code exit
	switch {
	case err == nil:
		return exitHealthy
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, syscall.EPIPE):
		return exitFailed // nobody reads any more: nothing to say to anybody
	}
	fmt.Fprintf(a.err, "fathom: %s\n", output.Sanitize(err.Error()))
	var usage usageError
	if errors.As(err, &usage) || isCobraUsage(err) {
		fmt.Fprintf(a.err, "Try: %s --help\n", cmd.CommandPath())
	}
	return exitFailed
}

// isCobraUsage recognises the errors that cobra makes itself, which have no type.
func isCobraUsage(err error) bool {
	for _, begin := range []string{"unknown command", "accepts ", "requires at least", "invalid argument"} {
		if strings.HasPrefix(err.Error(), begin) {
			return true
		}
	}
	return false
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "fathom [COMMAND | TARGET...]",
		Short: "Say what is wrong with a network, and prove it",
		Long: `fathom measures this host's network, or the way to a target, and says whether
it is healthy; and if not, which layer, where and why, with the evidence and
what to do. Without a command it diagnoses: "fathom" is "fathom why", and
"fathom example.com" is "fathom why example.com".

Exit codes: 0 healthy, 1 a problem was found, 2 fathom could not do it.`,
		Example: `  fathom                               this host and its way out
  fathom example.com                   the way to a host
  fathom https://example.com/          and whether the page is served
  fathom explain dns.resolver_down     what a cause means`,
		Args:              cobra.ArbitraryArgs,
		RunE:              unknownCommand,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .HasAvailableSubCommands}}\n  {{.CommandPath}} [command]{{end}}", "", 1))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{betterFlagError(c, err)} })
	root.AddGroup(
		&cobra.Group{ID: groupDiagnose, Title: "Diagnose:"}, &cobra.Group{ID: groupMeasure, Title: "Measure:"},
		&cobra.Group{ID: groupUnderstand, Title: "Understand:"}, &cobra.Group{ID: groupOther, Title: "Other:"})
	root.SetHelpCommandGroupID(groupOther)
	root.AddCommand(a.commands()...)
	return root
}

// rewrite makes "fathom", "fathom --json" and "fathom example.com" calls of why.
func rewrite(root *cobra.Command, args []string) []string {
	if len(args) == 0 {
		return []string{"why"}
	}
	first := args[0]
	switch {
	case first == "-h" || first == "--help":
		return args
	case first == "--version":
		return append([]string{"version"}, args[1:]...)
	case strings.HasPrefix(first, "-"):
		return append([]string{"why"}, args...)
	case first == "help" || strings.HasPrefix(first, "__"): // cobra's own
		return args
	}
	isCommand := slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == first || c.HasAlias(first) })
	if !isCommand && config.LooksLikeTarget(first) {
		return append([]string{"why"}, args...)
	}
	return args
}

// unknownCommand is the answer to a word that is neither a command nor looks like a target.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	var names []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			names = append(names, sub.Name())
		}
	}
	err := fmt.Sprintf("unknown command %q", args[0])
	if n := config.Nearest(args[0], names); n != "" {
		err += fmt.Sprintf(" (did you mean %q?)", n)
	}
	if !c.HasParent() {
		if _, perr := config.ParseTarget(args[0]); perr == nil {
			err += fmt.Sprintf(". To diagnose the way to a host of that name: fathom why %s", args[0])
		}
	}
	return usageError{errors.New(err)}
}

// betterFlagError says which flag was probably meant.
func betterFlagError(c *cobra.Command, err error) error {
	name, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !ok {
		return err
	}
	if n := config.Nearest(name, flagNames(c)); n != "" {
		return fmt.Errorf("%w (did you mean --%s?)", err, n)
	}
	return err
}

// noArgs and the like answer with our own words.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, but was given %q", c.CommandPath(), args[0])
	}
	return nil
}

// isTerminal reports whether w is a terminal, and the file if so.
func isTerminal(w any) (*os.File, bool) {
	f, ok := w.(*os.File)
	if !ok {
		return nil, false
	}
	return f, isTTY(f)
}

// outputOptions says what stdout can show.
func (a *app) outputOptions(verbose bool) output.Options {
	f, _ := a.out.(*os.File)
	o := output.DetectOptions(f)
	o.Verbose = verbose
	return o
}
