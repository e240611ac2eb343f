package emulator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Link is a running emulated link between two ends.
type Link struct {
	ends   [2]End
	own    bool // close the ends on Stop
	dirs   [2]*relay
	wg     sync.WaitGroup
	once   sync.Once
	mu     sync.Mutex
	detach func() bool
	err    error
}

// Start opens two interfaces of one namespace as Ports and joins them. Stop
// closes the ports. It is OpenPort twice and Join.
func Start(ctx context.Context, inNS InNS, ifaceA, ifaceB string, o Options) (*Link, error) {
	a, err := OpenPort(inNS, ifaceA)
	if err != nil {
		return nil, err
	}
	b, err := OpenPort(inNS, ifaceB)
	if err != nil {
		a.Close()
		return nil, err
	}
	l, err := join(ctx, a, b, o, true)
	if err != nil {
		a.Close()
		b.Close()
		return nil, err
	}
	return l, nil
}

// Join relays frames between two ends until ctx ends or Stop is called. The ends
// stay the caller's to close, after Stop.
func Join(ctx context.Context, a, b End, o Options) (*Link, error) {
	return join(ctx, a, b, o, false)
}

func join(ctx context.Context, a, b End, o Options, own bool) (*Link, error) {
	l := &Link{ends: [2]End{a, b}, own: own}
	base := time.Now()
	for d, c := range []Config{o.AtoB, o.BtoA} {
		r, err := newRelay(l.ends[d], l.ends[1-d], c, o.Seed, Direction(d), base)
		if err != nil {
			if d > 0 {
				l.dirs[0].close()
			}
			return nil, fmt.Errorf("join %s and %s, %s: %w", a.Name(), b.Name(), Direction(d), err)
		}
		l.dirs[d] = r
	}
	for _, r := range l.dirs {
		l.wg.Go(r.run)
	}
	detach := context.AfterFunc(ctx, func() { _ = l.Stop() }) // may run at once
	l.mu.Lock()
	l.detach = detach
	l.mu.Unlock()
	return l, nil
}

// Set puts a new configuration in force for one direction, from the next packet
// on; packets that wait keep their times.
func (l *Link) Set(d Direction, c Config) error {
	r := l.dirs[d&1]
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.shape.configure(c); err != nil {
		return fmt.Errorf("set link %s-%s %s: %w", l.ends[0].Name(), l.ends[1].Name(), d, err)
	}
	r.config = c
	return nil
}

// Config is what is in force.
func (l *Link) Config(d Direction) Config {
	r := l.dirs[d&1]
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config
}

// Counters count since the link was made; they stay readable after Stop.
func (l *Link) Counters(d Direction) Counters { return l.dirs[d&1].count.read() }

// End gives the end that frames of direction d come in by: AtoB gives A.
func (l *Link) End(d Direction) End { return l.ends[d&1] }

// Stop ends the relay; frames that wait are gone. It returns the first error that
// the relay met, such as an interface that vanished.
func (l *Link) Stop() error {
	l.once.Do(func() {
		for _, r := range l.dirs {
			r.stop()
		}
		l.wg.Wait()
		for _, r := range l.dirs {
			l.err = errors.Join(l.err, r.err)
			r.close()
		}
		if l.own {
			l.err = errors.Join(l.err, l.ends[0].Close(), l.ends[1].Close())
		}
		l.mu.Lock()
		detach := l.detach
		l.mu.Unlock()
		if detach != nil {
			detach()
		}
	})
	return l.err
}

// counters are Counters while they are counted.
type counters struct {
	in, inBytes, out, outBytes, waiting atomic.Uint64
	duplicated, reordered, corrupted    atomic.Uint64
	lost                                [len(reasons)]atomic.Uint64
	late, latest                        atomic.Uint64
}

var reasons = [...]Reason{
	LostBlackhole, LostMaxFrame, LostRandom, LostGE, LostEvery, LostBurst, LostPolicer, LostQueue,
	LostOverrun, LostLimit, LostSend, LostOversize,
}

func (c *counters) lose(why Reason, n uint64) {
	for i, r := range reasons {
		if r == why {
			c.lost[i].Add(n)
		}
	}
}

// tardy notes how much after its time a held frame went out. Only the relay's
// goroutine calls it.
func (c *counters) tardy(by time.Duration) {
	if by > time.Millisecond {
		c.late.Add(1)
	}
	if uint64(by) > c.latest.Load() {
		c.latest.Store(uint64(by))
	}
}

