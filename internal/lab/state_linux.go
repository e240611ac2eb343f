package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Places of the lab. Both folders are on a tmpfs on usual systems, so that a
// reboot leaves nothing behind.
const (
	stateDir = "/run/fathom-lab"
	netnsDir = "/run/netns" // where `ip netns` looks
	etcNetns = "/etc/netns" // files that `ip netns exec` puts over those of /etc
)

// state is what a network has made, or is about to make, outside itself. It is
// on disk before the making, so that whatever is left by a killed lab is known.
type state struct {
	ID         string     `json:"id"`
	PID        int        `json:"pid"`
	StartTime  string     `json:"start_time"` // of the process, clock ticks since boot: tells a reused pid
	Boot       string     `json:"boot"`       // boot id: on a state folder that survives reboots everything else is void
	Namespaces []string   `json:"namespaces"`
	Dirs       []string   `json:"dirs"`    // to be removed with all that is in them
	Sysctls    []oldValue `json:"sysctls"` // global ones and what they were
}

type oldValue struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func newState(id string) (*state, error) {
	pid := os.Getpid()
	start, err := processStart(pid)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's folder: %w (the lab needs root)", err)
	}
	return &state{ID: id, PID: pid, StartTime: start, Boot: bootID()}, nil
}

func (s *state) file() string { return filepath.Join(stateDir, s.ID+".json") }

// save writes the state in one step; a reader never sees half of it.
func (s *state) save() error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	tmp := s.file() + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	if err := os.Rename(tmp, s.file()); err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	return nil
}

// undo removes everything the state names, then the state itself. It goes on
// after an error; what could not be undone stays in the file.
func (s *state) undo() error {
	var errs []error
	for i := len(s.Sysctls) - 1; i >= 0; i-- { // the first old value of a key is the true one
		o := s.Sysctls[i]
		if err := writeSysctl(o.Key, o.Value); err != nil {
			errs = append(errs, fmt.Errorf("restore: %w", err))
		}
	}
	for _, ns := range s.Namespaces {
		if err := removeNamespace(ns); err != nil {
			errs = append(errs, err)
		}
	}
	for _, d := range s.Dirs {
		if !strings.HasPrefix(d, stateDir+"/") && !strings.HasPrefix(d, etcNetns+"/"+prefix) {
			errs = append(errs, fmt.Errorf("remove %s: not a folder of the lab", d))
			continue
		}
		if err := os.RemoveAll(d); err != nil {
			errs = append(errs, fmt.Errorf("remove lab folder: %w", err))
		}
		if filepath.Dir(d) == etcNetns {
			_ = os.Remove(etcNetns) // works only when nothing else is in it
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := os.Remove(s.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove lab state: %w", err)
	}
	return nil
}

// CleanUp removes what lab processes that are no longer alive have left behind,
// and returns the ids of their networks. Every lab command calls it first.
func CleanUp() ([]string, error) {
	entries, err := os.ReadDir(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for left-over networks: %w", err)
	}
	// One cleaner at a time: two that both restore a sysctl are harmless, two
	// that unmount are noisy.
	lock, err := lockFile(context.Background(), "cleanup.lock", true)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	var done []string
	var errs []error
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		s, err := readState(filepath.Join(stateDir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) { // its owner, or another cleaner, was faster
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if s.ownerAlive() {
			continue
		}
		if s.Boot != bootID() {
			s.Sysctls = nil
		}
		if err := s.undo(); err != nil {
			errs = append(errs, fmt.Errorf("clean up network %s: %w", s.ID, err))
			continue
		}
		done = append(done, s.ID)
	}
	return done, errors.Join(errs...)
}

func readState(path string) (*state, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read lab state: %w", err)
	}
	s := new(state)
	if err := json.Unmarshal(b, s); err != nil || s.ID+".json" != filepath.Base(path) {
		return nil, fmt.Errorf("read lab state %s: not a state file of the lab; remove it by hand", path)
	}
	return s, nil
}

func (s *state) ownerAlive() bool {
	start, err := processStart(s.PID)
	return err == nil && start == s.StartTime && s.Boot == bootID()
}

// processStart is field 22 of /proc/PID/stat (proc(5)). A zombie counts as gone.
func processStart(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	// The name in brackets may hold anything, so the last bracket counts.
	f := strings.Fields(string(b)[strings.LastIndexByte(string(b), ')')+1:])
	if len(f) < 20 {
		return "", fmt.Errorf("read start time of process %d: short line", pid)
	}
	if f[0] == "Z" || f[0] == "X" {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	if _, err := strconv.ParseUint(f[19], 10, 64); err != nil {
		return "", fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	return f[19], nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// lockMachine takes the machine for one network: alone for an exclusive scenario,
// shared otherwise. Everybody passes the gate first, and who waits to be alone
// keeps it, so that a stream of others cannot starve it. Who holds one network
// must not need a second one to finish with the first.
func lockMachine(ctx context.Context, alone bool) (*os.File, error) {
	gate, err := lockFile(ctx, "gate.lock", true)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	return lockFile(ctx, "exclusive.lock", alone)
}

// lockPoll is how often a taken lock is tried again: short against a scenario,
// long against the cost of a system call.
const lockPoll = 50 * time.Millisecond

// lockFile takes a lock among all lab processes; closing the file gives it back,
// and so does the end of the process.
func lockFile(ctx context.Context, name string, alone bool) (*os.File, error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's folder: %w (the lab needs root)", err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lab lock: %w (the lab needs root)", err)
	}
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("take lab lock: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another lab: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// sysctlPath is the file of a dotted name. A slash stands for a dot inside an
// interface name, as in sysctl(8).
func sysctlPath(key string) string {
	return "/proc/sys/" + strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

// writeSysctl sets a value in the namespace of the calling thread.
func writeSysctl(key, value string) error {
	f, err := os.OpenFile(sysctlPath(key), os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.WriteString(value + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(sysctlPath(key))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}
