// Package wire reads and writes the headers that probes need: Ethernet, ARP,
// IPv4, IPv6, ICMP, ICMPv6 neighbour discovery, TCP and UDP. It is pure: bytes
// in, struct or error out. Every length is checked before it is used, so any
// input from the network is safe. Errors wrap [ErrShort] or [ErrInvalid].
//
// Parse functions return the header and what follows it as a slice of the
// input. Append functions add to a slice and return it, like append.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// What may be wrong with bytes from outside.
var (
	ErrShort   = errors.New("packet is too short")
	ErrInvalid = errors.New("packet is not valid")
)

// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

var be = binary.BigEndian

func short(what string, have, need int) error {
	return fmt.Errorf("%s: %w: %d of %d bytes", what, ErrShort, have, need)
}

func invalid(what, why string, v int) error {
	return fmt.Errorf("%s: %w: %s %d", what, ErrInvalid, why, v)
}
