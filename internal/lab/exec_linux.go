package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Program is something to run inside a node.
type Program struct {
	Path   string   // absolute
	Args   []string // without the program's own name
	User   string   // root | nobody
	Env    map[string]string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// Started is called in between, with the program running.
	Started func()
}

// nobody is the unprivileged user of all Linux systems that have one (and a
// plain number on the others).
const nobody = 65534

// killDelay is what a program gets to end after it was told to.
const killDelay = 2 * time.Second

// Exec runs a program in a node: in its network namespace, with its resolv.conf,
// hosts and nsswitch.conf, with /sys of that namespace, trusting the lab's CA and
// nothing else, and without the machine's resolver daemon. When ctx ends the
// program gets SIGTERM, then SIGKILL. When this process dies it dies too.
//
// The mounts are made by a thread that has left the process's mount namespace;
// the program inherits them from it, and they vanish with it. No re-execution of
// this binary is needed.
func (n *Network) Exec(ctx context.Context, node string, p Program) error {
	sp := n.spaces[node]
	if sp == nil {
		return fmt.Errorf("run %s: no node %q", filepath.Base(p.Path), node)
	}
	errc := make(chan error, 1)
	go func() {
		// Never unlocked: the thread must live as long as the program (the
		// death signal is tied to it), and must not be used for anything else.
		runtime.LockOSThread()
		path, err := n.enter(node, sp, p.Path)
		if err == nil {
			err = n.execHere(ctx, node, path, p)
		}
		errc <- err
	}()
	return <-errc
}

// enter moves the calling thread into the node and prepares its mounts.
func (n *Network) enter(node string, sp *space, program string) (path string, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil { // implies CLONE_FS: only this thread
		return "", fmt.Errorf("leave mount namespace: %w (needs root)", err)
	}
	if err := unix.Mount("", "/", "none", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("detach mounts: %w", err)
	}
	if err := netns.Set(sp.ns); err != nil {
		return "", fmt.Errorf("enter namespace %s: %w", sp.name, err)
	}
	if err := unix.Mount("fathomlab", "/sys", "sysfs", 0, ""); err != nil { // shows the devices of the mounter's network
		return "", fmt.Errorf("mount sysfs: %w", err)
	}
	for _, f := range []string{fileResolv, fileHosts, fileNSS} {
		if err := bindOver(filepath.Join(n.dir, node, f), filepath.Join("/etc", f), f != fileNSS); err != nil {
			return "", err
		}
	}
	if err := hideResolverDaemon(); err != nil {
		return "", err
	}
	// The program may lie where only root may go.
	path = filepath.Join(n.dir, "bin", filepath.Base(program))
	if err := os.WriteFile(path, nil, 0o755); err != nil && !errors.Is(err, unix.ETXTBSY) {
		return "", fmt.Errorf("bind program: %w", err)
	}
	if err := unix.Mount(program, path, "none", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("bind program %s: %w", program, err)
	}
	return path, nil
}

// bindOver puts one file in another's place.
func bindOver(from, to string, must bool) error {
	real, err := filepath.EvalSymlinks(to)
	if err == nil {
		err = unix.Mount(from, real, "none", unix.MS_BIND, "")
	} else if !must {
		return nil // no nsswitch.conf: programs use "files dns"
	}
	if err != nil {
		return fmt.Errorf("put the node's file over %s: %w (create an empty one on this machine)", to, err)
	}
	return nil
}

// hideResolverDaemon covers the sockets by which a program could ask the
// machine's own systemd-resolved: Unix sockets do not respect network namespaces.
func hideResolverDaemon() error {
	for _, d := range []string{"/run/systemd/resolve", "/run/dbus", "/run/nscd"} {
		if _, err := os.Stat(d); err != nil {
			continue
		}
		if err := unix.Mount("fathomlab", d, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64k"); err != nil {
			return fmt.Errorf("hide %s: %w", d, err)
		}
	}
	return nil
}

// execHere starts the program from the calling thread and waits for it.
func (n *Network) execHere(ctx context.Context, node, path string, p Program) error {
	cmd := exec.CommandContext(ctx, path, p.Args...)
	cmd.Args[0] = p.Path
	cmd.Dir = filepath.Join(n.dir, "work")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
	cmd.Env = n.env(node, p)
	// A process group of its own, so that what the program has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if p.User == "nobody" {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = killDelay
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s in node %s: %w", p.Path, node, err)
	}
	if p.Started != nil {
		p.Started()
	}
	err := cmd.Wait()
	// The group's number is not given out again while a member lives; with none
	// left this is ESRCH.
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	return err
}

// env is a small, fixed environment, so that a run does not depend on the shell
// it was started from.
func (n *Network) env(node string, p Program) []string {
	e := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=" + os.Getenv("TERM"),
		"HOME=" + filepath.Join(n.dir, "work"), "TMPDIR=/tmp", "FATHOM_LAB=" + n.ID,
		"SSL_CERT_FILE=" + n.caBundle(node), "SSL_CERT_DIR=" + filepath.Join(n.dir, "certs"),
	}
	for k, v := range p.Env {
		e = append(e, k+"="+v)
	}
	return e
}

// capped keeps the first max bytes of what is written and forgets the rest.
type capped struct {
	mu  sync.Mutex
	b   []byte
	max int
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := c.max - len(c.b); room > 0 {
		c.b = append(c.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (c *capped) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b
}
