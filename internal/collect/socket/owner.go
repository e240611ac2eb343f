package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// procRoot is where proc is mounted.
const procRoot = "/proc"

// walkTime bounds the search for owners: on a host with a million open files
// names are worth less than an answer.
const walkTime = 800 * time.Millisecond

const capSysPtrace = 19 // CAP_SYS_PTRACE, include/uapi/linux/capability.h

// owners says which process holds a socket.
type owners struct {
	byInode map[uint32]string // comm[pid]
	all     bool              // no owner was missed for lack of privilege or time
	hidden  bool              // some wanted socket's owner is not known, for the reason in why
	why     string
}

// name is comm[pid], or "uid N" for a socket whose process is not known. comm
// is up to 15 bytes that the process chose itself: escape before showing.
func (o owners) name(inode, uid uint32) string {
	if n, ok := o.byInode[inode]; ok && inode != 0 {
		return n
	}
	return "uid " + strconv.FormatUint(uint64(uid), 10)
}

// walk is one search over /proc/*/fd.
type walk struct {
	root   string
	want   map[uint32]struct{}
	found  map[uint32]string
	denied int
	until  time.Time
	late   bool
}

// findOwners finds the processes of the wanted sockets in one pass: first
// those in this thread's network namespace, then, if sockets are left over,
// the others (a socket can be handed to a process elsewhere). Processes that
// end meanwhile are passed over.
func findOwners(ctx context.Context, root string, want map[uint32]struct{}) (owners, error) {
	w := &walk{root: root, want: want, found: map[uint32]string{}, until: time.Now().Add(walkTime)}
	ptrace := canPtrace(root)
	if len(want) > 0 {
		if err := w.run(ctx); err != nil {
			return owners{byInode: w.found}, err
		}
	}
	missing := len(want) - len(w.found)
	// A refused process counts only when it may hold a socket we miss: root, too,
	// is refused a few (a security module, a more privileged init).
	o := owners{byInode: w.found, all: ptrace && !w.late && (missing == 0 || w.denied == 0)}
	switch {
	case missing == 0:
	case w.late:
		o.hidden, o.why = true, fmt.Sprintf("the owners of %d sockets were not found within %v", missing, walkTime)
	case w.denied > 0:
		o.hidden, o.why = true, fmt.Sprintf("the owners of %d sockets are not among the processes this user may look into; %d were refused", missing, w.denied)
	case !ptrace: // mounted with hidepid, others' processes are not even listed
		o.hidden, o.why = true, fmt.Sprintf("the owners of %d sockets are not among the processes this user can see", missing)
	}
	return o, nil
}

func (w *walk) run(ctx context.Context) error {
	own, err := os.Readlink(filepath.Join(w.root, "thread-self/ns/net"))
	if err != nil {
		own = "" // then all processes count as here
	}
	d, err := os.Open(w.root)
	if err != nil {
		return fmt.Errorf("look for the owners of sockets: %w", err)
	}
	defer d.Close()
	var elsewhere []string
	for {
		names, err := d.Readdirnames(1024)
		for _, pid := range names {
			if pid[0] < '0' || pid[0] > '9' {
				continue
			}
			if stop, err := w.stop(ctx); stop {
				return err
			}
			ns, err := os.Readlink(filepath.Join(w.root, pid, "ns/net"))
			switch {
			case errors.Is(err, fs.ErrPermission):
				w.denied++
			case err == nil && own != "" && ns != own:
				elsewhere = append(elsewhere, pid)
			default:
				w.process(ctx, pid)
			}
		}
		if errors.Is(err, io.EOF) || len(names) == 0 {
			break
		}
	}
	for _, pid := range elsewhere {
		if stop, err := w.stop(ctx); stop {
			return err
		}
		w.process(ctx, pid)
	}
	return nil
}

// stop reports that there is nothing left to find, or no time.
func (w *walk) stop(ctx context.Context) (bool, error) {
	if ctx.Err() != nil {
		return true, ctx.Err()
	}
	if len(w.found) == len(w.want) {
		return true, nil
	}
	w.late = time.Now().After(w.until)
	return w.late, nil
}

// process notes which wanted sockets a process holds. Errors mean that it has
// ended or closed a file, or is not ours to see.
func (w *walk) process(ctx context.Context, pid string) {
	dir := filepath.Join(w.root, pid, "fd")
	d, err := os.Open(dir)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			w.denied++
		}
		return
	}
	defer d.Close()
	name := ""
	for {
		names, err := d.Readdirnames(1024)
		for _, fd := range names {
			inode, ok := socketInode(dir + "/" + fd)
			if !ok {
				continue
			}
			if _, wanted := w.want[inode]; !wanted {
				continue
			}
			if _, known := w.found[inode]; known {
				continue // inherited: the first process found, usually the parent, stands for all
			}
			if name == "" {
				name = comm(w.root, pid) + "[" + pid + "]"
			}
			w.found[inode] = name
		}
		if stop, _ := w.stop(ctx); stop || err != nil || len(names) == 0 {
			return
		}
	}
}

// socketInode reads a link such as socket:[4242].
func socketInode(path string) (uint32, bool) {
	link, err := os.Readlink(path)
	if err != nil {
		return 0, false
	}
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 32)
	return uint32(n), err == nil
}

// comm is a process' own name for itself, raw.
func comm(root, pid string) string {
	b, err := readSome(filepath.Join(root, pid, "comm"), 64)
	if err != nil {
		return "?"
	}
	return string(bytes.TrimSuffix(b, []byte("\n")))
}

// canPtrace reports whether this thread has CAP_SYS_PTRACE in effect.
func canPtrace(root string) bool {
	b, err := readSome(filepath.Join(root, "thread-self/status"), 16<<10)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			return err == nil && n>>capSysPtrace&1 == 1
		}
	}
	return false
}

func readSome(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// localPortRange reads net.ipv4.ip_local_port_range of this thread's
// namespace; without it, the kernel's default.
func localPortRange(root string) (low, high uint16) {
	b, err := readSome(filepath.Join(root, "sys/net/ipv4/ip_local_port_range"), 64)
	if err == nil {
		if f := strings.Fields(string(b)); len(f) == 2 {
			l, err1 := strconv.ParseUint(f[0], 10, 16)
			h, err2 := strconv.ParseUint(f[1], 10, 16)
			if err1 == nil && err2 == nil && l <= h {
				return uint16(l), uint16(h)
			}
		}
	}
	return 32768, 60999
}
