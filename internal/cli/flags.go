package cli

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

func isTTY(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func flagNames(c *cobra.Command) []string {
	var out []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			out = append(out, f.Name)
		}
	})
	return out
}

// jsonFlag is the same in every command that prints data.
func jsonFlag(c *cobra.Command, p *bool) {
	c.Flags().BoolVar(p, "json", false, "print JSON (stable: keys are only ever added)")
}

// exclusive reports a combination of flags that makes no sense, with a reason.
func exclusive(c *cobra.Command, reason string, names ...string) error {
	given := ""
	for _, n := range names {
		if !c.Flags().Changed(n) {
			continue
		}
		if given != "" {
			return usagef("--%s and --%s exclude each other: %s", given, n, reason)
		}
		given = n
	}
	return nil
}
