package dns

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	mdns "github.com/miekg/dns"

	"fathom/probe"
)

// maxRecords bounds each section kept: an answer is for reading and for rules,
// and one message can hold five thousand records.
const maxRecords = 100

// query is the question as it goes on the wire, checked.
type query struct {
	name  string // absolute, ASCII
	qtype uint16

	ednsSize uint16 // 0: no OPT record
	nsid     bool
	rd, cd   bool
	do       bool
}

// pack returns the message with the given id.
func (q query) pack(id uint16) ([]byte, error) {
	m := mdns.Msg{
		MsgHdr:   mdns.MsgHdr{Id: id, RecursionDesired: q.rd, CheckingDisabled: q.cd},
		Question: []mdns.Question{{Name: q.name, Qtype: q.qtype, Qclass: mdns.ClassINET}},
	}
	if q.ednsSize > 0 {
		m.SetEdns0(q.ednsSize, q.do)
		if q.nsid { // RFC 5001 section 2.1: asked for with an empty option
			opt := m.IsEdns0()
			opt.Option = append(opt.Option, &mdns.EDNS0_NSID{Code: mdns.EDNS0NSID})
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question %s %s: %w", q.name, mdns.TypeToString[q.qtype], err)
	}
	return b, nil
}

// withoutEDNS is the question for a server that does not understand OPT.
func (q query) withoutEDNS() query {
	q.ednsSize, q.nsid, q.do = 0, false, false
	return q
}

// answer is a decoded response.
type answer struct {
	id        uint16
	response  bool // QR
	opcode    int
	rcode     int // with the upper bits of the OPT record
	truncated bool
	questions int
	name      string // of the first question
	qtype     uint16
	qclass    uint16
	dns       probe.DNS // Rcode, Flags, Answers, Authority, Size, EDNS…, NSID, EDE
	broken    error     // the message ended or went wrong after the header; what came before is kept
}

// headerLen is the length of a DNS header in bytes, RFC 1035 section 4.1.1.
const headerLen = 12

// decode reads a whole DNS message (no TCP length prefix). It fails only when
// there is no header; damage behind it is reported in broken.
func decode(b []byte) (answer, error) {
	if len(b) < headerLen {
		return answer{}, fmt.Errorf("%d bytes are too few for a DNS header", len(b))
	}
	if len(b) > mdns.MaxMsgSize {
		return answer{}, fmt.Errorf("%d bytes are too many for a DNS message", len(b))
	}
	var m mdns.Msg
	broken := m.Unpack(b)
	a := answer{
		id: m.Id, response: m.Response, opcode: m.Opcode, rcode: m.Rcode,
		truncated: m.Truncated, questions: len(m.Question), broken: broken,
	}
	if len(m.Question) > 0 {
		q := m.Question[0]
		a.name, a.qtype, a.qclass = q.Name, q.Qtype, q.Qclass
	}
	a.dns = probe.DNS{
		Rcode:     rcodeText(m.Rcode),
		Flags:     flags(m.MsgHdr),
		Answers:   records(m.Answer),
		Authority: records(m.Ns),
		Size:      len(b),
	}
	if opt := firstOPT(m.Extra); opt != nil {
		if broken != nil { // Unpack adds the upper bits only when all is well
			a.rcode |= opt.ExtendedRcode()
			a.dns.Rcode = rcodeText(a.rcode)
		}
		readOPT(opt, &a.dns)
	}
	return a, nil
}

// fits tells whether a is the answer to q asked with id. Servers that answer
// with a bare header (9.9.9.9's REFUSED is one) are believed when it is an error:
// a NOERROR without the question proves nothing (RFC 5452 section 9.1).
func (a answer) fits(q query, id uint16) error {
	switch {
	case a.id != id:
		return fmt.Errorf("id %d instead of %d", a.id, id)
	case !a.response:
		return fmt.Errorf("a question, not an answer (QR is clear)")
	case a.opcode != mdns.OpcodeQuery:
		return fmt.Errorf("opcode %d instead of QUERY", a.opcode)
	case a.questions == 0 && a.rcode != mdns.RcodeSuccess && a.rcode != mdns.RcodeNameError:
		return nil
	case a.questions != 1:
		return fmt.Errorf("%d questions instead of 1", a.questions)
	case !strings.EqualFold(a.name, q.name) || a.qtype != q.qtype || a.qclass != mdns.ClassINET:
		return fmt.Errorf("it answers %s %s", a.name, typeText(a.qtype))
	}
	return nil
}

// rejectsEDNS: the answers of servers and middleboxes older than RFC 6891, and
// BADVERS from one that knows another version.
func (a answer) rejectsEDNS() bool {
	switch a.rcode {
	case mdns.RcodeFormatError, mdns.RcodeNotImplemented, mdns.RcodeBadVers:
		return true
	}
	return false
}

func firstOPT(extra []mdns.RR) *mdns.OPT {
	for _, rr := range extra {
		if opt, ok := rr.(*mdns.OPT); ok {
			return opt
		}
	}
	return nil
}

func readOPT(opt *mdns.OPT, d *probe.DNS) {
	d.EDNS = true
	d.EDNSSize = int(opt.UDPSize())
	for _, o := range opt.Option {
		switch o := o.(type) {
		case *mdns.EDNS0_NSID:
			d.NSID = nsidText(o.Nsid)
		case *mdns.EDNS0_EDE:
			if len(d.EDE) < maxRecords {
				d.EDE = append(d.EDE, edeText(o))
			}
		}
	}
}

// edeText is "code text: extra"; the extra text is the server's own, made printable.
func edeText(o *mdns.EDNS0_EDE) string {
	s := strconv.Itoa(int(o.InfoCode))
	if t := mdns.ExtendedErrorCodeToString[o.InfoCode]; t != "" {
		s += " " + t
	}
	// RFC 8914 section 2: some servers end EXTRA-TEXT with a NUL.
	if x := strings.TrimRight(o.ExtraText, "\x00"); x != "" {
		s += ": " + printable(x)
	}
	return s
}

// nsidText turns miekg's hex back into text when it is printable ASCII, as it
// nearly always is ("res720.ams.rrdns.pch.net"); otherwise it stays hex.
func nsidText(h string) string {
	b, err := hex.DecodeString(h)
	if err != nil {
		return h
	}
	for _, c := range b {
		if c < ' ' || c > '~' {
			return "0x" + h
		}
	}
	return string(b)
}

// printable escapes what is not printable, as a Go string literal would.
func printable(s string) string {
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

func rcodeText(r int) string {
	if r == mdns.RcodeBadVers { // 16 is BADSIG only inside TSIG, RFC 6895 section 2.3
		return "BADVERS"
	}
	if s := mdns.RcodeToString[r]; s != "" {
		return s
	}
	return "RCODE" + strconv.Itoa(r)
}

func typeText(t uint16) string {
	if s := mdns.TypeToString[t]; s != "" {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}

// flags lists the set bits in dig's order and words.
func flags(h mdns.MsgHdr) []string {
	var out []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{h.Response, "qr"},
		{h.Authoritative, "aa"},
		{h.Truncated, "tc"},
		{h.RecursionDesired, "rd"},
		{h.RecursionAvailable, "ra"},
		{h.AuthenticatedData, "ad"},
		{h.CheckingDisabled, "cd"},
	} {
		if f.set {
			out = append(out, f.name)
		}
	}
	return out
}

// records renders a section as text. miekg escapes what is not printable in
// names and strings (\DDD), and that form is kept.
func records(rrs []mdns.RR) []probe.DNSRecord {
	if len(rrs) == 0 {
		return nil
	}
	rrs = rrs[:min(len(rrs), maxRecords)]
	out := make([]probe.DNSRecord, 0, len(rrs))
	for _, rr := range rrs {
		h := rr.Header()
		out = append(out, probe.DNSRecord{
			Name: clean(h.Name),
			Type: typeText(h.Rrtype),
			TTL:  h.Ttl,
			Data: clean(strings.TrimSpace(strings.TrimPrefix(rr.String(), h.String()))),
		})
	}
	return out
}

// clean is the last line of defence: whatever record type forgets to escape,
// only printable ASCII leaves this package.
func clean(s string) string {
	bad := func(c byte) bool { return c < ' ' || c > '~' }
	i := 0
	for i < len(s) && !bad(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	b := append(make([]byte, 0, len(s)+16), s[:i]...)
	for ; i < len(s); i++ {
		if c := s[i]; bad(c) {
			b = fmt.Appendf(b, `\%03d`, c)
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}
