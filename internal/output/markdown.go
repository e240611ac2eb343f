package output

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"

	"fathom/internal/diagnose"
)

// CausesMarkdown writes docs/causes.md: the catalogue of causes, from the rules.
func CausesMarkdown(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString("<!-- Code generated from internal/diagnose by fathom. DO NOT EDIT. -->\n\n# Causes\n\n")
	fmt.Fprintf(&b, "The %d causes that fathom can name, from the bottom layer up. `fathom explain CAUSE` shows the same in a terminal.\n", len(diagnose.Rules))
	for _, l := range layers {
		fmt.Fprintf(&b, "\n## %s\n\n| cause | in short |\n|---|---|\n", strings.ToUpper(l.word[:1])+l.word[1:])
		for _, r := range diagnose.Rules {
			if r.Layer == l.id {
				fmt.Fprintf(&b, "| %s | %s |\n", causeLink(r.ID), strings.ReplaceAll(markdown(r.Title), "|", `\|`))
			}
		}
		for i := range diagnose.Rules {
			if diagnose.Rules[i].Layer == l.id {
				causeMarkdown(&b, &diagnose.Rules[i])
			}
		}
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write causes: %w", err)
	}
	return nil
}

func causeMarkdown(b *bytes.Buffer, r *diagnose.Rule) {
	fmt.Fprintf(b, "\n### %s\n\n**%s** %s\n", r.ID, markdown(fullStop(r.Title)), markdown(r.Explanation))
	fmt.Fprintf(b, "\n*How it is told apart.* %s\n", markdown(r.TellApart))
	markdownList(b, "What to do", r.Remedy)
	markdownList(b, "Check the fix", r.Validate)
	if r.Sceptic != "" {
		fmt.Fprintf(b, "\n*See for yourself:*\n\n```sh\n%s\n```\n", r.Sceptic)
	}
	if s := symptoms(r); s != "" {
		fmt.Fprintf(b, "\n*What it brings about.* %s\n", markdown(s))
	}
	if r.Needs != "" {
		fmt.Fprintf(b, "\n*Needs* %s\n", markdown(r.Needs))
	}
	if len(r.References) > 0 {
		fmt.Fprintf(b, "\n*References:* %s\n", markdown(strings.Join(r.References, "; ")))
	}
}

func markdownList(b *bytes.Buffer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "\n*%s:*\n\n", title)
	for _, l := range lines {
		fmt.Fprintf(b, "- %s\n", markdown(l))
	}
}

var (
	markdownSpecial = strings.NewReplacer("<", "&lt;", "*", `\*`, "`", "\\`", "[", `\[`, "]", `\]`)
	causeName       = regexp.MustCompile(`\b[a-z0-9]+\.[a-z0-9_]+\b`)
)

// markdown escapes prose and links the causes it names.
func markdown(s string) string {
	return causeName.ReplaceAllStringFunc(markdownSpecial.Replace(s), func(id string) string {
		if diagnose.RuleByID(id) == nil {
			return id
		}
		return causeLink(id)
	})
}

// causeLink links to a heading by the name that GitHub and Gitea give it.
func causeLink(id string) string {
	return "[`" + id + "`](#" + strings.ReplaceAll(id, ".", "") + ")"
}
