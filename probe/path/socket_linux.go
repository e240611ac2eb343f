package path

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"fathom/internal/sys/ipsock"
	"fathom/internal/sys/sock"
)

// replyQueue holds answers until the trace's loop takes them: more than the
// probes under way, so that a reader seldom waits.
const replyQueue = 256

// readSize is how much of a message is read: enough for a quoted packet of 576
// bytes with its extensions; of large echo replies the header is enough.
const readSize = 2048

// maxReadErrors ends a reader whose socket gives nothing but errors.
const maxReadErrors = 1000

// sender sends probes over one socket and knows which stamp is whose.
type sender struct {
	conn  *sock.Conn
	codec codec
	port  uint16 // destination port, 0 for ICMP

	mu   sync.Mutex // orders sends with the stamps' numbers
	keys []int      // packet number since the last restart → probe ID
	ttl  int        // set on the socket now
}

// Send sends one probe.
func (s *sender) Send(p packet) error {
	b := s.codec.encode(p)
	to, err := ipsock.Sockaddr(netip.AddrPortFrom(p.To, s.port)) // raw sockets of IPv6 refuse a port: theirs is 0
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.conn.Control(func(fd int) error {
		if p.TTL != s.ttl {
			if err := ipsock.SetTTL(fd, p.To.Is6(), p.TTL); err != nil {
				return err
			}
			s.ttl = p.TTL
		}
		return sendPending(fd, b, to)
	})
	if err != nil {
		// The failed packet may or may not have used a number.
		s.keys = s.keys[:0]
		_ = s.conn.RestartStamps() // without stamps the monotonic clock serves
		return &localError{op: fmt.Sprintf("send to %s", p.To), err: err}
	}
	s.keys = append(s.keys, p.ID)
	return nil
}

// sendTries is how often a send is repeated when it gives an error: on sockets
// with an error queue send also returns, once each, the ICMP errors that came
// for earlier packets.
const sendTries = 8

func sendPending(fd int, b []byte, to unix.Sockaddr) (err error) {
	for range sendTries {
		err = unix.Sendto(fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, to)
		if err == nil || err == unix.EPERM || err == unix.EAGAIN || err == unix.ENOBUFS {
			return err
		}
	}
	return err
}

// stamped finds the probe that a send stamp is about.
func (s *sender) stamped(m sock.Message) (reply, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Kernel.IsZero() || int64(m.Key) >= int64(len(s.keys)) {
		return reply{}, false
	}
	return reply{ID: s.keys[m.Key], Kind: kindSent, At: m.User, Kernel: m.Kernel}, true
}

// readers own the goroutines that read sockets and hand on what came.
type readers struct {
	replies chan reply
	stop    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
	conns   []*sock.Conn
}

func newReaders() *readers {
	return &readers{replies: make(chan reply, replyQueue), stop: make(chan struct{})}
}

// Replies delivers what came back.
func (r *readers) Replies() <-chan reply { return r.replies }

// Close closes the sockets and waits for the readers.
func (r *readers) Close() error {
	var err error
	r.once.Do(func() {
		close(r.stop)
		for _, c := range r.conns {
			err = errors.Join(err, c.Close())
		}
		r.wg.Wait()
	})
	return err
}

// start reads c until it is closed; handle says what a message means.
func (r *readers) start(c *sock.Conn, handle func(sock.Message) (reply, bool)) {
	r.conns = append(r.conns, c)
	r.wg.Go(func() {
		buf := make([]byte, readSize)
		for bad := 0; bad < maxReadErrors; {
			m, err := c.Recv(buf)
			var errno syscall.Errno
			switch {
			case errors.Is(err, os.ErrClosed):
				return
			case errors.As(err, &errno):
				bad++ // an ICMP error that is also on the error queue
				continue
			case err != nil:
				return
			}
			bad = 0
			if rep, ok := handle(m); ok && !r.deliver(rep) {
				return
			}
		}
	})
}

func (r *readers) deliver(rep reply) bool {
	select {
	case r.replies <- rep:
		return true
	case <-r.stop:
		return false
	}
}
