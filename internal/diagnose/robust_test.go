package diagnose

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"fathom/internal/facts"
	"fathom/probe"
	"fathom/sample"
)

// rich is evidence in which nearly every rule has something to look at: several
// sick targets on a sick host, with every kind of result and of fact.
func rich(t testing.TB) *Evidence {
	t.Helper()
	return evidence(t, dualStack, twoResolvers,
		asking(httpTarget(webURLTLS), httpTarget("http://slow.lab.test/"), tcpTarget("10.0.9.20", 22), tcpTarget("10.0.9.21", 443), tcpTarget(neighbour77, 22),
			Target{Raw: "udp://10.0.9.9:9999", Scheme: "udp", Host: webAddr, Port: 9999}, Target{Raw: "tls://web.lab.test:853", Scheme: "tls", Host: webName, Port: 853},
			Target{Raw: "nope.lab.test", Host: "nope.lab.test"}, Target{Raw: "10.0.9.22", Host: "10.0.9.22"}, tcpTarget("10.0.0.2", 8080)),
		named("slow.lab.test.", "10.0.9.30", "10.0.9.31"), question(func(q *Question) { q.Anchors = []netip.Addr{ip(anchorAddr)} }),
		silent(to(dns1)), slowDNS(dns2, 900, every), saysFor(dns2, cannotExist, "10.0.66.66"),
		vanishAfter("10.0.9.20", 2), says(to("10.0.9.21"), hop3, 3, 1), silent(to(neighbour77)), says(kind("udp"), webAddr, 3, 3),
		lossFrom(3, 0.1), jitter("10.0.9.30", ms(60)), roundTrip("10.0.9.31", ms(90)),
		change(both(kind("path"), to("10.0.9.22")), func(r *probe.Result) { silence(r); r.Path.LoopAt = 2; r.Path.Hops[2].Address = ip(hop2) }),
		silent(both(kind("icmp", "tcp"), to("10.0.9.22"))), refused(both(to("10.0.0.2"), portIs(8080))),
		badCertificate("expired", func(c *probe.Certificate) { c.NotAfter = days(-3) }),
		web(func(r *probe.Result) {
			r.HTTP.AltSvcH3, r.HTTP.Header = ":443", map[string]string{"Retry-After": "5"}
			r.HTTP.Redirects = []probe.Redirect{{From: "a", Status: 302, To: "b"}}
			for i := range r.HTTP.Repeats {
				r.HTTP.Repeats[i].FirstByte = ms(2000)
			}
			r.HTTP.Repeats[0].Status = 503
		}), silent(kind("http3")),
		change(both(kind("mtu"), to(webAddr)), func(r *probe.Result) {
			*r.MTU = probe.MTU{LinkMTU: 1500, Works: 1400, Fails: 1401, Tries: 3, LastGood: ip(hop2), LastGoodTTL: 2, FirstBad: ip(hop3), FirstBadTTL: 3}
		}),
		change(both(kind("arp"), to("10.0.0.2")), func(r *probe.Result) { r.ARP.MACs = []string{"02:00:00:00:00:66"} }),
		edit(both(kind("icmp"), to(dns2)), func(_ Want, m *Measured) { m.Result, m.Error = nil, "socket: permission denied" }),
		witnessed(facts.WireFlow{Link: "eth0", Remote: ip(webAddr), Proto: "tcp", Port: 443, SynOut: 3, SynAckIn: 3, OtherLinksIn: []string{"eth1"}}),
		addLink(secondCard, "10.7.0.2/24"), addRoute(facts.Route{Dst: netip.MustParsePrefix("10.0.9.20/32"), Gateway: ip("10.7.0.1"), Link: "eth1"}),
		addRoute(facts.Route{Dst: netip.MustParsePrefix("10.99.0.0/16"), Link: "eth1", NextHops: []facts.NextHop{{Gateway: ip("10.7.0.9"), Link: "eth1"}}}),
		host(func(h *facts.Host) {
			h.Neighbours = append(h.Neighbours, facts.Neighbour{Link: "eth0", Address: ip(neighbour77), State: "failed"})
			h.Links[1].Bond = &facts.Bond{Mode: "active-backup", Members: []facts.BondMember{{Name: "eth7"}}}
			h.Rules = []facts.PolicyRule{{Priority: 100, Family: 4, Table: 7, Action: "lookup", Other: []string{"ipproto tcp"}}}
			h.Resolver.Search, h.Resolver.Hosts = []string{"corp.test"}, []facts.HostsEntry{{Address: ip("10.0.0.9"), Names: []string{"db"}}}
			h.Log = []sample.Event{{Time: t0, Kind: "kernel.neighbour_overflow", Text: "neighbour: arp_cache: neighbor table overflow!", Source: "kmsg"}}
			h.Sockstat = map[string]int64{"TCP.mem": 4}
			h.Sockets.Targets = []facts.TCPSocket{{Remote: netip.MustParseAddrPort("10.0.9.9:443"), State: "ESTABLISHED", Info: true}}
			h.Gaps = []facts.Gap{{What: "x", Why: "y"}}
			h.Qdiscs = append(h.Qdiscs, facts.Qdisc{Link: "eth0", Kind: "htb", Handle: "1:1", Parent: "root", Class: true, RateBps: 1e8})
			h.Firewall.Chains[0].Rules = []facts.FWRule{{Text: "tcp dport 8080 drop", Verdict: "drop", Matches: []facts.FWMatch{{Field: "dport", Op: "==", Values: []string{"8080"}}}}}
		}),
		later(func(h *facts.Host) {
			l := linkOf(h, "eth0")
			l.CarrierChanges, l.Stats.RxCRCErrors, l.Stats.RxErrors, l.Stats.RxMissedErrors = 3, 40, 40, 30
			h.Qdiscs[0].Drops, h.Softnet[0].Dropped, h.NeighTables[0].TableFulls = 90, 30, 7
			h.Conntrack.Count, h.Conntrack.Drop = 65536, 9
			h.Counters["TcpExt.ListenOverflows"] += 9
			h.Counters["Udp.RcvbufErrors"] += 900
			h.Sockets.UDP[0].Drops += 900
			h.Sockets.Listeners[0].RecvQ = 200
			h.Sockets.CloseWait[0] = facts.SocketGroup{Process: "app[700]", Count: 90, MedianAge: ms(9e4), OldestAge: ms(9e5), Remote: "10.0.9.9"}
			h.Sockets.Destinations[0].Ports = 28000
		}),
		finally(func(e *Evidence) {
			e.Gaps = []facts.Gap{{What: "wire", Why: "no CAP_NET_RAW"}}
			e.Events = []sample.Event{{Time: t0.Add(time.Second), Kind: "link.down", Subject: sample.Subject{Kind: sample.KindInterface, Name: "eth0"}}}
		}))
}

