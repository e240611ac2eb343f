package proc

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"fathom/internal/facts"
	"fathom/internal/testkit"

	"golang.org/x/sys/unix"
)

// Fixtures: each is the output of the command named, Linux 6.18, shortened in
// the middle where it says so.
const (
	// cat /proc/net/snmp | grep -E '^(Ip|Tcp|Udp):'
	snmp = `Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits
Ip: 2 64 2309 0 0 0 0 7 2309 2111 0 40 0 0 0 0 0 0 0 2111
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 50 3 2 5 10 2286 1984 1 0 30 0
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 40 0 3 96 3 0 0 0 0
`
	// cat /proc/net/snmp6 (shortened)
	snmp6 = "Ip6InReceives                   \t12\nIp6InNoRoutes                   \t4\nIcmp6InType134                  \t2\nUdp6RcvbufErrors                \t9\nUdpLite6InErrors                \t1\n"
	// cat /proc/net/sockstat
	sockstat = "sockets: used 130\nTCP: inuse 12 orphan 0 tw 4 alloc 15 mem 2\nUDP: inuse 2 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n"
	// cat /proc/net/softnet_stat (6.18), the second CPU being number 3
	softnet = `0000000b 00000001 00000002 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
00000704 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000005 00000003 00000005 00000000
`
	// cat /proc/net/softnet_stat (4.19)
	softnetOld = "0000000b 00000001 00000002 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n"
	// cat /proc/net/stat/nf_conntrack, numbers made up
	conntrack = `entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
00000010  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000002 0000000a 00000004 00000000  00000000 00000000 00000000 00000000
00000010  00000000 00000000 00000000 00000010 00000000 00000000 00000000 00000000 00000020 00000001 00000040 00000000  00000000 00000000 00000000 00000000
`
)

