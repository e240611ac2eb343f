package probe

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// outcomes maps what send and connect return to what it means for the probe.
// From the kernel's view: net/ipv4/icmp.c icmp_err_convert, ip_route_output.
var outcomes = map[syscall.Errno]Outcome{
	syscall.ECONNREFUSED:  Refused,
	syscall.ECONNRESET:    Reset,
	syscall.EPIPE:         Reset,
	syscall.ECONNABORTED:  Reset,
	syscall.ETIMEDOUT:     Timeout,
	syscall.ENETUNREACH:   NoRoute,
	syscall.EHOSTUNREACH:  Unreachable,
	syscall.EHOSTDOWN:     Unreachable,
	syscall.ENONET:        Unreachable,
	syscall.EACCES:        LocalDrop, // a prohibit route, or a local reject rule
	syscall.EPERM:         LocalDrop, // a local firewall's drop rule
	syscall.EADDRNOTAVAIL: NoPort,
	syscall.EMSGSIZE:      TooBig,
}

// OutcomeOfErrno finds the errno inside err and says how the measurement ended,
// with the errno's name (ECONNREFUSED). An error without errno gives Timeout
// when it is a timeout and Failed otherwise, and no name; nil gives OK.
func OutcomeOfErrno(err error) (Outcome, string) {
	if err == nil {
		return OK, ""
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if o, ok := outcomes[errno]; ok {
			return o, unix.ErrnoName(errno)
		}
		return Failed, unix.ErrnoName(errno)
	}
	var t interface{ Timeout() bool }
	if errors.As(err, &t) && t.Timeout() {
		return Timeout, ""
	}
	return Failed, ""
}
