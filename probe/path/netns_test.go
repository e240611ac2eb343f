package path

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"fathom/internal/testkit"
	"fathom/internal/testkit/netns"
	"fathom/probe"
)

// helperEnv makes the test binary run one probe and print the result: sockets
// of a namespace can only be had by a process in it.
const helperEnv = "FATHOM_PATH_HELPER"

// job is what the helper process does.
type job struct {
	Target string
	Trace  *Config
	MTU    *MTUConfig
	Nobody bool // drop all privileges first
}

func TestMain(m *testing.M) {
	if spec := os.Getenv(helperEnv); spec != "" {
		os.Exit(helper(spec))
	}
	os.Exit(m.Run())
}

func helper(spec string) int {
	var j job
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.Unmarshal([]byte(spec), &j); err != nil {
		return fail(err)
	}
	if j.Nobody {
		for _, err := range []error{syscall.Setgroups(nil), syscall.Setresgid(65534, 65534, 65534), syscall.Setresuid(65534, 65534, 65534)} {
			if err != nil {
				return fail(err)
			}
		}
	}
	before := openFiles()
	var p probe.Prober
	if j.Trace != nil {
		p = New(*j.Trace)
	} else {
		p = NewMTU(*j.MTU)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	res, err := p.Probe(ctx, j.Target)
	if err != nil {
		return fail(err)
	}
	// The runtime's poller opens two descriptors of its own at first use.
	if after := openFiles(); after > before+3 {
		return fail(fmt.Errorf("%d descriptors before, %d after", before, after))
	}
	if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
		return fail(err)
	}
	return 0
}

func openFiles() int {
	d, _ := os.ReadDir("/proc/self/fd")
	return len(d)
}

// lab is a chain of namespaces: node 0 is the source, then routers, the last
// node is the target. Link i joins node i (10.77.i.1, fd77:(10+i in hex)::1) and node i+1 (.2).
type lab struct {
	t     testing.TB
	nodes []*netns.NS
}

// newLab makes a chain with so many routers, which the test's end removes.
func newLab(t testing.TB, routers int) *lab {
	t.Helper()
	testkit.NeedTool(t, "ip")
	l := &lab{t: t}
	for i := range routers + 2 {
		l.nodes = append(l.nodes, netns.New(t))
		l.in(i, `for f in /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding; do echo 1 > $f; done
			for d in all default; do echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter; done`)
	}
	last := len(l.nodes) - 1
	for i := range last {
		here, there := fmt.Sprintf("r%d", i), fmt.Sprintf("l%d", i+1)
		netns.Veth(t, l.nodes[i], here, fmt.Sprintf("10.77.%d.1/24", i), l.nodes[i+1], there, fmt.Sprintf("10.77.%d.2/24", i))
		l.nodes[i].Up(t, here, fmt.Sprintf("fd77:%x::1/64", i+10))
		l.nodes[i+1].Up(t, there, fmt.Sprintf("fd77:%x::2/64", i+10))
	}
	for i := range l.nodes {
		if i < last {
			l.in(i, fmt.Sprintf("ip route add default via 10.77.%d.2; ip -6 route add default via fd77:%x::2", i, i+10))
		} else {
			l.in(i, fmt.Sprintf("ip route add default via 10.77.%d.1; ip -6 route add default via fd77:%x::1", i-1, i+9))
		}
		if i >= 2 && i < last {
			l.in(i, fmt.Sprintf("ip route add 10.77.0.0/24 via 10.77.%d.1; ip -6 route add fd77:a::/64 via fd77:%x::1", i-1, i+9))
		}
	}
	l.ready()
	return l
}

// ready waits until IPv6 neighbour discovery works on the new links, which
// takes up to a second.
func (l *lab) ready() {
	l.t.Helper()
	ping := testkit.NeedTool(l.t, "ping")
	l.in(0, ping+" -n -q -c 1 -w 20 -i 0.1 "+l.target(true))
}

// in runs a shell script in a node's namespace.
func (l *lab) in(node int, cmd string) {
	l.t.Helper()
	l.nodes[node].Script(cmd)
}

// nft loads rules for a chain hook of an inet table in a node.
func (l *lab) nft(node int, hook, rules string) {
	l.t.Helper()
	testkit.NeedTool(l.t, "nft")
	l.in(node, fmt.Sprintf("nft -f - <<'X'\ntable inet t%s { chain c { type filter hook %[1]s priority 0; %s\n}\n}\nX", hook, rules))
}

// target is the last node's address.
func (l *lab) target(v6 bool) string { return l.addr(len(l.nodes)-1, v6) }

// addr is the address with which a node answers the source.
func (l *lab) addr(node int, v6 bool) string {
	if v6 {
		return fmt.Sprintf("fd77:%x::2", node+9)
	}
	return fmt.Sprintf("10.77.%d.2", node-1)
}

// run does a job in the source's namespace.
func (l *lab) run(j job) probe.Result {
	l.t.Helper()
	res, err := l.try(j)
	if err != nil {
		l.t.Fatal(err)
	}
	return res
}

func (l *lab) try(j job) (probe.Result, error) {
	l.t.Helper()
	spec, err := json.Marshal(j)
	if err != nil {
		l.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), helperEnv+"="+string(spec))
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := l.nodes[0].Do(cmd.Run); err != nil {
		return probe.Result{}, fmt.Errorf("helper: %w: %s", err, errOut.String())
	}
	var res probe.Result
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		l.t.Fatalf("helper printed %q: %v", out.String(), err)
	}
	return res, nil
}

// list is the hop addresses, * for silence.
func list(p *probe.Path) string {
	var s []string
	for _, h := range p.Hops {
		if h.Address.IsValid() {
			s = append(s, h.Address.String())
		} else {
			s = append(s, "*")
		}
	}
	return strings.Join(s, " ")
}

// want is the hop list of the whole chain.
func (l *lab) want(v6 bool) string {
	var s []string
	for i := 1; i < len(l.nodes); i++ {
		s = append(s, l.addr(i, v6))
	}
	return strings.Join(s, " ")
}
