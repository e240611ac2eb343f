package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fathom/internal/lab/emulator/unit"
	"fathom/internal/testkit/netns"
)

func TestMain(m *testing.M) {
	if is, code := Child(); is {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func here(f func() error) error { return f() }

// start starts a service on this machine's loopback and checks on the way out
// that it stops cleanly.
func start(t testing.TB, s Spec) Service { t.Helper(); return startIn(t, here, s) }

func startIn(t testing.TB, inNS InNS, s Spec) Service {
	t.Helper()
	svc, err := Start(t.Context(), inNS, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := svc.Stop(); err != nil {
			t.Error(err)
		}
	})
	return svc
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 15 s for %s", what)
		}
	}
}

func waitStat(t testing.TB, s Service, key string, n uint64) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%s ≥ %d", key, n), func() bool { return s.Stats()[key] >= n })
}

// sockets counts the TCP sockets of a namespace in a state (net/tcp_states.h).
func sockets(t testing.TB, ns *netns.NS, state string) (n int) {
	t.Helper()
	ns.Must(t, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/tcp")
		for _, l := range strings.Split(string(b), "\n") {
			if f := strings.Fields(l); len(f) > 3 && f[3] == state {
				n++
			}
		}
		return err
	})
	return n
}

// snmp reads one counter of /proc/net/netstat or snmp in the namespace.
func snmp(t testing.TB, ns *netns.NS, group, name string) (v int) {
	t.Helper()
	ns.Must(t, func() error {
		for _, file := range []string{"netstat", "snmp"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			var head []string
			for _, l := range strings.Split(string(b), "\n") {
				f := strings.Fields(l)
				if len(f) == 0 || f[0] != group+":" {
					continue
				}
				if head == nil {
					head = f
					continue
				}
				for i, h := range head {
					if h == name {
						_, err := fmt.Sscan(f[i], &v)
						return err
					}
				}
			}
		}
		return fmt.Errorf("no counter %s %s", group, name)
	})
	return v
}

const (
	stEstablished = "01"
	stTimeWait    = "06"
	stCloseWait   = "08"
)

