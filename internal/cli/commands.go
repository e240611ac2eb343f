package cli

import "github.com/spf13/cobra"

// The groups of `fathom --help`.
const (
	groupDiagnose   = "diagnose"
	groupMeasure    = "measure"
	groupUnderstand = "understand"
	groupOther      = "other"
)

// commands lists every command, in the order of the help. One file cmd_<name>.go each.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		grouped(groupDiagnose, a.whyCommand()),
		grouped(groupDiagnose, a.checkCommand()),
		grouped(groupMeasure, a.probeCommand()),
		grouped(groupMeasure, a.factsCommand()),
		grouped(groupUnderstand, a.explainCommand()),
		grouped(groupUnderstand, a.labCommand()),
		grouped(groupOther, a.versionCommand()),
		grouped(groupOther, a.completionCommand()),
		a.docsCommand(), // hidden: for the build
	}
}

func grouped(id string, c *cobra.Command) *cobra.Command {
	c.GroupID = id
	return c
}