func (c *counters) read() Counters {
	k := Counters{
		In: c.in.Load(), InBytes: c.inBytes.Load(), Out: c.out.Load(), OutBytes: c.outBytes.Load(), Waiting: c.waiting.Load(),
		Duplicated: c.duplicated.Load(), Reordered: c.reordered.Load(), Corrupted: c.corrupted.Load(), Lost: map[Reason]uint64{},
		Late: c.late.Load(), Latest: time.Duration(c.latest.Load()),
	}
	for i, r := range reasons {
		if n := c.lost[i].Load(); n > 0 {
			k.Lost[r] = n
		}
	}
	return k
}

// relay moves one direction: one goroutine on a thread of its own.
type relay struct {
	rx, tx End
	base   time.Time
	wake   int // eventfd
	quit   atomic.Bool

	mu     sync.Mutex // shape and config
	shape  *shaper
	config Config

	count counters
	slots []slot
	out   []outgoing
	spent []*[]byte // buffers of out that came from the heap
	heap  waitHeap
	seq   uint64
	held  int           // bytes in the heap
	last  time.Duration // arrival of the latest frame
	err   error
}

// Bounds on what waits in one direction: more than a gigabit link holds in half a
// second, and little enough for a lab of many links.
const (
	maxWaiting     = 200_000
	maxWaitingSize = 128 << 20
)

func newRelay(rx, tx End, c Config, seed uint64, d Direction, base time.Time) (*relay, error) {
	s, err := newShaper(c, seed, d)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	r := &relay{rx: rx, tx: tx, base: base, wake: fd, shape: s, config: c, slots: make([]slot, batchSize)}
	for i := range r.slots {
		r.slots[i].buf = make([]byte, headroom+maxFrame)
	}
	return r, nil
}

func (r *relay) stop() {
	r.quit.Store(true)
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(r.wake, one[:])
}

func (r *relay) close() { unix.Close(r.wake) }

func (r *relay) now() time.Duration { return time.Since(r.base) }

// punctual prepares the thread for keeping times: the smallest timer slack, so
// that ppoll wakes when a frame is due and not 50 µs later, and where allowed
// (CAP_SYS_NICE or RLIMIT_RTPRIO) the lowest real-time priority, so that what is
// measured beside it on the same machine does not make frames late. The kernel's
// real-time throttling keeps a flooded relay from taking a CPU for itself.
func punctual() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0)
}

// run forwards until stop. The thread is not given back: its scheduling is its
// own.
func (r *relay) run() {
	runtime.LockOSThread()
	punctual()
	fds := []unix.PollFd{{Fd: int32(r.wake), Events: unix.POLLIN}, {Fd: int32(r.rx.descriptor()), Events: unix.POLLIN}}
	for !r.quit.Load() {
		_, err := unix.Ppoll(fds, r.untilDue(), nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			r.err = fmt.Errorf("wait for frames of %s: %w", r.rx.Name(), err)
			return
		}
		r.sendDue()
		if fds[1].Revents&(unix.POLLIN|unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) == 0 {
			continue
		}
		got, err := r.takeIn()
		if err != nil || got == 0 && fds[1].Revents&unix.POLLIN == 0 && fds[1].Revents&unix.POLLERR == 0 {
			// The interface is gone; what waits for the other end still goes out.
			fds[1].Fd = -1
			r.err = errors.Join(r.err, wrapGone(r.rx.Name(), err))
		}
	}
}

func wrapGone(name string, err error) error {
	if err == nil {
		err = unix.ENODEV
	}
	return fmt.Errorf("receive from %s: %w", name, err)
}

// untilDue is how long to wait for the next frame's time; nil is for ever.
func (r *relay) untilDue() *unix.Timespec {
	if len(r.heap) == 0 {
		return nil
	}
	ts := unix.NsecToTimespec(int64(max(0, r.heap[0].at-r.now())))
	return &ts
}

