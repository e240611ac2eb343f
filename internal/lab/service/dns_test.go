package service

import (
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"fathom/internal/testkit"
	"fathom/internal/testkit/netns"
)

const labZone = `
@     IN SOA ns1 admin 7 3600 600 86400 60
@     NS ns1
ns1   A 127.0.0.1
www   300 A 10.0.0.1
www   AAAA fd00::1
alias CNAME www
loop1 CNAME loop2
loop2 CNAME loop1
out   CNAME far.other.test.
*.wild TXT "w"
a.b.deep A 10.0.0.9
sub   NS ns.sub
ns.sub A 10.0.0.53
big   TXT "` + "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" + `"
`

func labDNS(d DNS) Spec {
	d.Listen = []string{"127.0.0.1:0"}
	if d.Zones == nil {
		d.Zones = []DNSZone{{Name: "lab.test", Records: labZone}, {Name: "other.test", Records: "far A 10.0.0.7"}}
	}
	return Spec{DNS: &d}
}

func ask(t testing.TB, svc Service, network, name string, qtype uint16, change ...func(*dns.Msg)) (*dns.Msg, error) {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	for _, f := range change {
		f(q)
	}
	c := dns.Client{Net: network, Timeout: 300 * time.Millisecond, UDPSize: 4096}
	if network == "tcp" {
		c.Timeout = 5 * time.Second
	}
	r, _, err := c.Exchange(q, svc.Addrs()[0])
	return r, err
}

func mustAsk(t testing.TB, svc Service, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	for range 20 { // a busy machine may need more than one try
		if r, err := ask(t, svc, "udp", name, qtype, change...); err == nil {
			return r
		}
	}
	t.Fatalf("no answer to %s", name)
	return nil
}

func TestAuthoritativeAnswers(t *testing.T) {
	svc := start(t, labDNS(DNS{NSID: "lab-1"}))
	for _, c := range []struct {
		name                 string
		qtype                uint16
		rcode, an, ns, extra int
		aa                   bool
	}{
		{"www.lab.test.", dns.TypeA, 0, 1, 0, 0, true},
		{"WWW.lab.TEST.", dns.TypeAAAA, 0, 1, 0, 0, true},
		{"www.lab.test.", dns.TypeMX, 0, 0, 1, 0, true},                  // NODATA with SOA
		{"none.lab.test.", dns.TypeA, dns.RcodeNameError, 0, 1, 0, true}, // NXDOMAIN with SOA
		{"b.deep.lab.test.", dns.TypeA, 0, 0, 1, 0, true},                // empty non-terminal
		{"alias.lab.test.", dns.TypeA, 0, 2, 0, 0, true},                 //
		{"loop1.lab.test.", dns.TypeA, 0, 12, 0, 0, true},                // a circle ends
		{"out.lab.test.", dns.TypeA, 0, 2, 0, 0, true},                   // through the other zone
		{"x.y.wild.lab.test.", dns.TypeTXT, 0, 1, 0, 0, true},            //
		{"host.sub.lab.test.", dns.TypeA, 0, 0, 1, 1, false},             // referral with glue
		{"lab.test.", dns.TypeNS, 0, 1, 0, 1, true},                      //
		{"other.test.", dns.TypeSOA, 0, 1, 0, 0, true},                   // made up
		{"example.net.", dns.TypeA, dns.RcodeRefused, 0, 0, 0, false},    //
		{"lab.test.", dns.TypeAXFR, dns.RcodeRefused, 0, 0, 0, false},
	} {
		r := mustAsk(t, svc, c.name, c.qtype)
		if r.Rcode != c.rcode || len(r.Answer) != c.an || len(r.Ns) != c.ns || len(r.Extra) != c.extra || r.Authoritative != c.aa || r.RecursionAvailable {
			t.Errorf("%s %s: %v", c.name, dns.TypeToString[c.qtype], r)
		}
	}
	r := mustAsk(t, svc, "www.lab.test.", dns.TypeA, func(q *dns.Msg) {
		q.SetEdns0(1232, false)
		q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	})
	if o := r.IsEdns0(); o == nil || len(o.Option) != 1 || o.Option[0].(*dns.EDNS0_NSID).Nsid != "6c61622d31" {
		t.Errorf("nsid: %v", r)
	}
	if r, err := ask(t, svc, "tcp", "www.lab.test.", dns.TypeA); err != nil || len(r.Answer) != 1 {
		t.Errorf("tcp: %v %v", r, err)
	}
}

