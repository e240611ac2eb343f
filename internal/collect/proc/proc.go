// Package proc collects what the kernel counts and how it is tuned: protocol
// counters, socket memory, per-CPU packet processing, connection tracking and
// the sysctls that matter to a network, all from /proc.
//
// The files are those of the calling thread's network namespace. Own parsers
// are used instead of prometheus/procfs, because that one reads /proc/net,
// which is the namespace of the process' first thread, and reads whole files
// whatever their size.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"fathom/internal/collect"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// maxFile bounds one file; the largest, softnet_stat of a host with 1,024
// CPUs, has 140 KB.
const maxFile = 1 << 20

// Collector returns the collector of counters and settings.
func Collector() collect.Collector {
	return collect.Collector{Name: "proc", Collect: Reader{Root: "/proc"}.Collect}
}

// Reader reads a proc file system.
type Reader struct {
	Root string // where proc is mounted
}

// Collect fills Hostname, Kernel, Counters, Sockstat, Softnet, Conntrack and
// Sysctls of h. A file that is missing because the kernel lacks the part (IPv6,
// conntrack) leaves its facts out; any other trouble is a Gap.
func (r Reader) Collect(ctx context.Context, h *facts.Host) error {
	h.Hostname, h.Kernel = names()
	h.Counters, h.Sockstat = map[string]uint64{}, map[string]int64{}
	for _, step := range []struct {
		file  string
		parse func([]byte) error
	}{
		{"snmp", func(b []byte) error { return parsePairs(b, h.Counters) }},
		{"netstat", func(b []byte) error { return parsePairs(b, h.Counters) }},
		{"snmp6", func(b []byte) error { return parseSNMP6(b, h.Counters) }},
		{"sockstat", func(b []byte) error { return parseSockstat(b, h.Sockstat) }},
		{"sockstat6", func(b []byte) error { return parseSockstat(b, h.Sockstat) }},
		{"softnet_stat", func(b []byte) (err error) { h.Softnet, err = parseSoftnet(b); return err }},
	} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b, err := r.netFile(step.file)
		if err == nil {
			err = step.parse(b)
		}
		if err != nil && (!errors.Is(err, fs.ErrNotExist) || !strings.HasSuffix(step.file, "6")) {
			h.Gaps = append(h.Gaps, gap("the counters of /proc/net/"+step.file, err))
		}
	}
	h.Conntrack = r.conntrack(h)
	return r.sysctls(ctx, h)
}

func gap(what string, err error) facts.Gap {
	g := facts.Gap{What: what, Why: err.Error()}
	if errors.Is(err, fs.ErrPermission) {
		g.Unlock = "run as root, or allow reading it"
	}
	return g
}

// netFile reads a file of this thread's network namespace. /proc/net is a link
// to self/net, and self is the process' first thread: when a thread has
// entered another namespace, that shows the wrong one without an error.
// thread-self is missing before Linux 3.17.
func (r Reader) netFile(name string) ([]byte, error) {
	b, err := r.read("thread-self/net/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := os.Stat(filepath.Join(r.Root, "thread-self")); e != nil {
			return r.read("self/net/" + name)
		}
	}
	return b, err
}

func (r Reader) read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(r.Root, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if len(b) > maxFile {
		return b[:bytes.LastIndexByte(b[:maxFile], '\n')+1], nil // whole lines only
	}
	return b, nil
}

func names() (host, kernel string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Nodename[:]), unix.ByteSliceToString(u.Release[:])
}

// conntrack is nil when connection tracking is not in the kernel or its module
// is not loaded.
func (r Reader) conntrack(h *facts.Host) *facts.Conntrack {
	count, err := r.read("sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			h.Gaps = append(h.Gaps, gap("the use of the connection tracking table", err))
		}
		return nil
	}
	limit, err := r.read("sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		h.Gaps = append(h.Gaps, gap("the limit of the connection tracking table", err))
	}
	c := &facts.Conntrack{Count: number(count), Max: number(limit)}
	b, err := r.netFile("stat/nf_conntrack")
	if err == nil {
		err = parseConntrack(b, c)
	}
	if err != nil {
		g := gap("the drop counters of connection tracking", err)
		if errors.Is(err, fs.ErrNotExist) {
			g.Unlock = "a kernel with CONFIG_NF_CONNTRACK_PROCFS"
		}
		h.Gaps = append(h.Gaps, g)
	}
	return c
}