// exercise runs all that is run on evidence and reports a panic with its place.
func exercise(t testing.TB, e *Evidence) (r Report, failure string) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			failure = fmt.Sprintf("%v\n%s", p, place(debug.Stack()))
		}
	}()
	Pending(e) // plans as well
	r = Decide(e)
	if _, err := json.Marshal(r); err != nil {
		failure = err.Error()
	}
	return r, failure
}

// place is the first line of this package below a panic.
func place(stack []byte) string {
	var out []string
	_, below, _ := strings.Cut(string(stack), "panic(")
	for _, l := range strings.Split(below, "\n") {
		if strings.Contains(l, "/internal/") && strings.Contains(l, ".go:") && len(out) < 4 {
			out = append(out, strings.TrimSpace(l))
		}
	}
	return strings.Join(out, "\n")
}

func TestRichEvidenceIsRich(t *testing.T) {
	e := rich(t)
	r := Decide(e)
	causes := map[string]bool{}
	for _, f := range r.Findings {
		causes[f.Cause] = true
		for _, x := range f.Explains {
			causes[x.Cause] = true
		}
	}
	if len(causes) < 20 {
		t.Errorf("only %d causes: %v", len(causes), causes)
	}
	checkReport(t, e, r)
}

// Parts of a snapshot may be missing for want of privilege, kernel or luck: no
// rule may fall over it. Each pointer, slice, map and interface of rich evidence
// is taken away in turn.
func TestNoPartIsIndispensable(t *testing.T) {
	e := rich(t)
	failed := map[string]bool{}
	byField := map[string][]slot{}
	for _, p := range slotsOf(e, blankable) {
		byField[p.field] = append(byField[p.field], p)
	}
	for _, field := range slices.Sorted(maps.Keys(byField)) {
		all := byField[field]
		for i := 0; i < len(all); i += len(all)/8 + 1 { // a few of each field: all at once is the next test
			without(t, e, failed, all[i].path, all[i])
		}
	}
	if len(byField) < 60 {
		t.Errorf("only %d fields were taken away: the walk does not reach them", len(byField))
	}
}

