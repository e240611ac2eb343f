package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fathom/internal/lab/service"
)

const minimal = `name: x
title: t
story: s
kind: healthy
nodes:
  host: {}
`

func scenario(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Decode([]byte(text))
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	return s
}

func TestDecodeFillsDefaults(t *testing.T) {
	s := scenario(t, minimal)
	if len(s.Ask) != 1 || s.Ask[0].Args[0] != "why" || s.Ask[0].User != "root" {
		t.Errorf("ask: %+v", s.Ask)
	}
	if e := s.Ask[0].Expect; e.Verdict != "healthy" || e.MaxSeconds != 3 {
		t.Errorf("expect: %+v", e)
	}
	if s.Nodes["host"].Type != TypeHost || !s.Nodes["host"].TrustsCA() {
		t.Errorf("host: %+v", s.Nodes["host"])
	}
}

// Each entry is a slip that an author may make, and words that the message must
// hold.
func TestDecodeRefuses(t *testing.T) {
	two := minimal + "  r1: {type: router}\nlinks:\n"
	for name, c := range map[string]struct{ text, want string }{
		"empty file":                   {"", "empty"},
		"not a map":                    {"- a\n", "line 1"},
		"two documents":                {minimal + "---\na: b\n", "more than one"},
		"unknown key":                  {minimal + "exclusiv: true\n", `line 7: in scenario: unknown key "exclusiv" (did you mean "exclusive"?)`},
		"unknown key, nothing near":    {minimal + "qqqqqqqqqqqq: 1\n", "known: actions ask"},
		"unknown key in node":          {minimal + "  r1: {typ: router}\n", `line 7: in r1: unknown key "typ" (did you mean "type"?)`},
		"unknown key in impair":        {two + "  - {a: host/e, b: r1/e, impair: {both: {dealy: 1s}}}\n", `did you mean "delay"?`},
		"unknown key in an end":        {two + "  - {a: {iface: host/e, adresses: []}, b: r1/e}\n", `did you mean "addresses"?`},
		"unknown key in spec":          {minimal + "services:\n  - {node: host, spec: {dns: {lisen: []}}}\n", `did you mean "listen"?`},
		"key twice":                    {minimal + "title: again\n", "twice"},
		"alias":                        {minimal + "tags: &a [b]\nneeds: *a\n", "anchors"},
		"merge key":                    {"<<: {a: b}\n", "merge"},
		"wrong type":                   {minimal + "root_only: maybe\n", "line 7: cannot read `maybe` as bool"},
		"list for text":                {strings.Replace(minimal, "title: t", "title: [t]", 1), "line 2"},
		"bad name":                     {strings.Replace(minimal, "name: x", "name: X Y", 1), "name"},
		"no story":                     {strings.Replace(minimal, "story: s", "story: ''", 1), "story"},
		"bad kind":                     {strings.Replace(minimal, "healthy", "broken", 1), "fault or healthy"},
		"no host":                      {strings.Replace(minimal, "host:", "hots:", 1), `called "host"`},
		"host without value":           {strings.Replace(minimal, "host: {}", "host:", 1), "{}"},
		"fault without expect":         {strings.Replace(minimal, "healthy", "fault", 1), "expect is missing"},
		"fault without cause":          {strings.Replace(minimal, "healthy", "fault", 1) + "expect: {max_seconds: 5}\n", "needs a cause"},
		"subject without cause":        {minimal + "expect: {subject: eth0}\n", "need a cause"},
		"bad cause":                    {minimal + "expect: {absent: [Foo]}\n", "area.cause"},
		"bad pattern":                  {minimal + "expect: {cause: a.b, subject: '/(/'}\n", "pattern"},
		"negative rate":                {two + "  - {a: host/e, b: r1/e, impair: {both: {rate: -5mbit}}}\n", "line 9: rate -5mbit"},
		"rate in words":                {two + "  - {a: host/e, b: r1/e, impair: {both: {rate: fast}}}\n", "not a rate"},
		"delay of a year":              {two + "  - {a: host/e, b: r1/e, impair: {both: {delay: 8760h}}}\n", "delay 8760h0m0s: want 0 to 1m0s"},
		"loss of 120 percent":          {two + "  - {a: host/e, b: r1/e, impair: {both: {loss: 120%}}}\n", "between 0 and 100"},
		"loss NaN":                     {two + "  - {a: host/e, b: r1/e, impair: {both: {loss: NaN}}}\n", "not a percentage"},
		"both and one way":             {two + "  - {a: host/e, b: r1/e, impair: {both: {}, a_to_b: {}}}\n", "excludes"},
		"end used twice":               {two + "  - {a: host/e, b: r1/e}\n  - {a: host/e, b: r1/f}\n", "line 10: link end \"host/e\": already used at line 9"},
		"unknown node in link":         {two + "  - {a: host/e, b: r2/e}\n", `unknown "r2" (did you mean "r1"?)`},
		"interface name too long":      {two + "  - {a: host/e, b: r1/abcdefghijklmnopq}\n", "at most 15"},
		"speed on a veth":              {two + "  - {a: {iface: host/e, ethtool: {speed: 10}}, b: r1/e}\n", "type tap only"},
		"inject on a veth":             {two + "  - {a: {iface: host/e, inject: {kind: dropped, per_second: 5}}, b: r1/e}\n", "type tap only"},
		"route twice":                  {minimal + "  r1: {routes: [10.0.0.0/8 dev e, 10.0.0.0/8 dev e]}\n", "there twice"},
		"inject of what no tap counts": {two + "  - {type: tap, a: {iface: host/e, inject: {kind: frame, per_second: 5}}, b: r1/e}\n", "unknown"},
		"bad address":                  {two + "  - {a: {iface: host/e, addresses: [10.0.0.1]}, b: r1/e}\n", "10.0.0.1"},
		"mtu":                          {two + "  - {a: {iface: host/e, mtu: 10}, b: r1/e}\n", "mtu 10"},
		"bad route":                    {minimal + "  r1: {routes: [default vai 10.0.0.1]}\n", `line 7: node r1: route "default vai 10.0.0.1": unknown word "vai" (did you mean "via"?)`},
		"sysctl elsewhere":             {minimal + "  r1: {sysctls: {kernel.panic: 1}}\n", "net.…"},
		"sysctl climbing":              {minimal + "  r1: {sysctls: {net.//.//.kernel.panic: 1}}\n", "net.…"},
		"global without exclusive":     {minimal + "global_sysctls: {net.netfilter.nf_conntrack_max: 5}\n", "exclusive"},
		"unknown global":               {minimal + "exclusive: true\nglobal_sysctls: {kernel.panic: 5}\n", "unknown"},
		"file with a path":             {minimal + "files: {../x: y}\n", "plain file name"},
		"service key of another":       {minimal + "services:\n  - {node: host, type: udp, port: 5, backlog: 3}\n", `line 8: service udp: key "backlog" does not apply to type udp`},
		"service without address":      {minimal + "services:\n  - {node: host, type: http}\n", "no address"},
		"unknown behaviour":            {minimal + "services:\n  - {node: host, type: tcp, port: 1, listen: [127.0.0.1], behaviour: eco}\n", `did you mean "echo"?`},
		"hog without to":               {minimal + "services:\n  - {node: host, type: port_hog, count: 3}\n", "needs to"},
		"count":                        {minimal + "services:\n  - {node: host, type: close_wait_leak, count: 1000000}\n", "count 1000000"},
		"record outside zones":         {minimal + "services:\n  - {node: host, type: dns, listen: [127.0.0.1], authoritative: true, zones: [a.test], records: [b.test A 10.0.0.1]}\n", "none of the zones"},
		"unknown dns fault":            {minimal + "services:\n  - {node: host, type: dns, listen: [127.0.0.1], faults: [{fault: servfial}]}\n", `did you mean "servfail"?`},
		"delay without fault":          {minimal + "services:\n  - {node: host, type: dns, listen: [127.0.0.1], faults: [{fault: silent, delay: 1s}]}\n", "delay"},
		"action without its key":       {minimal + "actions:\n  - {do: nft, node: host}\n", `line 8: action: do: nft needs "nft"`},
		"action with foreign key":      {minimal + "actions:\n  - {do: nft, node: host, nft: x, iface: y}\n", "does not apply"},
		"action on no link":            {minimal + "actions:\n  - {do: link_down, iface: host/eth9}\n", "no link"},
		"unknown action":               {minimal + "actions:\n  - {do: link_don, iface: host/eth9}\n", `did you mean "link_down"?`},
		"times without every":          {minimal + "actions:\n  - {do: ip, node: host, args: x, times: 3}\n", "belong together"},
		"stop of no service":           {minimal + "actions:\n  - {do: service_stop, service: web}\n", "0 services"},
		"ask mixed":                    {minimal + "ask: [why, {args: [x]}]\n", "mixes"},
		"user":                         {minimal + "user: bob\n", "unknown"},
		"tabs":                         {"name:\tx\n\ttitle: y\n", "line"},
		"binary":                       {"\x00\x01\x02", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("message %q does not hold %q", err, c.want)
			}
		})
	}
}

