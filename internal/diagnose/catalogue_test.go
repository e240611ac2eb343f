package diagnose

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ruleVars lists the variables of type Rule declared in a file.
func ruleVars(t *testing.T, name string) (out []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if c, ok := v.Values[0].(*ast.CompositeLit); ok {
			if id, ok := c.Type.(*ast.Ident); ok && id.Name == "Rule" {
				out = append(out, v.Names[0].Name)
			}
		}
		return true
	})
	return out
}

// listed is what rules.go names, in order.
func listed(t *testing.T) (out []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "rules.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if c, ok := n.(*ast.CompositeLit); ok {
			for _, x := range c.Elts {
				if id, ok := x.(*ast.Ident); ok {
					out = append(out, id.Name)
				}
			}
		}
		return true
	})
	return out
}

// A rule that nobody lists compiles and never runs.
func TestEveryRuleFileIsListed(t *testing.T) {
	files, err := filepath.Glob("rule_*.go")
	if err != nil || len(files) < 50 {
		t.Fatalf("found %d rule files (%v): the test looks in the wrong place", len(files), err)
	}
	page := listed(t)
	if len(page) != len(Rules) {
		t.Fatalf("rules.go names %d rules, Rules has %d", len(page), len(Rules))
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		vars := ruleVars(t, f)
		if len(vars) != 1 {
			t.Errorf("%s declares %d rules %v, want 1: one file per cause", f, len(vars), vars)
		}
		for _, v := range vars {
			i := slices.Index(page, v)
			if i < 0 {
				t.Errorf("%s of %s is not on the page rules.go", v, f)
				continue
			}
			if want := "rule_" + strings.ReplaceAll(Rules[i].ID, ".", "_") + ".go"; f != want {
				t.Errorf("%s lies in %s, want %s", Rules[i].ID, f, want)
			}
			page[i] = ""
		}
	}
	for _, v := range page {
		if v != "" {
			t.Errorf("%s on rules.go has no file rule_*.go", v)
		}
	}
}

func TestEveryRuleSaysAllItsWords(t *testing.T) {
	id := regexp.MustCompile(`^[a-z0-9]+\.[a-z0-9_]+$`)
	layers := []Layer{LayerLink, LayerNetwork, LayerTransport, LayerName, LayerApplication}
	seen, titles := map[string]bool{}, map[string]bool{}
	for _, r := range Rules {
		if !id.MatchString(r.ID) {
			t.Errorf("id %q is not <area>.<cause>", r.ID)
		}
		if seen[r.ID] || titles[r.Title] {
			t.Errorf("%s (%q) is there twice", r.ID, r.Title)
		}
		seen[r.ID], titles[r.Title] = true, true
		if RuleByID(r.ID) == nil || RuleByID(r.ID).Title != r.Title {
			t.Errorf("RuleByID(%q) does not find it", r.ID)
		}
		if !slices.Contains(layers, r.Layer) {
			t.Errorf("%s: layer %q", r.ID, r.Layer)
		}
		if r.Check == nil {
			t.Errorf("%s has no Check", r.ID)
		}
		for name, s := range map[string]string{"Title": r.Title, "Explanation": r.Explanation, "TellApart": r.TellApart, "Sceptic": r.Sceptic} {
			if strings.TrimSpace(s) == "" || s != strings.TrimSpace(s) {
				t.Errorf("%s: %s is %q", r.ID, name, s)
			}
		}
		if strings.HasSuffix(r.Title, ".") || len(r.Title) > 80 {
			t.Errorf("%s: title %q is to be short and without a full stop", r.ID, r.Title)
		}
		if !strings.HasSuffix(r.Explanation, ".") || !strings.HasSuffix(r.TellApart, ".") {
			t.Errorf("%s: Explanation and TellApart are sentences", r.ID)
		}
		for name, l := range map[string][]string{"Remedy": r.Remedy, "Validate": r.Validate, "References": r.References} {
			if len(l) == 0 || slices.Contains(l, "") {
				t.Errorf("%s: %s is %q", r.ID, name, l)
			}
		}
	}
	if RuleByID("no.such_cause") != nil {
		t.Error("RuleByID finds what is not there")
	}
}