func TestDNSFaults(t *testing.T) {
	fault := func(f DNSFault) Service { return start(t, labDNS(DNS{Faults: []DNSFault{f}})) }
	www := func(svc Service) *dns.Msg { return mustAsk(t, svc, "www.lab.test.", dns.TypeA) }

	if r := www(fault(DNSFault{ServFail: true})); r.Rcode != dns.RcodeServerFailure {
		t.Error(r)
	}
	if r := www(fault(DNSFault{Refused: true})); r.Rcode != dns.RcodeRefused {
		t.Error(r)
	}
	if r := www(fault(DNSFault{NXDomain: true})); r.Rcode != dns.RcodeNameError || len(r.Ns) != 1 {
		t.Error(r)
	}
	if r := www(fault(DNSFault{NotAuth: true})); r.Authoritative || len(r.Ns) != 1 || r.Ns[0].Header().Name != "." {
		t.Error(r)
	}
	if r := www(fault(DNSFault{Suffix: "other.test", ServFail: true})); r.Rcode != 0 {
		t.Error("a fault of another name:", r)
	}
	if r := www(fault(DNSFault{Type: "AAAA", ServFail: true})); r.Rcode != 0 {
		t.Error("a fault of another type:", r)
	}
	if r := www(fault(DNSFault{Truncate: true})); !r.Truncated || len(r.Answer) != 0 {
		t.Error(r)
	}
	svc := fault(DNSFault{Truncate: true})
	if r, err := ask(t, svc, "tcp", "www.lab.test.", dns.TypeA); err != nil || len(r.Answer) != 1 {
		t.Error("full answer over tcp:", r, err)
	}
	if r := www(fault(DNSFault{Lie: map[string]string{"www.lab.test": "10.6.6.6"}})); len(r.Answer) != 1 || r.Answer[0].(*dns.A).A.String() != "10.6.6.6" {
		t.Error(r)
	}
	r := mustAsk(t, fault(DNSFault{NXRewrite: "10.6.6.6"}), "none.lab.test.", dns.TypeA)
	if r.Rcode != 0 || len(r.Answer) != 1 {
		t.Error(r)
	}
	edns := func(q *dns.Msg) { q.SetEdns0(1232, false) }
	if r := mustAsk(t, fault(DNSFault{FormErr: true}), "www.lab.test.", dns.TypeA, edns); r.Rcode != dns.RcodeFormatError || r.IsEdns0() != nil {
		t.Error(r)
	}
	if r := mustAsk(t, fault(DNSFault{NoEDNS: true}), "www.lab.test.", dns.TypeA, edns); r.IsEdns0() != nil || len(r.Answer) != 1 {
		t.Error(r)
	}
	for name, f := range map[string]DNSFault{"silent": {Silent: true}, "wrong id": {WrongID: true}} {
		svc := fault(f)
		if r, err := ask(t, svc, "udp", "www.lab.test.", dns.TypeA); err == nil {
			t.Error(name, r)
		}
		if svc.Stats()["queries"] == 0 {
			t.Error(name, "the query never came")
		}
	}
	began := time.Now()
	if www(fault(DNSFault{Delay: 30 * time.Millisecond})); time.Since(began) < 30*time.Millisecond {
		t.Error("no delay")
	}
}