func TestTCPModes(t *testing.T) {
	dial := func(svc Service) net.Conn {
		c, err := net.Dial("tcp", svc.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	tcp := func(x TCP) Spec { x.Listen = []string{"127.0.0.1:0"}; return Spec{TCP: &x} }

	c := dial(start(t, tcp(TCP{Mode: TCPEcho})))
	fmt.Fprint(c, "hello")
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		t.Errorf("echo: %q %v", buf, err)
	}

	c = dial(start(t, tcp(TCP{Mode: TCPBanner, Banner: "220 lab\r\n"})))
	buf = make([]byte, 9)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "220 lab\r\n" {
		t.Errorf("banner: %q %v", buf, err)
	}

	if r, err := net.Dial("tcp", start(t, tcp(TCP{Mode: TCPReset})).Addrs()[0]); err == nil {
		_, err = r.Read(buf)
		r.Close()
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("reset: %v", err)
		}
	} else if !errors.Is(err, unix.ECONNRESET) { // the reset was quicker than connect's return
		t.Errorf("reset: %v", err)
	}

	c = dial(start(t, tcp(TCP{Mode: TCPClose})))
	if _, err := c.Read(buf); err != io.EOF {
		t.Errorf("close: %v", err)
	}

	svc := start(t, tcp(TCP{Mode: TCPSink}))
	fmt.Fprint(dial(svc), "12345")
	waitStat(t, svc, "bytes", 5)

	c = dial(start(t, tcp(TCP{Mode: TCPSource})))
	if n, err := io.CopyN(io.Discard, c, 1<<20); n != 1<<20 {
		t.Errorf("source: %d %v", n, err)
	}

	c = dial(start(t, tcp(TCP{Mode: TCPStall, Rcvbuf: 4096})))
	_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Write(make([]byte, 16<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("stall took 16 MB: %v", err)
	}
}

func TestHogOverflowsItsAcceptQueue(t *testing.T) {
	ns := netns.New(t)
	startIn(t, ns.Do, Spec{TCP: &TCP{Listen: []string{"127.0.0.1:7000"}, Mode: TCPHog}})
	waitFor(t, "ListenOverflows", func() bool { return snmp(t, ns, "TcpExt", "ListenOverflows") > 3 })
}

func TestUDPEchoAndDrop(t *testing.T) {
	svc := start(t, Spec{UDP: &UDP{Listen: []string{"127.0.0.1:0"}, Mode: UDPEcho, Delay: 5 * time.Millisecond}})
	c, err := net.Dial("udp", svc.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	began := time.Now()
	fmt.Fprint(c, "x")
	if n, err := c.Read(make([]byte, 10)); n != 1 || err != nil || time.Since(began) < 5*time.Millisecond {
		t.Errorf("%d %v after %s", n, err, time.Since(began))
	}
	mute := start(t, Spec{UDP: &UDP{Listen: []string{"127.0.0.1:0"}, Mode: UDPEcho, Drop: 1}})
	m, err := net.Dial("udp", mute.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fmt.Fprint(m, "x")
	waitStat(t, mute, "datagrams", 1)
	_ = m.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := m.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("drop all: %v", err)
	}
}

func TestDeafSocketOverflows(t *testing.T) {
	ns := netns.New(t)
	startIn(t, ns.Do, Spec{UDP: &UDP{Listen: []string{"127.0.0.1:7001"}, Mode: UDPDeaf, Flood: 4e6}})
	waitFor(t, "RcvbufErrors", func() bool { return snmp(t, ns, "Udp", "RcvbufErrors") > 10 })
}

func TestCloseWait(t *testing.T) {
	ns := netns.New(t)
	svc := startIn(t, ns.Do, Spec{Load: &Load{CloseWait: &CloseWait{Count: 20, Growth: 200, Max: 40}}})
	waitStat(t, svc, "held", 40)
	waitFor(t, "40 in CLOSE_WAIT", func() bool { return sockets(t, ns, stCloseWait) == 40 })
	if err := svc.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := sockets(t, ns, stCloseWait); n != 0 {
		t.Errorf("%d left after Stop", n)
	}
}

func TestCloseWaitAgainstAnotherService(t *testing.T) {
	ns := netns.New(t)
	startIn(t, ns.Do, Spec{TCP: &TCP{Listen: []string{"127.0.0.1:7002"}, Mode: TCPClose}})
	startIn(t, ns.Do, Spec{Load: &Load{CloseWait: &CloseWait{Count: 10, To: "127.0.0.1:7002"}}})
	waitFor(t, "10 in CLOSE_WAIT", func() bool { return sockets(t, ns, stCloseWait) == 10 })
}

func TestTimeWait(t *testing.T) {
	ns := netns.New(t)
	startIn(t, ns.Do, Spec{TCP: &TCP{Listen: []string{"127.0.0.1:7003"}, Mode: TCPSink}})
	startIn(t, ns.Do, Spec{Load: &Load{TimeWait: &TimeWait{Count: 30, To: "127.0.0.1:7003"}}})
	startIn(t, ns.Do, Spec{Load: &Load{TimeWait: &TimeWait{Count: 20}}})
	waitFor(t, "50 in TIME_WAIT", func() bool { return sockets(t, ns, stTimeWait) >= 50 })
}

func TestPortHogTakesAllPorts(t *testing.T) {
	ns := netns.New(t)
	ns.Must(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40030"), 0) })
	startIn(t, ns.Do, Spec{TCP: &TCP{Listen: []string{"127.0.0.1:7004"}, Mode: TCPSink}})
	svc := startIn(t, ns.Do, Spec{Load: &Load{PortHog: &PortHog{To: "127.0.0.1:7004"}}})
	waitStat(t, svc, "no_local_port", 1)
	if held := svc.Stats()["held"]; held < 25 || held > 31 {
		t.Errorf("held %d of 31 ports", held)
	}
	ns.Must(t, func() error {
		if _, err := net.Dial("tcp4", "127.0.0.1:7004"); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Errorf("another connection: %v", err)
		}
		return nil
	})
}

func TestTrafficKeepsItsRate(t *testing.T) {
	ns := netns.New(t)
	for _, network := range []string{"udp", "tcp"} {
		var sink Service
		if network == "udp" {
			sink = startIn(t, ns.Do, Spec{UDP: &UDP{Listen: []string{"127.0.0.1:7005"}, Mode: UDPSink}})
		} else {
			sink = startIn(t, ns.Do, Spec{TCP: &TCP{Listen: []string{"127.0.0.1:7005"}, Mode: TCPSink}})
		}
		began := time.Now()
		svc := startIn(t, ns.Do, Spec{Load: &Load{Traffic: &Traffic{Network: network, To: "127.0.0.1:7005", Rate: 8e6, Size: 1000, DSCP: 46, Streams: 2}}})
		waitStat(t, svc, "packets", 500)
		took := time.Since(began)
		if took < 400*time.Millisecond { // 500 of 1000 a second; late is the machine's fault, early is ours
			t.Errorf("%s: 500 packets in %s", network, took)
		}
		t.Logf("%s: 500 packets in %s, want 0.5 s", network, took)
		waitFor(t, "data at the sink", func() bool { return sink.Stats()["datagrams"]+sink.Stats()["bytes"]/1000 >= 490 })
	}
}

func TestConnect(t *testing.T) {
	sink := start(t, Spec{TCP: &TCP{Listen: []string{"127.0.0.1:0"}, Mode: TCPSink}})
	svc := start(t, Spec{Load: &Load{Connect: &Connect{To: sink.Addrs()[0], Parallel: 2, Send: "abc"}}})
	waitStat(t, svc, "connected", 5)
	waitStat(t, sink, "bytes", 15)
}

func TestFlap(t *testing.T) {
	states := make(chan bool, 100)
	svc := start(t, Spec{Load: &Load{Flap: &Flap{Link: "l", Period: 4 * time.Millisecond, Count: 3, SetLink: func(up bool) error { states <- up; return nil }}}})
	waitStat(t, svc, "up", 3)
	for i := range 6 {
		if up := <-states; up != (i%2 == 1) {
			t.Fatalf("step %d: up=%t", i, up)
		}
	}
	ns := netns.New(t)
	netns.Veth(t, ns, "x0", "", ns, "x1", "")
	svc = startIn(t, ns.Do, Spec{Load: &Load{Flap: &Flap{Interface: "x0", Period: time.Hour, Duty: 1e-9}}})
	waitStat(t, svc, "down", 1)
	if ns.Link(t, "x0").RawFlags&unix.IFF_UP != 0 {
		t.Error("still up")
	}
	if err := svc.Stop(); err != nil {
		t.Error(err)
	}
	if ns.Link(t, "x0").RawFlags&unix.IFF_UP == 0 {
		t.Error("left down after Stop")
	}
}

func TestNeighbourFill(t *testing.T) {
	ns := netns.New(t)
	netns.Veth(t, ns, "x0", "10.7.0.1/16", ns, "x1", "")
	svc := startIn(t, ns.Do, Spec{Load: &Load{NeighbourFill: &NeighbourFill{Prefix: "10.7.0.0/16", Count: 300}}})
	waitStat(t, svc, "rounds", 1)
	var lines int
	ns.Must(t, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/arp")
		lines = strings.Count(string(b), "10.7.")
		return err
	})
	if lines < 250 {
		t.Errorf("%d neighbours", lines)
	}
}

func TestARPResponderAndFrames(t *testing.T) {
	a, b := netns.New(t), netns.New(t)
	netns.Veth(t, a, "x0", "10.7.0.1/24", b, "x1", "10.7.0.2/24")
	const mac = "02:00:00:00:00:99"
	svc := startIn(t, b.Do, Spec{Load: &Load{ARPResponder: &ARPResponder{Interface: "x1", Address: "10.7.0.77", MAC: mac, Announce: time.Hour}}})
	c := a.UDP(t, ":0")
	if _, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 7, 0, 77), Port: 9}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the false neighbour", func() bool {
		var arp []byte
		a.Must(t, func() (err error) { arp, err = os.ReadFile("/proc/thread-self/net/arp"); return })
		return strings.Contains(string(arp), mac)
	})
	waitStat(t, svc, "announced", 1)

	before := a.Link(t, "x0").Statistics.RxDropped
	startIn(t, b.Do, Spec{Load: &Load{Frames: &Frames{Interface: "x1", PerSecond: 500}}})
	waitFor(t, "rx_dropped", func() bool { return a.Link(t, "x0").Statistics.RxDropped > before+10 })
	if _, err := Start(t.Context(), b.Do, Spec{Load: &Load{Frames: &Frames{Interface: "nosuch"}}}); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("missing interface: %v", err)
	}
}

