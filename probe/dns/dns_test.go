package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"fathom/internal/testkit"
	"fathom/internal/testkit/netns"
	"fathom/probe"
)

// serve runs a real server on loopback; without tcp its port is closed for TCP.
func serve(t testing.TB, addr string, tcp bool, h mdns.HandlerFunc) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	start := func(s *mdns.Server) {
		ready := make(chan struct{})
		s.Handler, s.NotifyStartedFunc = h, func() { close(ready) }
		go s.ActivateAndServe()
		<-ready
		t.Cleanup(func() { s.Shutdown() })
	}
	start(&mdns.Server{PacketConn: pc})
	if tcp {
		l, err := net.Listen("tcp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		start(&mdns.Server{Listener: l})
	}
	return pc.LocalAddr().String()
}

func ask(t *testing.T, c Config, server string) probe.Result {
	t.Helper()
	if c.Name == "" {
		c.Name = "example.net"
	}
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Second
	}
	r, err := New(c).Probe(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func answerA(w mdns.ResponseWriter, q *mdns.Msg) {
	m := new(mdns.Msg).SetReply(q)
	m.Answer = []mdns.RR{&mdns.A{
		Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60},
		A:   net.IPv4(192, 0, 2, 7),
	}}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1400, false)
		for _, o := range opt.Option {
			if o.Option() == mdns.EDNS0NSID {
				r := m.IsEdns0()
				r.Option = append(r.Option, &mdns.EDNS0_NSID{Code: mdns.EDNS0NSID, Nsid: "6e7331"})
			}
		}
	}
	_ = w.WriteMsg(m)
}

func TestAnswer(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		server := serve(t, addr, true, answerA)
		ap := netip.MustParseAddrPort(server)
		for _, transport := range []string{UDP, TCP} {
			r := ask(t, Config{Transport: transport, Tries: 2, NSID: true}, server)
			d := r.DNS
			if r.Outcome != probe.OK || d.Rcode != "NOERROR" || len(d.Answers) != 1 || d.Answers[0].Data != "192.0.2.7" {
				t.Fatalf("%s %s: %+v %+v", server, transport, r, d)
			}
			if d.Server != server || d.Transport != transport || d.Name != "example.net." || d.Type != "A" || d.NSID != "ns1" ||
				!d.EDNS || d.EDNSSize != 1400 || d.Tries != 2 || d.Lost != 0 || len(d.Times) != 2 || d.LocalPort == 0 {
				t.Errorf("%s %s: %+v", server, transport, d)
			}
			if r.Source != ap.Addr() || r.RTT == nil || r.RTT.Value <= 0 || d.Intercepted || d.TCPRetry || d.NoEDNS {
				t.Errorf("%s %s: source %s, rtt %+v, %+v", server, transport, r.Source, r.RTT, d)
			}
			if _, ok := r.PhaseNamed("connect"); ok != (transport == TCP) {
				t.Errorf("%s: phases %+v", transport, r.Phases)
			}
		}
	}
}

