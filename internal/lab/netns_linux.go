package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// prefix begins the name of every namespace of the lab.
const prefix = "fathomlab-"

// space is a network namespace that this process made.
type space struct {
	name string // as ip netns shows it
	ns   netns.NsHandle
	nl   *netlink.Handle // opened inside
}

// prepareNetnsDir makes /run/netns a shared mount of its own, as `ip netns add`
// does, so that namespaces are seen, and go away, in other mount namespaces too.
func prepareNetnsDir(ctx context.Context) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w (the lab needs root)", netnsDir, err)
	}
	lock, err := lockFile(ctx, "netns.lock", true) // two that bind at once would stack mounts
	if err != nil {
		return err
	}
	defer lock.Close()
	err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", netnsDir, err)
	}
	if err := unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share %s: %w", netnsDir, err)
	}
	return nil
}

// newSpace makes a namespace and its name under /run/netns.
func newSpace(name string) (*space, error) {
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	f.Close()
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			errc <- err
			return
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		errc <- unix.Mount(self, path, "none", unix.MS_BIND, "")
	}()
	if err := <-errc; err != nil {
		return nil, fmt.Errorf("make namespace %s: %w (needs root: CAP_SYS_ADMIN)", name, err)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	nl, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("open netlink in namespace %s: %w", name, err)
	}
	return &space{name: name, ns: ns, nl: nl}, nil
}

// do runs f on a thread inside the namespace. It may be called from several
// goroutines. Sockets and processes that f itself makes belong to the namespace;
// goroutines that f starts do not. A panic in f reaches the caller.
func (s *space) do(f func() error) error {
	type outcome struct {
		err      error
		panicked any
		stack    []byte
	}
	c := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() { c <- o }()
		runtime.LockOSThread()
		here, err := netns.Get()
		if err != nil {
			o.err = fmt.Errorf("find own namespace: %w", err)
			runtime.UnlockOSThread()
			return
		}
		defer here.Close()
		if err := netns.Set(s.ns); err != nil {
			o.err = fmt.Errorf("enter namespace %s: %w", s.name, err)
			runtime.UnlockOSThread()
			return
		}
		defer func() {
			if p := recover(); p != nil {
				o.panicked, o.stack = p, debug.Stack()
			}
			if netns.Set(here) == nil { // otherwise the thread must end with this goroutine
				runtime.UnlockOSThread()
			}
		}()
		o.err = f()
	}()
	o := <-c
	if o.panicked != nil {
		panic(fmt.Sprintf("%v\nin namespace %s:\n%s", o.panicked, s.name, o.stack))
	}
	return o.err
}

func (s *space) close() {
	s.nl.Close()
	s.ns.Close()
}

// removeNamespace takes the name away; the namespace itself ends with its last
// process and socket.
func removeNamespace(name string) error {
	path := filepath.Join(netnsDir, name)
	if filepath.Base(path) != name || len(name) <= len(prefix) || name[:len(prefix)] != prefix {
		return fmt.Errorf("remove namespace %q: not one of the lab", name)
	}
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // EINVAL: made, but not yet mounted
		return fmt.Errorf("unmount namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}
