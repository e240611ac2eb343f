package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// childArg is the hidden first argument by which this binary runs one service.
const childArg = "__fathom-lab-service"

// childStop is how long a child may take to stop before it is killed.
const childStop = 5 * time.Second

// hello is what the child says on its standard output once it serves.
type hello struct {
	Addrs []string `json:"addrs,omitempty"`
	Error string   `json:"error,omitempty"`
}

// Child runs a service if this process was started for that, until its standard
// input ends. The main function (and TestMain) must call it before anything else:
//
//	if is, code := service.Child(); is {
//		os.Exit(code)
//	}
func Child() (is bool, exitCode int) {
	if len(os.Args) != 2 || os.Args[1] != childArg {
		return false, 0
	}
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	svc, err := childStart(in)
	if err != nil {
		_ = out.Encode(hello{Error: err.Error()})
		return true, 1
	}
	_ = out.Encode(hello{Addrs: svc.Addrs()})
	_, _ = io.Copy(io.Discard, in) // the parent stops us by closing it, and by dying
	if err := svc.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	return true, 0
}

func childStart(in *bufio.Reader) (Service, error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read the service's description: %w", err)
	}
	var spec Spec
	if err := json.Unmarshal(line, &spec); err != nil {
		return nil, fmt.Errorf("read the service's description: %w", err)
	}
	// /proc/self/comm is the main thread's, the one that ps and fathom show;
	// prctl would name whatever thread we happen to run on.
	if err := os.WriteFile("/proc/self/comm", []byte(spec.comm()), 0); err != nil {
		return nil, fmt.Errorf("take the name %s: %w", spec.comm(), err)
	}
	if spec.NoFile > 0 {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: spec.NoFile, Max: spec.NoFile}); err != nil {
			return nil, fmt.Errorf("limit descriptors to %d: %w", spec.NoFile, err)
		}
	}
	spec.Process, spec.NoFile = false, 0
	return Start(context.Background(), func(f func() error) error { return f() }, spec)
}

// child is a service in a process of its own.
type child struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer
	addrs  []string
	exited chan struct{} // closed after the process is gone
	once   sync.Once
	detach func() bool

	mu       sync.Mutex
	stopping bool
	err      error
}

// startChild starts this binary again, inside the namespace, and waits until the
// service serves.
func startChild(ctx context.Context, inNS InNS, spec Spec) (Service, error) {
	what := "start service " + spec.name() + " in a process of its own"
	desc, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	c := &child{name: spec.name(), exited: make(chan struct{})}
	c.cmd = exec.Command("/proc/self/exe", childArg)
	c.cmd.Args[0] = spec.comm()
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // Ctrl-C is for the parent to handle
	c.cmd.Env = []string{}
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	c.stdin = stdin
	var complaint tail
	c.cmd.Stderr = &complaint
	if err := c.spawn(inNS, &complaint); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	detach := context.AfterFunc(ctx, func() { _ = c.Stop() }) // may run at once
	c.mu.Lock()
	c.detach = detach
	c.mu.Unlock()
	if _, err := stdin.Write(append(desc, '\n')); err != nil {
		return nil, fmt.Errorf("%s: %w", what, errors.Join(err, c.Stop()))
	}
	var h hello
	err = json.NewDecoder(io.LimitReader(stdout, 1<<20)).Decode(&h)
	if err == nil && h.Error != "" {
		err = errors.New(h.Error)
	} else if err != nil {
		err = fmt.Errorf("no word from it: %w (the program's main must call service.Child)", err)
	}
	if err != nil {
		c.mu.Lock()
		c.stopping = true
		c.mu.Unlock()
		_ = c.Stop()
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	c.addrs = h.Addrs
	return c, nil
}

// spawn starts the process on a thread of its own that lives as long as the
// process: the kernel sends Pdeathsig when the *thread* that forked ends, so
// neither a short-lived thread of inNS nor one of the Go scheduler will do.
func (c *child) spawn(inNS InNS, complaint *tail) error {
	ns := -1
	err := inNS(func() (err error) {
		ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("open its network namespace: %w", err)
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := enter(ns)
		unix.Close(ns)
		if err == nil {
			err = c.cmd.Start()
		}
		started <- err
		if err != nil {
			close(c.exited)
			return
		}
		err = c.cmd.Wait()
		c.mu.Lock()
		if !c.stopping {
			c.err = fmt.Errorf("service %s: its process ended by itself: %s %s", c.name, c.cmd.ProcessState, complaint)
		} else if err != nil && complaint.String() != "" {
			c.err = fmt.Errorf("service %s: %s", c.name, complaint)
		}
		c.mu.Unlock()
		close(c.exited)
	}()
	return <-started
}

// enter puts this thread into a network namespace, unless it is there already,
// which needs no privilege.
func enter(ns int) error {
	var want, have unix.Stat_t
	if unix.Fstat(ns, &want) == nil && unix.Stat("/proc/thread-self/ns/net", &have) == nil && want.Ino == have.Ino && want.Dev == have.Dev {
		return nil
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter its network namespace: %w (needs CAP_SYS_ADMIN)", err)
	}
	return nil
}

// Stop ends the process; see Service.
func (c *child) Stop() error {
	c.once.Do(func() {
		c.mu.Lock()
		select {
		case <-c.exited:
		default:
			c.stopping = true
		}
		c.mu.Unlock()
		_ = c.stdin.Close()
		t := time.NewTimer(childStop)
		defer t.Stop()
		select {
		case <-c.exited:
		case <-t.C:
			_ = c.cmd.Process.Kill()
			<-c.exited
		}
		c.mu.Lock()
		detach := c.detach
		c.mu.Unlock()
		if detach != nil {
			detach()
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Addrs are the child's listening addresses.
func (c *child) Addrs() []string { return append([]string(nil), c.addrs...) }

// PID is the child's.
func (c *child) PID() int { return c.cmd.Process.Pid }

// Stats are not told across processes.
func (c *child) Stats() map[string]uint64 { return map[string]uint64{} }

// tail keeps the last bytes that a child wrote to its standard error.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - 2000; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
