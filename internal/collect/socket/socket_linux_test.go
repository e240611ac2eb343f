package socket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"fathom/internal/facts"
	"fathom/internal/sys/inetdiag"
	"fathom/internal/testkit"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread in a network namespace of its own. The thread
// is not given back, so it and the namespace end with f.
func inNamespace(t testing.TB, f func()) {
	t.Helper()
	testkit.NeedRoot(t)
	ip := testkit.NeedTool(t, "ip")
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errors.New("left by Goexit")
		defer func() { done <- err }()
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if out, e := exec.Command(ip, "link", "set", "lo", "up").CombinedOutput(); e != nil {
			err = fmt.Errorf("%w: %s", e, out)
			return
		}
		err = errors.New("left by Goexit")
		f()
		err = nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func collectNow(t testing.TB) *facts.Host {
	h := &facts.Host{}
	if err := Collect(t.Context(), h); err != nil {
		t.Error(err)
	}
	return h
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// rawListener listens with an exact backlog, which package net does not allow.
func rawListener(t testing.TB, backlog int) (fd int, addr netip.AddrPort) {
	fd = must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, backlog)); err != nil {
		panic(err)
	}
	sa := must(unix.Getsockname(fd)).(*unix.SockaddrInet4)
	return fd, netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
}

func self() string { return comm("/proc", "self") + "[" + strconv.Itoa(os.Getpid()) + "]" }

func listener(t testing.TB, h *facts.Host, a netip.AddrPort) facts.Socket {
	t.Helper()
	for _, l := range h.Sockets.Listeners {
		if l.Local == a {
			return l
		}
	}
	t.Errorf("no listener %s in %+v", a, h.Sockets.Listeners)
	return facts.Socket{}
}

func TestFullAcceptQueue(t *testing.T) {
	inNamespace(t, func() {
		_, addr := rawListener(t, 2)
		for range 3 { // the kernel lets in one more than the backlog
			c := must(net.Dial("tcp", addr.String()))
			defer c.Close()
		}
		h := collectNow(t)
		l := listener(t, h, addr)
		if l.RecvQ != 3 || l.SendQ != 2 || l.Process != self() {
			t.Errorf("got %+v, want 3 of 2 waiting at %s", l, self())
		}
		if !h.Sockets.Procs || len(h.Gaps) != 0 || h.Sockets.Method != methodDiag {
			t.Errorf("procs %v, gaps %v, method %s", h.Sockets.Procs, h.Gaps, h.Sockets.Method)
		}
		// What /proc/net says must agree, apart from the backlog it does not have.
		tl := newTally(localPortRange(procRoot))
		if err := collectTCP(t.Context(), procNet{procRoot}, tl); err != nil {
			t.Error(err)
		}
		var s facts.Sockets
		tl.fill(&s, owners{})
		if s.Total != h.Sockets.Total || fmt.Sprint(s.States) != fmt.Sprint(h.Sockets.States) || fmt.Sprint(s.Destinations) != fmt.Sprint(h.Sockets.Destinations) {
			t.Errorf("/proc/net: %+v\nsock_diag: %+v", s, h.Sockets)
		}
	})
}

// pairs makes n accepted connections; clients and servers in the same order.
func pairs(t testing.TB, n int) (clients, servers []net.Conn, addr netip.AddrPort) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { _ = l.Close() })
	for range n {
		c := must(net.Dial("tcp", l.Addr().String()))
		s := must(l.Accept())
		t.Cleanup(func() { _ = c.Close(); _ = s.Close() })
		clients, servers = append(clients, c), append(servers, s)
	}
	return clients, servers, netip.MustParseAddrPort(l.Addr().String())
}

