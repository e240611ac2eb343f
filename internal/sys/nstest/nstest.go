// Package nstest makes throw-away network namespaces for tests that need root.
// Nothing but tests may import it.
package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"fathom/internal/testkit"
)

var counter atomic.Int32

// NS is a network namespace that ends with the test.
type NS struct {
	t    testing.TB
	Name string
}

// New makes a namespace with the loopback interface up. The test is skipped
// without root (see testkit).
func New(t testing.TB) NS {
	t.Helper()
	testkit.NeedRoot(t)
	testkit.NeedTool(t, "ip")
	ns := NS{t, fmt.Sprintf("fhwire%d-%d", os.Getpid(), counter.Add(1))}
	Must(t, "ip", "netns", "add", ns.Name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns.Name).Run() })
	ns.IP("link set lo up")
	// Duplicate address detection would make IPv6 addresses wait for a second.
	ns.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	ns.Sysctl("net.ipv6.conf.all.accept_dad", "0")
	return ns
}

// IP runs ip(8) in the namespace with the words of args.
func (n NS) IP(args string) {
	n.t.Helper()
	Must(n.t, "ip", append([]string{"-n", n.Name}, strings.Fields(args)...)...)
}

// Exec runs a program in the namespace.
func (n NS) Exec(argv ...string) {
	n.t.Helper()
	Must(n.t, "ip", append([]string{"netns", "exec", n.Name}, argv...)...)
}

// Nft adds a base chain of family inet with nft(8): a hook and its rules, one
// a line.
func (n NS) Nft(hook string, rules ...string) {
	n.t.Helper()
	testkit.NeedTool(n.t, "nft")
	n.Exec("nft", fmt.Sprintf("table inet t_%s {\nchain c {\ntype filter hook %s priority 0\n%s\n}\n}\n", hook, hook, strings.Join(rules, "\n")))
}

// Sysctl writes a setting in the namespace.
func (n NS) Sysctl(name, value string) {
	n.t.Helper()
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	n.Do(func() {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			n.t.Fatalf("sysctl %s: %v", name, err)
		}
	})
}

// Do runs f on a thread of its own that is in the namespace: sockets that f
// opens belong to it; goroutines that f starts are elsewhere.
func (n NS) Do(f func()) { n.t.Helper(); n.do(f, 0) }

// DoAsUser is Do with the rights of user and group 65534, without capabilities.
func (n NS) DoAsUser(f func()) { n.t.Helper(); n.do(f, 65534) }

func (n NS) do(f func(), uid uintptr) {
	n.t.Helper()
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends with the goroutine and takes the namespace along.
		runtime.LockOSThread()
		err := n.enter(uid)
		defer func() { done <- err }() // also when f ends the goroutine by t.FailNow
		if err == nil {
			f()
		}
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("enter namespace %s: %v", n.Name, err)
	}
}

// enter moves the calling thread, and it alone: the raw system calls of x/sys
// do not change the other threads.
func (n NS) enter(uid uintptr) error {
	fd, err := unix.Open("/run/netns/"+n.Name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil || uid == 0 {
		return err
	}
	for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, uid, uid, uid}, {unix.SYS_SETRESUID, uid, uid, uid}} {
		if _, _, e := unix.RawSyscall(call[0], call[1], call[2], call[3]); e != 0 {
			return e
		}
	}
	return nil
}

// Veth joins two namespaces: interface name a in n, b in o.
func (n NS) Veth(a string, o NS, b string) {
	n.t.Helper()
	n.IP(fmt.Sprintf("link add %s type veth peer name %s netns %s", a, b, o.Name))
	n.IP("link set " + a + " up")
	o.IP("link set " + b + " up")
}

// Must runs a command and fails the test when it fails.
func Must(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
