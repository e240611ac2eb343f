package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fathom/internal/diagnose"
	"fathom/probe"
	"fathom/sample"
)

// passive asks about loopback targets only: these tests need no root and send
// nothing beyond this host.
func passive(targets ...diagnose.Target) Options {
	return Options{Question: diagnose.Question{Passive: true, Targets: targets}, Version: "test"}
}

func loopback(t *testing.T, port uint16) diagnose.Target {
	t.Helper()
	return diagnose.Target{Raw: fmt.Sprintf("127.0.0.1:%d", port), Host: "127.0.0.1", Port: port, Scheme: "tcp"}
}

// listen gives a port that accepts connections until the test ends.
func listen(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// closedPort is one that was free a moment ago.
func closedPort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestTellsAnOpenPortFromAClosedOne(t *testing.T) {
	open, closed := loopback(t, listen(t)), loopback(t, closedPort(t))
	e, err := Investigate(t.Context(), passive(open, closed))
	if err != nil {
		t.Fatal(err)
	}
	r := diagnose.Decide(e)
	about := func(raw string) (causes []string) {
		for _, f := range r.Findings {
			if f.Subject == raw {
				causes = append(causes, f.Cause)
			}
		}
		return causes
	}
	if got := about(closed.Raw); !slices.Equal(got, []string{"tcp.refused"}) {
		t.Errorf("closed port: %v", got)
	}
	if got := about(open.Raw); len(got) > 0 {
		t.Errorf("open port: %v", got)
	}
	if e.Before == nil || e.After == nil || e.Window() < 2*time.Second {
		t.Errorf("no window of counters: %v", e.Window())
	}
}

// Evidence that went through a file gives the same report, byte for byte.
func TestEvidenceReplays(t *testing.T) {
	e, err := Investigate(t.Context(), passive(loopback(t, closedPort(t))))
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(diagnose.Decide(e))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var again diagnose.Evidence
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(diagnose.Decide(&again))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("replayed:\n%s\nlive:\n%s", got, want)
	}
}

// What was measured until then is kept when the user has had enough.
func TestInterruptedKeepsWhatWasMeasured(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := passive(loopback(t, closedPort(t)))
	var updates atomic.Int32
	o.OnUpdate = func(e *diagnose.Evidence) {
		updates.Add(1)
		if len(e.Results("tcp", "")) > 0 {
			cancel()
		}
	}
	e, err := Investigate(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Results("tcp", "")) == 0 || e.After == nil || e.Finished.IsZero() {
		t.Errorf("%d tcp results, after %v, finished %v", len(e.Results("tcp", "")), e.After != nil, e.Finished)
	}
	if updates.Load() == 0 {
		t.Error("no update reached the caller")
	}
}

// A budget that is too small for what is asked ends in evidence that says so.
func TestBudgetIsKept(t *testing.T) {
	o := passive(diagnose.Target{Raw: "udp://127.0.0.1:1", Host: "127.0.0.1", Port: 1, Scheme: "udp"}, loopback(t, closedPort(t)))
	o.Budget = 300 * time.Millisecond
	e, err := Investigate(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if e.After == nil {
		t.Error("no closing snapshot")
	}
	if got := e.Finished.Sub(e.Started); got > o.Budget+2*lastSnapshot {
		t.Errorf("took %v with a budget of %v", got, o.Budget)
	}
}

// Every kind of measurement that the engine can want has a prober, and every
// folder below probe/ is one of them.
func TestEveryKindHasAProber(t *testing.T) {
	dirs, err := os.ReadDir(filepath.Join("..", "..", "probe"))
	if err != nil {
		t.Fatal(err)
	}
	folder := map[string]bool{}
	for _, d := range dirs {
		if d.IsDir() {
			folder[d.Name()] = true
		}
	}
	for _, k := range kinds {
		w := diagnose.Want{Kind: k.Kind, Target: "127.0.0.1", Name: ".", Type: "NS", Protocol: "udp", Link: "lo"}
		if p, err := newProber(w, measureContext{}); err != nil || p == nil {
			t.Errorf("%s: %v", k.Kind, err)
		}
		delete(folder, strings.ReplaceAll(k.Kind, "mtu", "path"))
	}
	if len(folder) > 0 {
		t.Errorf("folders below probe/ that no kind uses: %v", folder)
	}
	if _, err := newProber(diagnose.Want{Kind: "nonsense"}, measureContext{}); err == nil {
		t.Error("an unknown kind got a prober")
	}
}

// Only a silence that lasted as long as was meant to be waited is a silence.
func TestCutShort(t *testing.T) {
	w := diagnose.WantHTTP("http://192.0.2.1/", netip.MustParseAddrPort("192.0.2.1:80"))
	silence := func(kind string, d time.Duration) *probe.Result {
		return &probe.Result{Kind: kind, Outcome: probe.Timeout, Elapsed: sample.D(d)}
	}
	for _, c := range []struct {
		name string
		r    *probe.Result
		want bool
	}{
		{"ended by our own budget", silence(probe.KindHTTP, time.Second), true},
		{"its own time-out, then repeats that we ended", silence(probe.KindHTTP, 9*time.Second), false},
		{"a series of echo requests", silence(probe.KindICMP, time.Second), false},
		{"an answer", &probe.Result{Kind: probe.KindHTTP, Outcome: probe.OK}, false},
		{"nothing", nil, false},
	} {
		if got := cutShort(w, c.r); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// The source address applies to targets of its family only.
func TestSourceFitsTheFamily(t *testing.T) {
	c := measureContext{Question: diagnose.Question{Source: netip.MustParseAddr("192.0.2.1")}}
	if got := c.source(diagnose.Want{Target: "192.0.2.9:80"}); got != c.Question.Source {
		t.Errorf("same family: %v", got)
	}
	if got := c.source(diagnose.Want{Target: "2001:db8::1"}); got.IsValid() {
		t.Errorf("other family: %v", got)
	}
}
