package probe

import (
	"strings"
	"testing"
	"time"

	"fathom/sample"
)

func TestWeigh(t *testing.T) {
	for in, want := range map[Outcome]string{
		"timeout timeout ok":                      "ok 1 timeout 2",
		"timeout timeout refused":                 "refused 1 timeout 2",
		"refused unreachable unreachable":         "unreachable 2 refused 1",
		"refused unreachable":                     "refused 1 unreachable 1",
		"timeout timeout":                         "timeout 2",
		"prohibited ok refused refused":           "ok 1 prohibited 1 refused 2",
		"timeout unreachable prohibited timeout ": "unreachable 1 timeout 2 prohibited 1",
	} {
		var all []Verdict
		for i, o := range strings.Fields(string(in)) {
			all = append(all, Verdict{Outcome: Outcome(o), Detail: sample.D(time.Duration(i) * time.Second).String()})
		}
		best, others := Weigh(all)
		got := ""
		for _, x := range append([]Tally{best}, others...) {
			got += string(x.Outcome) + " " + string(rune('0'+x.N)) + " "
			for _, v := range all { // the first of its kind speaks for it
				if v.Outcome == x.Outcome {
					if v.Detail != x.Detail {
						t.Errorf("%s: %s has the detail %q, want %q", in, x.Outcome, x.Detail, v.Detail)
					}
					break
				}
			}
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for _, good := range []string{"192.0.2.1:443", "[2001:db8::1]:53", "[fe80::1%eth0]:9"} {
		if to, err := ParseTarget("tcp target", good, 443); err != nil || to.String() != good {
			t.Errorf("%s: %s %v", good, to, err)
		}
	}
	for _, bad := range []string{"", "localhost:80", "127.0.0.1", "127.0.0.1:0", "::1", "[::1]:70000"} {
		if _, err := ParseTarget("tcp target", bad, 443); err == nil || !strings.Contains(err.Error(), "[2001:db8::1]:443") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestNewRTT(t *testing.T) {
	for _, c := range []struct {
		d     time.Duration
		clock string
		bar   time.Duration
	}{{time.Second, "user", time.Millisecond}, {time.Microsecond, "user", time.Microsecond}, {time.Second, "kernel", 20 * time.Microsecond}, {time.Second, "tcp_info", 20 * time.Microsecond}} {
		if r := NewRTT(c.d, c.clock); r.Value != sample.D(c.d) || r.Error != sample.D(c.bar) || r.Clock != c.clock {
			t.Errorf("%v by %s: %+v", c.d, c.clock, r)
		}
	}
}