func TestCloseWaitOwnerAndSurvey(t *testing.T) {
	inNamespace(t, func() {
		clients, servers, addr := pairs(t, 20)
		for i, c := range clients {
			if i < 5 {
				_ = must(c.Write([]byte("unread")))
			}
			_ = c.Close()
		}
		for _, s := range servers[5:] { // EOF read: the FIN is here
			if _, err := s.Read(make([]byte, 1)); err == nil {
				t.Error("data instead of end")
			}
		}
		var h *facts.Host
		for range 5000 {
			// FIN_WAIT1 lasts as long as the peer delays its ACK, some 40 ms.
			if h = collectNow(t); h.Sockets.States["CLOSE_WAIT"] == 20 && h.Sockets.States["FIN_WAIT2"] == 20 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if len(h.Sockets.CloseWait) != 1 {
			t.Fatalf("groups %+v", h.Sockets.CloseWait)
		}
		g := h.Sockets.CloseWait[0]
		if g.Count != 20 || g.Process != self() || g.Remote != "127.0.0.1" || g.LocalPort != addr.Port() || g.UnreadBytes < 30 || g.Unaccepted != 0 {
			t.Errorf("got %+v", g)
		}
		runtime.KeepAlive(servers)
	})
}

// Which TCP_INFO field tells when the FIN came: the experiment behind addCloseWait.
// The three moments are told apart by what the clock really did, not by exact figures.
func TestCloseWaitAge(t *testing.T) {
	inNamespace(t, func() {
		clients, servers, _ := pairs(t, 1)
		_ = must(clients[0].Write([]byte("x")))
		_ = must(servers[0].Read(make([]byte, 1)))
		data := time.Now()
		time.Sleep(300 * time.Millisecond) // the passing of time is what is measured here
		before := time.Now()
		_ = clients[0].Close()
		_, _ = servers[0].Read(make([]byte, 1))
		after := time.Now()
		time.Sleep(300 * time.Millisecond)
		asked := time.Now()
		var info inetdiag.TCPInfo
		diag := must(dialDiag(t.Context()))
		defer diag.Close()
		r := inetdiag.Request{Family: inetdiag.FamilyV4, Protocol: inetdiag.ProtoTCP, Ext: inetdiag.ExtInfo, States: inetdiag.Mask(inetdiag.CloseWait)}
		if err := diag.each(t.Context(), r, func(m *inetdiag.Msg) { info = inetdiag.ParseTCPInfo(m.Info) }); err != nil {
			t.Error(err)
		}
		slack := 20 * time.Millisecond // jiffies at HZ=100, twice
		ack, recv := time.Duration(info.LastAckRecv)*time.Millisecond, time.Duration(info.LastDataRecv)*time.Millisecond
		if ack < asked.Sub(after)-slack || ack > time.Since(before)+slack {
			t.Errorf("last_ack_recv %v is not the age of the FIN (%v)", ack, asked.Sub(after))
		}
		if recv < asked.Sub(data)-slack {
			t.Errorf("last_data_recv %v is younger than the data (%v): the FIN touches it on this kernel", recv, asked.Sub(data))
		}
		t.Logf("FIN %v ago, data %v ago: last_ack_recv %v, last_data_recv %v", asked.Sub(after), asked.Sub(data), ack, recv)
	})
}

func TestUnacceptedCloseWaitIsTheListeners(t *testing.T) {
	inNamespace(t, func() {
		_, addr := rawListener(t, 10)
		for range 4 {
			_ = must(net.Dial("tcp", addr.String())).Close()
		}
		var h *facts.Host
		for range 1000 {
			if h = collectNow(t); h.Sockets.States["CLOSE_WAIT"] == 4 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if len(h.Sockets.CloseWait) != 1 || h.Sockets.CloseWait[0].Unaccepted != 4 || h.Sockets.CloseWait[0].Process != self() {
			t.Errorf("got %+v", h.Sockets.CloseWait)
		}
	})
}

// SYNs from an address that never answers stay half-open at the listener.
func TestHalfOpen(t *testing.T) {
	inNamespace(t, func() {
		for _, args := range []string{
			"link add name v0 type veth peer name v1", "link set v0 up", "link set v1 up", "addr add 10.9.9.1/32 dev lo",
			"route add 10.9.9.2 dev v0", "neigh add 10.9.9.2 lladdr 02:00:00:00:00:99 dev v0 nud permanent",
		} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %s", args, out)
				return
			}
		}
		for _, link := range []string{"all", "lo", "default"} {
			_ = os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/rp_filter", []byte("0"), 0)
		}
		l := must(net.Listen("tcp4", "10.9.9.1:8080"))
		defer l.Close()
		fd := must(unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW))
		defer unix.Close(fd)
		for i := range 7 {
			if err := unix.Sendto(fd, syn(uint16(5000+i)), 0, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 9, 1}}); err != nil {
				t.Error(err)
			}
		}
		h := collectNow(t)
		if got := listener(t, h, netip.MustParseAddrPort("10.9.9.1:8080")); got.SynRecv != 7 || h.Sockets.States["SYN_RECV"] != 7 {
			t.Errorf("%+v, states %v", got, h.Sockets.States)
		}
	})
}