func TestDNSServerLimits(t *testing.T) {
	svc := start(t, labDNS(DNS{MaxUDP: 100}))
	if r, err := ask(t, svc, "udp", "big.lab.test.", dns.TypeTXT); err == nil {
		t.Error("large answer came:", r)
	}
	if r, err := ask(t, svc, "tcp", "big.lab.test.", dns.TypeTXT); err != nil || len(r.Answer) != 1 {
		t.Error(r, err)
	}
	mustAsk(t, svc, "www.lab.test.", dns.TypeA)

	svc = start(t, labDNS(DNS{UDPOnly: true}))
	if c, err := net.Dial("tcp", svc.Addrs()[0]); err == nil {
		c.Close()
		t.Error("tcp is open")
	}
	svc = start(t, labDNS(DNS{RateLimit: 1, Slip: 1}))
	for truncated := false; !truncated; {
		truncated = mustAsk(t, svc, "www.lab.test.", dns.TypeA).Truncated
	}
	svc = start(t, labDNS(DNS{AllowTransfer: true}))
	env, err := new(dns.Transfer).In(new(dns.Msg).SetAxfr("lab.test."), svc.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for e := range env {
		if e.Error != nil {
			t.Fatal(e.Error)
		}
		n += len(e.RR)
	}
	if n != 15 { // 14 records and the SOA again
		t.Errorf("%d records transferred", n)
	}
}

func TestDNSForwardAndRecursiveLook(t *testing.T) {
	auth := start(t, labDNS(DNS{}))
	svc := start(t, labDNS(DNS{Recursive: true, Forward: auth.Addrs()[0], Zones: []DNSZone{{Name: "own.test", Records: "x A 10.1.1.1"}}}))
	if r := mustAsk(t, svc, "www.lab.test.", dns.TypeA); len(r.Answer) != 1 || r.Authoritative || !r.RecursionAvailable {
		t.Error(r)
	}
	if r := mustAsk(t, svc, "none.lab.test.", dns.TypeA); r.Rcode != dns.RcodeNameError || len(r.Ns) != 1 {
		t.Error(r)
	}
	if r := mustAsk(t, svc, "x.own.test.", dns.TypeA); len(r.Answer) != 1 || r.Authoritative {
		t.Error(r)
	}
	alone := start(t, labDNS(DNS{Recursive: true}))
	if r := mustAsk(t, alone, "example.net.", dns.TypeA); r.Rcode != dns.RcodeNameError {
		t.Error(r)
	}
}

func TestDNSAnswersFromAnotherAddress(t *testing.T) {
	ns := netns.New(t)
	startIn(t, ns.Do, Spec{DNS: &DNS{Listen: []string{"127.0.0.1"}, From: "127.0.0.2", Zones: []DNSZone{{Name: "lab.test", Records: labZone}}}})
	c := ns.UDP(t, "127.0.0.1:0")
	q, err := new(dns.Msg).SetQuestion("www.lab.test.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(q, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53}); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, from, err := c.ReadFrom(make([]byte, 512))
	if err != nil || from.String() != "127.0.0.2:53" {
		t.Error(from, err)
	}
}

func TestDig(t *testing.T) {
	dig := testkit.NeedTool(t, "dig")
	svc := start(t, labDNS(DNS{NSID: "lab-1"}))
	host, port, _ := net.SplitHostPort(svc.Addrs()[0])
	out, err := exec.CommandContext(t.Context(), dig, "@"+host, "-p", port, "+norec", "+nsid", "+tries=3", "alias.lab.test", "A").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"flags: qr aa;", "alias.lab.test.\t\t300\tIN\tCNAME\twww.lab.test.", "10.0.0.1", `("lab-1")`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

func FuzzZone(f *testing.F) {
	f.Add("lab.test", labZone, "www.lab.test.")
	f.Add(".", "a NS b", "a.")
	f.Add("x", "$GENERATE 1-3 h$ A 10.0.0.$", "h1.x.")
	f.Fuzz(func(t *testing.T, name, records, query string) {
		if strings.Contains(strings.ToUpper(records), "$GENERATE") && len(records) > 100 {
			return // thousands of records are asked for and made: slow, not wrong
		}
		z, err := parseZone(DNSZone{Name: name, Records: records})
		if err != nil {
			return
		}
		if _, ok := dns.IsDomainName(query); !ok {
			return
		}
		s := &nameServer{zones: []*zone{z}}
		s.truth(new(dns.Msg), new(dns.Msg).SetQuestion(dns.Fqdn(query), dns.TypeA))
	})
}