// takeIn receives what is there and decides about it. It returns after a few
// batches, so that frames that are due do not wait behind a flood.
func (r *relay) takeIn() (total int, err error) {
	for range 4 {
		n, err := r.rx.receive(r.slots)
		if n > 0 {
			total += n
			now := r.now()
			r.mu.Lock()
			for i := range r.slots[:n] {
				r.accept(now, &r.slots[i])
			}
			r.mu.Unlock()
			r.flush()
			r.sendDue()
		}
		if err != nil {
			return total, err
		}
		if n < len(r.slots) {
			break
		}
	}
	if n := r.rx.overruns(); n > 0 {
		r.count.lose(LostOverrun, n)
		r.count.in.Add(n)
	}
	return total, nil
}

// accept decides about one frame: it goes to out, to the heap, or nowhere.
func (r *relay) accept(now time.Duration, s *slot) {
	c := &r.count
	c.in.Add(1)
	c.inBytes.Add(uint64(s.n))
	if s.n == 0 {
		c.lose(LostOversize, 1)
		return
	}
	s.settle()
	b := s.frame()
	// Delays count from when the frame arrived, not from when this thread came to
	// see it. A stamp that makes no sense (the clock was set) does not count.
	came := now
	if s.age > 0 && s.age < time.Second {
		came = max(now-s.age, r.last)
	}
	r.last = came
	v := r.shape.decide(came, b, s.n, s.packet())
	if v.lost != "" {
		c.lose(v.lost, 1)
		return
	}
	if v.corrupt && s.vnet.gso == 0 && flipBit(b, v.rand, v.fix) {
		c.corrupted.Add(1)
	}
	if v.reordered {
		c.reordered.Add(1)
	}
	for i := range v.copies {
		if i > 0 {
			c.duplicated.Add(1)
		}
		if v.at <= now && (len(r.heap) == 0 || r.heap[0].at > now) {
			r.out = append(r.out, outgoing{b: b, vnet: s.vnet})
			continue
		}
		r.hold(v.at, s)
	}
}

// hold keeps a copy of the frame until its time.
func (r *relay) hold(at time.Duration, s *slot) {
	if len(r.heap) >= maxWaiting || r.held+s.n > maxWaitingSize {
		r.count.lose(LostLimit, 1)
		return
	}
	buf := getBuffer(s.n)
	copy(*buf, s.frame())
	r.seq++
	r.held += s.n
	r.heap.push(waiting{at: at, seq: r.seq, data: buf, n: s.n, vnet: s.vnet})
	r.count.waiting.Add(1)
}

// sendDue sends the held frames whose time has come.
func (r *relay) sendDue() {
	for len(r.heap) > 0 {
		now := r.now()
		for len(r.heap) > 0 && r.heap[0].at <= now && len(r.out) < batchSize {
			w := r.heap.pop()
			r.count.tardy(now - w.at)
			r.held -= w.n
			r.count.waiting.Add(^uint64(0))
			r.out = append(r.out, outgoing{b: (*w.data)[:w.n], vnet: w.vnet})
			r.spent = append(r.spent, w.data)
		}
		if len(r.out) == 0 {
			return
		}
		r.flush()
	}
}

// flush sends r.out. A frame that the kernel refuses is counted and skipped: a
// wire does not try again.
func (r *relay) flush() {
	todo := r.out
	for len(todo) > 0 {
		n, err := r.tx.send(todo)
		for i := range todo[:n] {
			r.count.out.Add(1)
			r.count.outBytes.Add(uint64(len(todo[i].b)))
		}
		todo = todo[n:]
		if err != nil && !errors.Is(err, unix.EINTR) && len(todo) > 0 {
			r.count.lose(LostSend, 1)
			todo = todo[1:]
		}
	}
	clear(r.out)
	r.out = r.out[:0]
	for i, b := range r.spent {
		putBuffer(b)
		r.spent[i] = nil
	}
	r.spent = r.spent[:0]
}

// Buffers for frames that wait come in three sizes: small packets, one MTU, and
// the rest.
var buffers = [...]struct {
	size int
	pool *sync.Pool
}{
	{256, newPool(256)}, {2048, newPool(2048)}, {16 << 10, newPool(16 << 10)}, {headroom + maxFrame, newPool(headroom + maxFrame)},
}

func newPool(n int) *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, n); return &b }}
}

func getBuffer(n int) *[]byte {
	for _, k := range buffers {
		if n <= k.size {
			return k.pool.Get().(*[]byte)
		}
	}
	b := make([]byte, n)
	return &b
}

func putBuffer(b *[]byte) {
	for _, k := range buffers {
		if len(*b) == k.size {
			k.pool.Put(b)
		}
	}
}
