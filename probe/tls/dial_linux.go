package tls

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"fathom/internal/sys/dial"
	"fathom/internal/sys/ipsock"
	"fathom/probe"
	"fathom/sample"
)

// Dialer makes TCP connections that are timed, from a chosen address or interface.
type Dialer struct {
	Source    netip.Addr
	Interface string
}

// Link is what is known of a connection once it stands.
type Link struct {
	Connect time.Duration // SYN to established, as this process saw it
	RTT     time.Duration // one round trip: Connect, or the kernel's estimate when a SYN had to be sent again; 0: unknown
	Clock   string        // where RTT comes from: user | tcp_info
	Error   time.Duration // RTT's error bar
	Local   netip.AddrPort
}

// LocalError says that this host could not do what was asked, so that nothing was measured.
type LocalError struct{ err error }

// NewLocalError marks err as one.
func NewLocalError(err error) *LocalError { return &LocalError{err} }

func (e *LocalError) Error() string { return e.err.Error() }
func (e *LocalError) Unwrap() error { return e.err }

// ConnectError says how a connect ended that made no connection.
type ConnectError struct {
	Err    error            // wraps an errno, or the context's error
	ICMP   *probe.ICMPError // the ICMP error that ended it
	Source netip.Addr       // local address used; invalid when the kernel chose none
}

func (e *ConnectError) Error() string { return e.Err.Error() }
func (e *ConnectError) Unwrap() error { return e.Err }

// forever is longer than the kernel tries: the limit is ctx.
const forever = time.Hour

// Dial connects to ap. Errors are a *LocalError, or a *ConnectError that tells
// what the kernel, a router or ctx said of the connection.
func (d Dialer) Dial(ctx context.Context, ap netip.AddrPort) (net.Conn, Link, error) {
	if err := ctx.Err(); err != nil {
		return nil, Link{}, &ConnectError{Err: err}
	}
	a, err := dial.Connect(ctx, ap, forever, dial.Options{Source: d.Source, Interface: d.Interface})
	if err != nil {
		return nil, Link{}, &LocalError{fmt.Errorf("connect to %s: %w", ap, err)}
	}
	if a.Err != nil {
		e := &ConnectError{Err: a.Err}
		if own := a.Local.Addr(); own.IsValid() && !own.IsUnspecified() {
			e.Source = own.WithZone("")
		}
		if i := a.ICMP; i != nil {
			e.ICMP = probe.NewICMPError(i.V6, i.From, i.Type, i.Code, i.MTU)
		}
		return nil, Link{}, e
	}
	conn, err := a.Conn.NetConn()
	if err != nil {
		return nil, Link{}, &LocalError{fmt.Errorf("connect to %s: %w", ap, err)}
	}
	return conn, newLink(a), nil
}

// newLink asks the kernel how it saw the three-way handshake. Its figure starts
// and ends in the kernel, so the difference is what this process' scheduling added.
func newLink(a dial.Attempt) Link {
	l := Link{Connect: a.Took, RTT: a.Took, Clock: "user", Error: a.Took, Local: a.Local}
	if a.Info == nil {
		return l
	}
	kernel := time.Duration(a.Info.Rtt) * time.Microsecond
	switch {
	case a.Retransmitted() > 0: // connect time holds a retransmission timeout
		l.RTT, l.Clock, l.Error = kernel, "tcp_info", time.Duration(a.Info.Rttvar)*time.Microsecond
	case kernel > 0 && kernel <= a.Took:
		l.Error = a.Took - kernel
	}
	return l
}

// Record writes the connection into r: source, phase connect, RTT.
func (l Link) Record(r *probe.Result) {
	r.Source = l.Local.Addr().Unmap()
	r.Phases = append(r.Phases, probe.Phase{Name: "connect", Duration: sample.D(l.Connect)})
	if l.RTT > 0 {
		r.RTT = &probe.RTT{Value: sample.D(l.RTT), Error: sample.D(l.Error), Clock: l.Clock}
	}
}

// BindToDevice binds a socket to an interface; "" does nothing. The error is a *LocalError.
func BindToDevice(c syscall.RawConn, ifname string) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = ipsock.BindToDevice(int(fd), ifname) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return &LocalError{err}
	}
	return nil
}
