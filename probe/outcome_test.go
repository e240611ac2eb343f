package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestOutcomeOfICMP(t *testing.T) {
	for _, c := range []struct {
		v6        bool
		typ, code uint8
		want      Outcome
	}{
		{false, 3, 3, Refused},
		{false, 3, 0, Unreachable},
		{false, 3, 1, Unreachable},
		{false, 3, 2, Unreachable},
		{false, 3, 4, TooBig},
		{false, 3, 9, Prohibited},
		{false, 3, 10, Prohibited},
		{false, 3, 13, Prohibited},
		{false, 3, 200, Unreachable},
		{false, 11, 0, TTLExceeded},
		{false, 11, 1, Failed},
		{false, 12, 0, Failed},
		{false, 0, 0, Failed},
		{true, 1, 0, Unreachable},
		{true, 1, 1, Prohibited},
		{true, 1, 3, Unreachable},
		{true, 1, 4, Refused},
		{true, 1, 5, Prohibited},
		{true, 1, 6, Prohibited},
		{true, 2, 0, TooBig},
		{true, 3, 0, TTLExceeded},
		{true, 3, 1, Failed},
		{true, 4, 1, Failed},
		{true, 129, 0, Failed},
	} {
		if got := OutcomeOfICMP(c.v6, c.typ, c.code); got != c.want {
			t.Errorf("v6 %v type %d code %d: %s, want %s", c.v6, c.typ, c.code, got, c.want)
		}
	}
}

func TestJudgeICMP(t *testing.T) {
	a := netip.MustParseAddr
	for name, c := range map[string]struct {
		e       *ICMPError
		to, own netip.Addr
		want    Outcome
		detail  string
	}{
		"target":        {NewICMPError(false, a("192.0.2.9"), 3, 3, 0), a("192.0.2.9"), a("192.0.2.1"), Refused, "icmp port unreachable from 192.0.2.9"},
		"router":        {NewICMPError(false, a("192.0.2.254"), 3, 13, 0), a("198.51.100.9"), a("192.0.2.1"), Prohibited, "on the way"},
		"ourselves":     {NewICMPError(false, a("192.0.2.1"), 3, 13, 0), a("198.51.100.9"), a("192.0.2.1"), LocalDrop, "this host itself"},
		"ourselves v6":  {NewICMPError(true, a("fe80::1"), 1, 4, 0), a("fe80::2%eth0"), a("fe80::1%eth0"), LocalDrop, "this host itself"},
		"our neighbour": {NewICMPError(false, a("192.0.2.1"), 3, 1, 0), a("192.0.2.9"), a("192.0.2.1"), Unreachable, "icmp host unreachable from 192.0.2.1"},
		"we ask us":     {NewICMPError(true, a("::1"), 1, 4, 0), a("::1"), a("::1"), Refused, "icmp port unreachable from ::1"},
		"too big":       {NewICMPError(false, a("192.0.2.254"), 3, 4, 1400), a("198.51.100.9"), a("192.0.2.1"), TooBig, "192.0.2.254"},
	} {
		if o, detail := JudgeICMP(c.e, c.to, c.own); o != c.want || !strings.Contains(detail, c.detail) {
			t.Errorf("%s: %s %q, want %s %q", name, o, detail, c.want, c.detail)
		}
	}
}

func TestOutcomeOfErrno(t *testing.T) {
	wrap := func(e error) error {
		return fmt.Errorf("connect: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", e)})
	}
	for _, c := range []struct {
		err  error
		want Outcome
		name string
	}{
		{nil, OK, ""},
		{wrap(syscall.ECONNREFUSED), Refused, "ECONNREFUSED"},
		{wrap(syscall.ETIMEDOUT), Timeout, "ETIMEDOUT"},
		{wrap(syscall.ECONNRESET), Reset, "ECONNRESET"},
		{wrap(syscall.ENETUNREACH), NoRoute, "ENETUNREACH"},
		{wrap(syscall.EHOSTUNREACH), Unreachable, "EHOSTUNREACH"},
		{wrap(syscall.EACCES), LocalDrop, "EACCES"},
		{wrap(syscall.EPERM), LocalDrop, "EPERM"},
		{wrap(syscall.EADDRNOTAVAIL), NoPort, "EADDRNOTAVAIL"},
		{wrap(syscall.EMSGSIZE), TooBig, "EMSGSIZE"},
		{wrap(syscall.ENOBUFS), Failed, "ENOBUFS"},
		{wrap(context.DeadlineExceeded), Timeout, ""},
		{os.ErrDeadlineExceeded, Timeout, ""},
		{errors.New("x"), Failed, ""},
	} {
		got, name := OutcomeOfErrno(c.err)
		if got != c.want || name != c.name {
			t.Errorf("%v: %s %q, want %s %q", c.err, got, name, c.want, c.name)
		}
	}
}
