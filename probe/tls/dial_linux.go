package tls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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

// Dial connects to ap. Errors are a *LocalError, or what the kernel or ctx said of the connection.
func (d Dialer) Dial(ctx context.Context, ap netip.AddrPort) (net.Conn, Link, error) {
	nd := net.Dialer{KeepAlive: -1} // a probe's connection does not live long enough
	nd.SetMultipathTCP(false)       // its SYN option is itself a reason for a middlebox to drop
	if d.Source.IsValid() {
		if d.Source.Unmap().Is4() != ap.Addr().Unmap().Is4() {
			return nil, Link{}, &LocalError{fmt.Errorf("connect to %s from %s: not the same address family", ap, d.Source)}
		}
		nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.Source.Unmap(), 0))
	}
	var bind *LocalError
	nd.Control = func(_, _ string, c syscall.RawConn) error {
		if err := BindToDevice(c, d.Interface); err != nil {
			errors.As(err, &bind)
			return err
		}
		return nil
	}
	start := time.Now()
	conn, err := nd.DialContext(ctx, "tcp", ap.String())
	took := time.Since(start)
	if bind != nil {
		return nil, Link{}, bind
	}
	var call *os.SyscallError
	if errors.As(err, &call) && (call.Syscall == "bind" || call.Syscall == "socket") {
		return nil, Link{}, &LocalError{fmt.Errorf("connect to %s from %v: %w (is it an address of this host?)", ap, d.Source, call)}
	}
	if err != nil {
		return nil, Link{}, err
	}
	return conn, newLink(conn, took), nil
}

// newLink asks the kernel how it saw the three-way handshake. Its figure starts
// and ends in the kernel, so the difference is what this process' scheduling added.
func newLink(conn net.Conn, took time.Duration) Link {
	l := Link{Connect: took, RTT: took, Clock: "user", Error: took}
	l.Local, _ = netip.ParseAddrPort(conn.LocalAddr().String())
	info, err := tcpInfo(conn)
	if err != nil {
		return l
	}
	kernel := time.Duration(info.Rtt) * time.Microsecond
	switch {
	case info.Total_retrans > 0: // connect time holds a retransmission timeout
		l.RTT, l.Clock, l.Error = kernel, "tcp_info", time.Duration(info.Rttvar)*time.Microsecond
	case kernel > 0 && kernel <= took:
		l.Error = took - kernel
	}
	return l
}

func tcpInfo(conn net.Conn) (*unix.TCPInfo, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var info *unix.TCPInfo
	var got error
	if err := rc.Control(func(fd uintptr) {
		info, got = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil {
		return nil, err
	}
	return info, got
}

// Record writes the connection into r: source, phase connect, RTT.
func (l Link) Record(r *probe.Result) {
	r.Source = l.Local.Addr().Unmap()
	r.Phases = append(r.Phases, probe.Phase{Name: "connect", Duration: sample.D(l.Connect)})
	if l.RTT > 0 {
		r.RTT = &probe.RTT{Value: sample.D(l.RTT), Error: sample.D(l.Error), Clock: l.Clock}
	}
}

// BindToDevice binds a socket to an interface; "" does nothing. Since Linux 5.7
// this needs no privilege on a socket that is not bound yet (net/core/sock.c,
// sock_bindtoindex_locked). The error is a *LocalError.
func BindToDevice(c syscall.RawConn, ifname string) error {
	if ifname == "" {
		return nil
	}
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), ifname) }); cerr != nil {
		err = cerr
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return &LocalError{fmt.Errorf("bind socket to interface %s: %w (needs CAP_NET_RAW before Linux 5.7)", ifname, err)}
	case errors.Is(err, unix.ENODEV):
		return &LocalError{fmt.Errorf("bind socket to interface %s: %w (no such interface)", ifname, err)}
	}
	return &LocalError{fmt.Errorf("bind socket to interface %s: %w", ifname, err)}
}
