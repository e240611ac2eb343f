package output

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"fathom/internal/diagnose"
	"fathom/sample"
)

// layers from the bottom up, with the words people use.
var layers = []struct {
	id   diagnose.Layer
	word string
}{
	{diagnose.LayerLink, "link"},
	{diagnose.LayerNetwork, "network"},
	{diagnose.LayerTransport, "transport"},
	{diagnose.LayerName, "dns"},
	{diagnose.LayerApplication, "application"},
}

func layerOf(cause string) diagnose.Layer {
	if r := diagnose.RuleByID(cause); r != nil {
		return r.Layer
	}
	return ""
}

// ruledOut tells what was looked for and is not there: on a healthy host how
// much, on a broken one also the lines that narrow the fault down best.
func (p *page) ruledOut(r diagnose.Report) {
	if len(r.RuledOut) == 0 {
		return
	}
	p.heading("Ruled out:", countByLayer(r.RuledOut))
	if p.Verbose {
		for _, l := range append(slices.Clone(layers), struct {
			id   diagnose.Layer
			word string
		}{"", "other"}) {
			p.ruledOutLayer(r.RuledOut, l.id, l.word)
		}
		return
	}
	for _, x := range telling(r) {
		p.item(labelIndent, p.glyph("·", "-"), p.clean(x.Cause)+": "+p.clean(x.Text))
	}
}

func (p *page) ruledOutLayer(all []diagnose.RuledOut, id diagnose.Layer, word string) {
	shown := false
	for _, x := range all {
		if layerOf(x.Cause) != id {
			continue
		}
		if !shown {
			p.line("  " + p.paint(faint, word))
			shown = true
		}
		p.item(2*labelIndent, p.glyph("·", "-"), p.clean(x.Cause)+": "+p.clean(x.Text))
	}
}

// countByLayer: "23 causes (link 6, network 9, dns 8)". A cause counts once
// however many interfaces or targets it was ruled out for.
func countByLayer(xs []diagnose.RuledOut) string {
	seen := map[string]bool{}
	count := map[diagnose.Layer]int{}
	for _, x := range xs {
		if !seen[x.Cause] {
			seen[x.Cause] = true
			count[layerOf(x.Cause)]++
		}
	}
	var parts []string
	for _, l := range layers {
		if n := count[l.id]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", l.word, n))
		}
	}
	if n := count[""]; n > 0 {
		parts = append(parts, fmt.Sprintf("other %d", n))
	}
	word := "causes"
	if len(seen) == 1 {
		word = "cause"
	}
	return fmt.Sprintf("%d %s (%s)", len(seen), word, strings.Join(parts, ", "))
}

// telling picks the lines that say most about the faults found: causes that
// are easily confused with them, and what is known good about the same subject.
// Nothing on a healthy host, where the checklist has said it.
func telling(r diagnose.Report) []diagnose.RuledOut {
	faults, _ := splitInfo(r.Findings)
	if len(faults) == 0 {
		return nil
	}
	type scored struct {
		diagnose.RuledOut
		score int
	}
	best := map[string]scored{} // one line per cause
	for _, x := range r.RuledOut {
		s := scored{x, 0}
		for _, f := range faults {
			s.score = max(s.score, kinship(x, f))
		}
		if old, ok := best[x.Cause]; !ok || s.score > old.score {
			best[x.Cause] = s
		}
	}
	var list []scored
	for _, s := range best {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b scored) int {
		return cmp.Or(b.score-a.score, ruleIndex(a.Cause)-ruleIndex(b.Cause), strings.Compare(a.Cause, b.Cause))
	})
	var out []diagnose.RuledOut
	for _, s := range list[:min(len(list), shortRuledOut)] {
		out = append(out, s.RuledOut)
	}
	return out
}

// kinship says how much a thing ruled out tells about a finding.
func kinship(x diagnose.RuledOut, f diagnose.Finding) (n int) {
	if rule := diagnose.RuleByID(f.Cause); rule != nil && strings.Contains(rule.TellApart, x.Cause) {
		n += 8 // the rule itself says that the two are confused
	}
	if x.Subject != "" && (x.Subject == f.Subject || strings.Contains(f.Subject, x.Subject) || strings.Contains(f.Location, x.Subject)) {
		n += 5
	}
	if area(x.Cause) == area(f.Cause) {
		n += 3
	}
	if rule := diagnose.RuleByID(x.Cause); rule != nil && explainsCause(rule, f.Cause) {
		n += 4 // it could have been the deeper cause
	}
	if f.Severity == sample.Critical {
		n++
	}
	return n
}

func area(cause string) string {
	a, _, _ := strings.Cut(cause, ".")
	return a
}

func explainsCause(rule *diagnose.Rule, cause string) bool {
	return slices.Contains(rule.Explains, cause) || slices.Contains(rule.Explains, area(cause)+".*")
}

func ruleIndex(cause string) int {
	i := slices.IndexFunc(diagnose.Rules, func(r diagnose.Rule) bool { return r.ID == cause })
	if i < 0 {
		return len(diagnose.Rules)
	}
	return i
}
