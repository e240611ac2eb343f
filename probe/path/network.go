package path

import (
	"net/netip"
	"time"

	"fathom/internal/wire"
	"fathom/probe"
)

// packet is one probe as a plan asks for it.
type packet struct {
	ID   int // 1 … maxID; tells the probes of one network apart
	TTL  int
	To   netip.Addr
	Size int // whole IP packet in bytes
}

// maxID bounds the probes of one network: IDs travel in 16-bit fields.
const maxID = 60000

// replyKind says what came back for a probe.
type replyKind uint8

const (
	kindSent         replyKind = iota + 1 // the kernel's stamp of the moment of sending
	kindTimeExceeded                      // a router let it die
	kindUnreachable                       // a router, or our own neighbour lookup, refused it
	kindTooBig                            // frag-needed, packet too big, or our own EMSGSIZE
	kindTarget                            // the target itself
)

// reply is one thing that came back. Two clocks, never mixed: At is user space
// with the monotonic clock, Kernel the kernel's real-time stamp, zero when none.
type reply struct {
	ID        int
	Kind      replyKind
	From      netip.Addr
	At        time.Time
	Kernel    time.Time
	ICMP      *probe.ICMPError // for all kinds that were ICMP errors
	QuotedTTL int              // 0: not known
	QuotedTOS int
	ReplyTTL  int
	MPLS      []string
}

// network is all that traces and searches need of the kernel.
type network interface {
	// Send sends one probe. An error wraps what the kernel said about it; the
	// network stays usable.
	Send(p packet) error
	// Replies delivers what came back; it is not closed.
	Replies() <-chan reply
	// Close ends all goroutines and waits for them.
	Close() error
}

// way says how a network reaches the target.
type way struct {
	method   string
	protocol string // really used: icmp falls back to udp
	port     uint16
	source   netip.Addr
	stamps   bool // the kernel's stamps of sending come as replies
}

// classify turns an ICMP error into a kind; ok is false for those that say
// nothing about the path (redirect, reassembly time exceeded).
func classify(target netip.Addr, e probe.ICMPError) (kind replyKind, ok bool) {
	atTarget := e.From == target.WithZone("") || e.From == target
	if target.Is4() {
		switch {
		case e.Type == wire.ICMPTimeExceeded && e.Code == 0:
			return kindTimeExceeded, true
		case e.Type == wire.ICMPUnreachable && e.Code == wire.ICMPCodeFragNeeded:
			return kindTooBig, true
		case e.Type == wire.ICMPUnreachable && atTarget:
			return kindTarget, true
		case e.Type == wire.ICMPUnreachable || e.Type == wire.ICMPParamProblem:
			return kindUnreachable, true
		}
		return 0, false
	}
	switch {
	case e.Type == wire.ICMP6TimeExceeded && e.Code == 0:
		return kindTimeExceeded, true
	case e.Type == wire.ICMP6TooBig:
		return kindTooBig, true
	case e.Type == wire.ICMP6Unreachable && atTarget:
		return kindTarget, true
	case e.Type == wire.ICMP6Unreachable || e.Type == wire.ICMP6ParamProblem:
		return kindUnreachable, true
	}
	return 0, false
}

// mplsStrings gives a label stack in the words of the report.
func mplsStrings(stack []wire.MPLSLabel) []string {
	var out []string
	for _, l := range stack {
		out = append(out, l.String())
	}
	return out
}