func TestWhatServersDo(t *testing.T) {
	rcode := func(rc int) mdns.HandlerFunc {
		return func(w mdns.ResponseWriter, q *mdns.Msg) { _ = w.WriteMsg(new(mdns.Msg).SetRcode(q, rc)) }
	}
	noEDNS := func(w mdns.ResponseWriter, q *mdns.Msg) {
		if q.IsEdns0() != nil {
			rcode(mdns.RcodeFormatError)(w, q)
			return
		}
		answerA(w, q)
	}
	silent := func(mdns.ResponseWriter, *mdns.Msg) {}
	bytes := func(f func(q *mdns.Msg) []byte) mdns.HandlerFunc {
		return func(w mdns.ResponseWriter, q *mdns.Msg) { _, _ = w.Write(f(q)) }
	}
	wrongID := bytes(func(q *mdns.Msg) []byte {
		m := new(mdns.Msg).SetReply(q)
		m.Id++
		b, _ := m.Pack()
		return b
	})
	damaged := bytes(func(q *mdns.Msg) []byte {
		m := new(mdns.Msg).SetReply(q)
		b, _ := m.Pack()
		b[7] = 1 // one answer promised, none there
		return append(b, 0xc0)
	})
	short := 300 * time.Millisecond
	for name, c := range map[string]struct {
		h      mdns.HandlerFunc
		c      Config
		want   probe.Outcome
		rcode  string
		detail string
		also   func(d *probe.DNS) bool
	}{
		"nxdomain":       {rcode(mdns.RcodeNameError), Config{}, probe.OK, "NXDOMAIN", "", nil},
		"servfail":       {rcode(mdns.RcodeServerFailure), Config{}, probe.BadAnswer, "SERVFAIL", "SERVFAIL", nil},
		"refused":        {rcode(mdns.RcodeRefused), Config{Transport: TCP}, probe.BadAnswer, "REFUSED", "REFUSED", nil},
		"no edns":        {noEDNS, Config{}, probe.OK, "NOERROR", "FORMERR", func(d *probe.DNS) bool { return d.NoEDNS && !d.EDNS && len(d.Answers) == 1 }},
		"formerr always": {rcode(mdns.RcodeFormatError), Config{}, probe.BadAnswer, "FORMERR", "", func(d *probe.DNS) bool { return !d.NoEDNS }},
		"silent":         {silent, Config{Timeout: short, Tries: 2}, probe.Timeout, "", "no answer over udp", func(d *probe.DNS) bool { return d.Lost == 2 && d.Tries == 2 && len(d.Times) == 0 }},
		"silent tcp":     {silent, Config{Timeout: short, Transport: TCP}, probe.Timeout, "", "no answer over tcp", func(d *probe.DNS) bool { return d.Lost == 1 }},
		"wrong id":       {wrongID, Config{Timeout: short}, probe.Failed, "", "not believed: id", func(d *probe.DNS) bool { return d.Lost == 1 }},
		"wrong id tcp":   {wrongID, Config{Timeout: short, Transport: TCP}, probe.Failed, "", "not believed: id", nil},
		"damaged":        {damaged, Config{}, probe.Failed, "NOERROR", "damaged", nil},
		"not dns":        {bytes(func(*mdns.Msg) []byte { return []byte("HTTP/1.1") }), Config{Timeout: short}, probe.Failed, "", "too few", nil},
		"hangs up":       {func(w mdns.ResponseWriter, _ *mdns.Msg) { w.Close() }, Config{Transport: TCP}, probe.Failed, "", "closed without an answer", nil},
	} {
		r := ask(t, c.c, serve(t, "127.0.0.1:0", true, c.h))
		if r.Outcome != c.want || r.DNS.Rcode != c.rcode || !strings.Contains(r.Detail, c.detail) || c.also != nil && !c.also(r.DNS) {
			t.Errorf("%s: %s %q %+v; want %s %s", name, r.Outcome, r.Detail, r.DNS, c.want, c.rcode)
		}
	}
}

func TestTruncated(t *testing.T) {
	h := func(w mdns.ResponseWriter, q *mdns.Msg) {
		if _, udp := w.LocalAddr().(*net.UDPAddr); udp {
			m := new(mdns.Msg).SetReply(q)
			m.Truncated = true
			_ = w.WriteMsg(m)
			return
		}
		answerA(w, q)
	}
	r := ask(t, Config{}, serve(t, "127.0.0.1:0", true, h))
	var phases []string
	for _, p := range r.Phases {
		phases = append(phases, p.Name)
	}
	if r.Outcome != probe.OK || !r.DNS.TCPRetry || !slices.Contains(r.DNS.Flags, "tc") || r.DNS.Transport != TCP ||
		len(r.DNS.Answers) != 1 || !slices.Equal(phases, []string{"request", "connect", "request"}) {
		t.Errorf("%+v %+v", r, r.DNS)
	}
	r = ask(t, Config{}, serve(t, "127.0.0.1:0", false, h))
	if r.Outcome != probe.Refused || !r.DNS.TCPRetry || !slices.Contains(r.DNS.Flags, "tc") || r.DNS.Rcode != "NOERROR" ||
		r.DNS.Lost != 0 || !strings.Contains(r.Detail, "truncated over udp") {
		t.Errorf("tcp closed: %+v %+v", r, r.DNS)
	}
}

