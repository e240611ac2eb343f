package icmp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"

	"fathom/internal/wire"
)

// sparePayload is room for a reply longer than the request, which is then seen
// to be damaged rather than cut to a right length.
const sparePayload = 128

const (
	cookieLen = 8 // tells our replies from those of others with the same identifier
	indexLen  = 4
)

// pattern is the request of a series: ICMP header, cookie, index, and a stream
// of pseudo-random bytes that does not repeat, so that shifted, swapped or
// compressed data cannot pass for the right one. Shorter payloads have only the
// beginning of it.
type pattern struct {
	msg  []byte
	seal func([]byte)
}

func newPattern(v6 bool, id uint16, payloadLen int, seal func([]byte)) pattern {
	msg := make([]byte, wire.ICMPHeaderLen+payloadLen)
	msg[0] = wire.ICMPEchoRequest
	if v6 {
		msg[0] = wire.ICMP6EchoRequest
	}
	binary.BigEndian.PutUint16(msg[4:], id)
	var word [8]byte
	for at := wire.ICMPHeaderLen; at < len(msg); at += copy(msg[at:], word[:]) {
		binary.NativeEndian.PutUint64(word[:], rand.Uint64())
	}
	return pattern{msg, seal}
}

// request is the message number i; it is valid until the next call.
func (p pattern) request(i int) []byte {
	binary.BigEndian.PutUint16(p.msg[6:], uint16(i))
	p.setIndex(i)
	if p.seal != nil {
		p.msg[2], p.msg[3] = 0, 0
		p.seal(p.msg)
	}
	return p.msg
}

func (p pattern) setIndex(i int) {
	if at := wire.ICMPHeaderLen + cookieLen; len(p.msg) >= at+indexLen {
		binary.BigEndian.PutUint32(p.msg[at:], uint32(i))
	}
}

// Verdicts over a reply's payload.
const (
	intact  = iota
	damaged // ours, but not what we sent
	foreign // not an answer to us
)

// compare judges the payload of a reply to request i. shared says that replies
// to other processes come too; then a payload that has neither our cookie nor
// most of our bytes is taken for one of those.
func (p pattern) compare(i int, got []byte, shared bool) int {
	p.setIndex(i)
	want := p.msg[wire.ICMPHeaderLen:]
	switch {
	case bytes.Equal(got, want):
		return intact
	case !shared:
		return damaged
	case len(got) >= cookieLen && len(want) >= cookieLen && bytes.Equal(got[:cookieLen], want[:cookieLen]):
		return damaged
	}
	same := 0
	for k := range min(len(got), len(want)) {
		if got[k] == want[k] {
			same++
		}
	}
	if same*2 > len(want) {
		return damaged
	}
	return foreign
}
