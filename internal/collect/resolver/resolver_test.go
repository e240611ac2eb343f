package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fathom/internal/facts"
)

func parse(conf string, env environment) *facts.Resolver {
	var r facts.Resolver
	parseResolvConf([]byte(conf), env, func(name string) bool { return name == "eth0" }, &r)
	return &r
}

func TestResolvConf(t *testing.T) {
	for _, c := range []struct {
		situation, conf  string
		env              environment
		servers, search  string
		ndots, secs, try int
		problem          string // part of one that must be there; "" : none at all
	}{
		{"plain", "# written by hand\n; or so\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.test b.test\n", environment{}, "192.0.2.1 2001:db8::1", "a.test b.test", 1, 5, 2, ""},
		{"more than three servers", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", environment{}, "192.0.2.1 192.0.2.2 192.0.2.3", "", 1, 5, 2, "1 more are ignored"},
		{"the last of search and domain wins", "nameserver 192.0.2.1\nsearch a.test b.test\ndomain c.test junk\n", environment{}, "192.0.2.1", "c.test", 1, 5, 2, "replaces the one before"},
		{"options, cut to the limits", "nameserver 192.0.2.1\noptions ndots:99 timeout:1 attempts:9 rotate edns0\noptions single-request-reopen\n", environment{}, "192.0.2.1", "", 15, 1, 5, "counts as 15"},
		{"no name server", "search a.test\n", environment{}, "127.0.0.1", "a.test", 1, 5, 2, "127.0.0.1 is asked"},
		{"empty", "", environment{}, "127.0.0.1", "", 1, 5, 2, "no name server"},
		{"keyword not in the first column", "  nameserver 192.0.2.1\n", environment{}, "127.0.0.1", "", 1, 5, 2, "first column"},
		{"upper case", "Nameserver 192.0.2.1\n", environment{}, "127.0.0.1", "", 1, 5, 2, "lower case"},
		{"with a port", "nameserver 192.0.2.1:5353\n", environment{}, "127.0.0.1", "", 1, 5, 2, "not an address"},
		{"from Windows", "nameserver 192.0.2.1\r\n", environment{}, "127.0.0.1", "", 1, 5, 2, "carriage return"},
		{"tab and a comment behind", "nameserver\t192.0.2.1 # main\n", environment{}, "192.0.2.1", "", 1, 5, 2, ""},
		{"scope", "nameserver fe80::1%eth0\nnameserver fe80::1%gone\n", environment{}, "fe80::1%eth0", "", 1, 5, 2, `no interface "gone"`},
		{"short forms of inet_aton", "nameserver 127.1\nnameserver 0x7f.0.0.2\nnameserver 010.0.0.1\n", environment{}, "127.0.0.1 127.0.0.2 8.0.0.1", "", 1, 5, 2, ""},
		{"environment", "nameserver 192.0.2.1\nsearch a.test\noptions ndots:2\n", environment{"x.test y.test", "ndots:3"}, "192.0.2.1", "x.test y.test", 3, 5, 2, "LOCALDOMAIN"},
		{"attempts 0", "nameserver 192.0.2.1\noptions attempts:0\n", environment{}, "192.0.2.1", "", 1, 5, 0, "ever asked"},
		{"twice the same", "nameserver 192.0.2.1\nnameserver 192.0.2.1\n", environment{}, "192.0.2.1 192.0.2.1", "", 1, 5, 2, "listed twice"},
		{"unknown option and keyword", "nameserver 192.0.2.1\nlookup file bind\noptions turbo\n", environment{}, "192.0.2.1", "", 1, 5, 2, "turbo"},
		{"no newline at the end", "nameserver 192.0.2.1", environment{}, "192.0.2.1", "", 1, 5, 2, ""},
	} {
		r := parse(c.conf, c.env)
		var servers []string
		for _, s := range r.Servers {
			servers = append(servers, s.Addr().String())
			if s.Port() != 53 {
				t.Errorf("%s: port %d", c.situation, s.Port())
			}
		}
		if got := strings.Join(servers, " "); got != c.servers {
			t.Errorf("%s: servers %s, want %s", c.situation, got, c.servers)
		}
		if got := strings.Join(r.Search, " "); got != c.search || r.NDots != c.ndots || r.TimeoutS != c.secs || r.Attempts != c.try {
			t.Errorf("%s: search %q ndots %d timeout %d attempts %d", c.situation, got, r.NDots, r.TimeoutS, r.Attempts)
		}
		all := strings.Join(r.Problems, "\n")
		if c.problem == "" && all != "" || !strings.Contains(all, c.problem) {
			t.Errorf("%s: problems %q, want %q", c.situation, all, c.problem)
		}
	}
	if r := parse("options rotate use-vc\n", environment{}); !r.Rotate || !slices.Contains(r.Options, "use-vc") {
		t.Errorf("%+v", r)
	}
}

func TestInetAton(t *testing.T) {
	for s, want := range map[string]string{
		"1.2.3.4": "1.2.3.4", "1.2.3": "1.2.0.3", "1.65535": "1.0.255.255", "16909060": "1.2.3.4", "0x1020304": "1.2.3.4", "010": "0.0.0.8",
		"1.2.3.256": "", "256.1": "", "1.2.3.4.5": "", "1.": "", "": "", "+1": "", "1_0": "", "0b1": "", "0o7": "", "4294967296": "", "a": "",
	} {
		a, ok := inetAton(s)
		if ok != (want != "") || ok && a.String() != want {
			t.Errorf("%q: %v %v, want %q", s, a, ok, want)
		}
	}
}

func TestNSSwitch(t *testing.T) {
	for line, want := range map[string]struct{ tokens, problem string }{
		"hosts: files dns # as ever":                            {"files|dns", ""},
		"hosts:\tfiles mdns4_minimal [NOTFOUND=return] dns":     {"files|mdns4_minimal|[NOTFOUND=return]|dns", ""},
		"hosts: mymachines resolve [!UNAVAIL=return] files dns": {"mymachines|resolve|[!UNAVAIL=return]|files|dns", ""},
		"hosts: files": {"files", "never ask DNS"},
		"hosts: files [ NOTFOUND=return  SUCCESS=return ] dns":    {"files|[ NOTFOUND=return SUCCESS=return ]|dns", "stops at"},
		"hosts: files[NOTFOUND=return] dns":                       {"files|[NOTFOUND=return]|dns", "stops at"},
		"passwd: files":                                           {"", "no hosts line"},
		"hosts: files [" + strings.Repeat("x ", 1000) + "\x1b[2J": {"", "never ask DNS"},
	} {
		var r facts.Resolver
		parseNSSwitch([]byte(line+"\n"), &r)
		if got := strings.Join(r.NSSHosts, "|"); want.tokens != "" && got != want.tokens {
			t.Errorf("%s: %s", line, got)
		}
		all := strings.Join(r.Problems, "\n")
		if want.problem == "" && all != "" || !strings.Contains(all, want.problem) {
			t.Errorf("%s: %q", line, all)
		}
	}
}

func TestHosts(t *testing.T) {
	var r facts.Resolver
	parseHosts([]byte("127.0.0.1\tlocalhost lo # us\n#10.0.0.1 off\n10.0.0.2\nbad line\n::1 localhost\nfe80::1%eth0 x\n"), &r)
	if fmt.Sprint(r.Hosts) != "[{127.0.0.1 [localhost lo]} {::1 [localhost]}]" || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "3 lines") || !strings.Contains(r.Problems[0], "line 3") {
		t.Errorf("%v %q", r.Hosts, r.Problems)
	}
	r = facts.Resolver{}
	parseHosts([]byte(strings.Repeat("0.0.0.0 ads.example\n", 5000)), &r)
	if len(r.Hosts) != maxHosts || len(r.Problems) != 1 {
		t.Errorf("%d lines, %q", len(r.Hosts), r.Problems)
	}
}

