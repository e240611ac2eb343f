package wire

import "strconv"

const icmpSourceQuench = 4 // deprecated by RFC 6633

// Names of the ICMPv4 destination unreachable codes (RFC 792, 1122 §3.2.2.1, 1812 §5.2.7.1).
var unreachable4 = [...]string{
	"network unreachable", "host unreachable", "protocol unreachable", "port unreachable",
	"fragmentation needed but DF set", "source route failed", "destination network unknown",
	"destination host unknown", "source host isolated", "network administratively prohibited",
	"host administratively prohibited", "network unreachable for this type of service",
	"host unreachable for this type of service", "communication administratively prohibited",
	"host precedence violation", "precedence cutoff in effect",
}

// Names of the ICMPv6 destination unreachable codes (RFC 4443 §3.1, RFC 6550 §13, RFC 8883 §3.2).
var unreachable6 = [...]string{
	"no route to destination", "communication administratively prohibited",
	"beyond scope of source address", "address unreachable", "port unreachable",
	"source address failed ingress or egress policy", "rejected by route to destination",
	"error in source routing header", "headers too long",
}

// Names of the ICMPv6 parameter problem codes (RFC 4443 §3.4, RFC 7112, RFC 8754, RFC 8883).
var paramProblem6 = [...]string{
	"erroneous header field", "unrecognized next header", "unrecognized IPv6 option",
	"incomplete header chain in first fragment", "SR upper-layer header error",
	"unrecognized next header by intermediate node", "extension header too big",
	"extension header chain too long", "too many extension headers",
	"too many options in extension header", "option too big",
}

var redirect4 = [...]string{
	"redirect for the network", "redirect for the host",
	"redirect for the type of service and network", "redirect for the type of service and host",
}

var types4 = map[uint8]string{
	ICMPEchoReply: "echo reply", icmpSourceQuench: "source quench", ICMPEchoRequest: "echo request",
	9: "router advertisement", 10: "router solicitation", 13: "timestamp request", 14: "timestamp reply",
	17: "address mask request", 18: "address mask reply", 42: "extended echo request", 43: "extended echo reply",
}

var types6 = map[uint8]string{
	ICMP6TooBig: "packet too big", ICMP6EchoRequest: "echo request", ICMP6EchoReply: "echo reply",
	130: "multicast listener query", 131: "multicast listener report", 132: "multicast listener done",
	ICMP6RouterSolicit: "router solicitation", ICMP6RouterAdvert: "router advertisement",
	ICMP6NeighbourSol: "neighbour solicitation", ICMP6NeighbourAdv: "neighbour advertisement",
	ICMP6Redirect: "redirect", 143: "multicast listener report v2",
}

// ICMPText names an ICMP (v6: ICMPv6) type and code in words. Unknown ones give
// their numbers.
func ICMPText(v6 bool, typ, code uint8) string {
	var names []string
	family := ""
	switch {
	case !v6 && typ == ICMPUnreachable:
		names, family = unreachable4[:], "destination unreachable"
	case !v6 && typ == ICMPRedirect:
		names, family = redirect4[:], "redirect"
	case !v6 && typ == ICMPParamProblem:
		names, family = []string{"bad IP header", "required IP option missing", "bad IP header length"}, "parameter problem"
	case v6 && typ == ICMP6Unreachable:
		names, family = unreachable6[:], "destination unreachable"
	case v6 && typ == ICMP6ParamProblem:
		names, family = paramProblem6[:], "parameter problem"
	case !v6 && typ == ICMPTimeExceeded, v6 && typ == ICMP6TimeExceeded:
		names, family = []string{"time to live exceeded in transit", "fragment reassembly time exceeded"}, "time exceeded"
		if v6 {
			names = []string{"hop limit exceeded in transit", names[1]}
		}
	}
	if int(code) < len(names) {
		return names[code]
	}
	if family == "" {
		types := types4
		if v6 {
			types = types6
		}
		if s, ok := types[typ]; ok {
			return s
		}
		family = "ICMP type " + strconv.Itoa(int(typ))
		if v6 {
			family = "ICMPv6 type " + strconv.Itoa(int(typ))
		}
	}
	return family + ", code " + strconv.Itoa(int(code))
}

// ICMPClass is what an ICMP message means for the packet it is about.
type ICMPClass uint8

// The classes.
const (
	ClassNone        ICMPClass = iota // not an error: echo, redirect, neighbour discovery, unknown
	ClassPort                         // nobody listens on the port
	ClassProhibited                   // a filter or policy forbids it
	ClassTooBig                       // larger than the next hop's MTU
	ClassTTL                          // TTL or hop limit ran out on the way
	ClassUnreachable                  // any other destination unreachable
	ClassReassembly                   // the receiver did not get all fragments
	ClassOther                        // another error: parameter problem, source quench, …
)

// ICMPOutcome classes an ICMP (v6: ICMPv6) type and code.
func ICMPOutcome(v6 bool, typ, code uint8) ICMPClass {
	if v6 {
		return class6(typ, code)
	}
	switch typ {
	case ICMPUnreachable:
		switch code {
		case ICMPCodePort:
			return ClassPort
		case ICMPCodeFragNeeded:
			return ClassTooBig
		case 9, 10, 13:
			return ClassProhibited
		}
		return ClassUnreachable
	case ICMPTimeExceeded:
		return classTime(code)
	case ICMPParamProblem, icmpSourceQuench:
		return ClassOther
	}
	return ClassNone
}

func class6(typ, code uint8) ICMPClass {
	switch typ {
	case ICMP6Unreachable:
		switch code {
		case ICMP6CodePort:
			return ClassPort
		case 1, 5, 6:
			return ClassProhibited
		}
		return ClassUnreachable
	case ICMP6TooBig:
		return ClassTooBig
	case ICMP6TimeExceeded:
		return classTime(code)
	}
	if typ < 128 { // the high bit tells informational messages, RFC 4443 §2.1
		return ClassOther
	}
	return ClassNone
}

func classTime(code uint8) ICMPClass {
	if code == 0 {
		return ClassTTL
	}
	return ClassReassembly
}
