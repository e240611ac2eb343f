package service

import (
	"fmt"
	"io"
	"strings"

	"github.com/miekg/dns"
)

// zone is a parsed DNSZone.
type zone struct {
	origin string
	soa    *dns.SOA
	sets   map[string]map[uint16][]dns.RR // by lower-case owner and type
	names  map[string]bool                // owners and the empty names between them
	all    []dns.RR
}

// parseZone reads the records; $INCLUDE is refused. A missing SOA or NS at the
// origin is made up, as a zone without them is none.
func parseZone(z DNSZone) (*zone, error) {
	if _, ok := dns.IsDomainName(z.Name); !ok || z.Name == "" {
		return nil, fmt.Errorf("zone %q: not a domain name", z.Name)
	}
	k := &zone{origin: strings.ToLower(dns.Fqdn(z.Name)), sets: map[string]map[uint16][]dns.RR{}, names: map[string]bool{}}
	p := dns.NewZoneParser(io.LimitReader(strings.NewReader(z.Records+"\n"), 16<<20), k.origin, "")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		if !dns.IsSubDomain(k.origin, strings.ToLower(rr.Header().Name)) {
			return nil, fmt.Errorf("zone %s: record %s lies outside", z.Name, rr.Header().Name)
		}
		k.add(rr)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("zone %s: %w", z.Name, err)
	}
	hdr := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: k.origin, Rrtype: t, Class: dns.ClassINET, Ttl: 300}
	}
	if len(k.sets[k.origin][dns.TypeNS]) == 0 {
		k.add(&dns.NS{Hdr: hdr(dns.TypeNS), Ns: join("ns", k.origin)})
	}
	if soa := k.sets[k.origin][dns.TypeSOA]; len(soa) == 0 {
		k.soa = &dns.SOA{
			Hdr: hdr(dns.TypeSOA), Ns: k.sets[k.origin][dns.TypeNS][0].(*dns.NS).Ns, Mbox: join("hostmaster", k.origin),
			Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60,
		}
		k.add(k.soa)
	} else {
		k.soa = soa[0].(*dns.SOA)
	}
	return k, nil
}

func join(label, origin string) string {
	if origin == "." {
		return label + "."
	}
	return label + "." + origin
}

func (z *zone) add(rr dns.RR) {
	name := strings.ToLower(rr.Header().Name)
	if z.sets[name] == nil {
		z.sets[name] = map[uint16][]dns.RR{}
	}
	z.sets[name][rr.Header().Rrtype] = append(z.sets[name][rr.Header().Rrtype], rr)
	z.all = append(z.all, rr)
	for n := name; ; {
		z.names[n] = true
		if n == z.origin || n == "." {
			return
		}
		n = parent(n)
	}
}

// parent cuts the first label.
func parent(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end || i >= len(name) {
		return "."
	}
	return name[i:]
}

// lookup answers one name and type out of this zone (RFC 1034 §4.3.2) into m. It
// returns the name to go on with when the answer is an alias, or "".
func (z *zone) lookup(m *dns.Msg, name string, qtype uint16, do bool) (next string) {
	low := strings.ToLower(name)
	if ns, cut := z.delegation(low, qtype); ns != nil {
		m.Authoritative = len(m.Answer) > 0 && m.Authoritative
		m.Ns = append(m.Ns, ns...)
		if do {
			m.Ns = append(m.Ns, z.sets[cut][dns.TypeDS]...)
			m.Ns = append(m.Ns, z.signatures(cut, cut, dns.TypeDS)...)
		}
		m.Extra = append(m.Extra, z.glue(ns)...)
		return ""
	}
	owner := low
	if !z.names[low] {
		if owner = z.wildcard(low); owner == "" {
			m.Rcode = dns.RcodeNameError
			z.negative(m, do)
			return ""
		}
	}
	set := z.sets[owner]
	switch {
	case qtype == dns.TypeANY && len(set) > 0:
		for _, rrs := range set {
			m.Answer = append(m.Answer, renamed(rrs, name)...)
		}
	case len(set[qtype]) > 0:
		m.Answer = append(m.Answer, renamed(set[qtype], name)...)
		if do {
			m.Answer = append(m.Answer, z.signatures(owner, name, qtype)...)
		}
		if qtype == dns.TypeNS {
			m.Extra = append(m.Extra, z.glue(set[qtype])...)
		}
	case len(set[dns.TypeCNAME]) > 0:
		m.Answer = append(m.Answer, renamed(set[dns.TypeCNAME][:1], name)...)
		if do {
			m.Answer = append(m.Answer, z.signatures(owner, name, dns.TypeCNAME)...)
		}
		return set[dns.TypeCNAME][0].(*dns.CNAME).Target
	default:
		z.negative(m, do)
	}
	return ""
}

// delegation finds the zone cut on the way down to name, the highest first.
func (z *zone) delegation(name string, qtype uint16) (ns []dns.RR, cut string) {
	for n := name; n != z.origin && n != "."; n = parent(n) {
		if rrs := z.sets[n][dns.TypeNS]; len(rrs) > 0 && (n != name || qtype != dns.TypeDS) {
			ns, cut = rrs, n
		}
	}
	return ns, cut
}

// wildcard is the owner of the wildcard that covers name, or "" (RFC 4592: only
// directly below the closest encloser).
func (z *zone) wildcard(name string) string {
	for n := parent(name); ; n = parent(n) {
		if z.names[n] {
			if w := join("*", n); z.names[w] {
				return w
			}
			return ""
		}
		if n == z.origin || n == "." {
			return ""
		}
	}
}

func (z *zone) negative(m *dns.Msg, do bool) {
	soa := dns.Copy(z.soa)
	soa.Header().Ttl = min(soa.Header().Ttl, z.soa.Minttl) // RFC 2308 §3
	m.Ns = append(m.Ns, soa)
	if do {
		m.Ns = append(m.Ns, z.signatures(z.origin, z.origin, dns.TypeSOA)...)
	}
}

// glue gives the addresses of name servers that this zone knows.
func (z *zone) glue(ns []dns.RR) (out []dns.RR) {
	for _, rr := range ns {
		if n, ok := rr.(*dns.NS); ok {
			set := z.sets[strings.ToLower(n.Ns)]
			out = append(append(out, set[dns.TypeA]...), set[dns.TypeAAAA]...)
		}
	}
	return out
}

func (z *zone) signatures(owner, name string, covered uint16) (out []dns.RR) {
	for _, rr := range z.sets[owner][dns.TypeRRSIG] {
		if s, ok := rr.(*dns.RRSIG); ok && s.TypeCovered == covered {
			out = append(out, renamed([]dns.RR{rr}, name)...)
		}
	}
	return out
}

// renamed copies records under the name as it was asked for (its case, or a
// wildcard's expansion).
func renamed(rrs []dns.RR, name string) []dns.RR {
	out := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = dns.Copy(rr)
		out[i].Header().Name = name
	}
	return out
}
