// Package nstest runs tests of collectors in a network namespace of their own
// and as another user, without a second process.
package nstest

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"fathom/internal/testkit"

	"golang.org/x/sys/unix"
)

// Run runs f in a fresh network namespace, with lo up, on a thread of its own
// that ends afterwards and takes the namespace with it. f must not call
// t.Fatal; it may start goroutines only for work without new sockets.
func Run(t testing.TB, f func()) {
	t.Helper()
	testkit.NeedRoot(t)
	thread(t, func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		IP(t, "link set lo up")
		f()
	})
}

// AsNobody runs f on a thread that has uid and gid 65534 and no capabilities,
// in the network namespace of the caller: Linux keeps credentials per thread.
func AsNobody(t testing.TB, f func()) {
	t.Helper()
	testkit.NeedRoot(t)
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
		return
	}
	defer ns.Close()
	thread(t, func() {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Errorf("setns: %v", err)
			return
		}
		const nobody = 65534
		_, _, e1 := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESGID, nobody, nobody, nobody)
		_, _, e3 := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody)
		if e1 != 0 || e2 != 0 || e3 != 0 {
			t.Errorf("drop privileges: %v %v %v", e1, e2, e3)
			return
		}
		f()
	})
}

// thread runs f on a locked thread that is never used again.
func thread(t testing.TB, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread
		f()
	}()
	<-done
}

// Cmd runs a program in the namespace of the calling thread and returns what
// it printed; a failure is a test error.
func Cmd(t testing.TB, line string) string {
	t.Helper()
	out, err := run(t, line)
	if err != nil {
		stderr := ""
		if e, ok := err.(*exec.ExitError); ok {
			stderr = string(e.Stderr)
		}
		t.Errorf("%s: %v: %s", line, err, stderr)
	}
	return string(out)
}

// TryCmd is Cmd for a program whose failure is no error: a ping without an answer.
func TryCmd(t testing.TB, line string) string {
	t.Helper()
	out, _ := run(t, line)
	return string(out)
}

func run(t testing.TB, line string) ([]byte, error) {
	t.Helper()
	args := strings.Fields(line)
	return exec.Command(testkit.NeedTool(t, args[0]), args[1:]...).Output()
}

// IP runs ip with each of the lines.
func IP(t testing.TB, lines ...string) {
	t.Helper()
	for _, l := range lines {
		Cmd(t, "ip "+l)
	}
}

// Nft loads a ruleset.
func Nft(t testing.TB, ruleset string) {
	t.Helper()
	c := exec.Command(testkit.NeedTool(t, "nft"), "-f", "-")
	c.Stdin = strings.NewReader(ruleset)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("nft: %v: %s", err, out)
	}
}
