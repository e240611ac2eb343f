package lab

import (
	"bytes"
	"strings"
	"testing"
	"testing/fstest"
)

func TestSelect(t *testing.T) {
	a, b := scenario(t, minimal), scenario(t, strings.Replace(minimal, "name: x", "name: dns-slow\ntags: [dns]", 1))
	all := []*Scenario{a, b}
	for _, c := range []struct {
		names, tags []string
		want        int
		err         string
	}{
		{nil, nil, 2, ""},
		{[]string{"x"}, nil, 1, ""},
		{[]string{"x"}, []string{"dns"}, 2, ""},
		{nil, []string{"dns"}, 1, ""},
		{nil, []string{"tcp"}, 0, "no scenario has a tag of tcp"},
		{[]string{"dns-slwo"}, nil, 0, `did you mean "dns-slow"?`},
		{[]string{"zzzzzzzzzzzz"}, nil, 0, "lab list"},
	} {
		got, err := Select(all, c.names, c.tags)
		if len(got) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v %v: %d, %v", c.names, c.tags, len(got), err)
		}
	}
	var out bytes.Buffer
	if err := WriteList(&out, all); err != nil || !strings.Contains(out.String(), "dns-slow  healthy  t") {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestRunResultIsSafeToShow(t *testing.T) {
	var out bytes.Buffer
	r := run(Fault, Missed, 1, Judgement{Missed: []string{"a\x1b[2J"}, FalsePositives: []string{"b\u202e"}})
	if err := r.Write(&out); err != nil || strings.ContainsAny(out.String(), "\x1b\u202e") || !strings.Contains(out.String(), "missed: a") {
		t.Errorf("%v: %q", err, out.String())
	}
}

func TestLoadFSKeepsGoodFiles(t *testing.T) {
	all, err := LoadFS(fstest.MapFS{
		"x.yaml": {Data: []byte(minimal)}, "y.yaml": {Data: []byte(minimal)}, "z.yaml": {Data: []byte("a: b")}, "README.md": {Data: []byte("#")},
	})
	if len(all) != 1 || err == nil || !strings.Contains(err.Error(), `y.yaml: name is "x"`) || !strings.Contains(err.Error(), "z.yaml: line 1") {
		t.Errorf("%d, %v", len(all), err)
	}
}
