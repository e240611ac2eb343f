package path

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"fathom/internal/testkit"
)

// What tcpdump sees on the wire: one flow per trace, and TTLs that rise.
func TestOneFlowOnTheWire(t *testing.T) {
	tcpdump := testkit.NeedTool(t, "tcpdump")
	l := newLab(t, 2)
	for proto, filter := range map[string]string{"udp": "udp and src 10.77.0.1", "tcp": "tcp[tcpflags]=tcp-syn and src 10.77.0.1"} {
		dump := exec.Command(tcpdump, "-n", "-v", "-l", "-Z", "root", "--immediate-mode", "-i", "r0", filter)
		var out bytes.Buffer
		errs, err := dump.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		dump.Stdout = &out
		if err := l.nodes[0].Do(dump.Start); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		for seen := ""; !strings.Contains(seen, "listening on"); { // tcpdump is ready
			n, err := errs.Read(buf)
			if err != nil {
				t.Fatalf("tcpdump: %v: %s", err, seen)
			}
			seen += string(buf[:n])
		}
		res := l.run(job{Target: l.target(false), Trace: &Config{Protocol: proto, Answers: 2}})
		_ = dump.Process.Signal(os.Interrupt)
		for err = nil; err == nil; _, err = errs.Read(buf) { // its summary, until it ends
		}
		_ = dump.Wait()
		flows, ttls := map[string]bool{}, map[string]bool{}
		for _, m := range regexp.MustCompile(`10\.77\.0\.1\.(\d+) > \S+`).FindAllString(out.String(), -1) {
			flows[m] = true
		}
		for _, m := range regexp.MustCompile(`ttl (\d+)`).FindAllString(out.String(), -1) {
			ttls[m] = true
		}
		if len(flows) != 1 || len(ttls) < 3 || !res.Path.Reached {
			t.Errorf("%s: flows %v, ttls %v\n%s", proto, flows, ttls, out.String())
		}
	}
}
