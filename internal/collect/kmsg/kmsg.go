// Package kmsg collects what the kernel's log says about the network: links
// going down, full tables, floods, duplicate addresses, drivers in trouble.
// It reads /dev/kmsg (Documentation/ABI/testing/dev-kmsg), or the same ring by
// syslog(2) where a container has no such device. The log is one for the whole
// machine: it is not divided by network namespaces.
package kmsg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"fathom/internal/collect"
	"fathom/internal/facts"
	"fathom/sample"

	"golang.org/x/sys/unix"
)

// Bounds of one reading.
const (
	Window     = 15 * time.Minute // older lines are history, not evidence
	maxEvents  = 200              // the latest are kept
	maxBytes   = 32 << 20         // the ring of a big server has up to 16 MB
	maxTime    = 700 * time.Millisecond
	recordSize = 16 << 10 // the kernel's own limit is 8 KiB with all escapes
)

const unlock = "CAP_SYSLOG (run as root), or sysctl kernel.dmesg_restrict=0"

// Collector returns the collector of facts.Host.Log.
func Collector() collect.Collector {
	return collect.Collector{Name: "kmsg", Collect: func(ctx context.Context, h *facts.Host) error {
		return Collect(ctx, h, "/dev/kmsg")
	}}
}

// Collect reads the log from a device into h.Log, oldest first. Without
// permission it adds a Gap.
func Collect(ctx context.Context, h *facts.Host, device string) error {
	clock, err := now()
	if err != nil {
		return fmt.Errorf("read the clock of the kernel log: %w", err)
	}
	s := newSieve(clock)
	why, err := readDevice(ctx, device, s)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		// No device in most containers, or a mode that keeps us out: the system call may still do.
		if e := readSyslog(s); e != nil {
			h.Gaps = append(h.Gaps, facts.Gap{What: "the kernel log", Why: fmt.Sprintf("%v; syslog(2): %v", err, e), Unlock: unlock})
			return nil
		}
		err = nil
	}
	h.Log = s.events()
	if why != "" {
		h.Gaps = append(h.Gaps, facts.Gap{What: "the latest part of the kernel log", Why: why})
	}
	if s.lost {
		h.Gaps = append(h.Gaps, facts.Gap{What: "part of the kernel log", Why: "the kernel wrote over it while it was read", Unlock: "a larger log_buf_len"})
	}
	return err
}

// readDevice reads all records there are now. The device never ends: EAGAIN is
// the end of what has been written. EPIPE says that the record we stood at was
// overwritten; the next read goes on with the oldest there is. why is set when
// a bound cut the reading short, which loses the newest records.
func readDevice(ctx context.Context, device string, s *sieve) (why string, err error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: device, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, recordSize)
	deadline := time.Now().Add(maxTime)
	failures := 0
	for total := 0; ; {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if total > maxBytes || time.Now().After(deadline) {
			return fmt.Sprintf("reading was given up after %d bytes", total), nil
		}
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EAGAIN), err == nil && n <= 0:
			return "", nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EPIPE):
			s.lost = true
			failures++
		case errors.Is(err, unix.EINVAL): // a record larger than the buffer: passed over by the kernel
			failures++
		case err != nil:
			return "", fmt.Errorf("read %s: %w", device, err)
		default:
			total += n
			if r, ok := parseRecord(b[:n]); ok {
				s.add(r)
			}
		}
		if failures > 1000 {
			return "the log is written faster than it can be read", nil
		}
	}
}

// readSyslog reads the ring by syslog(2), SYSLOG_ACTION_READ_ALL.
func readSyslog(s *sieve) error {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return os.NewSyscallError("syslog", err)
	}
	b := make([]byte, min(max(size, 4096), maxBytes))
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	if err != nil {
		return os.NewSyscallError("syslog", err)
	}
	for line := range bytes.Lines(b[:max(0, min(n, len(b)))]) {
		if r, ok := parseSyslogLine(line); ok {
			s.add(r)
		}
	}
	return nil
}

// clockNow pairs the log's clock with the wall clock.
type clockNow struct {
	wall time.Time
	log  time.Duration
}

// now reads both clocks. Records carry local_clock(), which like
// CLOCK_MONOTONIC stands still while the machine sleeps; CLOCK_BOOTTIME does
// not, and would make everything after a night in a laptop's bag eight hours
// old. (dmesg -T has that fault.) local_clock is not disciplined by NTP:
// on a machine up for months it may be off by seconds.
func now() (clockNow, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return clockNow{}, err
	}
	return clockNow{wall: time.Now().Round(0), log: time.Duration(ts.Nano())}, nil
}

// sieve keeps the latest events about the network.
type sieve struct {
	clock   clockNow
	ring    []sample.Event
	next    int // of ring, when it is full
	dropped int
	lost    bool
}

func newSieve(c clockNow) *sieve { return &sieve{clock: c} }

func (s *sieve) add(r record) {
	age := max(0, s.clock.log-r.at) // a record from after we looked at the clock is of now
	if r.facility != 0 || age > Window {
		return // not the kernel's own: any root program can write into the log
	}
	e, ok := classify(r.text)
	if !ok {
		return
	}
	e.Time = s.clock.wall.Add(-age)
	if len(s.ring) < maxEvents {
		s.ring = append(s.ring, e)
		return
	}
	s.ring[s.next] = e
	s.next = (s.next + 1) % maxEvents
	s.dropped++
}

func (s *sieve) events() []sample.Event {
	return append(append([]sample.Event(nil), s.ring[s.next:]...), s.ring[:s.next]...)
}
