package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDecodeTargets(t *testing.T) {
	tf, err := DecodeTargets([]byte(`
targets:
  - example.com:443
  - https://example.com/
  - {name: database, host: db.example, port: 5432, resolve: 192.0.2.7}
  - host: 2001:db8::1
    port: 22
  - {url: "https://example.com/health", expect_status: [200, 204], insecure: true}
  - {url: "https://example.com:8443/", host: EXAMPLE.com, port: 8443}
anchors: [192.0.2.9, 2001:db8::9]
timeout: 1m30s
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(tf.Targets) != 6 || len(tf.Anchors) != 2 || tf.Timeout != 90*time.Second || !tf.AnchorsSet {
		t.Fatalf("%+v", tf)
	}
	if d := tf.Targets[2]; d.Label() != "database" || d.Raw != "db.example:5432" || d.Port != 5432 || d.Pin.String() != "192.0.2.7" || d.Line != 5 {
		t.Errorf("%+v", d)
	}
	if d := tf.Targets[3]; d.Raw != "[2001:db8::1]:22" || d.Host != "2001:db8::1" {
		t.Errorf("%+v", d)
	}
	if d := tf.Targets[4]; !d.Insecure || fmt.Sprint(d.ExpectStatus) != "[200 204]" || d.Scheme != "https" {
		t.Errorf("%+v", d)
	}
	if tf, err := DecodeTargets([]byte("targets: [a.example]\nanchors: none")); err != nil || tf.Anchors != nil || !tf.AnchorsSet {
		t.Errorf("%+v, %v", tf, err)
	}
}

func TestDecodeTargetsErrors(t *testing.T) {
	many := "targets:\n" + strings.Repeat(" - a.example\n", MaxFileTargets+1)
	for in, want := range map[string]string{
		"":                                                  "empty",
		"# only a comment":                                  "empty",
		"\x00\x01":                                          "binary",
		"targets: 3":                                        "line 1: targets: expected a list",
		"targets: []":                                       "the list is empty",
		"- a.example":                                       "expected keys and values, found a list",
		"anchors: none":                                     `there is no "targets:"`,
		"target: [a]":                                       "did you mean targets?",
		"targets: [a]\ntargets: [b]":                        "given twice",
		"targets:\n - hots: a":                              "line 2: unknown key \"hots\" in a target (did you mean host?)",
		"targets:\n - {}":                                   "needs a host or a url",
		"targets:\n - 10":                                   "expected text",
		"targets:\n -":                                      "found nothing",
		"targets:\n - [a]":                                  "found a list",
		"targets:\n - {host: a, port: 99999}":               "line 2: port \"99999\"",
		"targets:\n - {host: a, port: [1]}":                 "found a list",
		"targets:\n - {host: [a]}":                          "host: expected text",
		"targets:\n - {host: 'a b'}":                        "space",
		"targets:\n - {host: 'a:1', port: 2}":               "given twice",
		"targets:\n - {url: 'ftp://x'}":                     "unknown scheme",
		"targets:\n - {url: 'tcp://x:1'}":                   "expected http",
		"targets:\n - {url: 'http://x/', host: y}":          "differ",
		"targets:\n - {url: 'http://x/', port: 81}":         "differ",
		"targets:\n - {url: 'http://u:p@x/'}":               "refused",
		"targets:\n - {host: a, resolve: b}":                "IP address",
		"targets:\n - {host: a, insecure: yes}":             "true or false",
		"targets:\n - {host: a, insecure: true}":            "needs a url",
		"targets:\n - {host: a, expect_status: 200}":        "needs a url",
		"targets:\n - {url: 'http://x', expect_status: 99}": "100 to 599",
		"targets: [a]\ntimeout: 10":                         "no duration",
		"targets: [a]\ntimeout: 10y":                        "no duration",
		"targets: [a]\ntimeout: 2h":                         "between",
		"targets: [a]\nanchors: [b]":                        "IP address",
		"targets: [a]\n---\ntargets: [b]":                   "more than one",
		"targets: &a [*a]":                                  "",
		"a: &a [x]\ntargets: *a":                            "unknown key",
		"targets: [":                                        "line 1",
		"\t- x":                                             "",
		many:                                                "more than 10000",
		strings.Repeat("[", 100_000):                        "",
		strings.Repeat("x", MaxTargetsFile+1):               "larger",
	} {
		if _, err := DecodeTargets([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want …%s…", in, err, want)
		}
	}
}

func TestLoadTargets(t *testing.T) {
	p := filepath.Join(t.TempDir(), "t.yaml")
	if err := os.WriteFile(p, []byte("targets: [a.example]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadTargets(p, nil); err != nil {
		t.Error(err)
	}
	if tf, err := LoadTargets("-", strings.NewReader("targets: [b.example]")); err != nil || tf.Targets[0].Host != "b.example" {
		t.Errorf("%+v, %v", tf, err)
	}
	if _, err := LoadTargets(p+"x", nil); err == nil || strings.Count(err.Error(), p) != 1 {
		t.Errorf("%v", err)
	}
}

func FuzzDecodeTargets(f *testing.F) {
	f.Add([]byte("targets: [a.example, {host: b, port: 1}]\nanchors: none\ntimeout: 3s"))
	f.Add([]byte("targets:\n - {url: 'https://x/', expect_status: [200], insecure: true, resolve: ::1}"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("<<: {targets: [x]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tf, err := DecodeTargets(b)
		if err != nil {
			return
		}
		if len(tf.Targets) == 0 {
			t.Fatal("no targets and no error")
		}
		for _, x := range tf.Targets {
			if x.Host == "" || x.Raw == "" || x.Line == 0 {
				t.Fatalf("%+v", x)
			}
		}
	})
}
