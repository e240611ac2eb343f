package service

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers queries.
type nameServer struct {
	b                         *base
	d                         DNS
	zones                     []*zone
	from                      map[string]*net.UDPConn // by listening address: the socket that answers leave by
	second, answered, slipped int64
}

// startDNS opens the sockets of a name server.
func (b *base) startDNS(d DNS) error {
	s := &nameServer{b: b, d: d, from: map[string]*net.UDPConn{}}
	for _, z := range d.Zones {
		k, err := parseZone(z)
		if err != nil {
			return err
		}
		s.zones = append(s.zones, k)
	}
	for _, l := range d.Listen {
		addr, err := listenAddr(l, "53")
		if err != nil {
			return err
		}
		if err := s.listen(addr); err != nil {
			return err
		}
	}
	return nil
}

func (s *nameServer) listen(addr string) error {
	if !s.d.TCPOnly {
		c, err := s.b.listenUDP(addr)
		if err != nil {
			return err
		}
		s.b.listens(c.LocalAddr().String())
		addr = c.LocalAddr().String() // TCP gets the same port when it was 0
		if s.d.From != "" {
			_, port, _ := net.SplitHostPort(addr)
			if s.from[addr], err = s.b.listenUDP(net.JoinHostPort(s.d.From, port)); err != nil {
				return fmt.Errorf("answer from %s: %w", s.d.From, err)
			}
		}
		s.serve(&dns.Server{PacketConn: c, Handler: s, UDPSize: dns.MaxMsgSize})
	}
	if !s.d.UDPOnly {
		ln, err := s.b.listenTCP(addr, 0)
		if err != nil {
			return err
		}
		s.serve(&dns.Server{Listener: ln, Handler: s})
	}
	return nil
}

func (s *nameServer) serve(srv *dns.Server) {
	started := make(chan struct{})
	srv.NotifyStartedFunc = func() { close(started) }
	ok := s.b.run(func() {
		err := srv.ActivateAndServe()
		if err != nil && !errors.Is(err, net.ErrClosed) {
			s.b.fail(fmt.Errorf("serve dns: %w", err))
		}
	})
	if !ok {
		return
	}
	select { // Shutdown before the start would be refused and lost
	case <-started:
	case <-s.b.ctx.Done():
	}
	s.b.keep(&closer{srv.Shutdown})
}

// ServeDNS answers one query; it may wait.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 || !s.b.enter() {
		return
	}
	defer s.b.wg.Done()
	s.b.count("queries")
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	qtype := q.Question[0].Qtype
	if qtype == dns.TypeAXFR || qtype == dns.TypeIXFR {
		s.transfer(w, q, udp)
		return
	}
	f := s.faults(q)
	if !s.b.sleep(f.Delay+s.b.spread(f.Jitter)) || f.Silent || f.EDNSDie && q.IsEdns0() != nil {
		return
	}
	m := s.answer(q, f)
	s.finish(m, q, f, udp)
	s.send(w, m, udp)
}

// faults joins all faults that are in force for the question.
func (s *nameServer) faults(q *dns.Msg) (sum DNSFault) {
	name, qtype := strings.ToLower(q.Question[0].Name), q.Question[0].Qtype
	for _, f := range s.d.Faults {
		if f.Suffix != "" && !dns.IsSubDomain(strings.ToLower(dns.Fqdn(f.Suffix)), name) {
			continue
		}
		if f.Type != "" && dns.StringToType[f.Type] != qtype || f.Share > 0 && !s.b.chance(f.Share) {
			continue
		}
		sum.Silent = sum.Silent || f.Silent
		sum.ServFail = sum.ServFail || f.ServFail
		sum.Refused = sum.Refused || f.Refused
		sum.NXDomain = sum.NXDomain || f.NXDomain
		sum.NotAuth = sum.NotAuth || f.NotAuth
		sum.Truncate = sum.Truncate || f.Truncate
		sum.FormErr = sum.FormErr || f.FormErr
		sum.NoEDNS = sum.NoEDNS || f.NoEDNS
		sum.EDNSDie = sum.EDNSDie || f.EDNSDie
		sum.WrongID = sum.WrongID || f.WrongID
		sum.Delay += f.Delay
		sum.Jitter += f.Jitter
		if f.NXRewrite != "" {
			sum.NXRewrite = f.NXRewrite
		}
		for n, a := range f.Lie {
			if strings.EqualFold(dns.Fqdn(n), name) {
				sum.Lie = map[string]string{name: a}
			}
		}
	}
	return sum
}

