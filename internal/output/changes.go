package output

import (
	"fmt"
	"io"
	"strings"

	"fathom/internal/diagnose"
)

// Changes writes what is different in after, for --watch, each line with the
// time of after: findings that are new, gone, worse or elsewhere, and areas of
// the checklist that changed state. Numbers alone that wander are no change. It
// answers false, and writes nothing, when nothing changed.
func Changes(w io.Writer, before, after diagnose.Report, o Options) bool {
	p := newPage(o)
	stamp := after.Started.Add(after.Elapsed.Std()).UTC().Format("15:04:05")
	say := func(mark string, st style, word, text string) {
		lead := p.paint(faint, stamp) + "  " + p.paint(st, mark+" "+pad(word, 7)) + "  "
		p.para(lead, 8+2+9+2, 12, plainText, text)
	}
	if before.Verdict != after.Verdict {
		mark, st := p.verdictMark(after.Verdict)
		m, word, _ := strings.Cut(mark, " ")
		say(m, st, word, p.clean(after.Headline)+fmt.Sprintf(" (was %s)", p.clean(string(before.Verdict))))
	}
	old, now := byKey(before.Findings), byKey(after.Findings)
	for _, f := range after.Findings {
		b, was := old[keyOf(f)]
		what := p.clean(f.Cause) + " " + p.clean(f.Subject)
		switch {
		case !was:
			say(p.severityMark(f.Severity), severityStyle(f.Severity), "new", fmt.Sprintf("%s, %s: %s", what, p.clean(string(f.Severity)), p.clean(f.Summary)))
		case b.Severity != f.Severity:
			say("~", severityStyle(f.Severity), "changed", fmt.Sprintf("%s: was %s, is %s. %s", what, p.clean(string(b.Severity)), p.clean(string(f.Severity)), p.clean(f.Summary)))
		case b.Location != f.Location:
			say("~", severityStyle(f.Severity), "moved", fmt.Sprintf("%s: was %s, is %s", what, p.clean(b.Location), p.clean(f.Location)))
		}
	}
	for _, f := range before.Findings {
		if _, still := now[keyOf(f)]; still {
			continue
		}
		text := p.clean(f.Cause) + " " + p.clean(f.Subject)
		if root := explainedBy(after.Findings, f); root != "" {
			text += ": now known as a symptom of " + p.clean(root)
		}
		say(p.glyph("✓", "+"), good, "gone", text)
	}
	for _, c := range after.Checks {
		was := stateOf(before.Checks, c.Area)
		if was == diagnose.StateRunning || c.State == diagnose.StateRunning {
			continue // one of the rounds ran out of time: that says nothing
		}
		if was != c.State && was != "" {
			mark, st := p.stateMark(c.State)
			say(mark, st, p.clean(c.State), p.clean(c.Area)+": "+p.clean(c.Text)+" (was "+p.clean(was)+")")
		}
	}
	if p.buf.Len() == 0 {
		return false
	}
	return p.flush(w) == nil
}

type findingKey struct{ cause, subject string }

func keyOf(f diagnose.Finding) findingKey { return findingKey{f.Cause, f.Subject} }

func byKey(fs []diagnose.Finding) map[findingKey]diagnose.Finding {
	m := make(map[findingKey]diagnose.Finding, len(fs))
	for _, f := range fs {
		m[keyOf(f)] = f
	}
	return m
}

func explainedBy(fs []diagnose.Finding, f diagnose.Finding) string {
	for _, root := range fs {
		for _, x := range root.Explains {
			if x.Cause == f.Cause && x.Subject == f.Subject {
				return root.Cause
			}
		}
	}
	return ""
}

func stateOf(cs []diagnose.CheckLine, area string) string {
	for _, c := range cs {
		if c.Area == area {
			return c.State
		}
	}
	return ""
}