func TestDecodeRefusesTooMuch(t *testing.T) {
	var many strings.Builder
	many.WriteString(minimal)
	for i := range 10000 {
		many.WriteString("  n" + strings.Repeat("x", i%3) + string(rune('a'+i%26)) + "-" + time.Duration(i).String() + ": {}\n")
	}
	if _, err := Decode([]byte(many.String())); err == nil || !strings.Contains(err.Error(), "at most 64") {
		t.Errorf("10,000 nodes: %v", err)
	}
	if _, err := Decode(make([]byte, MaxFile+1)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a file above 1 MiB: %v", err)
	}
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, make([]byte, 3*MaxFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadFile(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("LoadFile: %v", err)
	}
}

func TestDocumentedScenariosDecode(t *testing.T) {
	all, err := LoadDir("../../testdata/scenarios")
	if err != nil {
		t.Error(err)
	}
	if len(all) == 0 {
		t.Error("no scenarios")
	}
	b, err := os.ReadFile("../../docs/lab.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```yaml\n")
	example, _, _ := strings.Cut(rest, "```\n")
	s := scenario(t, example)
	if s.Name != "mtu-blackhole-at-hop-2" || len(s.Links) != 3 || s.Expect.Cause != "path.mtu_blackhole" {
		t.Errorf("the example of docs/lab.md: %+v", s)
	}
}

func TestDecodeReadsEverything(t *testing.T) {
	s := scenario(t, strings.Replace(minimal, "healthy", "fault", 1)+`
  r1: {type: router}
links:
  - a: {iface: host/eth0, addresses: [10.0.1.2/24, "fd00::2/64"]}
    b: r1/eth0
    impair: {a_to_b: {delay: 20ms, loss: 1%, rate: 10mbit, loss_gilbert: {p: 1, r: 30%}, classes: [{match: {protocol: udp}, blackhole: true}]}}
services:
  - node: host
    type: dns
    zones: [lab.test, sub.lab.test.]
    records: [web.lab.test A 10.0.0.1, x.sub.lab.test 60 CNAME web.lab.test, other.test AAAA fd00::1]
    faults: [{fault: servfail, names: [a.lab.test], types: [a, aaaa], percent: 50}, {fault: only_udp}]
  - {node: host, type: https, names: [web.lab.test], certificate: expired, paths: [{path: /slow, first_byte_delay: 3s}]}
  - {type: flap, iface: host/eth0, every: 1s, down: 250ms}
ask:
  - {args: [why, x], user: nobody}
  - {args: [why, y], expect: {cause: path.loss, location: 10.0.2.2}}
expect: {any_of: [ip.filtered, tcp.filtered], subject: web, also: [{cause: a.b, optional: true}]}
`)
	if ab, _ := s.Links[0].Impair.configs(); ab.Delay != 20*time.Millisecond || ab.Loss.Random != 0.01 || ab.Rate != 10e6 ||
		ab.Loss.GE.R != 0.3 || ab.Loss.GE.Bad != 1 || !ab.Classes[0].Blackhole {
		t.Errorf("impairment: %+v", ab)
	}
	dns, err := s.serviceSpec(s.Services[0])
	if err != nil {
		t.Fatal(err)
	}
	d := dns.DNS
	if len(d.Listen) != 2 || d.Listen[0] != "10.0.1.2:53" || d.Listen[1] != "[fd00::2]:53" || !d.Recursive || !d.UDPOnly || len(d.Faults) != 2 {
		t.Errorf("dns: %+v", d)
	}
	want := map[string]string{
		"lab.test.": "web.lab.test. 300 IN A 10.0.0.1\n", "sub.lab.test.": "x.sub.lab.test. 60 IN CNAME web.lab.test.\n", ".": "other.test. 300 IN AAAA fd00::1\n",
	}
	for _, z := range d.Zones {
		if z.Records != want[z.Name] {
			t.Errorf("zone %s: %q, want %q", z.Name, z.Records, want[z.Name])
		}
	}
	web, err := s.serviceSpec(s.Services[1])
	if err != nil || web.HTTP.Cert != service.CertExpired || web.HTTP.Paths["/slow"].Delay != 3*time.Second {
		t.Errorf("https: %+v, %v", web.HTTP, err)
	}
	if flap, err := s.serviceSpec(s.Services[2]); err != nil || flap.Load.Flap.Duty != 0.75 || s.Services[2].Node != "host" {
		t.Errorf("flap: %+v, %v", flap.Load.Flap, err)
	}
	if !s.isEmulated(s.Links[0]) || s.Ask[0].User != "nobody" || s.Ask[1].Expect.Cause != "path.loss" || len(s.Ask[0].Expect.Findings()) != 2 {
		t.Errorf("asks: %+v", s.Ask)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(minimal))
	files, _ := filepath.Glob("../../testdata/scenarios/*.yaml")
	for _, p := range files[:min(len(files), 20)] {
		if b, err := os.ReadFile(p); err == nil {
			f.Add(b)
		}
	}
	for _, s := range []string{
		"ask: [[a]]", "a: &a [*a]", "<<: [a]", "nodes: {host: [1]}", "links: [null]", "services: [null, {node: host, spec: null}]", "actions: [~]",
		"nodes: {? [a] : b}", "links: [{a: {iface: {}}}]", "expect: {also: [{}]}", "settle: .inf", "!!binary x: y", "ask: [{args: ~}]",
	} {
		f.Add([]byte(minimal + s))
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		// What is accepted can be planned, described and timed.
		p := NewPlan(s)
		for _, st := range p.Steps {
			_ = st.String()
		}
		_ = s.lead(s.timeline())
		for _, n := range s.Nodes {
			_ = n.etcFiles()
		}
	})
}
