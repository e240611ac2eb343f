package probe

import (
	"fmt"
	"net/netip"

	"fathom/internal/wire"
)

// NewICMPError describes an ICMP (v6: ICMPv6) error that from sent about one of
// our packets; mtu is in bytes, 0 when it tells none.
func NewICMPError(v6 bool, from netip.Addr, typ, code uint8, mtu int) *ICMPError {
	return &ICMPError{From: from, Type: typ, Code: code, MTU: mtu, Text: wire.ICMPText(v6, typ, code)}
}

// JudgeICMP says how a measurement of to from our address own ended when e came
// back, and tells so in words. A refusal from our own address, which only a
// reject rule in our own output path sends, is LocalDrop, unless we are the target.
func JudgeICMP(e *ICMPError, to, own netip.Addr) (o Outcome, detail string) {
	o = OutcomeOfICMP(to.Is6(), e.Type, e.Code)
	detail = fmt.Sprintf("icmp %s from %s", e.Text, e.From)
	to, own = to.WithZone(""), own.WithZone("")
	switch refusal := o == Refused || o == Prohibited; {
	case !refusal || e.From == to:
		return o, detail
	case e.From == own:
		return LocalDrop, detail + ", this host itself: a local firewall rejects it"
	}
	return o, detail + ", not the target: a router or firewall on the way rejects it"
}

// OutcomeOfICMP says how a measurement ended for which an ICMP (v6: ICMPv6)
// error of this type and code came back. What is no error, an error about the
// packet's form, and a reassembly timeout (the packet got there, but not all of
// its fragments) give Failed: none of them says that the target is unreachable.
func OutcomeOfICMP(v6 bool, typ, code uint8) Outcome {
	switch wire.ICMPOutcome(v6, typ, code) {
	case wire.ClassPort:
		return Refused
	case wire.ClassProhibited:
		return Prohibited
	case wire.ClassTooBig:
		return TooBig
	case wire.ClassTTL:
		return TTLExceeded
	case wire.ClassUnreachable:
		return Unreachable
	}
	return Failed
}
