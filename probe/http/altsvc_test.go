package http

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseAltSvc(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		in    string
		want  []AltService
		clear bool
		bad   bool
	}{
		{in: `h3=":443"; ma=86400, h3-29=":443"; ma=86400`, want: []AltService{{"h3", "", 443, day}, {"h3-29", "", 443, day}}},
		{in: `h2="alt.example.com:8000", h2=":443"`, want: []AltService{{"h2", "alt.example.com", 8000, day}, {"h2", "", 443, day}}},
		{in: `h3="[2001:db8::1]:8443" ; ma=60; persist=1`, want: []AltService{{"h3", "2001:db8::1", 8443, time.Minute}}},
		{in: `w%3Dx%3Ay#z=":443"`, want: []AltService{{"w=x:y#z", "", 443, day}}}, // the RFC's own example
		{in: `h3=":443"; MA="60"; x="a\"b,;"`, want: []AltService{{"h3", "", 443, time.Minute}}},
		{in: `, ,h3=":443",`, want: []AltService{{"h3", "", 443, day}}},
		{in: `h3=":443"; ma=99999999999999999999999`, want: []AltService{{"h3", "", 443, maxAltAge}}},
		{in: `clear`, clear: true},
		{in: ` clear `, clear: true},
		{in: ``},
		{in: `Clear`, bad: true},
		{in: `h3=:443`, bad: true},
		{in: `h3=":0"`, bad: true},
		{in: `h3=":65536"`, bad: true},
		{in: `h3="a b:443"`, bad: true},
		{in: `h3=":443`, bad: true},
		{in: `h3=":443" x`, want: []AltService{{"h3", "", 443, day}}, bad: true},
		{in: `h3=":443"; ma=soon`, bad: true},
		{in: `h%3=":443"`, bad: true},
		{in: `h3=":443", =`, want: []AltService{{"h3", "", 443, day}}, bad: true},
		{in: strings.Repeat(`h3=":443",`, 100), want: many(maxAltSvc), bad: true},
		{in: strings.Repeat(" ", maxAltSvcBytes+1), bad: true},
	} {
		got, clear, err := ParseAltSvc(c.in)
		if d := cmp.Diff(c.want, got); d != "" || clear != c.clear || (err != nil) != c.bad {
			t.Errorf("%.60q: clear %v, error %v\n%s", c.in, clear, err, d)
		}
	}
}

func many(n int) []AltService {
	s := make([]AltService, n)
	for i := range s {
		s[i] = AltService{"h3", "", 443, 24 * time.Hour}
	}
	return s
}

func TestH3Authority(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{
		{[]string{`h2=":1", h3=":443"`}, "origin.example:443"},
		{[]string{`h2=":1"`, `h3="x.example:8443"`}, "x.example:8443"},
		{[]string{`h3=":443"; ma=0`}, ""},
		{[]string{`h3-29=":443"`}, ""},
		{[]string{`clear`}, ""},
		{[]string{`h3="[::1]:443"`}, "[::1]:443"},
		{nil, ""},
	} {
		if got := H3Authority(c.in, "origin.example"); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
	if got := H3Authority([]string{`h3=":443"`}, "2001:db8::1"); got != "[2001:db8::1]:443" {
		t.Errorf("IPv6 origin: %q", got)
	}
}

func FuzzParseAltSvc(f *testing.F) {
	for _, s := range []string{`h3=":443"; ma=86400, h3-29=":443"`, `clear`, `w%3Dx="[::1]:1"; a="\"";b=c`, `h2="a:1",,`, `="`, "\xff\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		services, clear, err := ParseAltSvc(s)
		if len(services) > maxAltSvc || clear && (len(services) > 0 || err != nil) {
			t.Fatalf("%d services, clear %v, %v", len(services), clear, err)
		}
		for _, a := range services {
			if a.Protocol == "" || a.Port == 0 || !goodHost(a.Host) || a.MaxAge < 0 || a.MaxAge > maxAltAge {
				t.Fatalf("impossible %+v", a)
			}
		}
	})
}

func BenchmarkParseAltSvc(b *testing.B) {
	for b.Loop() {
		_, _, _ = ParseAltSvc(`h3=":443"; ma=86400, h3-29=":443"; ma=86400`)
	}
}
