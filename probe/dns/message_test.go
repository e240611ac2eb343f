package dns

import (
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"fathom/probe"
)

func TestQuestionName(t *testing.T) {
	l63 := strings.Repeat("a", 63)
	ok := []struct{ in, typ, want string }{
		{".", "NS", "."},
		{"Bücher.example", "A", "xn--bcher-kva.example."},
		{"example.net", "A", "example.net."},
		{"_dns.Example.NET.", "SRV", "_dns.Example.NET."},
		{l63 + ".net", "A", l63 + ".net."},
		{`a\.b.net`, "A", `a\.b.net.`},
		{`a\000b.net`, "A", `a\000b.net.`},
		{"192.0.2.7", "PTR", "7.2.0.192.in-addr.arpa."},
		{"2001:db8::1", "PTR", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."},
		{strings.Repeat("a.", 127), "A", strings.Repeat("a.", 127)}, // 255 octets exactly
	}
	for _, c := range ok {
		typ, err := questionType(c.typ)
		if err != nil {
			t.Fatal(err)
		}
		got, err := questionName(c.in, typ)
		if err != nil || got != c.want {
			t.Errorf("questionName(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
		if _, err := (query{name: got, qtype: typ}).pack(1); err != nil {
			t.Errorf("%q was accepted but does not pack: %v", c.in, err)
		}
	}
	bad := []struct{ in, says string }{
		{"", "empty"},
		{"..", "empty label"},
		{".net", "empty label"},
		{"a..net", "empty label at position 3"},
		{l63 + "a.net", "longer than 63"},
		{strings.Repeat("a.", 128), "more than 255"},
		{"a b.net", "blank"},
		{"a\nb.net", "control"},
		{`a\999.net`, "not an octet"},
		{"bü_cher.example", "idna"},
		{"a\xffb.example", "not UTF-8"},
	}
	for _, c := range bad {
		if got, err := questionName(c.in, mdns.TypeA); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("questionName(%q) = %q, %v; want an error with %q", c.in, got, err, c.says)
		}
	}
}

func TestQuestionType(t *testing.T) {
	for in, want := range map[string]uint16{"": 1, "aaaa": 28, "HTTPS": 65, "TYPE65280": 65280} {
		if got, err := questionType(in); err != nil || got != want {
			t.Errorf("questionType(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"NONSENSE", "AXFR", "OPT", "TYPE", "TYPE70000", "TYPE1x", "TYPE01"} {
		if got, err := questionType(in); err == nil {
			t.Errorf("questionType(%q) = %d, want an error", in, got)
		}
	}
}

// packed is a response with everything in it that decode reads.
func packed(t testing.TB, edit func(*mdns.Msg)) []byte {
	t.Helper()
	m := new(mdns.Msg)
	m.SetQuestion("Example.net.", mdns.TypeA)
	m.Id = 7
	m.Response, m.Authoritative, m.RecursionAvailable, m.AuthenticatedData = true, true, true, true
	m.Compress = true
	if edit != nil {
		edit(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rr(t testing.TB, s string) mdns.RR {
	t.Helper()
	r, err := mdns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func full(t testing.TB) func(*mdns.Msg) {
	return func(m *mdns.Msg) {
		m.Rcode = mdns.RcodeBadCookie // 23: needs the upper bits in OPT
		m.Answer = []mdns.RR{
			rr(t, "example.net. 300 IN CNAME a\\000b.example.net."),
			rr(t, `example.net. 60 IN TXT "x\010y" "z"`),
		}
		m.Ns = []mdns.RR{rr(t, "example.net. 5 IN NS ns.example.net.")}
		m.SetEdns0(1400, false)
		opt := m.IsEdns0()
		opt.Option = append(opt.Option,
			&mdns.EDNS0_NSID{Code: mdns.EDNS0NSID, Nsid: "6e7331"},
			&mdns.EDNS0_EDE{InfoCode: 22, ExtraText: "at delegation \x1b[31mexample.net\x00"},
			&mdns.EDNS0_EDE{InfoCode: 4242})
	}
}

func TestDecodeWholeAnswer(t *testing.T) {
	a, err := decode(packed(t, full(t)))
	if err != nil || a.broken != nil {
		t.Fatal(err, a.broken)
	}
	want := probe.DNS{
		Rcode: "BADCOOKIE", Flags: []string{"qr", "aa", "rd", "ra", "ad"}, Size: a.dns.Size,
		Answers: []probe.DNSRecord{
			{Name: "example.net.", Type: "CNAME", TTL: 300, Data: `a\000b.example.net.`},
			{Name: "example.net.", Type: "TXT", TTL: 60, Data: `"x\010y" "z"`},
		},
		Authority: []probe.DNSRecord{{Name: "example.net.", Type: "NS", TTL: 5, Data: "ns.example.net."}},
		EDNS:      true, EDNSSize: 1400, NSID: "ns1",
		EDE: []string{`22 No Reachable Authority: at delegation \x1b[31mexample.net`, "4242"},
	}
	if d := cmp.Diff(want, a.dns); d != "" {
		t.Errorf("decoded answer (-want +got):\n%s", d)
	}
	if err := a.fits(query{name: "eXample.NET.", qtype: mdns.TypeA}, 7); err != nil {
		t.Errorf("case of the question must not matter: %v", err)
	}
}

func TestFits(t *testing.T) {
	q := query{name: "example.net.", qtype: mdns.TypeA}
	for name, c := range map[string]struct {
		edit func(*mdns.Msg)
		says string // "" when it fits
	}{
		"the answer":                       {nil, ""},
		"another id":                       {func(m *mdns.Msg) { m.Id = 8 }, "id 8"},
		"our own question echoed":          {func(m *mdns.Msg) { m.Response = false }, "QR"},
		"another name":                     {func(m *mdns.Msg) { m.Question[0].Name = "example.org." }, "example.org."},
		"another type":                     {func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeAAAA }, "AAAA"},
		"another class":                    {func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }, "answers"},
		"notify":                           {func(m *mdns.Msg) { m.Opcode = mdns.OpcodeNotify }, "opcode"},
		"bare header, REFUSED":             {func(m *mdns.Msg) { m.Question = nil; m.Rcode = mdns.RcodeRefused }, ""},
		"bare header, NOERROR":             {func(m *mdns.Msg) { m.Question = nil }, "0 questions"},
		"bare header, NXDOMAIN":            {func(m *mdns.Msg) { m.Question = nil; m.Rcode = mdns.RcodeNameError }, "0 questions"},
		"two questions, the first is ours": {func(m *mdns.Msg) { m.Question = append(m.Question, m.Question[0]) }, "2 questions"},
	} {
		a, err := decode(packed(t, c.edit))
		if err != nil {
			t.Fatal(err)
		}
		switch err := a.fits(q, 7); {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want an error with %q", name, err, c.says)
		}
	}
}

func TestDecodeKeepsTheSectionsBeforeTheDamage(t *testing.T) {
	b := packed(t, func(m *mdns.Msg) {
		m.Answer = []mdns.RR{rr(t, "example.net. 1 IN A 192.0.2.1")}
		m.Ns = []mdns.RR{rr(t, "example.net. 1 IN NS ns.example.net.")}
	})
	a, err := decode(b[:len(b)-2])
	if err != nil || a.broken == nil {
		t.Fatalf("err %v, broken %v; want a broken answer", err, a.broken)
	}
	if len(a.dns.Answers) != 1 || a.dns.Answers[0].Data != "192.0.2.1" || a.dns.Authority != nil {
		t.Errorf("answers %+v, authority %+v; want the whole answer section alone", a.dns.Answers, a.dns.Authority)
	}
	if _, err := decode(b[:headerLen-1]); err == nil {
		t.Error("a message without a whole header was accepted")
	}
}

func TestDecodeIsBounded(t *testing.T) {
	a, err := decode(packed(t, func(m *mdns.Msg) {
		for i := range 3000 {
			m.Answer = append(m.Answer, &mdns.A{
				Hdr: mdns.RR_Header{Name: "example.net.", Rrtype: mdns.TypeA, Class: mdns.ClassINET},
				A:   net.IPv4(192, 0, 2, byte(i)),
			})
		}
	}))
	if err != nil || len(a.dns.Answers) != maxRecords {
		t.Errorf("%d answers, %v; want %d", len(a.dns.Answers), err, maxRecords)
	}
}

func TestNSIDText(t *testing.T) {
	for in, want := range map[string]string{"": "", "6e7331": "ns1", "00ff": "0x00ff", "zz": "zz", "6e0a": "0x6e0a"} {
		if got := nsidText(in); got != want {
			t.Errorf("nsidText(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(packed(f, nil))
	f.Add(packed(f, full(f)))
	f.Add(packed(f, func(m *mdns.Msg) { m.Question = nil; m.Rcode = mdns.RcodeRefused }))
	f.Add(packed(f, func(m *mdns.Msg) {
		m.Answer = []mdns.RR{
			rr(f, `example.net. 1 IN HTTPS 1 . alpn="h3,h2" ipv4hint=192.0.2.1`), rr(f, `example.net. 1 IN CAA 0 issue "ca.example"`),
			rr(f, `example.net. 1 IN TYPE65280 \# 2 0aff`), rr(f, "example.net. 1 IN LOC 51 30 12.748 N 0 7 39.612 W 0.00m 0.00m 0.00m 0.00m"),
			rr(f, `example.net. 1 IN NAPTR 1 2 "u" "x" "!^.*$!y!" .`), rr(f, "example.net. 1 IN NSEC b.example.net. A TYPE1234"),
		}
	}))
	f.Add([]byte("\x00\x07\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01")) // a name that points at itself
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decode(b)
		if err != nil {
			return
		}
		_ = a.fits(query{name: "example.net.", qtype: 1}, 7)
		if a.dns.Size != len(b) || a.dns.Rcode == "" || len(a.dns.Answers) > maxRecords || len(a.dns.Authority) > maxRecords {
			t.Fatalf("%+v", a.dns)
		}
		texts := append([]string{a.dns.NSID, a.dns.Rcode}, a.dns.Flags...)
		for _, r := range append(a.dns.Answers, a.dns.Authority...) {
			texts = append(texts, r.Name, r.Type, r.Data)
		}
		for _, s := range texts {
			for _, c := range []byte(s) {
				if c < ' ' || c > '~' {
					t.Fatalf("%q would reach a terminal", s)
				}
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	msg := packed(b, full(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(msg); err != nil {
			b.Fatal(err)
		}
	}
}