// answer makes the answer before size and EDNS are looked at.
func (s *nameServer) answer(q *dns.Msg, f DNSFault) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = s.d.Recursive
	name := q.Question[0].Name
	switch {
	case f.FormErr && q.IsEdns0() != nil:
		m.Rcode = dns.RcodeFormatError
	case f.Refused:
		m.Rcode = dns.RcodeRefused
	case f.ServFail:
		m.Rcode = dns.RcodeServerFailure
	case f.NXDomain:
		m.Rcode = dns.RcodeNameError
		if z := s.zoneOf(name); z != nil {
			m.Authoritative = !s.d.Recursive
			z.negative(m, false)
		}
	case f.NotAuth: // an upward referral (RFC 8499, "lame")
		m.Ns = []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 3600}, Ns: "a.root-servers.lab."}}
	case f.Lie != nil:
		m.Authoritative = !s.d.Recursive
		s.lie(m, f.Lie[strings.ToLower(name)])
	default:
		m = s.truth(m, q)
		if f.NXRewrite != "" && m.Rcode == dns.RcodeNameError {
			m.Rcode, m.Ns, m.Answer = dns.RcodeSuccess, nil, nil
			s.lie(m, f.NXRewrite)
		}
	}
	return m
}

// lie adds a false address if the question is for its family.
func (s *nameServer) lie(m *dns.Msg, address string) {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return
	}
	q := m.Question[0]
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 300}
	if a.Is4() && q.Qtype == dns.TypeA {
		m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
	} else if a.Is6() && q.Qtype == dns.TypeAAAA {
		m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
	}
}

// zoneOf is the zone with the longest fitting name.
func (s *nameServer) zoneOf(name string) (best *zone) {
	name = strings.ToLower(name)
	for _, z := range s.zones {
		if dns.IsSubDomain(z.origin, name) && (best == nil || len(z.origin) > len(best.origin)) {
			best = z
		}
	}
	return best
}

// truth answers from the zones, following aliases through them.
func (s *nameServer) truth(m, q *dns.Msg) *dns.Msg {
	name, qtype := q.Question[0].Name, q.Question[0].Qtype
	do := q.IsEdns0() != nil && q.IsEdns0().Do()
	if s.zoneFor(name, qtype) == nil {
		switch {
		case s.d.Forward != "":
			return s.forward(m, q)
		case s.d.Recursive:
			m.Rcode = dns.RcodeNameError
		default:
			m.Rcode = dns.RcodeRefused
		}
		return m
	}
	m.Authoritative = !s.d.Recursive
	for range 12 { // aliases; a circle is answered as far as it goes
		z := s.zoneFor(name, qtype)
		if z == nil {
			break // the alias leads out of what we serve
		}
		if name = z.lookup(m, name, qtype, do); name == "" {
			break
		}
	}
	return m
}

// zoneFor is zoneOf, but DS belongs to the parent's side of a cut.
func (s *nameServer) zoneFor(name string, qtype uint16) *zone {
	z := s.zoneOf(name)
	if z != nil && qtype == dns.TypeDS && strings.EqualFold(z.origin, name) && name != "." {
		if up := s.zoneOf(parent(strings.ToLower(name))); up != nil {
			return up
		}
	}
	return z
}

// forwardTimeout is how long a forwarder waits for the next server; resolvers'
// own clients give up after about five seconds.
const forwardTimeout = 4 * time.Second

