package cli

import (
	"slices"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that completes fathom's commands in a shell",
		Long: `Prints a script for the shell. To have it in every new shell:

  bash   fathom completion bash > /etc/bash_completion.d/fathom
  zsh    fathom completion zsh > "${fpath[1]}/_fathom"
  fish   fathom completion fish > ~/.config/fish/completions/fathom.fish`,
		Example:   "  source <(fathom completion bash)",
		ValidArgs: shells,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				return usagef("which shell? bash, zsh or fish")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(a.out, true)
			case "zsh":
				return c.Root().GenZshCompletion(a.out)
			}
			return c.Root().GenFishCompletion(a.out, true)
		},
	}
}
