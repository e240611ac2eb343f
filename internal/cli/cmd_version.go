package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"fathom/internal/output"
	"fathom/internal/version"
)

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version, the commit and the Go version",
		Example: "  fathom version\n  fathom version --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := version.Get()
			if asJSON {
				return output.JSON(a.out, v)
			}
			_, err := fmt.Fprintln(a.out, v)
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}