// syn is an IPv4 packet with a SYN from 10.9.9.2 to 10.9.9.1:8080; the kernel fills in the IP checksum.
func syn(port uint16) []byte {
	ip := []byte{0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 9, 9, 2, 10, 9, 9, 1}
	tcp := []byte{byte(port >> 8), byte(port), 8080 >> 8, 8080 & 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	sum := uint32(6 + 20)
	for _, b := range [][]byte{ip[12:20], tcp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	tcp[16], tcp[17] = byte(^sum>>8), byte(^sum)
	return append(ip, tcp...)
}

func TestUDPOverflow(t *testing.T) {
	inNamespace(t, func() {
		c := must(net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}))
		defer c.Close()
		idle := must(net.ListenPacket("udp6", "[::1]:0"))
		defer idle.Close()
		_ = c.SetReadBuffer(4096)
		out := must(net.Dial("udp", c.LocalAddr().String()))
		defer out.Close()
		for range 100 {
			_, _ = out.Write(make([]byte, 1000))
		}
		h := collectNow(t)
		if len(h.Sockets.UDP) != 3 {
			t.Fatalf("got %+v", h.Sockets.UDP)
		}
		u := h.Sockets.UDP[0]
		if u.Local.String() != c.LocalAddr().String() || u.Drops < 50 || u.Drops > 100 || u.RecvQ == 0 || u.RcvBuf != 8192 || u.Process != self() {
			t.Errorf("got %+v", u)
		}
		if h.Sockets.UDP[1].Drops != 0 || h.Sockets.UDP[1].Process != "" {
			t.Errorf("a socket without drops: %+v", h.Sockets.UDP[1])
		}
		if got := ssDrops(t, u.Local.Port()); got != u.Drops {
			t.Errorf("ss says %d drops, we %d", got, u.Drops)
		}
	})
}

func ssDrops(t *testing.T, port uint16) uint64 {
	out := must(exec.Command(testkit.NeedTool(t, "ss"), "-Huanm", "sport", "=", fmt.Sprint(port)).Output())
	_, after, _ := strings.Cut(string(out), ",d")
	n, _ := strconv.ParseUint(strings.TrimRight(strings.SplitN(after, ")", 2)[0], " \n"), 10, 64)
	return n
}

// timeWait makes n connections that end in TIME_WAIT at the client.
func timeWait(t testing.TB, n int, addr string) {
	l := must(net.Listen("tcp", addr))
	defer l.Close()
	for range n {
		c := must(net.Dial("tcp", l.Addr().String()))
		s := must(l.Accept())
		_ = c.Close()
		_, _ = s.Read(make([]byte, 1))
		_ = s.Close()
	}
}

func TestStatesAgreeWithSS(t *testing.T) {
	ss := testkit.NeedTool(t, "ss")
	inNamespace(t, func() {
		timeWait(t, 300, "127.0.0.1:4430")
		timeWait(t, 100, "[::1]:4430")
		clients, _, _ := pairs(t, 30)
		_ = clients[0].Close()
		h := collectNow(t)
		for i := 0; i < 5000 && h.Sockets.States["FIN_WAIT2"] == 0; i++ { // until the delayed ACK is out
			time.Sleep(time.Millisecond)
			h = collectNow(t)
		}
		want := map[string]int{}
		sc := bufio.NewScanner(strings.NewReader(string(must(exec.Command(ss, "-Htan").Output()))))
		names := map[string]string{"ESTAB": "ESTABLISHED", "TIME-WAIT": "TIME_WAIT", "CLOSE-WAIT": "CLOSE_WAIT", "FIN-WAIT-2": "FIN_WAIT2", "LISTEN": "LISTEN"}
		for sc.Scan() {
			want[names[strings.Fields(sc.Text())[0]]]++
		}
		if fmt.Sprint(want) != fmt.Sprint(h.Sockets.States) || want["TIME_WAIT"] != 400 {
			t.Errorf("ss %v\nwe %v", want, h.Sockets.States)
		}
		d := h.Sockets.Destinations
		if len(d) < 3 || d[0].Remote.String() != "127.0.0.1:4430" || d[0].Ports != 300 || d[0].TimeWait != 300 || d[1].Remote.String() != "[::1]:4430" || d[1].Ports != 100 {
			t.Errorf("destinations %+v", d)
		}
		runtime.KeepAlive(clients)
	})
}

