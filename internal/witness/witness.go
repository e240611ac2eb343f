package witness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/facts"
	"fathom/internal/sys/sock"
)

const (
	// recvBuf holds about two thousand small packets (the kernel counts a whole
	// buffer for each), time enough for this process to be scheduled.
	recvBuf  = 2 << 20
	maxLinks = 4096 // names of interfaces kept
)

// Witness is a running watch. Its methods may be called from any goroutine,
// also after Close.
type Witness struct {
	conn *sock.Conn
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards following
	tally   *tally
	dropped int
	err     error
	closed  bool
}

// Start begins to watch all interfaces until ctx ends or Close. Without
// CAP_NET_RAW the error wraps os.ErrPermission.
func Start(ctx context.Context) (*Witness, error) {
	c, err := sock.Packet(sock.PacketOptions{Protocol: unix.ETH_P_ALL, Cooked: true, Filter: filter(), RecvBuf: recvBuf})
	if err != nil {
		return nil, fmt.Errorf("start packet witness: %w", err)
	}
	w := &Witness{conn: c, done: make(chan struct{}), tally: newTally()}
	go w.read(ctx)
	return w, nil
}

// Watch adds an address whose packets are to be counted. Call it before the
// first probe is sent.
func (w *Witness) Watch(addr netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tally.watch(addr)
}

// Flows returns what was seen of watched addresses so far, in a fixed order.
func (w *Witness) Flows() []facts.WireFlow {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tally.list()
}

// ARPSightings returns who announced which address on which link, by ARP or
// neighbour discovery. Our own packets are left out.
func (w *Witness) ARPSightings() []Sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tally.sighted()
}

// ARPConflicts returns the addresses that several stations announced, or that
// another station announced though they are ours. Several stations need not be
// a fault: an address that moves (VRRP) does it too, look at the times of the
// sightings.
func (w *Witness) ARPConflicts() []Conflict { return conflicts(w.ARPSightings(), ownIdentity()) }

// Dropped is how many packets the kernel could not hand over because this
// process was too slow. When it is not 0, "not seen" proves nothing.
func (w *Witness) Dropped() int {
	n, err := w.conn.PacketDrops() // reading resets the kernel's counter
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.dropped += int(n)
	}
	return w.dropped
}

// Overflow is how many packets could not be kept because a bound was reached.
func (w *Witness) Overflow() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tally.overflow
}

// Err is why watching ended early, nil while it goes on and after Close.
func (w *Witness) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close ends the watch and waits for its goroutine. What was seen stays readable.
func (w *Witness) Close() error {
	w.mu.Lock()
	closed := w.closed
	w.closed = true
	w.mu.Unlock()
	if closed {
		<-w.done
		return nil
	}
	w.Dropped()
	err := w.conn.Close()
	<-w.done
	return err
}

func (w *Witness) read(ctx context.Context) {
	defer close(w.done)
	release := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer release()
	buf := make([]byte, snapLen)
	names := linkNames{}
	for ctx.Err() == nil {
		m, err := w.conn.Recv(buf)
		switch {
		case err == nil:
			w.packet(m, names)
		case errors.Is(err, unix.ENETDOWN):
			// An interface was switched off; a socket bound to all of them goes on.
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return
		default:
			w.mu.Lock()
			w.err = fmt.Errorf("packet witness: receive: %w", err)
			w.mu.Unlock()
			return
		}
	}
}

func (w *Witness) packet(m sock.Message, names linkNames) {
	if m.Link.Type == unix.PACKET_OTHERHOST || m.Link.Type == unix.PACKET_LOOPBACK {
		return // promiscuous mode shows packets that are not ours
	}
	s := decode(m.Link.Protocol, m.Link.Type == unix.PACKET_OUTGOING, m.Data)
	if s.what == nothing {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.what != announced && !w.tally.watched[s.remote] {
		return
	}
	w.tally.add(names.of(w.conn, m.Link.Index), s, m.User)
}

// linkNames remembers interface names by index.
type linkNames map[int]string

func (l linkNames) of(c *sock.Conn, index int) string {
	if name, ok := l[index]; ok {
		return name
	}
	name, err := c.LinkName(index)
	if err != nil { // gone meanwhile; its number may be given to another
		return "if" + strconv.Itoa(index)
	}
	if len(l) < maxLinks {
		l[index] = name
	}
	return name
}

// identity is what this host calls its own.
type identity struct {
	addrs map[netip.Addr]bool
	macs  map[string]bool
}

// ownIdentity reads it; what cannot be read is missing, and then no conflict
// about our own addresses is claimed.
func ownIdentity() identity {
	id := identity{map[netip.Addr]bool{}, map[string]bool{}}
	ifs, err := net.Interfaces()
	if err != nil {
		return id
	}
	for _, i := range ifs {
		if len(i.HardwareAddr) == 6 {
			id.macs[i.HardwareAddr.String()] = true
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					id.addrs[ip.Unmap()] = true
				}
			}
		}
	}
	return id
}
