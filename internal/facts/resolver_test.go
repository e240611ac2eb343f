package facts

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestCandidates(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct {
		situation string
		r         Resolver
		name      string
		want      string
	}{
		{"a bare word goes through the list, then as it is", Resolver{NDots: 1, Search: []string{"a.test", "b.test"}}, "web", "web.a.test. web.b.test. web."},
		{"enough dots: as it is first, the list after it", Resolver{NDots: 1, Search: []string{"a.test"}}, "www.example", "www.example. www.example.a.test."},
		{
			"kubernetes: ndots 5 makes outside names wait",
			Resolver{NDots: 5, Search: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local"}},
			"api.example.net",
			"api.example.net.ns.svc.cluster.local. api.example.net.svc.cluster.local. api.example.net.cluster.local. api.example.net.",
		},
		{"the last dot ends all searching", Resolver{NDots: 5, Search: []string{"a.test"}}, "api.example.net.", "api.example.net."},
		{"a bare word with a last dot", Resolver{NDots: 1, Search: []string{"a.test"}}, "web.", "web."},
		{"ndots 0: a bare word goes to the root first", Resolver{NDots: 0, Search: []string{"a.test"}}, "web", "web. web.a.test."},
		{"no list", Resolver{NDots: 1}, "web", "web."},
		{"the root on the list takes the place of the name itself", Resolver{NDots: 2, Search: []string{".", "a.test"}}, "www.x", "www.x. www.x.a.test."},
		{"no-tld-query keeps bare words from the root", Resolver{NDots: 1, Search: []string{"a.test"}, Options: []string{"no-tld-query"}}, "web", "web.a.test."},
		{"no-tld-query says nothing of names with dots", Resolver{NDots: 3, Search: []string{"a.test"}, Options: []string{"no-tld-query"}}, "w.x", "w.x.a.test. w.x."},
		{"a domain that begins with a dot", Resolver{NDots: 1, Search: []string{".a.test"}}, "web", "web.a.test. web."},
		{"a domain that ends with one", Resolver{NDots: 1, Search: []string{"a.test."}}, "web", "web.a.test. web."},
		{"an address is not asked for", Resolver{NDots: 1, Search: []string{"a.test"}}, "192.0.2.1", ""},
		{"nor is one of six", Resolver{NDots: 1, Search: []string{"a.test"}}, "fe80::1%eth0", ""},
		{"a name that gets too long for one domain", Resolver{NDots: 1, Search: []string{long + "." + long + "." + long, "a.test"}}, long, long + ".a.test. " + long + "."},
		{"an empty label", Resolver{NDots: 1}, "a..b", ""},
		{"nothing", Resolver{NDots: 1}, "", ""},
		{"only a dot", Resolver{NDots: 1}, ".", ""},
	} {
		if got := strings.Join(Candidates(&c.r, c.name), " "); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.situation, got, c.want)
		}
	}
	seven := []string{"1.t", "2.t", "3.t", "4.t", "5.t", "6.t", "7.t"} // more than the six of old glibc
	if got := Candidates(&Resolver{NDots: 1, Search: seven}, "web"); len(got) != 8 {
		t.Errorf("%d candidates", len(got))
	}
	if got := Candidates(nil, "web"); len(got) != 1 {
		t.Errorf("no resolver: %v", got)
	}
}

func TestHostsLookup(t *testing.T) {
	a := netip.MustParseAddr
	r := &Resolver{Hosts: []HostsEntry{
		{Address: a("127.0.0.1"), Names: []string{"localhost", "Host"}},
		{Address: a("::1"), Names: []string{"localhost"}},
		{Address: a("10.0.0.1"), Names: []string{"host", "host"}},
		{Address: a("127.0.0.1"), Names: []string{"localhost"}},
	}}
	for name, want := range map[string][]netip.Addr{
		"LOCALHOST": {a("127.0.0.1"), a("::1")}, "host": {a("127.0.0.1"), a("10.0.0.1")}, "host.": nil, "": nil, "other": nil, "hoſt": nil,
	} {
		if got := r.HostsLookup(name); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
	if (*Resolver)(nil).HostsLookup("x") != nil {
		t.Error("nil")
	}
}

func FuzzCandidates(f *testing.F) {
	f.Add("www.example", "a.test .", 1)
	f.Add(".", "", 0)
	f.Add("a..b.", ". . .", -1)
	f.Fuzz(func(t *testing.T, name, search string, ndots int) {
		r := &Resolver{NDots: ndots, Search: strings.Fields(search)}
		for _, c := range Candidates(r, name) {
			if !strings.HasSuffix(c, ".") || len(c) > maxName+1 || strings.Contains(c, "..") {
				t.Fatalf("%q", c)
			}
			if got := Candidates(r, c); len(got) > 1 || len(got) == 1 && got[0] != c {
				t.Fatalf("%q is not final: %q", c, got)
			}
		}
	})
}
