package icmp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/sock"
	"fathom/internal/wire"
	"fathom/probe"
)

const (
	// drainAtMost bounds how many messages are read before the clock is looked at
	// again, so that a flood of other people's packets does not stop the sending.
	drainAtMost = 512
	// badReads is how many errors in a row, none of them a message or a deadline,
	// mean that the socket is dead.
	badReads = 64
	// queueFullWait is the least time before a request is tried again that a full
	// queue of our own kept back; it drains at line rate.
	queueFullWait = 2 * time.Millisecond
)

// state of one request.
type state uint8

const (
	unsent state = iota
	waiting
	received
	lost
	late
	corrupt
	rejected // an ICMP error came back
	unsendable
)

// shot is one request.
type shot struct {
	sent, got time.Time // our clock, before sending and after reading
	tx, rx    time.Time // kernel's stamps, zero when there is none
	state     state
}

// series is one run of requests. It is used by one goroutine.
type series struct {
	cfg     Config
	link    link
	dst     netip.Addr // without zone, as it is in packets
	v6      bool
	pattern pattern
	buf     []byte

	shots       []shot
	next        int       // the request to send next
	due         time.Time // when
	oldest      int       // all before it are settled
	outstanding int
	keys        []int32 // packet number of a send stamp → request

	attempts, sendErrors int
	retries              int
	errno                error // last error of our own kernel at sending
	localMTU             int   // that an EMSGSIZE named
	icmp                 *probe.ICMPError
	rejections           int
	duplicates           int
	corrupted            int
	replyTTL             int
	stop                 bool // sending more makes no sense
}

func newSeries(cfg Config, l link, dst netip.Addr, size int) *series {
	payload := size - headerLen(dst) - wire.ICMPHeaderLen
	return &series{
		cfg: cfg, link: l, dst: dst.WithZone(""), v6: dst.Is6(),
		pattern: newPattern(dst.Is6(), l.id, payload, l.seal),
		buf:     make([]byte, size+sparePayload),
		shots:   make([]shot, cfg.Count),
		keys:    make([]int32, 0, cfg.Count),
	}
}

// run sends and receives until each request is settled or ctx ends. An error
// means that the socket broke.
func (s *series) run(ctx context.Context) error {
	conn := s.link.conn
	// A deadline in the past wakes Recv; the loop looks at ctx after each time it
	// sets a later one, so the wake-up cannot be overwritten unseen.
	release := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer release()
	s.due = time.Now().Add(s.link.warmUp)
	for bad := 0; bad < badReads; {
		s.drain()
		now := time.Now()
		s.expire(now)
		if ctx.Err() != nil || s.done() {
			return nil
		}
		if s.sending() && !now.Before(s.due) {
			s.send(now)
			continue
		}
		if err := conn.SetReadDeadline(s.wake()); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		m, err := conn.Recv(s.buf)
		switch {
		case err == nil:
			s.handle(m)
			bad = 0
		case errors.Is(err, os.ErrDeadlineExceeded):
			bad = 0
		case errors.Is(err, os.ErrClosed):
			return fmt.Errorf("receive: %w", err)
		default:
			bad++ // a pending ICMP error, which is on the error queue as well
			if bad == badReads {
				return fmt.Errorf("receive: %w", err)
			}
		}
	}
	return nil
}

func (s *series) sending() bool { return s.next < len(s.shots) && !s.stop }
func (s *series) done() bool    { return !s.sending() && s.outstanding == 0 }

// wake is when something is due although nothing was received.
func (s *series) wake() time.Time {
	var t time.Time
	if s.sending() {
		t = s.due
	}
	if s.outstanding > 0 {
		if e := s.shots[s.oldest].sent.Add(s.cfg.Timeout); t.IsZero() || e.Before(t) {
			t = e
		}
	}
	return t
}

// drain handles what has come; it reports whether an ICMP error was among it.
func (s *series) drain() (icmp bool) {
	for range drainAtMost {
		m, ok, err := s.link.conn.TryRecv(s.buf)
		if !ok || err != nil {
			return icmp
		}
		icmp = icmp || m.Origin == sock.ICMP4 || m.Origin == sock.ICMP6
		s.handle(m)
	}
	return icmp
}

// expire gives up requests whose time has passed. It comes after drain, so that
// a reply that lay in the socket while this process slept is not late.
func (s *series) expire(now time.Time) {
	for ; s.oldest < s.next; s.oldest++ {
		sh := &s.shots[s.oldest]
		if sh.state != waiting {
			continue
		}
		if now.Sub(sh.sent) < s.cfg.Timeout {
			return
		}
		s.settle(sh, lost)
	}
}

func (s *series) settle(sh *shot, st state) {
	if sh.state == waiting {
		s.outstanding--
	}
	sh.state = st
}

