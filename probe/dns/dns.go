// Package dns asks one DNS server one question, several times if wanted, and
// keeps everything the answer says. Only the wire format is miekg/dns's; sockets,
// checks and retries are our own, so that an ICMP error, an answer from the wrong
// address, a truncated answer and a server that rejects EDNS are all told apart.
// It needs no privilege.
package dns

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"

	"fathom/internal/attempts"
	"fathom/internal/sys/dial"
	"fathom/probe"
	"fathom/sample"
)

const (
	// defaultTimeout: a resolver that needs longer is past most programs' patience.
	defaultTimeout = 1500 * time.Millisecond
	// defaultEDNSSize is the DNS flag day 2020 size: no fragments on any usual path.
	defaultEDNSSize = 1232
	// tryInterval parts the starts of tries: close enough that a dead server
	// costs little more than one timeout, far enough apart for a short burst of
	// loss to spare one of them.
	tryInterval = 150 * time.Millisecond
	// wrongAddressGrace is how much longer the right server gets when somebody
	// else has answered in its place.
	wrongAddressGrace = 300 * time.Millisecond
	maxTries          = 100
	minEDNSSize       = 512 // smaller values mean 512, RFC 6891 section 6.2.3
)

// Transports.
const (
	UDP = "udp"
	TCP = "tcp"
)

// Config is the question and how to ask it. Zero values take the defaults in brackets.
type Config struct {
	Name             string        // domain name; an address when Type is PTR
	Type             string        // A, AAAA, …, TYPE65280 [A]
	Transport        string        // udp or tcp [udp, and tcp when the answer is truncated]
	Timeout          time.Duration // of each exchange [1.5 s]; connect and answer together over tcp
	Tries            int           // all are made, started 150 ms apart, each from its own port [1]
	EDNSSize         int           // UDP size offered, bytes [1232]; negative: no EDNS
	NSID             bool          // ask which server of an anycast set answers (RFC 5001)
	CheckingDisabled bool          // CD: give the answer even if DNSSEC says it is bogus
	NoRecurse        bool          // clear RD: ask an authority, or a cache for what it has
	DNSSECOK         bool          // DO: send signatures
	Source           netip.Addr    // from this address
	Interface        string        // leave through this interface
}

// Prober asks one question.
type Prober struct{ c Config }

var _ probe.Prober = (*Prober)(nil)

// New fills in the defaults. Check tells whether the question can be asked.
func New(c Config) *Prober {
	if c.Transport == "" {
		c.Transport = UDP
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Tries == 0 {
		c.Tries = 1
	}
	if c.EDNSSize == 0 {
		c.EDNSSize = defaultEDNSSize
	}
	return &Prober{c: c}
}

// Check says what is wrong with the Config, before anything is sent.
func (p *Prober) Check() error {
	_, err := p.query()
	return err
}

func (p *Prober) query() (query, error) {
	c := p.c
	switch {
	case c.Transport != UDP && c.Transport != TCP:
		return query{}, fmt.Errorf("transport %q: want udp or tcp", c.Transport)
	case c.Timeout < 0:
		return query{}, fmt.Errorf("timeout %v: must not be negative", c.Timeout)
	case c.Tries < 1 || c.Tries > maxTries:
		return query{}, fmt.Errorf("%d tries: must be 1 to %d", c.Tries, maxTries)
	case c.EDNSSize > mdns.MaxMsgSize-1 || c.EDNSSize > 0 && c.EDNSSize < minEDNSSize:
		return query{}, fmt.Errorf("edns size %d: must be %d to %d, or negative for none", c.EDNSSize, minEDNSSize, mdns.MaxMsgSize-1)
	case c.EDNSSize < 0 && (c.NSID || c.DNSSECOK):
		return query{}, fmt.Errorf("nsid and dnssec need edns")
	}
	qtype, err := questionType(c.Type)
	if err != nil {
		return query{}, err
	}
	name, err := questionName(c.Name, qtype)
	if err != nil {
		return query{}, err
	}
	return query{
		name: name, qtype: qtype, ednsSize: uint16(max(c.EDNSSize, 0)),
		nsid: c.NSID, rd: !c.NoRecurse, cd: c.CheckingDisabled, do: c.DNSSECOK,
	}, nil
}

func (c Config) options() dial.Options { return dial.Options{Source: c.Source, Interface: c.Interface} }

// Probe asks server, "192.0.2.53:53" or "[2001:db8::53]:53". An error means that
// nothing could be measured: a question that cannot be asked, a bad option, no
// descriptors, or ctx ended before the first try did.
func (p *Prober) Probe(ctx context.Context, server string) (probe.Result, error) {
	to, err := probe.ParseTarget("dns server", server, 53)
	if err != nil {
		return probe.Result{}, err
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	q, err := p.query()
	if err != nil {
		return probe.Result{}, fmt.Errorf("dns probe of %s: %w", server, err)
	}
	start := time.Now()
	done, err := attempts.Run(ctx, p.c.Tries, tryInterval, func(ctx context.Context) (try, error) { return p.try(ctx, to, q) })
	if len(done) == 0 {
		return probe.Result{}, fmt.Errorf("dns probe of %s: %w", server, err)
	}
	// An unconnected socket does not say which source address it used; an error
	// here means that there is none, which the tries have told already.
	own, _ := dial.SourceFor(to, p.c.options())
	r := p.summarize(server, to, own, q, done)
	r.Start, r.Elapsed = start, sample.D(time.Since(start))
	if err != nil {
		r.Detail = attempts.Join(r.Detail, fmt.Sprintf("%d of %d tries were made: %v", len(done), p.c.Tries, err))
	}
	return r, nil
}

// try is one question with the retries the protocol demands.
type try struct {
	reply            // the last exchange's
	first    *answer // the truncated answer over UDP that made us retry over TCP
	noEDNS   bool    // rejected with EDNS, asked again without
	rejected string  // the rcode that said so
	trips    []reply // all exchanges, in order
}

func (p *Prober) try(ctx context.Context, to netip.AddrPort, q query) (try, error) {
	var t try
	transport := p.c.Transport
	ask := func(q query) (err error) {
		if transport == TCP {
			t.reply, err = exchangeTCP(ctx, to, q, p.c.Timeout, p.c.options())
		} else {
			t.reply, err = exchangeUDP(ctx, to, q, p.c.Timeout, p.c.options())
		}
		t.trips = append(t.trips, t.reply)
		return err
	}
	if err := ask(q); err != nil {
		return try{}, err
	}
	if t.ok() && q.ednsSize > 0 && t.answer.rejectsEDNS() {
		with := t.reply
		q = q.withoutEDNS()
		if err := ask(q); err != nil {
			return try{}, err
		}
		if t.ok() && t.answer.rcode != with.answer.rcode {
			t.noEDNS, t.rejected = true, with.answer.dns.Rcode
		} else {
			t.reply = with // EDNS was not the reason
		}
	}
	if t.ok() && t.answer.truncated && transport == UDP {
		transport = TCP
		cut := t.answer
		t.first = &cut
		if err := ask(q); err != nil {
			return try{}, err
		}
	}
	return t, nil
}