// files writes a small root and returns its paths.
func files(t *testing.T, content map[string]string) (string, Paths) {
	t.Helper()
	dir := t.TempDir()
	for name, body := range content {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(body), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	in := func(s string) string { return filepath.Join(dir, s) }
	return dir, Paths{
		ResolvConf: in("etc/resolv.conf"), NSSwitch: in("etc/nsswitch.conf"), Hosts: in("etc/hosts"),
		Behind:   []string{in("run/systemd/resolve/resolv.conf"), in("run/NetworkManager/no-stub-resolv.conf")},
		Hostname: func() (string, error) { return "me.corp.test", nil },
	}
}

func collected(t *testing.T, p Paths) (*facts.Resolver, []facts.Gap) {
	t.Helper()
	var h facts.Host
	if err := Collect(t.Context(), &h, p); err != nil {
		t.Fatal(err)
	}
	return h.Resolver, h.Gaps
}

func TestStubs(t *testing.T) {
	up := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:53")}
	base := map[string]string{
		"etc/nsswitch.conf": "hosts: files dns\n", "etc/hosts": "127.0.0.1 localhost\n",
		"run/systemd/resolve/stub-resolv.conf": "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.test\n",
		"run/systemd/resolve/resolv.conf":      "nameserver 192.0.2.9\n",
	}
	dir, p := files(t, base)
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(dir, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	r, gaps := collected(t, p)
	if !r.Stub || !r.Resolved || !slices.Equal(r.Upstreams, up) || r.LinkTo != "../run/systemd/resolve/stub-resolv.conf" || len(r.Problems) != 0 || len(gaps) != 0 || r.Search[0] != "corp.test" {
		t.Errorf("systemd-resolved: %+v %v", r, gaps)
	}

	base["etc/resolv.conf"] = "nameserver 127.0.0.1\n"
	base["run/NetworkManager/no-stub-resolv.conf"] = "nameserver 192.0.2.8\nnameserver 127.0.0.1\n"
	_, p = files(t, base)
	r, _ = collected(t, p)
	if !r.Stub || r.Resolved || len(r.Upstreams) != 1 || r.Upstreams[0].String() != "192.0.2.8:53" || r.Search[0] != "corp.test" {
		t.Errorf("dnsmasq: %+v", r)
	}

	base["etc/resolv.conf"] = "nameserver 127.0.0.11\n# ExtServers: [host(127.0.0.53) host(192.0.2.7) 192.0.2.6]\n"
	_, p = files(t, base)
	r, _ = collected(t, p)
	if !r.Stub || r.Resolved || len(r.Upstreams) != 2 || r.Upstreams[0].String() != "192.0.2.7:53" {
		t.Errorf("docker: %+v", r)
	}

	base["etc/resolv.conf"] = "nameserver 192.0.2.1\n"
	_, p = files(t, base)
	if r, _ = collected(t, p); r.Stub || r.Resolved || r.Upstreams != nil {
		t.Errorf("no stub: %+v", r)
	}
}

func TestFilesMissingOrOdd(t *testing.T) {
	dir, p := files(t, map[string]string{"etc/x": ""})
	r, gaps := collected(t, p)
	if len(gaps) != 0 || len(r.Problems) < 4 || !r.Stub || r.Servers[0].String() != "127.0.0.1:53" {
		t.Errorf("%+v %v", r, gaps)
	}
	if err := errors.Join(os.Symlink("nowhere", p.ResolvConf), os.Mkdir(filepath.Join(dir, "etc/hosts"), 0o755)); err != nil {
		t.Fatal(err)
	}
	r, gaps = collected(t, p)
	if r.LinkTo != "nowhere" || len(gaps) != 1 || !strings.Contains(strings.Join(r.Problems, "\n"), `symlink to "nowhere"`) {
		t.Errorf("%+v %v", r, gaps)
	}
}

func TestHostileFile(t *testing.T) {
	_, p := files(t, map[string]string{
		"etc/resolv.conf":   "\x1b[31mnameserver\x07 x\n" + strings.Repeat("A", 1<<20) + "\nnameserver 192.0.2.1\n",
		"etc/nsswitch.conf": strings.Repeat("hosts: [", 1<<17), "etc/hosts": strings.Repeat("\x1b]0;", 1<<19),
	})
	r, _ := collected(t, p)
	for _, s := range r.Problems {
		if strings.ContainsAny(s, "\x1b\x07\n") || len(s) > 400 {
			t.Errorf("%.200q", s)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Collector().Collect(ctx, &facts.Host{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzParsers(f *testing.F) {
	for _, s := range []string{
		"nameserver 1.2.3.4\nsearch a b\noptions ndots:5 rotate\n", "nameserver fe80::1%eth0\ndomain x\n", "hosts: files [!UNAVAIL=return] dns",
		"127.0.0.1 a b # c\n", "# ExtServers: [host(1.1.1.1) 2.2.2.2]\n", "options ndots:99999999999999999999 timeout:-1 attempts:\n", "nameserver 0x\x00\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r facts.Resolver
		parseResolvConf(b, environment{string(b), string(b)}, nil, &r)
		parseNSSwitch(b, &r)
		parseHosts(b, &r)
		_ = dockerServers(b)
		if len(r.Servers) == 0 || len(r.Servers) > maxServers || r.NDots < 0 || r.NDots > maxNDots || r.TimeoutS < 1 || r.TimeoutS > maxTimeout || r.Attempts < 0 ||
			r.Attempts > maxAttempts || len(r.Problems) > maxProblems || len(r.Hosts) > maxHosts || len(r.Search) > maxSearch {
			t.Fatalf("%+v", r)
		}
		for _, p := range r.Problems {
			if strings.ContainsFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f }) {
				t.Fatalf("%q", p)
			}
		}
		_ = facts.Candidates(&r, "www.example")
	})
}