func TestConntrackFillOpensFlows(t *testing.T) {
	ns := netns.New(t)
	svc := startIn(t, ns.Do, Spec{Load: &Load{ConntrackFill: &ConntrackFill{To: "127.0.0.1", Flows: 300}}})
	waitStat(t, svc, "rounds", 1)
	if s := svc.Stats(); s["sent"] != 300 {
		t.Errorf("%v", s)
	}
	if n := snmp(t, ns, "Udp", "NoPorts"); n < 290 { // each went to another, closed port
		t.Errorf("NoPorts %d", n)
	}
}

func TestChildProcess(t *testing.T) {
	ns := netns.New(t)
	svc := startIn(t, ns.Do, Spec{Name: "leaky", Process: true, NoFile: 300, Load: &Load{CloseWait: &CloseWait{Count: 15}}})
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", svc.PID()))
	if err != nil || string(comm) != "leaky\n" {
		t.Errorf("comm %q, %v", comm, err)
	}
	waitFor(t, "15 in CLOSE_WAIT", func() bool { return sockets(t, ns, stCloseWait) == 15 })
	if st, err := os.Stat(fmt.Sprintf("/proc/%d/task", svc.PID())); err != nil || !st.IsDir() {
		t.Error(err)
	}
	runtime.GC() // threads that ended must not take the child along
	if err := svc.Stop(); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(svc.PID(), 0); err == nil {
		t.Error("the child is still there")
	}
}