func TestParsers(t *testing.T) {
	c, s := map[string]uint64{}, map[string]int64{}
	if err := errors.Join(parsePairs([]byte(snmp), c), parseSNMP6([]byte(snmp6), c), parseSockstat([]byte(sockstat), s)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint64{
		"Ip.InDiscards": 7, "Ip.OutNoRoutes": 40, "Tcp.RetransSegs": 1, "Udp.RcvbufErrors": 3,
		"Ip6.InNoRoutes": 4, "Icmp6.InType134": 2, "Udp6.RcvbufErrors": 9, "UdpLite6.InErrors": 1,
	} {
		if got, ok := c[name]; !ok || got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	if _, ok := c["Tcp.MaxConn"]; ok {
		t.Error("-1 taken for a counter")
	}
	if s["TCP.tw"] != 4 || s["TCP.mem"] != 2 || s["sockets.used"] != 130 || s["UDP.inuse"] != 2 {
		t.Errorf("sockstat %v", s)
	}
	var ct facts.Conntrack
	if err := parseConntrack([]byte(conntrack), &ct); err != nil || ct != (facts.Conntrack{Drop: 11, EarlyDrop: 68, InsertFailed: 34, Invalid: 17}) {
		t.Errorf("conntrack %+v, %v", ct, err)
	}
}

func TestSoftnet(t *testing.T) {
	got, err := parseSoftnet([]byte(softnet))
	if want := []facts.Softnet{{Processed: 11, Dropped: 1, TimeSqueeze: 2}, {CPU: 3, Processed: 0x704, Backlog: 5}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err = parseSoftnet([]byte(softnetOld))
	if err != nil || len(got) != 2 || got[1].CPU != 1 || got[1].Backlog != 0 {
		t.Errorf("old kernel: %+v, %v", got, err)
	}
}

func TestBadFiles(t *testing.T) {
	c, s := map[string]uint64{}, map[string]int64{}
	for _, bad := range []string{"", "Ip: A B\n", "Ip: A B\nIp: 1\n", "Ip: A\nTcp: 1\n", "\x1b[31m\n", strings.Repeat("x", 1<<20)} {
		if parsePairs([]byte(bad), c) == nil {
			t.Errorf("%.20q accepted", bad)
		}
		_, err := parseSoftnet([]byte(bad))
		if parseSNMP6([]byte(bad), c) == nil || parseSockstat([]byte(bad), s) == nil || err == nil {
			t.Errorf("%.20q accepted", bad)
		}
	}
	if parseConntrack([]byte("drop\nzz\n"), &facts.Conntrack{}) == nil || parseConntrack([]byte("drop\n1 2\n"), &facts.Conntrack{}) == nil {
		t.Error("bad conntrack accepted")
	}
}

func FuzzParsers(f *testing.F) {
	for _, s := range []string{snmp, snmp6, sockstat, softnet, softnetOld, conntrack, "a: b\na: 1", "\n\n", "x y"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, s := map[string]uint64{}, map[string]int64{}
		_, _, _ = parsePairs(b, c), parseSNMP6(b, c), parseSockstat(b, s)
		if cpus, _ := parseSoftnet(b); len(cpus) > maxCPUs || len(c) > 2*maxNames || len(s) > maxNames {
			t.Fatal("not bounded")
		}
		_ = parseConntrack(b, &facts.Conntrack{})
		_, _ = number(b), value(b)
	})
}

// The list must be names that exist on this kernel, so that a slip of the pen shows.
func TestSysctlsExist(t *testing.T) {
	h := &facts.Host{}
	if err := Collector().Collect(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	missing := 0
	for _, key := range wanted {
		// Modules not loaded and kernels without IPv6 are no slip.
		if _, ok := h.Sysctls[key]; !ok && strings.HasPrefix(key, "net.ipv4.") {
			missing++
			t.Logf("not here: %s", key)
		}
	}
	if len(wanted) < 80 || len(h.Sysctls) < 40 || missing > 12 {
		t.Errorf("%d of %d missing", missing, len(wanted))
	}
	if v := h.Sysctls["net.ipv4.ip_local_port_range"]; len(strings.Fields(v)) != 2 || strings.Contains(v, "\t") {
		t.Errorf("port range %q", v)
	}
	if _, ok := h.Sysctls["net.ipv4.conf.lo.rp_filter"]; !ok {
		t.Error("no setting of lo")
	}
	if h.Hostname == "" || h.Kernel == "" || len(h.Softnet) == 0 {
		t.Errorf("%q %q %d CPUs", h.Hostname, h.Kernel, len(h.Softnet))
	}
	for _, name := range []string{"TcpExt.ListenOverflows", "Tcp.RetransSegs", "Ip.InDiscards", "Udp.RcvbufErrors", "IpExt.InOctets", "Icmp.InMsgs"} {
		if _, ok := h.Counters[name]; !ok {
			t.Errorf("no %s", name)
		}
	}
	for k := range h.Sysctls {
		if strings.Contains(k, "key") || strings.Contains(k, "secret") {
			t.Errorf("%s is a secret", k)
		}
	}
}

func TestLinkKey(t *testing.T) {
	if k := linkKey("net/ipv4/conf", "eth0.100", "rp_filter"); k != "net.ipv4.conf.eth0/100.rp_filter" {
		t.Error(k)
	}
}

func TestNoConntrackNoIPv6(t *testing.T) {
	root := t.TempDir()
	write := func(name, body string) {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(body), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("thread-self/net/snmp", snmp)
	write("thread-self/net/netstat", "TcpExt: ListenDrops\nTcpExt: 5\n")
	write("thread-self/net/sockstat", sockstat)
	write("thread-self/net/softnet_stat", softnet)
	h := &facts.Host{}
	if err := (Reader{root}).Collect(t.Context(), h); err != nil || len(h.Gaps) != 0 || h.Conntrack != nil || h.Counters["TcpExt.ListenDrops"] != 5 {
		t.Errorf("%v %+v", err, h)
	}
	write("sys/net/netfilter/nf_conntrack_count", "17\n")
	write("sys/net/netfilter/nf_conntrack_max", "262144\n")
	write("thread-self/net/stat/nf_conntrack", conntrack)
	write("thread-self/net/netstat", strings.Repeat("\x1b[2J", 1<<18)+"\n")
	h = &facts.Host{}
	if err := (Reader{root}).Collect(t.Context(), h); err != nil || len(h.Gaps) != 1 || h.Conntrack == nil || h.Conntrack.Count != 17 || h.Conntrack.Max != 262144 || h.Conntrack.Drop != 11 {
		t.Errorf("%v %+v", err, h)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Collector().Collect(ctx, &facts.Host{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A thread in another namespace must read that one's counters, not the process'.
func TestThreadsNamespace(t *testing.T) {
	testkit.NeedRoot(t)
	ip := testkit.NeedTool(t, "ip")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never given back: the namespace ends with the thread
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		for _, args := range []string{"link set lo up", "link add name v.5 type veth peer name w"} {
			if out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("20000 20100"), 0); err != nil {
			t.Error(err)
		}
		h := &facts.Host{}
		if err := Collector().Collect(t.Context(), h); err != nil {
			t.Error(err)
		}
		if h.Counters["Ip.InReceives"] != 0 || h.Counters["Tcp.ActiveOpens"] != 0 {
			t.Errorf("a new namespace has counted %d packets", h.Counters["Ip.InReceives"])
		}
		if h.Sysctls["net.ipv4.ip_local_port_range"] != "20000 20100" {
			t.Errorf("port range %q", h.Sysctls["net.ipv4.ip_local_port_range"])
		}
		if _, ok := h.Sysctls["net.ipv4.conf.v/5.rp_filter"]; !ok {
			t.Error("no setting of the interface with a dot")
		}
	}()
	<-done
}

func BenchmarkCollect(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if err := Collector().Collect(b.Context(), &facts.Host{}); err != nil {
			b.Fatal(err)
		}
	}
}
