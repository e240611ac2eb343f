package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"fathom/internal/config"
	"fathom/internal/diagnose"
	"fathom/internal/output"
)

// explanation is a rule as JSON.
type explanation struct {
	Cause       string         `json:"cause"`
	Layer       diagnose.Layer `json:"layer"`
	Title       string         `json:"title"`
	Explanation string         `json:"explanation"`
	TellApart   string         `json:"tell_apart"`
	Remedy      []string       `json:"remedy"`
	Validate    []string       `json:"validate"`
	Sceptic     string         `json:"sceptic,omitempty"`
	References  []string       `json:"references,omitempty"`
	Needs       string         `json:"needs,omitempty"`
	Explains    []string       `json:"explains,omitempty"`
}

func explanationOf(r *diagnose.Rule) explanation {
	return explanation{r.ID, r.Layer, r.Title, r.Explanation, r.TellApart, r.Remedy, r.Validate, r.Sceptic, r.References, r.Needs, r.Explains}
}

func (a *app) explainCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain [CAUSE]",
		Short: "Explain a cause: what it means, how it is told apart, how it is mended",
		Long: `Explains a cause that fathom can find. Without a cause it lists all of them, by
layer; with the beginning of one (dns, or tls.e) those that begin so.`,
		Example:           "  fathom explain\n  fathom explain dns\n  fathom explain path.mtu_blackhole",
		ValidArgsFunction: completeCauses,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("explain takes one cause at a time")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.explain(allRules(), asJSON, false)
			}
			rules, err := findRules(args[0])
			if err != nil {
				return err
			}
			return a.explain(rules, asJSON, len(rules) == 1)
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func (a *app) explain(rules []*diagnose.Rule, asJSON, one bool) error {
	switch {
	case asJSON && one:
		return output.JSON(a.out, explanationOf(rules[0]))
	case asJSON:
		list := []explanation{}
		for _, r := range rules {
			list = append(list, explanationOf(r))
		}
		return output.JSON(a.out, list)
	case one:
		return output.Explain(a.out, rules[0], a.outputOptions(false))
	case len(rules) == len(diagnose.Rules):
		return output.ExplainList(a.out, a.outputOptions(false))
	}
	for _, r := range rules {
		if _, err := fmt.Fprintf(a.out, "%-24s %s\n", r.ID, r.Title); err != nil {
			return err
		}
	}
	return nil
}

func allRules() []*diagnose.Rule {
	var out []*diagnose.Rule
	for i := range diagnose.Rules {
		out = append(out, &diagnose.Rules[i])
	}
	return out
}

// findRules finds the rule of that id, or those whose ids begin so.
func findRules(word string) ([]*diagnose.Rule, error) {
	w := strings.TrimSuffix(strings.ToLower(word), ".*")
	if r := diagnose.RuleByID(w); r != nil {
		return []*diagnose.Rule{r}, nil
	}
	var out []*diagnose.Rule
	var ids, tails []string
	for _, r := range allRules() {
		if w != "" && strings.HasPrefix(r.ID, w) {
			out = append(out, r)
		}
		ids = append(ids, r.ID)
		_, tail, _ := strings.Cut(r.ID, ".")
		tails = append(tails, tail)
	}
	if len(out) > 0 {
		return out, nil
	}
	err := fmt.Errorf("there is no cause %q", word)
	near := config.Nearest(w, ids)
	if near == "" {
		if t := config.Nearest(w, tails); t != "" {
			for _, id := range ids {
				if strings.HasSuffix(id, "."+t) {
					near = id
				}
			}
		}
	}
	if near != "" {
		err = fmt.Errorf("%w; did you mean %s?", err, near)
	}
	return nil, fmt.Errorf("%w (fathom explain lists all)", err)
}

func completeCauses(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if len(args) == 0 {
		for _, r := range allRules() {
			out = append(out, r.ID+"\t"+r.Title)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
