package diagnose

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fathom/internal/facts"
	"fathom/probe"
)

func newRedactor(known ...string) *redactor {
	r := &redactor{
		key: [32]byte{1, 2, 3}, known: map[string]bool{}, labels: map[string]string{}, macs: map[string]string{},
		paths: map[string]string{}, certs: map[string]string{}, addrs: map[netip.Addr]netip.Addr{},
	}
	for _, k := range known {
		r.learnName(k)
	}
	return r
}

// commonBits is how many leading bits two addresses share.
func commonBits(a, b netip.Addr) int {
	for n := range a.BitLen() {
		p, _ := a.Prefix(n + 1)
		if !p.Contains(b) {
			return n
		}
	}
	return a.BitLen()
}

func randomAddr(rnd *rand.Rand, near netip.Addr) netip.Addr {
	b := near.AsSlice()
	for i := rnd.IntN(len(b)); i < len(b); i++ {
		b[i] = byte(rnd.IntN(256))
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func TestRedactAddrKeepsPrefixes(t *testing.T) {
	r, rnd := newRedactor(), rand.New(rand.NewPCG(1, 2))
	changed := 0
	for _, begin := range []string{"10.1.2.3", "192.168.1.1", "172.16.3.4", "8.8.8.8", "93.184.216.34", "2606:4700::1", "fd12:3456::1", "fe80::1"} {
		a := netip.MustParseAddr(begin)
		for range 50 {
			b := randomAddr(rnd, a)
			x, y := r.addr(a), r.addr(b)
			if commonBits(a, b) != commonBits(x, y) {
				t.Fatalf("%s and %s share %d bits, %s and %s %d", a, b, commonBits(a, b), x, y, commonBits(x, y))
			}
			for _, s := range special {
				if s.prefix.Contains(b) != s.prefix.Contains(y) {
					t.Fatalf("%s became %s: only one is in %s", b, y, s.prefix)
				}
			}
			if b != y {
				changed++
			}
		}
	}
	if changed < 350 {
		t.Errorf("only %d of 400 addresses changed", changed)
	}
	for _, same := range []string{"127.0.0.1", "0.0.0.0", "::", "::1", "224.0.0.251", "255.255.255.255", "ff02::1"} {
		if got := r.addr(netip.MustParseAddr(same)); got.String() != same {
			t.Errorf("%s became %s", same, got)
		}
	}
	if got := r.addr(netip.MustParseAddr("fe80::1234%eth0")); got.Zone() != "eth0" || !got.IsLinkLocalUnicast() {
		t.Errorf("link-local: %s", got)
	}
	a := netip.MustParseAddr("192.0.2.1")
	if r.addr(netip.MustParseAddr("::ffff:192.0.2.1")).Unmap() != r.addr(a) {
		t.Error("the mapped form has another pseudonym")
	}
	if p := r.prefix(netip.MustParsePrefix("10.20.0.0/16")); p != p.Masked() {
		t.Errorf("the network %s has host bits", p)
	}
	if p := r.prefix(netip.MustParsePrefix("10.20.3.4/16")); p.Addr() != r.addr(netip.MustParseAddr("10.20.3.4")) {
		t.Errorf("the address in %s differs", p)
	}
}

func TestRedactText(t *testing.T) {
	r := newRedactor("db7", "router", "intra.acme.example")
	ip := func(s string) string { return r.addr(netip.MustParseAddr(s)).String() }
	a, v6, mac := ip("10.1.2.3"), ip("2001:db8::77"), r.mac("52:54:00:12:34:56")
	for in, want := range map[string]string{
		"":                 "",
		"no route to host": "no route to host",
		"dial tcp 10.1.2.3:443: connect: connection refused": "dial tcp " + a + ":443: connect: connection refused",
		"from 10.1.2.3.":                "from " + a + ".",
		"(10.1.2.3), [2001:db8::77]:53": "(" + a + "), [" + v6 + "]:53",
		"via:2001:db8::77":              "via:" + v6,
		"src=10.1.2.3 MAC=52:54:00:12:34:56:52:54:00:12:34:56:08:00": "src=" + a + " MAC=" + mac + ":" + mac + ":08:00",
		"net 10.1.0.0/16 up":                       "net " + r.prefix(netip.MustParsePrefix("10.1.0.0/16")).String() + " up",
		"10.1.2.3-10.1.2.3":                        a + "-" + a,
		"lookup intra.acme.example: no such host":  "lookup " + r.name("intra.acme.example") + ": no such host",
		"cname other.acme.example.":                "cname " + r.name("other.acme.example") + ".",
		"db7 and DB7, not db77":                    r.label("db7") + " and " + r.label("db7") + ", not db77",
		"router says no":                           "router says no", // a word like any other
		"bob@acme.example":                         "user@" + r.name("acme.example"),
		"get https://acme.example/a?token=x, then": "get https://" + r.name("acme.example") + "/p1, then",
		"net.ipv4.ip_forward TcpExt.ListenDrops /etc/resolv.conf 6.1.0-28-amd64 TLS 1.3 at 12:34:56": "net.ipv4.ip_forward TcpExt.ListenDrops /etc/resolv.conf 6.1.0-28-amd64 TLS 1.3 at 12:34:56",
		"9.2.0.192.in-addr.arpa": r.name("9.2.0.192.in-addr.arpa"),
		"\xff\xfe ü 10.1.2.3":    "\xff\xfe ü " + a,
	} {
		if got := r.text(in); got != want {
			t.Errorf("%q:\n got %q\nwant %q", in, got, want)
		}
	}
	if got := r.name("3.2.1.10.in-addr.arpa."); !strings.HasPrefix(ip("10.1.2.3"), "10.") || got == "3.2.1.10.in-addr.arpa." || !strings.HasSuffix(got, ".10.in-addr.arpa.") {
		t.Errorf("reverse name %s", got)
	}
	if got := r.field(`tcp dport 22 drop comment "Bob's laptop" log prefix "acme "`, "rule"); strings.Contains(got, "Bob") || strings.Contains(got, "acme") {
		t.Error(got)
	}
	if got := stripComments(`accept comment "Bob" counter comment "open`); got != `accept comment "…" counter comment "…"` {
		t.Error(got)
	}
	for in, want := range map[string]string{"nginx[12]": "nginx[12]", "/usr/bin/python3 app.py --password x[7]": "python3[7]", "uid 33": "uid 33", "": "", "[3]": "[3]"} {
		if got := processOnly(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// A search list must still lead from the short name to the full one.
func TestRedactNamesKeepTheirSuffix(t *testing.T) {
	r := newRedactor()
	if got, want := r.name("web.lan.acme.example."), r.name("web")+"."+r.name("lan.acme.example")+"."; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := r.name(cannotExist); got != cannotExist {
		t.Errorf("the name that rules ask for became %s", got)
	}
	for _, same := range []string{"", ".", "localhost", "*", "_tcp"} {
		if got := r.name(same); got != same {
			t.Errorf("%q became %q", same, got)
		}
	}
}

func TestRedactFirewallDecidesTheSame(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, m := range []facts.FWMatch{
		{Field: "daddr", Op: "==", Values: []string{"10.1.2.3"}},
		{Field: "daddr", Op: "==", Values: []string{"10.1.0.0/16"}},
		{Field: "daddr", Op: "!=", Values: []string{"10.1.2.3-10.1.9.77"}},
		{Field: "daddr", Op: "in", Values: []string{"10.1.2.3-10.1.9.77", "10.200.0.0/14", "192.0.2.1"}},
		{Field: "daddr", Op: "not in", Values: []string{"10.1.2.0-10.1.2.255"}},
		{Field: "daddr", Op: "<", Values: []string{"10.1.5.0"}},
		{Field: "daddr", Op: ">=", Values: []string{"10.1.5.1"}},
		{Field: "daddr . dport", Op: "in", Values: []string{"10.1.2.3-10.1.9.77 . 80-90", "10.1.0.0/17 . 443"}},
		{Field: "dport", Op: "in", Values: []string{"80-90", "443"}},
	} {
		r := newRedactor()
		red := r.match(m)
		fw := func(m facts.FWMatch) *facts.Firewall {
			return &facts.Firewall{Chains: []facts.FWChain{{
				Family: "ip", Table: "f", Name: "o", Hook: "output", Policy: "accept", Type: "filter",
				Rules: []facts.FWRule{{Handle: 1, Verdict: "drop", Matches: []facts.FWMatch{m}}},
			}}}
		}
		hits := 0
		for range 300 {
			a := randomAddr(rnd, netip.MustParseAddr("10.1.5.5"))
			p := facts.Packet5{Family: 4, Proto: "tcp", Dst: a, DPort: []uint16{80, 85, 443, 22}[rnd.IntN(4)]}
			q := p
			q.Dst = r.addr(a)
			x, y := fw(m).Verdict("output", p).Outcome, fw(red).Verdict("output", q).Outcome
			if x != y {
				t.Fatalf("%+v says %s to %s; %+v says %s to %s", m, x, p.Dst, red, y, q.Dst)
			}
			if x == facts.FWDrop {
				hits++
			}
		}
		if hits == 0 && m.Values[0] != "10.1.2.3" {
			t.Errorf("%+v never hit", m)
		}
	}
}

// Every string that evidence can hold is redacted, unless it is listed as harmless.
func TestRedactReachesEveryField(t *testing.T) {
	e := &Evidence{}
	var fields []string
	var set func(v reflect.Value, name string, depth int)
	set = func(v reflect.Value, name string, depth int) {
		if depth > 14 {
			return
		}
		switch v.Addr().Interface().(type) {
		case *netip.Addr:
			v.Set(reflect.ValueOf(netip.MustParseAddr("10.66.77.88")))
			return
		case *netip.Prefix:
			v.Set(reflect.ValueOf(netip.MustParsePrefix("10.66.77.88/24")))
			return
		case *netip.AddrPort:
			v.Set(reflect.ValueOf(netip.MustParseAddrPort("10.66.77.88:53")))
			return
		case *time.Time:
			return
		}
		switch v.Kind() {
		case reflect.String:
			fields = append(fields, name)
			if redactAs[name] != "keep" {
				v.SetString("secret.acme.example")
				if name == "Link.MAC" || name == "Neighbour.MAC" || name == "ARP.MACs" {
					v.SetString("52:54:00:66:77:88")
				}
			}
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			set(v.Elem(), name, depth+1)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			set(v.Index(0), name, depth+1)
		case reflect.Map:
			x := reflect.New(v.Type().Elem()).Elem()
			set(x, name, depth+1)
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), x)
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					set(v.Field(i), v.Type().Name()+"."+v.Type().Field(i).Name, depth+1)
				}
			}
		}
	}
	set(reflect.ValueOf(e).Elem(), "", 0)
	b, err := json.Marshal(Redact(e))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"secret", "acme", "10.66.77.88", "52:54:00:66:77:88"} {
		if i := strings.Index(string(b), secret); i >= 0 {
			t.Errorf("%q is left: …%s…", secret, b[max(0, i-60):min(len(b), i+40)])
		}
	}
	for name := range redactAs {
		if !slices.Contains(fields, name) && name != "FWMatch.Field" && name != "FWMatch.Op" {
			t.Errorf("redactAs lists %s, which is no string of the evidence any more", name)
		}
	}
}