// foreseen are causes of the catalogue that rules explain already and that are
// still to be written.
var foreseen = []string{"edge.*", "path.congested", "path.corruption", "tcp.retransmissions", "dns.edns_broken"}

func matching(pattern string) (out []string) {
	area, whole := strings.CutSuffix(pattern, ".*")
	for _, r := range Rules {
		if whole && strings.HasPrefix(r.ID, area+".") || pattern == r.ID {
			out = append(out, r.ID)
		}
	}
	return out
}

func TestWhatRulesExplainExists(t *testing.T) {
	used := map[string]bool{}
	for _, r := range Rules {
		for _, p := range r.Explains {
			used[p] = true
			if len(matching(p)) == 0 && !slices.Contains(foreseen, p) {
				t.Errorf("%s explains %q: no such cause", r.ID, p)
			}
			if p == r.ID {
				t.Errorf("%s explains itself", r.ID)
			}
		}
		// Words that send the reader to another cause must name one.
		for _, m := range regexp.MustCompile(`\b(link|l2|ip|path|nat|fw|tcp|udp|dns|tls|http)\.[a-z][a-z0-9_]*[a-z0-9]\b`).FindAllString(r.Explanation+" "+r.TellApart, -1) {
			if RuleByID(m) == nil {
				t.Errorf("%s speaks of %s: no such cause", r.ID, m)
			}
		}
	}
	for _, p := range foreseen {
		if len(matching(p)) > 0 || !used[p] {
			t.Errorf("%s is written, or nobody explains it any more: take it off the list", p)
		}
	}
}

// An id never goes away once released: alerts, dashboards and scripts name it.
func TestNoCauseIsLost(t *testing.T) {
	for _, id := range strings.Fields(`
		link.flapping link.admin_down link.down link.speed_degraded link.errors link.saturated link.rx_drops link.qdisc_drops link.mtu_mismatch
		l2.neighbour_table_full l2.gateway_conflict l2.duplicate_ip l2.neighbour_failed
		ip.no_address ip.no_route ip.wrong_route ip.gateway_unreachable ip.routing_loop ip.blackhole_hop ip.host_down ip.filtered ip.v6_broken
		path.loss path.jitter path.latency_step path.mtu_blackhole nat.conntrack_full fw.local_drop
		tcp.refused tcp.filtered tcp.syn_loss tcp.listen_overflow tcp.ports_exhausted tcp.close_wait_leak udp.rcvbuf_overflow udp.no_port
		dns.resolver_down dns.first_resolver_dead dns.resolver_slow dns.resolver_servfail dns.resolver_lies dns.nxdomain dns.no_data
		tls.expired tls.not_yet_valid tls.name_mismatch tls.untrusted tls.expiring_soon tls.handshake_failed tls.handshake_slow
		http.server_error http.server_slow http.redirect_loop http.protocol_error http.h3_blocked`) {
		if RuleByID(id) == nil {
			t.Errorf("%s is gone", id)
		}
	}
}

// Every cause that a scenario expects can be named.
func TestScenariosExpectKnownCauses(t *testing.T) {
	files, err := filepath.Glob("../../testdata/scenarios/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios found (%v): the test looks in the wrong place", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\s*-?\s*cause: (\S+)\s*$`).FindAllStringSubmatch(string(b), -1) {
			if RuleByID(m[1]) == nil {
				t.Errorf("%s expects %s: no such cause", filepath.Base(f), m[1])
			}
		}
	}
}

// Every cause is shown to be found by a case of some table, and its harmless
// neighbour beside it: a rule without a test is a guess.
func TestEveryCauseHasACase(t *testing.T) {
	files, err := filepath.Glob("rules_*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	certificates := []string{"tls.expired", "tls.not_yet_valid", "tls.name_mismatch", "tls.untrusted"} // one table makes their names
	for _, r := range Rules {
		if !strings.Contains(all.String(), `cause: "`+r.ID+`"`) && !slices.Contains(certificates, r.ID) {
			t.Errorf("%s has no case in rules_*_test.go", r.ID)
		}
	}
}