// send sends the request that is due.
func (s *series) send(now time.Time) {
	sh := &s.shots[s.next]
	msg := s.pattern.request(s.next)
	sh.sent = time.Now()
	err := s.link.conn.Send(msg)
	for try := 0; err != nil && try < 3; try++ {
		pending := s.drain()
		s.keys = s.keys[:0]
		_ = s.link.conn.RestartStamps() // without it only stamps are lost
		if !pending {
			break
		}
		// The errno may have been that of the ICMP error just read: ask again.
		msg = s.pattern.request(s.next)
		sh.sent = time.Now()
		err = s.link.conn.Send(msg)
	}
	s.attempts++
	if err == nil {
		s.keys = append(s.keys, int32(s.next))
		sh.state = waiting
		s.outstanding++
		s.advance(now)
		return
	}
	s.sendErrors++
	s.errno = err
	if queueFull(err) && s.retries < len(s.shots) {
		s.retries++
		s.due = now.Add(max(queueFullWait, s.cfg.Interval/4))
		return
	}
	sh.state = unsendable
	s.stop = hopeless(err) && s.attempts == s.sendErrors
	s.advance(now)
}

// advance sets the time of the next request on the grid of the first; after a
// stall of this process the grid moves, for a burst would measure itself.
func (s *series) advance(now time.Time) {
	s.next++
	s.due = s.due.Add(s.cfg.Interval)
	if now.Sub(s.due) > s.cfg.Interval {
		s.due = now
	}
}

func queueFull(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM)
}

// hopeless errors will be the same at the next request.
func hopeless(err error) bool {
	return errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENETUNREACH) ||
		errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENODEV)
}

func (s *series) handle(m sock.Message) {
	switch m.Origin {
	case sock.Data:
		s.reply(m)
	case sock.Stamp:
		if m.Info == unix.SCM_TSTAMP_SND && int64(m.Key) < int64(len(s.keys)) {
			if sh := &s.shots[s.keys[m.Key]]; sh.tx.IsZero() && !m.Kernel.Before(sh.sent.Round(0)) {
				sh.tx = m.Kernel
			}
		}
	case sock.ICMP4, sock.ICMP6:
		s.rejection(m)
	case sock.Local:
		if m.Errno == syscall.EMSGSIZE {
			s.localMTU = int(m.Info)
		}
	}
}

// find returns the request that an echo message belongs to, nil if none.
func (s *series) find(id, seq uint16) (int, *shot) {
	i := int(seq)
	if id != s.link.id || i >= s.next {
		return 0, nil
	}
	sh := &s.shots[i]
	if sh.state == unsent || sh.state == unsendable {
		return 0, nil
	}
	return i, sh
}

// reply handles an echo reply.
func (s *series) reply(m sock.Message) {
	h, body, err := wire.ParseICMP(m.Data)
	want := uint8(wire.ICMPEchoReply)
	if s.v6 {
		want = wire.ICMP6EchoReply
	}
	if err != nil || h.Type != want || m.From.IsValid() && m.From.WithZone("") != s.dst {
		return
	}
	i, sh := s.find(h.ID(), h.Seq())
	if sh == nil {
		return
	}
	verdict := s.pattern.compare(i, body, s.link.shared)
	if verdict == intact && (m.Truncated || s.link.seal != nil && !s.v6 && wire.Checksum(m.Data) != 0) {
		verdict = damaged
	}
	switch {
	case verdict == foreign:
		return
	case verdict == damaged:
		s.corrupted++
		if sh.state == waiting || sh.state == lost {
			s.settle(sh, corrupt)
		}
		return
	case sh.state == received || sh.state == late:
		s.duplicates++
		return
	}
	sh.got, sh.rx = m.User, m.Kernel
	if m.TTL >= 0 {
		s.replyTTL = m.TTL
	}
	if d, _ := sh.rtt(); d > s.cfg.Timeout {
		s.settle(sh, late)
		return
	}
	s.settle(sh, received)
}

// rejection handles an ICMP error about one of our requests.
func (s *series) rejection(m sock.Message) {
	h, _, err := wire.ParseICMP(m.Data)
	if err != nil || m.From.IsValid() && m.From.WithZone("") != s.dst {
		return
	}
	_, sh := s.find(h.ID(), h.Seq())
	if sh == nil || sh.state == received {
		return
	}
	s.rejections++
	v6 := m.Origin == sock.ICMP6
	mtu := 0
	if wire.ICMPOutcome(v6, m.Type, m.Code) == wire.ClassTooBig {
		mtu = int(min(m.Info, 1<<31-1))
	}
	s.icmp = probe.NewICMPError(v6, m.Offender, m.Type, m.Code, mtu)
	s.settle(sh, rejected)
}