func TestRedactKeepsTheVerdict(t *testing.T) {
	files, err := filepath.Glob("testdata/redact/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no evidence", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		e := new(Evidence)
		if err := json.Unmarshal(b, e); err != nil {
			t.Fatal(f, err)
		}
		before := fmt.Sprintf("%+v", e.Before.Addrs)
		red := Redact(e)
		compareVerdicts(t, f, e, red)
		if fmt.Sprintf("%+v", e.Before.Addrs) != before {
			t.Errorf("%s: the original was changed", f)
		}
		if len(Pending(e)) != len(Pending(red)) {
			t.Errorf("%s: %d measurements are wanted, %d after redaction", f, len(Pending(e)), len(Pending(red)))
		}
		again, _ := json.Marshal(Redact(e))
		if first, _ := json.Marshal(red); string(first) != string(again) {
			t.Errorf("%s: redacted differently the second time", f)
		}
		for _, secret := range []string{"10.77.0.", "corp", "hfcli"} {
			if strings.Contains(string(again), secret) {
				t.Errorf("%s: %s is left", f, secret)
			}
		}
	}
}

func compareVerdicts(t *testing.T, name string, e, red *Evidence) {
	t.Helper()
	digest := func(r Report) []string {
		out := []string{string(r.Verdict)}
		for _, f := range r.Findings {
			out = append(out, fmt.Sprintf("%s %s %s %s %d proofs", f.Cause, f.Severity, f.Confidence, f.SubjectKind, len(f.Evidence)))
			for _, x := range f.Explains {
				out = append(out, f.Cause+" explains "+x.Cause)
			}
		}
		for _, x := range r.RuledOut {
			out = append(out, "not "+x.Cause)
		}
		out = append(out, fmt.Sprint(len(r.NotMeasured), " gaps"))
		slices.Sort(out)
		return out
	}
	if d := cmp.Diff(digest(Decide(e)), digest(Decide(red))); d != "" {
		t.Errorf("%s: the verdict changed (- before, + redacted):\n%s", name, d)
	}
}

