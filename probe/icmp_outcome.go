package probe

import "fathom/internal/wire"

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