// Whole kinds of things go missing at once (every Result.Echo, every
// Host.Sockets), and so do values: zero addresses, prefixes, numbers and words
// are what a file holds that somebody edited.
func TestNoKindOfPartIsIndispensable(t *testing.T) {
	e := rich(t)
	kinds := map[string][]slot{}
	for _, s := range slotsOf(e, func(reflect.Value) bool { return true }) {
		kinds[s.field] = append(kinds[s.field], s)
	}
	failed := map[string]bool{}
	for _, field := range slices.Sorted(maps.Keys(kinds)) {
		without(t, e, failed, "any "+field, kinds[field]...)
	}
	if len(kinds) < 200 {
		t.Errorf("only %d kinds", len(kinds))
	}
}

// without takes parts of e away, exercises it and puts them back.
func without(t *testing.T, e *Evidence, failed map[string]bool, what string, parts ...slot) {
	t.Helper()
	var old []reflect.Value
	for _, p := range parts {
		c := reflect.New(p.v.Type()).Elem()
		c.Set(p.v)
		old = append(old, c)
		p.v.SetZero()
	}
	if _, failure := exercise(t, e); failure != "" && !failed[failure] {
		failed[failure] = true
		t.Errorf("without %s: %s", what, failure)
	}
	for i, p := range parts {
		p.v.Set(old[i])
	}
}

// slot is a field of evidence, however deep.
type slot struct {
	v           reflect.Value
	path, field string // Evidence.Measured[3].Result.Echo, Result.Echo
}

func slotsOf(e *Evidence, which func(reflect.Value) bool) (out []slot) {
	walk(reflect.ValueOf(e).Elem(), "Evidence", func(v reflect.Value, path, field string) {
		if which(v) {
			out = append(out, slot{v, path, field})
		}
	})
	return out
}

func blankable(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return !v.IsNil()
	}
	return false
}

// opaque values are taken whole: their insides are not the evidence's business.
func opaqueType(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[time.Time](), reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.AddrPort](), reflect.TypeFor[netip.Prefix]():
		return true
	}
	return false
}

// walk visits every exported field; field is Type.Name.
func walk(v reflect.Value, path string, visit func(v reflect.Value, path, field string)) {
	switch v.Kind() {
	case reflect.Struct:
		if opaqueType(v.Type()) {
			return
		}
		for i := range v.NumField() {
			f, sf := v.Field(i), v.Type().Field(i)
			if sf.IsExported() {
				visit(f, path+"."+sf.Name, v.Type().Name()+"."+sf.Name)
				walk(f, path+"."+sf.Name, visit)
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), path, visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i), visit)
		}
	}
}

// What measurements say grows while they arrive: at no moment may a rule fall over it.
func TestHalfMeasuredEvidence(t *testing.T) {
	full := rich(t)
	for i := range len(full.Measured) + 1 {
		for _, after := range []bool{true, false} {
			e := *full
			e.Measured = full.Measured[:i]
			if !after {
				e.After = nil
			}
			if _, failure := exercise(t, &e); failure != "" {
				t.Fatalf("with %d of %d measurements, after %v: %s", i, len(full.Measured), after, failure)
			}
		}
	}
	for i := range full.Lookups {
		e := clone(t, full)
		e.Lookups = e.Lookups[:i]
		if _, failure := exercise(t, e); failure != "" {
			t.Fatalf("with %d lookups: %s", i, failure)
		}
	}
	e := clone(t, full)
	e.Before = nil
	if _, failure := exercise(t, e); failure != "" {
		t.Errorf("with the second snapshot only: %s", failure)
	}
	e.After = nil
	if _, failure := exercise(t, e); failure != "" {
		t.Errorf("with neither snapshot: %s", failure)
	}
}