func TestChildThatCannotStartSaysWhy(t *testing.T) {
	_, err := Start(t.Context(), here, Spec{Process: true, TCP: &TCP{Listen: []string{"192.0.2.1:80"}, Mode: TCPEcho}})
	if err == nil || !strings.Contains(err.Error(), "cannot assign requested address") {
		t.Error(err)
	}
}

func TestChildThatDiesIsTold(t *testing.T) {
	svc, err := Start(t.Context(), here, Spec{Process: true, TCP: &TCP{Listen: []string{"127.0.0.1:0"}, Mode: TCPEcho}})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(svc.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-svc.(*child).exited
	if err := svc.Stop(); err == nil || !strings.Contains(err.Error(), "by itself") {
		t.Error(err)
	}
}

func TestDescriptorsRunOutInTheChild(t *testing.T) {
	svc := start(t, Spec{Process: true, NoFile: 20, TCP: &TCP{Listen: []string{"127.0.0.1:0"}, Mode: TCPSink}})
	for range 30 { // the kernel takes them all; the process can accept a few only
		c, err := net.Dial("tcp", svc.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	waitFor(t, "the limit", func() bool {
		d, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", svc.PID()))
		return err == nil && len(d) >= 19
	})
}

func TestStopLeavesNoGoroutinesOrDescriptors(t *testing.T) {
	kinds := []Spec{
		{TCP: &TCP{Listen: []string{"127.0.0.1:0"}, Mode: TCPEcho}},
		{UDP: &UDP{Listen: []string{"127.0.0.1:0"}, Mode: UDPEcho}},
		{HTTP: &HTTP{Listen: []string{"127.0.0.1:0"}, Cert: CertGood, HTTP3: true}},
		{DNS: &DNS{Listen: []string{"127.0.0.1:0"}, Zones: []DNSZone{{Name: "lab.test"}}}},
		{Load: &Load{CloseWait: &CloseWait{Count: 5}}},
		{Load: &Load{TimeWait: &TimeWait{Count: 2}}},
		{Process: true, UDP: &UDP{Listen: []string{"127.0.0.1:0"}, Mode: UDPEcho}},
	}
	round := func() {
		for _, s := range kinds {
			ctx, cancel := context.WithCancel(t.Context())
			svc, err := Start(ctx, here, s)
			if err != nil {
				t.Fatal(s.Kind(), err)
			}
			cancel()
			if err := svc.Stop(); err != nil {
				t.Error(s.Kind(), err)
			}
			if err := svc.Stop(); err != nil {
				t.Error("second stop", err)
			}
		}
	}
	round() // what the runtime opens once and keeps
	fds, gos := countFDs(t), runtime.NumGoroutine()
	round()
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= gos })
	if n := countFDs(t); n > fds {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
}

func countFDs(t testing.TB) int {
	d, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestValidateRefuses(t *testing.T) {
	l := []string{"127.0.0.1:0"}
	for name, s := range map[string]Spec{
		"nothing":          {},
		"two kinds":        {TCP: &TCP{Listen: l, Mode: TCPEcho}, UDP: &UDP{Listen: l, Mode: UDPEcho}},
		"no listen":        {TCP: &TCP{Mode: TCPEcho}},
		"host name":        {TCP: &TCP{Listen: []string{"example.test:80"}, Mode: TCPEcho}},
		"mode":             {UDP: &UDP{Listen: l, Mode: "shout"}},
		"long comm":        {Comm: "a-name-that-is-too-long", TCP: &TCP{Listen: l, Mode: TCPEcho}},
		"name as target":   {Load: &Load{PortHog: &PortHog{To: "example.test:80"}}},
		"flap in child":    {Process: true, Load: &Load{Flap: &Flap{Link: "x", Period: time.Second}}},
		"bad zone":         {DNS: &DNS{Listen: l, Zones: []DNSZone{{Name: "a.test", Records: "x A 300.1.1.1"}}}},
		"outside the zone": {DNS: &DNS{Listen: l, Zones: []DNSZone{{Name: "a.test", Records: "b.other. A 10.0.0.1"}}}},
		"include":          {DNS: &DNS{Listen: l, Zones: []DNSZone{{Name: "a.test", Records: "$INCLUDE /etc/passwd"}}}},
		"cert":             {HTTP: &HTTP{Listen: l, Cert: "perfect"}},
		"http3 in clear":   {HTTP: &HTTP{Listen: l, HTTP3: true}},
		"rate":             {Load: &Load{Traffic: &Traffic{To: "10.0.0.1:9"}}},
		"arp v6":           {Load: &Load{ARPResponder: &ARPResponder{Address: "fd00::1", MAC: "02:00:00:00:00:01"}}},
	} {
		if s.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSpecSurvivesJSON(t *testing.T) {
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	hit := unit.Share(0.5)
	s := Spec{Name: "w", HTTP: &HTTP{Listen: []string{":80"}, Cert: CertGood, Page: Page{Rate: 1e6, Size: 5, Hit: &hit}}, CA: ca}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got Spec
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.HTTP.Rate != 1e6 || got.HTTP.Size != 5 || *got.HTTP.Hit != 0.5 || string(got.CA.RootPEM) != string(ca.RootPEM) {
		t.Errorf("%s", b)
	}
}

func FuzzParseARP(f *testing.F) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	f.Add(arpPacket{op: 1, senderMAC: mac, destMAC: mac}.append(nil, mac))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseARP(b)
		if !ok {
			return
		}
		again, ok := parseARP(p.append(nil, broadcast))
		if !ok || again.senderIP != p.senderIP || again.destIP != p.destIP || again.op != p.op {
			t.Fatalf("%+v came back as %+v", p, again)
		}
	})
}

// TestParentHelper is not a test: it is the parent that TestChildDiesWithItsParent kills.
func TestParentHelper(t *testing.T) {
	if os.Getenv("FATHOM_TEST_PARENT") == "" {
		t.Skip("only as a helper process")
	}
	svc := start(t, Spec{Name: "orphan", Process: true, TCP: &TCP{Listen: []string{"127.0.0.1:0"}, Mode: TCPEcho}})
	fmt.Printf("%d\n", svc.PID())
	<-t.Context().Done() // never: it is killed
}

func TestChildDiesWithItsParent(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestParentHelper$")
	cmd.Env = []string{"FATHOM_TEST_PARENT=1"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscan(out, &pid)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the orphan's end", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		// Gone, or a zombie that nobody here can reap (no init in a container).
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}
