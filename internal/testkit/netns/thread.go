package netns

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fathom/internal/testkit"
)

// errEnded is what thread returns when f ended its goroutine, as t.FailNow does.
var errEnded = errors.New("the function in the namespace ended the test")

// thread runs f on a locked thread that is never used again: it is not unlocked,
// so that the runtime ends it, and with it what f changed of it.
func thread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errEnded
		defer func() { done <- err }()
		err = f()
	}()
	return <-done
}

// becomeNobody drops the rights of the calling thread, and of it alone: raw
// system calls do not change the other threads, and Linux keeps credentials per thread.
func becomeNobody() error {
	const nobody = 65534
	for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, nobody, nobody, nobody}, {unix.SYS_SETRESUID, nobody, nobody, nobody}} {
		if _, _, e := unix.RawSyscall(call[0], call[1], call[2], call[3]); e != 0 {
			return fmt.Errorf("drop privileges: %w", e)
		}
	}
	return nil
}

// Run runs f in a fresh network namespace, with lo up and nothing else changed,
// on a thread of its own that ends afterwards and takes the namespace with it. f
// must not call t.Fatal; it may start goroutines only for work without new sockets.
func Run(t testing.TB, f func()) {
	t.Helper()
	testkit.NeedRoot(t)
	if err := thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		IP(t, "link set lo up")
		f()
		return nil
	}); err != nil && err != errEnded {
		t.Error(err)
	}
}

// AsNobody runs f on a thread that has uid and gid 65534 and no capabilities,
// in the network namespace of the caller.
func AsNobody(t testing.TB, f func()) {
	t.Helper()
	testkit.NeedRoot(t)
	fd, err := current()
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	if err := (&NS{t: t, fd: fd}).Do(func() error {
		if err := becomeNobody(); err != nil {
			return err
		}
		f()
		return nil
	}); err != nil && err != errEnded {
		t.Error(err)
	}
}

// Cmd runs a program in the namespace of the calling thread and returns what
// it printed; a failure is a test error.
func Cmd(t testing.TB, line string) string {
	t.Helper()
	out, err := output(t, line)
	if err != nil {
		var stderr []byte
		if e := (*exec.ExitError)(nil); errors.As(err, &e) {
			stderr = e.Stderr
		}
		t.Errorf("%s: %v: %s", line, err, stderr)
	}
	return string(out)
}

// TryCmd is Cmd for a program whose failure is no error: a ping without an answer.
func TryCmd(t testing.TB, line string) string {
	t.Helper()
	out, _ := output(t, line)
	return string(out)
}

func output(t testing.TB, line string) ([]byte, error) {
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