// More addresses than are measured: their order must not decide which ones count.
func TestRedactManyAddresses(t *testing.T) {
	e := &Evidence{Schema: EvidenceSchema, Before: &facts.Host{}}
	d := &probe.DNS{Name: "x.acme.example."}
	for i := range 20 {
		a := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		d.Answers = append(d.Answers, probe.DNSRecord{Name: d.Name, Type: "A", Data: a.String()})
		if i < maxAddrs {
			e.Lookups = append(e.Lookups, facts.Lookup{Destination: a})
		}
	}
	e.Measured = []Measured{{Want: Want{Kind: "dns"}, Result: &probe.Result{Kind: "dns", DNS: d}}}
	red := Redact(e)
	for _, a := range AnswerAddrs(red.Measured[0].Result) {
		if red.Lookup(a) == nil {
			t.Errorf("%s was never measured", a)
		}
	}
	if n := len(d.Answers); n != 20 {
		t.Errorf("the original has %d answers left", n)
	}
}

func FuzzRedactText(f *testing.F) {
	for _, s := range []string{"dial tcp 10.1.2.3:443", "[2001:db8::1]:53", "https://u:p@h.example/x?y", "52-54-00-12-34-56", "a.b.c.", "::::", "10.0.0.1/99", "%", "http://", "9.8.7.in-addr.arpa"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := newRedactor("secret")
		out := r.text("10.9.8.7 " + s + " secret.acme.example")
		if strings.HasPrefix(out, "10.9.8.7 ") && r.addr(netip.MustParseAddr("10.9.8.7")).String() != "10.9.8.7" {
			t.Fatalf("%q", out)
		}
		for _, how := range []string{"name", "url", "target", "mac", "process", "dn", "opaque", "rule", "text"} {
			r.field(s, how)
		}
	})
}
