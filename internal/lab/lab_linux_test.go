package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fathom/internal/lab/service"
	"fathom/internal/testkit"
)

// holdEnv makes the test binary build the network of a file, say so, and wait to
// be killed.
const holdEnv = "FATHOM_LAB_TEST_HOLD"

func TestMain(m *testing.M) {
	if ok, code := service.Child(); ok {
		os.Exit(code)
	}
	if file := os.Getenv(holdEnv); file != "" {
		os.Exit(hold(file))
	}
	os.Exit(m.Run())
}

func hold(file string) int {
	s, err := LoadFile(file)
	if err == nil {
		_, err = Build(context.Background(), s)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	select {} // until killed
}

// bareHost ends where keys of the host can follow.
var bareHost = strings.Replace(minimal, "host: {}", "host:", 1)

const fourNodes = `name: four
title: t
story: s
kind: healthy
nodes:
  host: {routes: [default via 10.0.1.1, default via fd00:1::1], resolv_conf: {nameservers: [10.0.3.2], search: [lab.test]}, hosts: [10.0.3.2 web]}
  r1: {type: router, routes: [10.0.3.0/24 via 10.0.2.2, "fd00:3::/64 via fd00:2::2"]}
  r2: {type: router, routes: [10.0.1.0/24 via 10.0.2.1, "fd00:1::/64 via fd00:2::1"]}
  web: {routes: [default via 10.0.3.1, default via fd00:3::1]}
links:
  - a: {iface: host/eth0, addresses: [10.0.1.2/24, "fd00:1::2/64"]}
    b: {iface: r1/eth0, addresses: [10.0.1.1/24, "fd00:1::1/64"]}
  - a: {iface: r1/eth1, addresses: [10.0.2.1/24, "fd00:2::1/64"]}
    b: {iface: r2/eth0, addresses: [10.0.2.2/24, "fd00:2::2/64"]}
    emulated: true
  - a: {iface: r2/eth1, addresses: [10.0.3.1/24, "fd00:3::1/64"]}
    b: {iface: web/eth0, addresses: [10.0.3.2/24, "fd00:3::2/64"]}
`

func build(t *testing.T, text string) *Network {
	t.Helper()
	testkit.NeedRoot(t)
	n, err := Build(t.Context(), scenario(t, text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// sh runs a shell line in a node and returns what it printed.
func sh(t *testing.T, n *Network, node, user, line string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := n.Exec(t.Context(), node, Program{Path: "/bin/sh", Args: []string{"-c", line}, User: user, Stdout: &out, Stderr: &out})
	return strings.TrimSpace(out.String()), err
}

func mustSh(t *testing.T, n *Network, node, line string) string {
	t.Helper()
	out, err := sh(t, n, node, "root", line)
	if err != nil {
		t.Fatalf("%s: %s: %v: %s", node, line, err, out)
	}
	return out
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestBuildFourNodes(t *testing.T) {
	n := build(t, fourNodes)
	t.Logf("built in %s", n.Built)
	testkit.NeedTool(t, "ping")
	for _, to := range []string{"10.0.3.2", "fd00:3::2"} {
		mustSh(t, n, HostNode, "ping -c 2 -i 0.01 -W 2 "+to)
		if out, err := sh(t, n, HostNode, "nobody", "ping -c 1 -W 2 "+to); err != nil {
			t.Errorf("ping as nobody: %v: %s", err, out)
		}
	}
	if out := mustSh(t, n, HostNode, "cat /etc/resolv.conf /etc/hosts; ls /sys/class/net; id -u"); !strings.Contains(out, "search lab.test\nnameserver 10.0.3.2\n") ||
		!strings.Contains(out, "10.0.3.2 web") || !strings.HasSuffix(out, "eth0\nlo\n0") {
		t.Errorf("the host sees\n%s", out)
	}
	names, dir := n.state.Namespaces, n.dir
	for _, ns := range names {
		if !exists(filepath.Join(netnsDir, ns)) {
			t.Errorf("no %s", ns)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for _, ns := range names {
		if exists(filepath.Join(netnsDir, ns)) {
			t.Errorf("%s is left", ns)
		}
	}
	if exists(dir) || exists(filepath.Join(stateDir, n.ID+".json")) {
		t.Error("files are left")
	}
}

func TestBuildEverything(t *testing.T) {
	testkit.NeedTool(t, "nft")
	testkit.NeedTool(t, "tc")
	testkit.NeedTool(t, "ip")
	n := build(t, bareHost+`    routes: [default nexthop via 10.0.1.1 nexthop via 10.0.1.3, blackhole 10.9.0.0/16, "unreachable fd09::/64", 10.8.0.0/16 via 10.7.0.1 if_possible, 10.6.0.0/16 via 10.0.1.1 table 100]
    rules: [from 10.0.1.2 table 100 priority 1000, "-6 unreachable priority 2000"]
    neighbours: ["10.0.1.9 lladdr 02:00:00:00:00:99 dev eth0"]
    sysctls: {net.ipv4.conf.eth0.rp_filter: 2}
    loopback: [10.99.0.1/32]
    nft: |
      table inet f {
        chain in { type filter hook input priority 0; ip saddr 10.0.1.3 drop; }
      }
  sw: {type: bridge}
  r1: {type: router}
  r3: {ipv6: false, ping_group: none}
links:
  - a: {iface: host/eth0, addresses: [10.0.1.2/24, "fd00::2/64"], mac: "02:00:00:00:00:02", mtu: 1400, txqueuelen: 7, tc: [qdisc add dev eth0 root tbf rate 10mbit burst 16kb limit 30kb], ethtool: {features: {gro: off}}}
    b: sw/p1
  - {a: {iface: r1/eth0, addresses: [10.0.1.1/24]}, b: {iface: sw/p2, txqueuelen: 9}}
  - {a: {iface: r3/eth0, addresses: [10.0.1.3/24]}, b: sw/p3, emulated: true}
  - {a: {iface: host/eth1, up: false}, b: r1/eth1}
  - {a: {iface: host/eth2, carrier: false, addresses: [10.2.0.1/24]}, b: r1/eth2}
  - {type: tap, a: {iface: host/eth3, addresses: [10.3.0.1/24], ethtool: {speed: 100, duplex: half}}, b: {iface: r1/eth3, addresses: [10.3.0.2/24]}}
`)
	testkit.NeedTool(t, "ping")
	for line, want := range map[string]string{
		"ip route":                "nexthop via 10.0.1.3",
		"ip -6 route":             "unreachable fd09::/64",
		"ip route show table 100": "10.6.0.0/16 via 10.0.1.1",
		"ip rule":                 "1000:\tfrom 10.0.1.2 lookup 100",
		"ip -6 rule":              "2000:\tfrom all unreachable",
		"ip neigh":                "10.0.1.9 dev eth0 lladdr 02:00:00:00:00:99 PERMANENT",
		"ip link show eth0":       "mtu 1400 qdisc tbf",
		"ip -d link show eth0":    "qlen 7",
		"ip link show eth1":       "state DOWN",
		"ip link show eth2":       "NO-CARRIER,BROADCAST,MULTICAST,UP",
		"cat /sys/class/net/eth3/speed /sys/class/net/eth3/duplex": "100\nhalf",
		"ip addr show lo":                            "10.99.0.1/32",
		"ip -6 addr show dev eth0":                   "fd00::2/64 scope global nodad",
		"cat /proc/sys/net/ipv4/conf/eth0/rp_filter": "2",
		"nft list ruleset":                           "ip saddr 10.0.1.3 drop",
		"ping -c 1 -W 2 10.0.1.1":                    "1 received",
		"ping -c 1 -W 2 10.3.0.2":                    "1 received",
	} {
		if out, err := sh(t, n, HostNode, "root", line); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v: does not hold %q:\n%s", line, err, want, out)
		}
	}
	if out, err := sh(t, n, HostNode, "root", "ping -c 1 -W 0.2 10.0.1.3"); err == nil {
		t.Errorf("the firewall lets r3's answer in: %s", out)
	}
	if out := mustSh(t, n, "r3", "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6 /proc/sys/net/ipv4/ping_group_range"); !strings.HasPrefix(out, "1\n1\t0") {
		t.Errorf("r3: %s", out)
	}
	if out := mustSh(t, n, "r1", "cat /proc/sys/net/ipv4/ip_forward"); out != "1" {
		t.Errorf("r1 forwards: %s", out)
	}
}

func TestActions(t *testing.T) {
	testkit.NeedTool(t, "nft")
	testkit.NeedTool(t, "ping")
	n := build(t, fourNodes+`services:
  - {node: web, type: udp, port: 7, behaviour: echo, name: echo}
actions:
  - {do: link_down, iface: host/eth0}
  - {do: link_up, iface: host/eth0}
  - {do: carrier_off, iface: r1/eth1}
  - {do: carrier_on, iface: r1/eth1}
  - {do: impair, iface: r2/eth0, impair: {b_to_a: {loss: 100%}}}
  - {do: impair, iface: r2/eth0, impair: {}}
  - {do: nft, node: r1, nft: "table inet f { chain c { type filter hook forward priority 0; drop; }; }"}
  - {do: ip, node: r1, args: neigh flush all}
  - {do: nft, node: r1, nft: flush ruleset}
  - {do: route, node: r1, route: blackhole 10.0.3.0/24}
  - {do: route, node: r1, route: 10.0.3.0/24 via 10.0.2.2}
  - {do: sysctl, node: r2, sysctls: {net.ipv4.ip_forward: 0}}
  - {do: sysctl, node: r2, sysctls: {net.ipv4.ip_forward: 1}}
  - {do: service_stop, service: echo}
  - {do: service_start, service: echo}
`)
	reaches := func() bool {
		_, err := sh(t, n, HostNode, "root", "ping -c 3 -i 0.1 -W 0.3 10.0.3.2")
		return err == nil
	}
	if !reaches() {
		t.Fatal("not reachable to begin with")
	}
	breaks := true
	for _, e := range n.Scenario.timeline() {
		if err := n.act(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(e.Action.Do, "service") || e.Action.Do == "ip" {
			continue
		}
		if e.Action.Do == "carrier_on" { // the kernel notices in its own time (linkwatch)
			mustSh(t, n, HostNode, "for i in 1 2 3 4 5 6 7 8 9; do ping -c 1 -W 1 10.0.3.2 && exit 0; done; exit 1")
		}
		if got := reaches(); got == breaks {
			t.Errorf("after %+v: reachable %v", e.Action, got)
		}
		breaks = !breaks
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.services[0] == nil || len(n.services[0].Addrs()) == 0 {
		t.Error("the service is not running again")
	}
}

// standIn writes a program that answers like fathom.
func standIn(t *testing.T, script string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "fathom") // 0700 above: nobody cannot reach it by its path
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRunAsksAndJudges(t *testing.T) {
	testkit.NeedRoot(t)
	s := scenario(t, strings.Replace(fourNodes, "healthy", "fault", 1)+`
files: {targets.yaml: "a: b"}
ask:
  - {args: [why, x y]}
  - {args: [why], user: nobody, env: {FOO: bar}}
expect: {cause: path.loss, subject: web, max_seconds: 60}
`)
	res, err := Run(t.Context(), s, Options{Binary: standIn(t, `
test -f targets.yaml || exit 9
echo "note" >&2
printf '{"verdict":"fault","headline":"%s|%s|%s|%s","findings":[{"cause":"path.loss","severity":"major","subject":"web"}]}' "$*" "$(id -u)" "$FOO" "$(grep -c . "$SSL_CERT_FILE" | grep -cv '^0$')"
exit 1`)})
	if err != nil {
		t.Fatal(err)
	}
	if res.Outcome != Passed || len(res.Asks) != 2 || res.Asks[0].Headline != "why x y --json|0||1" || res.Asks[1].Headline != "why --json|65534|bar|1" ||
		res.Asks[0].ExitCode != 1 || res.Asks[0].Stderr != "note\n" {
		t.Errorf("%+v", res)
	}
}

func TestRunOutcomes(t *testing.T) {
	testkit.NeedRoot(t)
	for name, c := range map[string]struct {
		script, rest string
		want         Outcome
	}{
		"healthy":   {`echo '{"verdict":"healthy"}'`, "expect: {max_seconds: 60}\n", Passed},
		"wrong":     {`echo '{"verdict":"fault","findings":[{"cause":"a.b","severity":"minor"}]}'`, "", Missed},
		"extra":     {`echo '{"verdict":"healthy","findings":[{"cause":"a.b","severity":"minor"}]}'`, "", FalsePositive},
		"no report": {"exit 2", "", Failed},
		"too slow":  {`sleep 0.2; echo '{"verdict":"healthy"}'`, "expect: {max_seconds: 0.1}\n", Slow},
		"hangs":     {"sleep 1000", "ask: [{args: [why], timeout: 200ms}]\n", Failed},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := Run(t.Context(), scenario(t, minimal+c.rest), Options{Binary: standIn(t, c.script)})
			if err != nil || res.Outcome != c.want {
				t.Errorf("%s, %v; want %s: %+v", res.Outcome, err, c.want, res)
			}
		})
	}
}

func TestRunDoesEventsAroundTheAsk(t *testing.T) {
	testkit.NeedTool(t, "ip")
	testkit.NeedRoot(t)
	s := scenario(t, minimal+`actions:
  - {at: -50ms, do: sysctl, node: host, sysctls: {net.ipv4.ip_default_ttl: 33}}
  - {at: 0s, do: ip, node: host, args: addr add 10.1.1.1/32 dev lo}
  - {at: 50ms, do: ip, node: host, args: addr add 10.1.1.2/32 dev lo}
  - {at: 10m, do: ip, node: host, args: never reached}
`)
	res, err := Run(t.Context(), s, Options{Binary: standIn(t, `
before=$(ip addr show lo | grep -c 10.1.1.1)
until ip addr show lo | grep -q 10.1.1.2; do sleep 0.01; done
printf '{"verdict":"healthy","headline":"%s %s"}' "$before" "$(cat /proc/sys/net/ipv4/ip_default_ttl)"`)})
	if err != nil || res.Outcome != Passed && res.Outcome != Slow || res.Asks[0].Headline != "1 33" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestFailingActionFailsTheRun(t *testing.T) {
	testkit.NeedTool(t, "ip")
	testkit.NeedRoot(t)
	_, err := Run(t.Context(), scenario(t, minimal+"actions:\n  - {at: 10ms, do: ip, node: host, args: nonsense}\n"), Options{Binary: standIn(t, "exec sleep 1000")})
	if err == nil || !strings.Contains(err.Error(), "at 10ms: action ip") {
		t.Errorf("%v", err)
	}
}

func TestMissingFeatureSkips(t *testing.T) {
	testkit.NeedRoot(t)
	t.Setenv("PATH", t.TempDir())
	res, err := Run(t.Context(), scenario(t, bareHost+"    nft: table inet x {}\n"), Options{Binary: "/bin/true"})
	if err != nil || res.Outcome != Skipped || res.Reason != "needs the program nft" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestBrokenNftSaysWhere(t *testing.T) {
	testkit.NeedTool(t, "nft")
	testkit.NeedRoot(t)
	_, err := Build(t.Context(), scenario(t, strings.Replace(minimal, "host: {}", "host: {nft: tabel}", 1)))
	if err == nil || !strings.Contains(err.Error(), "nft host") || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("%v", err)
	}
	nothingLeft(t)
}

func TestGrandchildrenEndToo(t *testing.T) {
	n := build(t, minimal)
	pidFile := filepath.Join(n.dir, "work", "pid")
	res := n.ask(t.Context(), standIn(t, `sleep 1000 & echo $! >pid; wait`), Ask{Args: []string{"why"}, User: "root", Timeout: Duration(300 * time.Millisecond), Expect: &Expect{MaxSeconds: 1}}, Options{})
	if res.Error == "" {
		t.Errorf("%+v", res)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Skip("the program was stopped before it had a child")
	}
	// The kill is asynchronous, and who is orphaned stays a zombie until the
	// machine's init collects it.
	pid := atoi(t, string(b))
	for end := time.Now().Add(5 * time.Second); running(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d is still running", pid)
		}
	}
}

// running: the process exists and is no zombie (proc_pid_stat(5), field 3).
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, ok := strings.Cut(string(b), ") ")
	return ok && !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// nothingLeft checks that this process has no network on record or under a name.
func nothingLeft(t *testing.T) {
	t.Helper()
	for _, p := range []string{netnsDir, stateDir} {
		entries, err := os.ReadDir(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			rest, ours := strings.CutPrefix(e.Name(), fmt.Sprintf("%s%d", prefix, os.Getpid()))
			if ours && (rest == "" || rest[0] == '-' || rest[0] == '.') {
				t.Errorf("left behind: %s/%s", p, e.Name())
			}
		}
	}
}

func TestNetworksLeakNoDescriptors(t *testing.T) {
	testkit.NeedRoot(t)
	count := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	s := scenario(t, fourNodes+"services:\n  - {node: web, type: https, names: [web]}\n")
	before := 0
	for i := range 6 {
		n, err := Build(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // the runtime's own are open now
			before = count()
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, %d after five more networks", before, after)
	}
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	testkit.NeedRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, scenario(t, fourNodes)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	nothingLeft(t)
}

func TestCancelEndsTheProgramAndTheNetwork(t *testing.T) {
	n := build(t, fourNodes)
	ctx, cancel := context.WithCancel(t.Context())
	err := n.Exec(ctx, HostNode, Program{Path: "/bin/sleep", Args: []string{"1000"}, User: "root", Started: cancel})
	if err == nil || ctx.Err() == nil {
		t.Errorf("exec: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}

func TestPanicLeavesNothing(t *testing.T) {
	testkit.NeedRoot(t)
	func() {
		defer func() {
			if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "boom") {
				t.Errorf("panic: %v", p)
			}
		}()
		n, err := Build(t.Context(), scenario(t, fourNodes))
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		_ = n.spaces[HostNode].do(func() error { panic("boom") })
	}()
	nothingLeft(t)
}

const thresh = "net.ipv4.neigh.default.gc_thresh2"

// exclusiveWith is a scenario that changes a global sysctl.
func exclusiveWith(value string) string {
	return strings.Replace(fourNodes, "name: four", "name: killed", 1) + "exclusive: true\nglobal_sysctls: {" + thresh + ": " + value + "}\n"
}

func otherValue(t *testing.T) (was, other string) {
	t.Helper()
	was, err := readSysctl(thresh)
	if err != nil {
		t.Fatal(err)
	}
	if was == "513" {
		return was, "514"
	}
	return was, "513"
}

func TestGlobalSysctlIsRestored(t *testing.T) {
	testkit.NeedRoot(t)
	was, other := otherValue(t)
	n := build(t, exclusiveWith(other))
	if now, _ := readSysctl(thresh); now != other {
		t.Errorf("is %s, want %s", now, other)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if now, _ := readSysctl(thresh); now != was {
		t.Errorf("is %s, was %s", now, was)
	}
}

func TestKilledLabIsCleanedUp(t *testing.T) {
	testkit.NeedRoot(t)
	was, other := otherValue(t)
	file := filepath.Join(t.TempDir(), "killed.yaml")
	if err := os.WriteFile(file, []byte(exclusiveWith(other)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+file)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("the lab to kill says %q", line)
	}
	// While it lives nothing is taken from it.
	if _, err := CleanUp(); err != nil {
		t.Error(err)
	}
	id := fmt.Sprintf("%s%d", prefix, cmd.Process.Pid)
	ns := filepath.Join(netnsDir, id+"-r1")
	if !exists(ns) {
		t.Error("clean-up took the network of a living lab")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if now, _ := readSysctl(thresh); !exists(ns) || now != other {
		t.Errorf("nothing to clean up: namespace %v, %s %s", exists(ns), thresh, now)
	}
	done, err := CleanUp()
	if err != nil || !strings.Contains(strings.Join(done, " "), id) {
		t.Errorf("cleaned %v, %v", done, err)
	}
	if now, _ := readSysctl(thresh); exists(ns) || now != was || exists(filepath.Join(stateDir, id)) || exists(filepath.Join(stateDir, id+".json")) {
		t.Errorf("left: namespace %v, %s %s (was %s)", exists(ns), thresh, now, was)
	}
}

func TestExclusiveRunsAlone(t *testing.T) {
	testkit.NeedRoot(t)
	a := build(t, fourNodes)
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockPoll)
	defer cancel()
	_, other := otherValue(t)
	if _, err := Build(ctx, scenario(t, exclusiveWith(other))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside %s: %v", a.ID, err)
	}
}

func TestUndoRefusesForeignThings(t *testing.T) {
	d := t.TempDir()
	s := &state{ID: "x", Dirs: []string{d}, Namespaces: []string{"foo", "../../etc/passwd", "fathomlab-/../../x"}}
	if err := s.undo(); err == nil || !exists(d) {
		t.Errorf("%v", err)
	}
}

// ctrlC ends the context once the last line has been written.
type ctrlC struct {
	out    bytes.Buffer
	cancel func()
}

func (c *ctrlC) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("Ctrl-C takes everything down")) {
		c.cancel()
	}
	return c.out.Write(p)
}

func TestPlaySaysWhatToTry(t *testing.T) {
	testkit.NeedRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := &ctrlC{cancel: cancel}
	if err := Play(ctx, scenario(t, fourNodes), w, Options{Binary: "/bin/true"}); err != nil {
		t.Fatal(err)
	}
	text := w.out.String()
	if !strings.Contains(text, "ip netns exec fathomlab-") || !strings.Contains(text, "/bin/true why") || !strings.Contains(text, "taking the network down") {
		t.Errorf("%s", text)
	}
	nothingLeft(t)
	if left, _ := filepath.Glob(fmt.Sprintf("%s/%s%d*", etcNetns, prefix, os.Getpid())); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestScoreRunsAll(t *testing.T) {
	testkit.NeedRoot(t)
	_, other := otherValue(t)
	all := []*Scenario{scenario(t, minimal), scenario(t, fourNodes), scenario(t, exclusiveWith(other))}
	calls := 0
	b, err := Score(t.Context(), all, ScoreOptions{
		Options: Options{Binary: standIn(t, `echo '{"verdict":"healthy"}'`)}, Parallel: 2, Repeat: 2, Progress: func(int, int, RunResult) { calls++ },
	})
	if err != nil || b.Totals.Runs != 6 || b.Totals.FalsePositiveRuns != 0 || b.Totals.Healthy != 3 || calls != 6 {
		t.Errorf("%+v, %v, %d calls", b.Totals, err, calls)
	}
	nothingLeft(t)
}

// loadScenario is one of the files that come with fathom.
func loadScenario(t *testing.T, name string) *Scenario {
	t.Helper()
	s, err := LoadFile(filepath.Join("../../testdata/scenarios", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestScenarioMTUBlackholeIsOne(t *testing.T) {
	testkit.NeedRoot(t)
	testkit.NeedTool(t, "ping")
	n, err := Build(t.Context(), loadScenario(t, "mtu-blackhole-at-hop-2"))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	t.Logf("built in %s", n.Built)
	mustSh(t, n, HostNode, "ping -c 1 -W 2 10.0.3.2")
	mustSh(t, n, HostNode, "ping -c 1 -W 2 -M do -s 1372 10.0.3.2") // 1400 with its headers
	if out, err := sh(t, n, HostNode, "root", "ping -c 2 -i 0.1 -W 0.5 -M do -s 1373 10.0.3.2"); err == nil || strings.Contains(out, "Frag") {
		t.Errorf("a packet of 1401 bytes passes, or somebody says why not: %s", out)
	}
}

func TestScenarioSilentRouterWorks(t *testing.T) {
	testkit.NeedRoot(t)
	testkit.NeedTool(t, "curl")
	n, err := Build(t.Context(), loadScenario(t, "healthy-silent-router"))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	curl := "curl -sS -m 5 -o /dev/null -w '%{http_code} %{remote_ip}' https://web.lab.test/"
	for _, user := range []string{"root", "nobody"} {
		if out, err := sh(t, n, HostNode, user, curl+` --cacert "$SSL_CERT_FILE"`); err != nil || out != "200 10.0.3.2" {
			t.Errorf("as %s: %v: %s", user, err, out)
		}
	}
	if out, err := sh(t, n, HostNode, "root", curl); err == nil { // without the lab's CA
		t.Errorf("the machine trusts the lab's certificate: %s", out)
	}
}

// TestExclusiveScenariosBuild builds the networks that TestScenariosBuild leaves
// out. It waits for other labs on this machine to be done.
func TestExclusiveScenariosBuild(t *testing.T) {
	testkit.NeedRoot(t)
	all, err := LoadDir("../../testdata/scenarios")
	if err != nil {
		t.Error(err)
	}
	for _, s := range all {
		if !s.Exclusive {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			n, err := Build(t.Context(), s)
			var missing *MissingError
			if errors.As(err, &missing) {
				testkit.Skip(t, missing.Error())
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("built in %s", n.Built)
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	nothingLeft(t)
}
