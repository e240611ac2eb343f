// Package testkit holds what several packages' tests need: the gates for tests
// that want root or a tool. In CI those gates fail instead of skipping, so that
// green never means that nothing ran.
package testkit

import (
	"os"
	"os/exec"
	"testing"
)

// Strict reports whether a missing privilege or tool is a failure.
func Strict() bool { return os.Getenv("CI") == "true" || os.Getenv("FATHOM_STRICT") == "1" }

// Skip skips the test for lack of something, or fails it when Strict.
func Skip(t testing.TB, why string) {
	t.Helper()
	if Strict() {
		t.Fatalf("%s (a skip is a failure in CI)", why)
	}
	t.Skip(why)
}

// NeedRoot gates a test that makes network namespaces or raw sockets.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root")
	}
}

// NeedTool gates a test that compares with an outside program and returns its path.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "needs the program "+name+" (make test installs it)")
	}
	return p
}