func TestAnswerFromAnotherAddress(t *testing.T) {
	other, err := net.ListenPacket("udp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	both := func(real bool) mdns.HandlerFunc {
		return func(w mdns.ResponseWriter, q *mdns.Msg) {
			m := new(mdns.Msg).SetRcode(q, mdns.RcodeNameError)
			b, _ := m.Pack()
			_, _ = other.WriteTo(b, w.RemoteAddr())
			if real {
				answerA(w, q)
			}
		}
	}
	r := ask(t, Config{}, serve(t, "127.0.0.1:0", false, both(false)))
	if r.Outcome != probe.Failed || !r.DNS.Intercepted || r.DNS.Rcode != "NXDOMAIN" || !strings.Contains(r.Detail, "127.0.0.2") || len(r.DNS.Times) != 0 {
		t.Errorf("stranger alone: %+v %+v", r, r.DNS)
	}
	r = ask(t, Config{}, serve(t, "127.0.0.1:0", false, both(true)))
	if r.Outcome != probe.OK || !r.DNS.Intercepted || r.DNS.Rcode != "NOERROR" || len(r.DNS.Times) != 1 {
		t.Errorf("stranger first, then the server: %+v %+v", r, r.DNS)
	}
}

func TestClosedPortAndCancel(t *testing.T) {
	for _, a := range []string{"127.0.0.1", "::1"} {
		pc, err := net.ListenPacket("udp", net.JoinHostPort(a, "0"))
		if err != nil {
			t.Fatal(err)
		}
		server := pc.LocalAddr().String()
		pc.Close()
		r := ask(t, Config{Tries: 2}, server)
		if r.Outcome != probe.Refused || r.ICMP == nil || r.ICMP.From != netip.MustParseAddr(a) || r.DNS.Lost != 2 {
			t.Errorf("%+v %+v", r, r.ICMP)
		}
	}
	got := make(chan struct{})
	server := serve(t, "127.0.0.1:0", false, func(mdns.ResponseWriter, *mdns.Msg) { close(got) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-got; cancel() }()
	if r, err := New(Config{Name: ".", Type: "NS", Timeout: time.Hour}).Probe(ctx, server); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestBadConfig(t *testing.T) {
	for _, c := range []Config{
		{},
		{Name: "a..b"},
		{Name: "a", Type: "AXFR"},
		{Name: "a", Transport: "tls"},
		{Name: "a", Tries: -1},
		{Name: "a", EDNSSize: 100},
		{Name: "a", EDNSSize: 1 << 17},
		{Name: "a", EDNSSize: -1, NSID: true},
		{Name: "a", Timeout: -1},
	} {
		if err := New(c).Check(); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	if _, err := New(Config{Name: "a"}).Probe(t.Context(), "localhost:53"); err == nil {
		t.Error("a server by name was accepted")
	}
}

// TestKnot asks a server written by others.
func TestKnot(t *testing.T) {
	knotd := testkit.NeedTool(t, "knotd")
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := pc.LocalAddr().String()
	pc.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	zone := "$ORIGIN example.net.\n@ 60 SOA ns hostmaster 1 2 3 4 5\n@ 60 NS ns\nns 60 A 127.0.0.1\nwww 60 A 192.0.2.7\n"
	for range 100 {
		zone += "big 60 TXT \"" + strings.Repeat("x", 40) + string(rune('a'+len(zone)%26)) + strings.Repeat("y", len(zone)%97) + "\"\n"
	}
	zoneFile := write("zone", zone)
	conf := write("knot.conf", "server:\n  rundir: "+dir+"\n  listen: "+strings.Replace(server, ":", "@", 1)+"\n  nsid: knot-test\n"+
		"database:\n  storage: "+dir+"\nzone:\n  - domain: example.net\n    file: "+zoneFile+"\n")
	cmd := exec.Command(knotd, "-c", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var r probe.Result
	for range 100 { // it refuses or answers REFUSED/SERVFAIL until it has loaded its zone
		r = ask(t, Config{Name: "www.example.net", NSID: true, NoRecurse: true, Timeout: 200 * time.Millisecond}, server)
		if r.Outcome == probe.OK {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	if r.Outcome != probe.OK || r.DNS.NSID != "knot-test" || len(r.DNS.Answers) != 1 || !slices.Contains(r.DNS.Flags, "aa") {
		t.Fatalf("%+v %+v", r, r.DNS)
	}
	if r = ask(t, Config{Name: "none.example.net"}, server); r.DNS.Rcode != "NXDOMAIN" || len(r.DNS.Authority) != 1 || r.DNS.Authority[0].Type != "SOA" {
		t.Errorf("%+v", r.DNS)
	}
	if r = ask(t, Config{Name: "big.example.net", Type: "TXT"}, server); r.Outcome != probe.OK || !r.DNS.TCPRetry || r.DNS.Size < 1232 {
		t.Errorf("%s %s %+v", r.Outcome, r.Detail, r.DNS)
	}
	if r = ask(t, Config{Name: "example.org"}, server); r.Outcome != probe.BadAnswer || r.DNS.Rcode != "REFUSED" {
		t.Errorf("%+v", r.DNS)
	}
}

// TestFirewalls as an ordinary user.
func TestFirewalls(t *testing.T) {
	if !netns.Own(t) {
		return
	}
	router := netns.Router(t)
	router.Script(`nft -f - <<EOF
table inet t {
  chain inbound { type filter hook input priority 0; udp dport 53 drop; }
  chain through { type filter hook forward priority 0; udp dport 53 reject with icmpx port-unreachable; tcp dport 53 reject with icmpx admin-prohibited; }
}
EOF`)
	netns.Script(t, `nft -f - <<EOF
table inet t {
  chain outbound { type filter hook output priority 0; udp dport 54 drop; udp dport 55 reject with icmpx port-unreachable; }
}
EOF
ip route add throw 10.99.4.0/24`)
	netns.DropRoot(t)
	near, far := netns.Router4, netns.Far4
	for _, c := range []struct {
		name, transport, server string
		want                    probe.Outcome
		from                    netip.Addr
	}{
		{"drop", UDP, near.String() + ":53", probe.Timeout, netip.Addr{}},
		{"refused by a router", UDP, far.String() + ":53", probe.Refused, near},
		{"refused by a router v6", UDP, "[" + netns.Far6.String() + "]:53", probe.Refused, netns.Router6},
		{"tcp prohibited", TCP, far.String() + ":53", probe.Prohibited, near},
		{"own drop", UDP, near.String() + ":54", probe.LocalDrop, netip.Addr{}},
		{"own reject", UDP, near.String() + ":55", probe.LocalDrop, netip.Addr{}},
		{"no route", UDP, "10.99.4.1:53", probe.NoRoute, netip.Addr{}},
	} {
		r := ask(t, Config{Transport: c.transport, Timeout: 500 * time.Millisecond}, c.server)
		var from netip.Addr
		if r.ICMP != nil {
			from = r.ICMP.From
		}
		if r.Outcome != c.want || from != c.from {
			t.Errorf("%s: %s %q from %v; want %s from %v", c.name, r.Outcome, r.Detail, from, c.want, c.from)
		}
	}
}

func BenchmarkProbe(b *testing.B) {
	p := New(Config{Name: "example.net"})
	server := serve(b, "127.0.0.1:0", false, answerA)
	b.ReportAllocs()
	for b.Loop() {
		if r, err := p.Probe(b.Context(), server); err != nil || r.Outcome != probe.OK {
			b.Fatal(err, r)
		}
	}
}
