package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	mdns "github.com/miekg/dns"

	"fathom/internal/sys/dial"
)

// errGarbage marks a peer that answered, but not as DNS demands.
var errGarbage = errors.New("not a proper dns answer")

// maxStrays bounds how many messages that are not the answer are looked at.
const maxStrays = 64

// reply is what came of one question over one transport.
type reply struct {
	transport string
	local     netip.AddrPort
	answer    answer        // when answered
	answered  bool          // a message that fits the question came, be it from the wrong address
	wrongFrom netip.Addr    // who else answered in the server's place
	connect   time.Duration // tcp only
	took      time.Duration // user space, from the question's leaving to the end
	kernel    time.Duration // the same by the kernel's stamps, udp only; 0 when it gave none
	err       error         // nil when a fitting answer came from the right address
	icmp      *dial.ICMP    // what explains err
	stray     string        // the last message that was not believed, and why
}

// ok: the server asked has answered.
func (r reply) ok() bool { return r.err == nil }

// newID is unpredictable: together with the random port it is what keeps forged
// answers out (RFC 5452).
func newID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return binary.BigEndian.Uint16(b[:])
}

// exchangeUDP asks from an unconnected socket, because a connected one does not
// hear answers from another address, which tell of interception. An error means
// that no question was asked or that ctx ended.
func exchangeUDP(ctx context.Context, to netip.AddrPort, q query, timeout time.Duration, o dial.Options) (reply, error) {
	r := reply{transport: UDP}
	id := newID()
	msg, err := q.pack(id)
	if err != nil {
		return r, err
	}
	start := time.Now()
	u, err := dial.OpenUDP(to, false, o)
	if err != nil {
		if ce := (*dial.ConnectError)(nil); errors.As(err, &ce) {
			r.err, r.took = err, time.Since(start)
			return r, nil
		}
		return r, err
	}
	defer u.Close()
	r.local = u.Local()
	at, err := u.Send(msg, to)
	if err != nil {
		r.err, r.took = err, time.Since(at)
		return r, nil
	}
	return r.listen(ctx, u, to, q, id, at, timeout)
}

// listen waits for the answer, an error, or the end of the time.
func (r reply) listen(ctx context.Context, u *dial.UDP, to netip.AddrPort, q query, id uint16, at time.Time, timeout time.Duration) (reply, error) {
	buf := make([]byte, mdns.MaxMsgSize)
	deadline := at.Add(timeout)
	var left time.Time
	for range maxStrays {
		ev, err := u.Recv(ctx, deadline, buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return r, err
		}
		r.took = ev.Seen.Sub(at)
		switch {
		case ev.Sent:
			left = ev.Stamp
			continue
		case ev.ICMP != nil:
			r.icmp, r.err = ev.ICMP, ev.ICMP.Errno
			return r, nil
		case ev.Local != 0:
			r.err = ev.Local
			return r, nil
		}
		right := sameAddr(ev.From.Addr(), to.Addr()) && ev.From.Port() == to.Port()
		if !r.take(ev.Data, q, id, ev.From, right) {
			continue
		}
		r.kernel = dial.Between(left, ev.Stamp, r.took)
		if right {
			return r, nil
		}
		// Somebody else answers. The real server gets a moment to do so too.
		deadline = earlier(deadline, ev.Seen.Add(wrongAddressGrace))
	}
	return r.gaveUp(at), nil
}

// take looks at one message; true when it is an answer to our question.
func (r *reply) take(b []byte, q query, id uint16, from netip.AddrPort, right bool) bool {
	a, err := decode(b)
	if err == nil {
		err = a.fits(q, id)
	}
	if err != nil {
		r.stray = fmt.Sprintf("a message from %s was not believed: %v", from, err)
		return false
	}
	switch {
	case !right && r.answered:
		return false // one stranger's answer is enough
	case !right:
		r.wrongFrom = from.Addr()
	case a.broken != nil && !a.truncated:
		r.err = fmt.Errorf("%w: damaged after %d answers: %w", errGarbage, len(a.dns.Answers), a.broken)
	}
	r.answer, r.answered = a, true
	return true
}

// gaveUp names what the silence of the right server was like.
func (r reply) gaveUp(at time.Time) reply {
	switch {
	case r.answered:
		r.err = fmt.Errorf("%w: it came from %s, which every resolver discards", errGarbage, r.wrongFrom)
	case r.stray != "":
		r.took = time.Since(at)
		r.err = fmt.Errorf("%w: %s", errGarbage, r.stray)
	default:
		r.took = time.Since(at)
		r.err = os.ErrDeadlineExceeded
	}
	return r
}

func sameAddr(a, b netip.Addr) bool { return a.Unmap().WithZone("") == b.Unmap().WithZone("") }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// exchangeTCP connects, asks and reads one answer (RFC 7766).
func exchangeTCP(ctx context.Context, to netip.AddrPort, q query, timeout time.Duration, o dial.Options) (reply, error) {
	r := reply{transport: TCP}
	id := newID()
	msg, err := q.pack(id)
	if err != nil {
		return r, err
	}
	a, err := dial.Connect(ctx, to, timeout, o)
	if err != nil {
		return r, err
	}
	r.local, r.connect = a.Local, a.Took
	if a.Err != nil {
		if ctx.Err() != nil && errors.Is(a.Err, ctx.Err()) {
			return r, a.Err
		}
		r.err, r.icmp = a.Err, a.ICMP
		return r, nil
	}
	defer a.Conn.Close(false)
	_ = a.Conn.SetDeadline(a.Start.Add(timeout))
	stop := context.AfterFunc(ctx, func() { _ = a.Conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	at := time.Now()
	// Length and message in one segment, RFC 7766 section 8.
	_, err = a.Conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	if err == nil {
		err = r.readTCP(a.Conn, to, q, id)
	}
	r.took = time.Since(at)
	if ctx.Err() != nil && !r.answered {
		return r, ctx.Err()
	}
	if err != nil {
		r.err = err
	}
	return r, nil
}

// readTCP reads messages until one fits.
func (r *reply) readTCP(c io.Reader, to netip.AddrPort, q query, id uint16) error {
	buf := make([]byte, mdns.MaxMsgSize)
	for range maxStrays {
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return r.cutOff(err)
		}
		n := int(binary.BigEndian.Uint16(buf))
		if _, err := io.ReadFull(c, buf[:n]); err != nil {
			return r.cutOff(err)
		}
		if r.take(buf[:n], q, id, to, true) {
			return r.err
		}
	}
	return fmt.Errorf("%w: %s", errGarbage, r.stray)
}

// cutOff turns the end of a stream into words; errnos and time-outs stay.
func (r *reply) cutOff(err error) error {
	switch {
	case r.stray != "" && (errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded)):
		return fmt.Errorf("%w: %s", errGarbage, r.stray)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: connection closed in the middle of the answer", errGarbage)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: connection closed without an answer", errGarbage)
	}
	return err
}