func TestTo(t *testing.T) {
	inNamespace(t, func() {
		l := must(net.Listen("tcp", "[::]:0")) // v4 clients become v4-mapped
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
			c := must(net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port))))
			defer c.Close()
			s := must(l.Accept())
			defer s.Close()
			_ = must(c.Write(make([]byte, 1000)))
			_ = must(s.Read(make([]byte, 1000)))
		}
		for host, want := range map[string]int{"127.0.0.2": 1, "127.0.0.1": 3, "::1": 2, "127.0.0.9": 0, "::ffff:127.0.0.2": 1} {
			got, err := To(t.Context(), netip.MustParseAddr(host))
			if err != nil || len(got) != want {
				t.Errorf("%s: %d sockets, want %d: %v %+v", host, len(got), want, err, got)
			}
			for _, s := range got {
				if s.State != "ESTABLISHED" || !s.Info || s.RTT <= 0 || s.MinRTT <= 0 || s.Cwnd == 0 || s.SndMSS == 0 || s.PMTU == 0 || s.Process != self() {
					t.Errorf("%+v", s)
				}
			}
		}
		h := &facts.Host{}
		AddTargets(t.Context(), h, netip.MustParseAddr("::1"), netip.Addr{})
		if len(h.Sockets.Targets) != 2 || len(h.Gaps) != 1 {
			t.Errorf("%+v", h)
		}
	})
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Collect(ctx, &facts.Host{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := To(ctx, netip.MustParseAddr("127.0.0.1")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A thread without privilege sees all sockets, but only its own user's processes.
func TestOrdinaryUser(t *testing.T) {
	python := testkit.NeedTool(t, "python3")
	inNamespace(t, func() {
		other := exec.Command(python, "-c", "import socket,sys\ns=socket.create_server(('127.0.0.1',4711))\nprint('up',flush=True)\nsys.stdin.read()")
		in, out := must(other.StdinPipe()), must(other.StdoutPipe())
		if err := other.Start(); err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = in.Close(); _ = other.Wait() }()
		_ = must(out.Read(make([]byte, 3)))
		mine := must(net.Listen("tcp", "127.0.0.1:4712"))
		defer mine.Close()
		h := collectNow(t)
		if l := listener(t, h, netip.MustParseAddrPort("127.0.0.1:4711")); l.Process != fmt.Sprintf("python3[%d]", other.Process.Pid) {
			t.Errorf("as root: %+v", l)
		}
		// Only this thread changes its user: the raw calls do not touch the others.
		const nobody = 65534
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, e := unix.RawSyscall(call, nobody, nobody, nobody); e != 0 {
				t.Error(e)
				return
			}
		}
		h = collectNow(t)
		if l := listener(t, h, netip.MustParseAddrPort("127.0.0.1:4711")); l.Process != "uid 0" {
			t.Errorf("as nobody: %+v", l)
		}
		if l := listener(t, h, netip.MustParseAddrPort("127.0.0.1:4712")); l.Process != self() {
			t.Errorf("our own: %+v, want %s", l, self())
		}
		if h.Sockets.Procs || len(h.Gaps) != 1 || h.Gaps[0].Why == "" || h.Gaps[0].Unlock == "" {
			b, _ := json.Marshal(h)
			t.Errorf("%s", b)
		}
	})
}

// A host with 100,000 sockets in TIME_WAIT to ten servers; making them takes a few seconds.
func BenchmarkCollectTimeWait100k(b *testing.B) {
	inNamespace(b, func() {
		for name, v := range map[string]string{"tcp_max_tw_buckets": "300000", "ip_local_port_range": "2000 65000"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(v), 0); err != nil {
				b.Error(err)
			}
		}
		for i := range 10 {
			timeWait(b, 10_000, fmt.Sprintf("127.0.1.%d:443", i+1))
		}
		b.ReportAllocs()
		total := 0
		for b.Loop() {
			total = collectNow(b).Sockets.Total
		}
		b.ReportMetric(float64(total), "sockets")
	})
}

// 18,000 sockets, half of them CLOSE_WAIT of one process that must be found.
func BenchmarkCollectCloseWait9k(b *testing.B) {
	inNamespace(b, func() {
		clients, servers, _ := pairs(b, 9000)
		for _, c := range clients {
			_ = c.Close()
		}
		b.ReportAllocs()
		for b.Loop() {
			if h := collectNow(b); len(h.Sockets.CloseWait) != 1 || h.Sockets.CloseWait[0].Count < 8500 {
				b.Error(h.Sockets.CloseWait)
			}
		}
		runtime.KeepAlive(servers)
	})
}
