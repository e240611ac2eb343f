package icmp

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
	"fathom/internal/sys/sock"
	"fathom/internal/wire"
	"fathom/probe"
	"fathom/sample"
)

var target = netip.MustParseAddr("192.0.2.1")

const fakeID = 77

// fake is a conn made of channels, so that synctest's clock runs it. Its
// network is the function net, which gets each request and when it was sent.
type fake struct {
	t        *testing.T
	in       chan sock.Message
	wake     chan struct{}
	deadline atomic.Int64 // Unix nanoseconds; set by the context's goroutine too
	net      func(f *fake, seq int, msg []byte) error
	sends    []time.Time
	keys     uint32
	noStamps bool
}

func (f *fake) Send(b []byte) error {
	f.sends = append(f.sends, time.Now())
	msg := slices.Clone(b)
	h, _, err := wire.ParseICMP(msg)
	if err != nil || wire.Checksum(msg) != 0 {
		f.t.Errorf("request is no valid icmp message: %x", msg)
	}
	if err := f.net(f, int(h.Seq()), msg); err != nil {
		return err
	}
	if !f.noStamps {
		f.push(sock.Message{Control: ipsock.Control{Origin: sock.Stamp, Key: f.keys, Kernel: time.Now().Round(0)}})
		f.keys++
	}
	return nil
}

func (f *fake) push(m sock.Message) {
	m.User = time.Now()
	f.in <- m
}

// reply sends an answer after a delay; edit may damage it.
func (f *fake) reply(msg []byte, after time.Duration, edit func([]byte) []byte) {
	b := slices.Clone(msg)
	b[0], b[2], b[3] = wire.ICMPEchoReply, 0, 0
	if edit != nil {
		b = edit(b)
	}
	seal4(b)
	time.AfterFunc(after, func() {
		f.push(sock.Message{Data: b, From: target, Control: ipsock.Control{TTL: 57, Kernel: time.Now().Round(0)}})
	})
}

func (f *fake) Recv(b []byte) (sock.Message, error) {
	for {
		var timer <-chan time.Time
		if d := f.deadline.Load(); d != 0 {
			if d <= time.Now().UnixNano() {
				return sock.Message{}, os.ErrDeadlineExceeded
			}
			timer = time.After(time.Until(time.Unix(0, d)))
		}
		select {
		case m := <-f.in:
			m.Data = b[:copy(b, m.Data)]
			return m, nil
		case <-f.wake:
		case <-timer:
			return sock.Message{}, os.ErrDeadlineExceeded
		}
	}
}

func (f *fake) TryRecv(b []byte) (sock.Message, bool, error) {
	select {
	case m := <-f.in:
		m.Data = b[:copy(b, m.Data)]
		return m, true, nil
	default:
		return sock.Message{}, false, nil
	}
}

func (f *fake) SetReadDeadline(t time.Time) error {
	f.deadline.Store(t.UnixNano())
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return nil
}
func (f *fake) RestartStamps() error { f.keys = 0; return nil }
func (f *fake) Close() error         { return nil }

// play runs a series over a fake network and returns its result.
func play(ctx context.Context, t *testing.T, cfg Config, network func(f *fake, seq int, msg []byte) error) (probe.Result, *fake, error) {
	t.Helper()
	f := &fake{t: t, in: make(chan sock.Message, 1000), wake: make(chan struct{}, 1), net: network}
	cfg = New(cfg).cfg
	l := link{conn: f, id: fakeID, seal: seal4, shared: true}
	s := newSeries(cfg, l, target, 84)
	if err := s.run(ctx); err != nil {
		t.Fatal(err)
	}
	res := probe.Result{Echo: &probe.Echo{Size: 84}}
	err := s.fill(&res)
	return res, f, err
}

func TestAllAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		res, f, err := play(t.Context(), t, Config{Count: 5, Interval: 50 * time.Millisecond}, func(f *fake, seq int, msg []byte) error {
			f.reply(msg, 120*time.Millisecond, nil) // longer than the interval: nobody waits for it
			return nil
		})
		e := res.Echo
		if err != nil || res.Outcome != probe.OK || e.Sent != 5 || e.Received != 5 || e.ReplyTTL != 57 || len(e.Lost) != 0 {
			t.Errorf("%+v %+v %v", res, e, err)
		}
		if *res.RTT != (probe.RTT{Value: sample.D(120 * time.Millisecond), Error: sample.D(61 * time.Microsecond), Clock: "kernel"}) {
			t.Errorf("rtt %+v", *res.RTT)
		}
		for i, at := range f.sends {
			if want := time.Duration(i) * 50 * time.Millisecond; at.Sub(start) != want {
				t.Errorf("request %d left after %v, want %v", i, at.Sub(start), want)
			}
		}
		if d := time.Since(start); d != 320*time.Millisecond {
			t.Errorf("took %v; there was nothing to wait for after 320 ms", d)
		}
	})
}

func TestLossLateDuplicateCorruptForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Count: 8, Interval: 300 * time.Millisecond, Timeout: 200 * time.Millisecond}
		res, _, err := play(t.Context(), t, cfg, func(f *fake, seq int, msg []byte) error {
			const ms = time.Millisecond
			switch seq {
			case 0: // lost
			case 1: // later than the timeout, but seen while others are on their way
				f.reply(msg, 250*ms, nil)
			case 2:
				f.reply(msg, 10*ms, nil)
				f.reply(msg, 11*ms, nil)
				f.reply(msg, 12*ms, nil)
			case 3: // one bit turned behind our cookie
				f.reply(msg, 10*ms, func(b []byte) []byte { b[40] ^= 1; return b })
			case 4: // another process with the same identifier
				f.reply(msg, 10*ms, func(b []byte) []byte { clear(b[8:]); return b })
				f.reply(msg, 20*ms, nil)
			case 5: // cut short
				f.reply(msg, 10*ms, func(b []byte) []byte { return b[:30] })
			case 6: // another identifier, unknown sequence number, no icmp at all
				f.reply(msg, 10*ms, func(b []byte) []byte { b[5]++; return b })
				f.reply(msg, 10*ms, func(b []byte) []byte { b[6] = 99; return b })
				f.push(sock.Message{Data: []byte{0}, From: target})
			case 7:
				f.reply(msg, 10*ms, nil)
			}
			return nil
		})
		e := res.Echo
		if err != nil || e.Sent != 8 || e.Received != 3 || e.Late != 1 || e.Duplicates != 2 || e.Corrupt != 2 {
			t.Errorf("%+v %v", e, err)
		}
		if want := []int{0, 1, 3, 5, 6}; !slices.Equal(e.Lost, want) {
			t.Errorf("lost %v, want %v", e.Lost, want)
		}
		if res.Outcome != probe.OK || len(e.RTTs) != 3 {
			t.Errorf("%s, %v", res.Outcome, e.RTTs)
		}
	})
}

func TestSilenceIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		res, _, err := play(t.Context(), t, Config{Count: 2, Interval: 100 * time.Millisecond, Timeout: time.Second},
			func(*fake, int, []byte) error { return nil })
		if err != nil || res.Outcome != probe.Timeout || res.RTT != nil || !slices.Equal(res.Echo.Lost, []int{0, 1}) || time.Since(start) != 1100*time.Millisecond {
			t.Errorf("%+v after %v, %v", res, time.Since(start), err)
		}
	})
}

func TestICMPErrorDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		router := netip.MustParseAddr("198.51.100.1")
		res, _, err := play(t.Context(), t, Config{Count: 2, Timeout: time.Second}, func(f *fake, seq int, msg []byte) error {
			time.AfterFunc(10*time.Millisecond, func() {
				other := slices.Clone(msg)
				other[4]++ // about somebody else's echo
				f.push(sock.Message{Data: other, From: target, Control: ipsock.Control{Origin: sock.ICMP4, Offender: router, Type: 3, Code: 1}})
				f.push(sock.Message{Data: msg[:8], From: target, Control: ipsock.Control{Origin: sock.ICMP4, Offender: router, Type: 3, Code: 4, Info: 1400}})
			})
			return nil
		})
		if err != nil || res.Outcome != probe.TooBig || res.ICMP == nil || res.ICMP.MTU != 1400 || res.ICMP.From != router || res.ICMP.Text == "" {
			t.Errorf("%+v %+v %v", res, res.ICMP, err)
		}
		if d := time.Since(start); d != 110*time.Millisecond {
			t.Errorf("took %v: it waited though all was settled", d)
		}
	})
}

func TestOurOwnKernelRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		errno   syscall.Errno
		outcome probe.Outcome
		sends   int // attempts until it gives up
	}{
		"firewall":  {unix.EPERM, probe.LocalDrop, 4},
		"no route":  {unix.ENETUNREACH, probe.NoRoute, 1},
		"host":      {unix.EHOSTUNREACH, probe.Unreachable, 4},
		"too large": {unix.EMSGSIZE, probe.TooBig, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				res, f, err := play(t.Context(), t, Config{Count: 4}, func(*fake, int, []byte) error { return c.errno })
				if err != nil || res.Outcome != c.outcome || res.Errno != unix.ErrnoName(c.errno) || len(f.sends) != c.sends {
					t.Errorf("%+v after %d sends, %v", res, len(f.sends), err)
				}
				if e := res.Echo; e.Sent != c.sends || e.SendErrors != c.sends || e.Loss() != 0 || len(e.Lost) != 0 {
					t.Errorf("what never left is no loss: %+v", e)
				}
			})
		})
	}
}

func TestFullQueueIsRetriedAndNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := false
		res, f, err := play(t.Context(), t, Config{Count: 3}, func(f *fake, seq int, msg []byte) error {
			if seq == 1 && !failed {
				failed = true
				f.keys += 5 // the kernel used up numbers; they are counted anew after an error
				return unix.ENOBUFS
			}
			f.reply(msg, time.Millisecond, nil)
			return nil
		})
		e := res.Echo
		if err != nil || res.Outcome != probe.OK || e.Sent != 4 || e.SendErrors != 1 || e.Received != 3 || e.Loss() != 0 || len(f.sends) != 4 {
			t.Errorf("%+v %v", e, err)
		}
		if res.RTT.Clock != "kernel" {
			t.Errorf("clock %s: the stamp after the error was not attributed", res.RTT.Clock)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		res, _, err := play(t.Context(), t, Config{Count: 3}, func(*fake, int, []byte) error { return unix.ENOBUFS })
		if err != nil || res.Outcome != probe.SendFailed || res.Echo.Loss() != 0 {
			t.Errorf("a queue that stays full is our own failure and no loss, got %+v, %v", res, err)
		}
	})
}

// A pending ICMP error makes the next send fail with its errno, which must not
// be taken for our kernel's own word.
func TestPendingErrorIsNotASendError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := false
		res, _, err := play(t.Context(), t, Config{Count: 2}, func(f *fake, seq int, msg []byte) error {
			if seq == 1 && !failed {
				failed = true
				first := slices.Clone(msg[:8])
				first[7] = 0
				f.push(sock.Message{Data: first, From: target, Control: ipsock.Control{Origin: sock.ICMP4, Offender: target, Type: 3, Code: 1, Errno: unix.EHOSTUNREACH}})
				return unix.EHOSTUNREACH
			}
			if seq == 1 {
				f.reply(msg, time.Millisecond, nil)
			}
			return nil
		})
		if e := res.Echo; err != nil || e.Sent != 2 || e.SendErrors != 0 || e.Received != 1 || res.Outcome != probe.OK || res.Errno != "" {
			t.Errorf("%+v %+v %v", res, res.Echo, err)
		}
	})
}

func TestCancelReturnsWhatWasMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(150*time.Millisecond, cancel)
		start := time.Now()
		res, _, err := play(ctx, t, Config{Count: 100}, func(f *fake, seq int, msg []byte) error {
			f.reply(msg, 60*time.Millisecond, nil)
			return nil
		})
		// 0 and 1 were sent, 1 is still on its way: it is neither lost nor received.
		if e := res.Echo; err != nil || e.Sent != 1 || e.Received != 1 || e.Loss() != 0 || time.Since(start) != 150*time.Millisecond {
			t.Errorf("%+v after %v, %v", e, time.Since(start), err)
		}
	})
}

func TestRoundTripClocks(t *testing.T) {
	at := time.Now()
	wall := at.Round(0)
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		shot  shot
		want  time.Duration
		clock string
	}{
		"both stamps":            {shot{sent: at, got: at.Add(9 * ms), tx: wall.Add(1 * ms), rx: wall.Add(5 * ms)}, 4 * ms, "kernel"},
		"no stamps":              {shot{sent: at, got: at.Add(9 * ms)}, 9 * ms, "user"},
		"receive stamp only":     {shot{sent: at, got: at.Add(9 * ms), rx: wall.Add(5 * ms)}, 5 * ms, "user"},
		"clock set back":         {shot{sent: at, got: at.Add(9 * ms), tx: wall.Add(1 * ms), rx: wall.Add(-time.Hour)}, 9 * ms, "user"},
		"clock set forward":      {shot{sent: at, got: at.Add(9 * ms), tx: wall.Add(1 * ms), rx: wall.Add(time.Hour)}, 9 * ms, "user"},
		"stamps in wrong order":  {shot{sent: at, got: at.Add(9 * ms), tx: wall.Add(5 * ms), rx: wall.Add(1 * ms)}, 1 * ms, "user"},
		"never a negative value": {shot{sent: at, got: at.Add(-ms)}, 0, "user"},
	} {
		if d, clock := c.shot.rtt(); d != c.want || clock != c.clock {
			t.Errorf("%s: %v by %s, want %v by %s", name, d, clock, c.want, c.clock)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for name, c := range map[string]struct {
		cfg    Config
		target string
	}{
		"name":             {Config{}, "localhost"},
		"multicast":        {Config{}, "224.0.0.1"},
		"any":              {Config{}, "0.0.0.0"},
		"link-local":       {Config{}, "fe80::1"},
		"count":            {Config{Count: -1}, "127.0.0.1"},
		"too many":         {Config{Count: 70000}, "127.0.0.1"},
		"tiny":             {Config{Size: 27}, "127.0.0.1"},
		"huge":             {Config{Size: 65536}, "127.0.0.1"},
		"family of source": {Config{Source: netip.IPv6LinkLocalAllNodes()}, "127.0.0.1"},
		"via without link": {Config{Via: target}, "127.0.0.1"},
		"ttl":              {Config{TTL: 256}, "127.0.0.1"},
	} {
		if _, err := New(c.cfg).Probe(t.Context(), c.target); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A reply, an error or a stamp of any bytes must not break the bookkeeping.
func FuzzHandle(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, fakeID, 0, 0, 1, 2, 3}, uint8(0), uint32(0))
	f.Add([]byte{8, 0, 0, 0, 0, fakeID, 0, 1}, uint8(sock.ICMP4), uint32(0))
	f.Add([]byte{}, uint8(sock.Stamp), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, origin uint8, key uint32) {
		cfg := New(Config{Count: 4}).cfg
		s := newSeries(cfg, link{id: fakeID, shared: true, seal: seal4}, target, 84)
		s.next, s.outstanding, s.keys = 2, 2, []int32{0, 1}
		s.shots[0].state, s.shots[1].state = waiting, waiting
		for range 2 {
			s.handle(sock.Message{Data: b, From: target, User: time.Now(), Control: ipsock.Control{Origin: sock.Origin(origin), Key: key}})
		}
		pending := 0
		for _, sh := range s.shots {
			if sh.state == waiting {
				pending++
			}
		}
		if pending != s.outstanding {
			t.Fatalf("%d waiting, counted %d", pending, s.outstanding)
		}
	})
}