func (s *nameServer) forward(m, q *dns.Msg) *dns.Msg {
	fail := func() *dns.Msg {
		s.b.count("forward_errors")
		m.Rcode = dns.RcodeServerFailure
		return m
	}
	to, err := target(s.d.Forward, "53")
	if err != nil {
		return fail()
	}
	ctx, cancel := context.WithTimeout(s.b.ctx, forwardTimeout)
	defer cancel()
	c, err := s.b.dialUDP(ctx, to, nil)
	if err != nil {
		return fail()
	}
	if !s.b.keep(c) { // so that Stop ends the wait
		return fail()
	}
	defer s.b.drop(c)
	up := q.Copy()
	up.Id = dns.Id()
	r, _, err := (&dns.Client{Timeout: forwardTimeout}).ExchangeWithConnContext(ctx, up, &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize})
	if err == nil && r.Truncated {
		var t net.Conn
		if t, err = s.b.dialTCP(to, forwardTimeout); err == nil && !s.b.keep(t) {
			err = net.ErrClosed
		} else if err == nil {
			r, _, err = (&dns.Client{Net: "tcp", Timeout: forwardTimeout}).ExchangeWithConnContext(ctx, up, &dns.Conn{Conn: t})
			s.b.drop(t)
		}
	}
	if err != nil {
		return fail()
	}
	m.Rcode, m.Answer, m.Ns, m.AuthenticatedData = r.Rcode, r.Answer, r.Ns, r.AuthenticatedData
	for _, rr := range r.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			m.Extra = append(m.Extra, rr)
		}
	}
	m.RecursionAvailable = true
	return m
}

// finish adds EDNS, cuts to size and spoils what is to be spoilt.
func (s *nameServer) finish(m, q *dns.Msg, f DNSFault, udp bool) {
	limit := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil && !f.NoEDNS && !f.FormErr {
		limit = max(limit, int(opt.UDPSize()))
		m.SetEdns0(1232, opt.Do())
		for _, o := range opt.Option {
			if o.Option() == dns.EDNS0NSID && s.d.NSID != "" {
				m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: hex.EncodeToString([]byte(s.d.NSID))})
			}
		}
	}
	if udp {
		m.Truncate(limit)
		if f.Truncate {
			m.Truncated, m.Answer, m.Ns = true, nil, nil
		}
	}
	if f.WrongID {
		m.Id ^= 0x5555
	}
}

// send writes the answer, unless a limit of the server holds it back.
func (s *nameServer) send(w dns.ResponseWriter, m *dns.Msg, udp bool) {
	if udp && s.limited() {
		if !s.slip() {
			s.b.count("rate_limited")
			return
		}
		m.Truncated, m.Answer, m.Ns = true, nil, nil
	}
	if udp && s.d.MaxUDP > 0 && m.Len() > s.d.MaxUDP {
		s.b.count("too_large")
		return
	}
	if c := s.from[w.LocalAddr().String()]; udp && c != nil {
		if b, err := m.Pack(); err == nil {
			_, _ = c.WriteTo(b, w.RemoteAddr())
			s.b.count("answers")
		}
		return
	}
	if w.WriteMsg(m) == nil {
		s.b.count("answers")
	}
}

// limited reports whether this second's answers are used up.
func (s *nameServer) limited() bool {
	if s.d.RateLimit <= 0 {
		return false
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if now := time.Now().Unix(); now != s.second {
		s.second, s.answered = now, 0
	}
	s.answered++
	return s.answered > int64(s.d.RateLimit)
}

func (s *nameServer) slip() bool {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.slipped++
	return s.d.Slip > 0 && s.slipped%int64(s.d.Slip) == 0
}

// transfer answers AXFR (RFC 5936) when that is allowed.
func (s *nameServer) transfer(w dns.ResponseWriter, q *dns.Msg, udp bool) {
	m := new(dns.Msg).SetReply(q)
	z := s.zoneOf(q.Question[0].Name)
	if !s.d.AllowTransfer || udp || z == nil || !strings.EqualFold(z.origin, q.Question[0].Name) {
		m.Rcode = dns.RcodeRefused
		_ = w.WriteMsg(m)
		return
	}
	m.Authoritative = true
	rrs := []dns.RR{z.soa}
	for _, rr := range z.all {
		if rr != dns.RR(z.soa) {
			rrs = append(rrs, rr)
		}
	}
	rrs = append(rrs, z.soa)
	const perMessage = 100 // well below 64 KiB for the records of a lab
	for len(rrs) > 0 {
		n := min(perMessage, len(rrs))
		m.Answer, rrs = rrs[:n], rrs[n:]
		if w.WriteMsg(m) != nil {
			return
		}
	}
}
