package config

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"fathom/internal/diagnose"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]diagnose.Target{
		"example.com":                     {Host: "example.com"},
		"Example.COM":                     {Host: "example.com"},
		"example.com.":                    {Host: "example.com."},
		"my_host":                         {Host: "my_host"},
		"example.com:443":                 {Host: "example.com", Port: 443},
		"192.0.2.1":                       {Host: "192.0.2.1"},
		"192.0.2.1:80":                    {Host: "192.0.2.1", Port: 80},
		"2001:db8::1":                     {Host: "2001:db8::1"},
		"2001:DB8:0::1":                   {Host: "2001:db8::1"},
		"[2001:db8::1]":                   {Host: "2001:db8::1"},
		"[2001:db8::1]:22":                {Host: "2001:db8::1", Port: 22},
		"fe80::1%eth0":                    {Host: "fe80::1%eth0"},
		"::ffff:192.0.2.1":                {Host: "192.0.2.1"},
		"bücher.example":                  {Host: "xn--bcher-kva.example"},
		"http://example.com":              {Scheme: "http", Host: "example.com", Port: 80, URL: "http://example.com/"},
		"HTTPS://Example.com/A?b=c#d":     {Scheme: "https", Host: "example.com", Port: 443, URL: "https://example.com/A?b=c"},
		"https://[2001:db8::1]:8443/x":    {Scheme: "https", Host: "2001:db8::1", Port: 8443, URL: "https://[2001:db8::1]:8443/x"},
		"https://bücher.example:444/ü":    {Scheme: "https", Host: "xn--bcher-kva.example", Port: 444, URL: "https://xn--bcher-kva.example:444/%C3%BC"},
		"tcp://db.example:5432":           {Scheme: "tcp", Host: "db.example", Port: 5432},
		"udp://192.0.2.1:123":             {Scheme: "udp", Host: "192.0.2.1", Port: 123},
		"tls://mail.example:993":          {Scheme: "tls", Host: "mail.example", Port: 993},
		"tls://mail.example":              {Scheme: "tls", Host: "mail.example", Port: 443},
		"dns://192.0.2.53":                {Scheme: "dns", Host: "192.0.2.53", Port: 53},
		"dns://[2001:db8::53]:5353":       {Scheme: "dns", Host: "2001:db8::53", Port: 5353},
		"icmp://192.0.2.1":                {Host: "192.0.2.1"},
		"icmp://[fe80::1%25eth0]":         {Host: "fe80::1%eth0"},
		strings.Repeat("a", 63) + ".test": {Host: strings.Repeat("a", 63) + ".test"},
	} {
		want.Raw = in
		got, err := ParseTarget(in)
		if err != nil || got != want {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", in, got, err, want)
		}
	}
}

func TestParseTargetErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "empty",
		"a b":                                 "space",
		"a\nb":                                "space",
		"a\x1b[2Jb":                           "U+001B",
		"a\u202eb":                            "U+202E",
		"a\xffb":                              "UTF-8",
		strings.Repeat("a", 2001):             "2001 bytes",
		"example.com:":                        "missing",
		"example.com:0":                       "1 to 65535",
		"example.com:65536":                   "1 to 65535",
		"example.com:99999":                   "1 to 65535",
		"example.com:-1":                      "1 to 65535",
		"example.com:+80":                     "1 to 65535",
		"example.com:080":                     "1 to 65535",
		"example.com:http":                    "1 to 65535",
		":80":                                 "no host before the port",
		"http://":                             "no host",
		"http://:80/":                         "no host before",
		"htps://example.com":                  "did you mean https?",
		"gopher://example.com":                "unknown scheme",
		"https://user:secret@example.com/":    "refused",
		"user@example.com":                    "refused",
		"example.com/path":                    "https://",
		"10.0.0.0/8":                          "network",
		"a..b":                                "empty part",
		".a":                                  "empty part",
		"-a.example":                          "hyphen",
		"a$.example":                          "cannot be part",
		strings.Repeat("a", 64) + ".example":  "63",
		strings.Repeat("abcdefgh.", 30) + "x": "253",
		"256.0.0.1":                           "IPv4",
		"1.2.3":                               "IPv4",
		"12345":                               "IPv4",
		"10.0.0.01":                           "IPv4",
		"[2001:db8::1":                        `without "]"`,
		"[example.com]":                       "no IPv6",
		"[2001:db8::1]x":                      "expected :PORT",
		"2001:db8::1::2":                      "brackets",
		"0.0.0.0":                             "no host's address",
		"::":                                  "no host's address",
		"fe80::1%]0":                          "interface",
		"::%lo":                               "no host's address",
		"224.0.0.1":                           "multicast",
		"255.255.255.255":                     "broadcast",
		"tcp://example.com":                   "needs a port",
		"udp://example.com":                   "needs a port",
		"tcp://example.com:1/x":               "path means nothing",
		"icmp://example.com:7":                "no ports",
		"https://example.com/%zz":             "escape",
		"xn--\u00fc.example":                  "internationalised",
	} {
		_, err := ParseTarget(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50q: %v, want …%s…", in, err, want)
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\x1b\n\u202e") || strings.Contains(err.Error(), "secret") || len(err.Error()) > 400) {
			t.Errorf("%.50q: the error itself is unsafe: %q", in, err)
		}
	}
}

func TestAnchorsAndPins(t *testing.T) {
	if as, err := ParseAnchors([]string{"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"}); err != nil || len(as) != 2 {
		t.Errorf("%v, %v", as, err)
	}
	if as, err := ParseAnchors([]string{"none"}); err != nil || as != nil {
		t.Errorf("none: %v, %v", as, err)
	}
	for _, bad := range [][]string{{"example.com"}, {"none", "192.0.2.1"}, {"::"}, {""}} {
		if _, err := ParseAnchors(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
	host, a, err := ParsePin("Example.com:2001:db8::1")
	if host != "example.com" || a != netip.MustParseAddr("2001:db8::1") || err != nil {
		t.Errorf("%s %s %v", host, a, err)
	}
	for _, bad := range []string{"", "x", "x:", "x:y", ":192.0.2.1", "x:192.0.2.1:80"} {
		if _, _, err := ParsePin(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"host", "port", "url", "insecure"}
	for in, want := range map[string]string{"hots": "host", "prt": "port", "URL": "url", "insecrue": "insecure", "something": "", "": "", strings.Repeat("x", 1000): ""} {
		if got := Nearest(in, words); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"example.com", "[2001:db8::1]:443", "https://bücher.example/x?y#z", "fe80::1%eth0", "dns://192.0.2.53", "a:b:c", "http://[::1%25lo]:80/", "tcp://x:1/", "\x1b", "http://%41/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTarget(s)
		if err != nil {
			if strings.IndexFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
				t.Fatalf("control character in the error %q", err)
			}
			return
		}
		if got.Raw != s || got.Host == "" || strings.ContainsAny(got.Host, "/@[] ") {
			t.Fatalf("%+v", got)
		}
		if got.URL != "" {
			u, err := url.Parse(got.URL)
			if err != nil || u.Host == "" || u.User != nil || u.Hostname() != got.Host && !strings.Contains(got.Host, "%") {
				t.Fatalf("%+v: %v", got, err)
			}
		}
		again, err := ParseTarget(got.Host)
		if err != nil || again.Host != got.Host {
			t.Fatalf("the host %q is not final: %+v, %v", got.Host, again, err)
		}
	})
}