// A file that anybody may have written must not bring fathom down, and no
// impossible number may come out of it twice in different form.
func FuzzEvidence(f *testing.F) {
	// Small seeds: the fuzzer shrinks what it finds, and large files keep it busy with that.
	small := evidence(f, askURL(webURL), vanishAfter(webAddr, 1))
	small.Before.Sockets, small.Before.Counters, small.After, small.Measured = nil, nil, nil, small.Measured[:3]
	for _, e := range []*Evidence{{}, small} {
		b, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"question":{"targets":[{"raw":"","host":"::ffff:1.2.3.4%eth0","port":1}],"anchors":["fe80::1%eth0",""]},"before":{"resolver":{"servers":["[::]:0"]},"routes":[{"dst":"","link":"x"},{"dst":"0.0.0.0/0","nexthops":[{}]}],"links":[{"name":"x","up":true,"carrier":true}]},"after":{},"lookups":[{"destination":"","route":{"dst":""}}],"measured":[{"want":{"kind":"icmp","target":"x"},"result":{"kind":"icmp","echo":{"sent":-1,"received":5}}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e := &Evidence{}
		if json.Unmarshal(b, e) != nil {
			return
		}
		e.Sort()
		r, failure := exercise(t, e)
		if failure != "" {
			t.Fatal(failure)
		}
		x, _ := json.Marshal(r)
		if y, _ := json.Marshal(Decide(e)); string(x) != string(y) {
			t.Fatal("decided differently the second time")
		}
	})
}

// odd are values that a field might hold in a file, by kind.
var (
	oddInts  = []int64{0, 1, -1, 2, 5, 64, 255, 1500, 65535, 1 << 31, 1<<62 - 1, -1 << 62}
	oddWords = []string{"", "x", "eth0", "lo", webAddr, gwAddr, "10.0.0.53:53", "::1", "[fe80::1%eth0]:53", "NXDOMAIN", "SERVFAIL", "NOERROR", "failed", "reachable", "blackhole", "http://[", "-1 5", "9 1", "tcp", "udp", "icmp", "path", "dns", "ok", "timeout", "refused", "unreachable", "\x00\xff%s%d", "\u202e", "info", "A", "AAAA"}
	oddAddrs = []netip.Addr{{}, ip(webAddr), ip(gwAddr), ip(dns1), ip("10.0.0.2"), ip("127.0.0.1"), ip("::"), ip("::ffff:10.0.9.9"), ip("fe80::1%eth0"), ip(v6Web), ip("224.0.0.1")}
)

// mutate changes parts of e as the bytes say: two choose the part, one the value.
func mutate(e *Evidence, b []byte) {
	parts := slotsOf(e, func(reflect.Value) bool { return true })
	for ; len(b) >= 3; b = b[3:] {
		p := parts[(int(b[0])<<8|int(b[1]))*31%len(parts)]
		n, v := int(b[2]), p.v
		switch x := v.Addr().Interface().(type) {
		case *netip.Addr:
			*x = oddAddrs[n%len(oddAddrs)]
		case *netip.AddrPort:
			*x = netip.AddrPortFrom(oddAddrs[n%len(oddAddrs)], uint16(n))
		case *netip.Prefix:
			*x = netip.PrefixFrom(oddAddrs[n%len(oddAddrs)], n%40)
		case *time.Time:
			*x = []time.Time{{}, t0.AddDate(-n, 0, 0), t0.AddDate(n, 0, 0)}[n%3]
		default:
			mutateValue(v, n)
		}
	}
}

func mutateValue(v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		v.SetInt(oddInts[n%len(oddInts)])
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(oddInts[n%len(oddInts)]) >> (64 - v.Type().Bits()))
	case reflect.String:
		v.SetString(oddWords[n%len(oddWords)])
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Slice:
		switch {
		case v.Len() > 0 && n%3 == 0:
			v.SetLen(n % v.Len())
		case v.Len() > 0 && n%3 == 1:
			v.Set(reflect.Append(v.Slice3(0, v.Len(), v.Len()), v.Index(n%v.Len())))
		default:
			v.SetZero()
		}
	case reflect.Pointer, reflect.Map:
		v.SetZero()
	}
}

// FuzzMutatedEvidence reaches deeper than JSON does: rich evidence with some
// parts changed to what is odd but possible.
func FuzzMutatedEvidence(f *testing.F) {
	base := rich(f)
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		b := make([]byte, 120)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e := clone(t, base)
		mutate(e, b[:min(len(b), 300)])
		e.Sort()
		if _, failure := exercise(t, e); failure != "" {
			t.Fatal(failure)
		}
		Redact(e)
	})
}
