package lab

import (
	"errors"
	"testing"

	"fathom/internal/testkit"
)

// scenarioDir holds the project's own scenarios.
const scenarioDir = "../../testdata/scenarios"

// TestScenarioFiles loads every scenario of the project: each must be valid, and
// there must be enough of both kinds for the scoreboard to mean something.
func TestScenarioFiles(t *testing.T) {
	all, err := LoadDir(scenarioDir)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[Kind]int{}
	causes := map[string]bool{}
	for _, s := range all {
		kinds[s.Kind]++
		for _, a := range s.Ask {
			for _, f := range a.Expect.Findings() {
				for _, c := range f.Causes() {
					causes[c] = true
				}
			}
		}
	}
	if kinds[Fault] < 52 || kinds[Healthy] < 26 {
		t.Errorf("%d fault and %d healthy scenarios, want at least 52 and 26", kinds[Fault], kinds[Healthy])
	}
	if len(causes) < 40 {
		t.Errorf("the scenarios expect %d different causes, want at least 40", len(causes))
	}
}

// TestScenariosBuild builds each network and takes it down again, without asking
// fathom. Exclusive ones are left out: they change the whole machine.
func TestScenariosBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds every network: takes minutes")
	}
	testkit.NeedRoot(t)
	all, err := LoadDir(scenarioDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Exclusive {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			n, err := Build(t.Context(), s)
			if missing := (*MissingError)(nil); errors.As(err, &missing) {
				t.Skip(missing)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
