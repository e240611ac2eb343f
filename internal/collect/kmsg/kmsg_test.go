package kmsg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"fathom/internal/facts"
	"fathom/internal/testkit"

	"golang.org/x/sys/unix"
)

// Lines as the kernel's format strings make them (the file is named at the
// pattern); the driver lines are from public bug reports.
func TestClassify(t *testing.T) {
	for line, want := range map[string]string{
		"igb 0000:01:00.0 eth0: igb: eth0 NIC Link is Down":                                                 "kernel.link_down eth0",
		"igc 0000:03:00.0 enp3s0: NIC Link is Up 1000 Mbps Full Duplex, Flow Control: RX/TX":                "kernel.link_up enp3s0",
		"e1000e: eno1 NIC Link is Down":                                                                     "kernel.link_down eno1",
		"e1000e 0000:00:1f.6 eno1: NIC Link is Down":                                                        "kernel.link_down eno1",
		"tg3 0000:02:00.0 eno1: Link is down":                                                               "kernel.link_down eno1",
		"mlx5_core 0000:03:00.0 ens1f0np0: Link down":                                                       "kernel.link_down ens1f0np0",
		"r8169 0000:02:00.0 eth0: Link is Down":                                                             "kernel.link_down eth0",
		"macb fd580000.ethernet end0: Link is Down":                                                         "kernel.link_down end0",
		"ata1: SATA link down (SStatus 0 SControl 300)":                                                     "",
		"ata1: SATA link up 6.0 Gbps (SStatus 133 SControl 300)":                                            "",
		"IPv6: ADDRCONF(NETDEV_CHANGE): wlan0: link becomes ready":                                          "kernel.link_up wlan0",
		"NETDEV WATCHDOG: eth0 (e1000e): transmit queue 0 timed out 5120 ms":                                "kernel.tx_timeout eth0",
		"e1000e 0000:00:1f.6 eno1: NETDEV WATCHDOG: CPU: 2: transmit queue 0 timed out 5376 ms":             "kernel.tx_timeout eno1",
		"e1000e 0000:00:1f.6 eno1: Detected Hardware Unit Hang:":                                            "kernel.tx_hang eno1",
		"ixgbe 0000:04:00.0 eth2: Detected Tx Unit Hang":                                                    "kernel.tx_hang eth2",
		"igb 0000:01:00.0 eth0: Reset adapter":                                                              "kernel.driver_reset eth0",
		"neighbour: arp_cache: neighbor table overflow!":                                                    "kernel.neighbour_overflow",
		"Neighbour table overflow.":                                                                         "kernel.neighbour_overflow",
		"nf_conntrack: nf_conntrack: table full, dropping packet":                                           "kernel.conntrack_full",
		"nf_conntrack: table full, dropping packet.":                                                        "kernel.conntrack_full",
		"TCP: request_sock_TCP: Possible SYN flooding on port 0.0.0.0:80. Sending cookies.":                 "kernel.syn_flood",
		"TCP: request_sock_TCP: Possible SYN flooding on port 443. Dropping request.  Check SNMP counters.": "kernel.syn_flood",
		"TCP: time wait bucket table overflow":                                                              "kernel.timewait_overflow",
		"TCP: out of memory -- consider tuning tcp_mem":                                                     "kernel.tcp_memory",
		"TCP: too many orphaned sockets":                                                                    "kernel.tcp_orphans",
		"TCP: eth0: Driver has suspect GRO implementation, TCP performance may be compromised.":             "kernel.gro_suspect eth0",
		"IPv4: martian source 10.0.0.1 from 127.0.0.1, on dev eth0":                                         "kernel.martian eth0",
		"IPv4: martian destination 127.0.0.1 from 10.0.0.2, dev eth0":                                       "kernel.martian eth0",
		"IPv6: eth0: IPv6 duplicate address 2001:db8::1 used by 52:54:00:12:34:56 detected!":                "kernel.duplicate_address eth0",
		"IPv6: eth0: IPv6 being disabled!":                                                                  "kernel.ipv6_disabled_by_dad eth0",
		"bond0: (slave eth1): link status definitely down, disabling slave":                                 "kernel.bond_member_down eth1",
		"bond0: (slave eth1): link status definitely up, 1000 Mbps full duplex":                             "kernel.bond_member_up eth1",
		"bond0: now running without any active interface!":                                                  "kernel.bond_no_member bond0",
		"bond0: Warning: No 802.3ad response from the link partner for any adapters in the bond":            "kernel.bond_no_lacp bond0",
		"br0: received packet on eth0 with own address as source address (addr:52:54:00:12:34:56, vlan:0)":  "kernel.bridge_loop eth0",
		"br0: port 1(veth0) entered disabled state":                                                         "kernel.port_disabled veth0",
		"br0: port 1(veth0) entered forwarding state":                                                       "",
		"UDP: bad checksum. From 10.0.0.1:53 to 10.0.0.2:40000 ulen 100":                                    "kernel.bad_checksum",
		"unregister_netdevice: waiting for lo to become free. Usage count = 2":                              "kernel.netdev_leak lo",
		"Out of memory: Killed process 4242 (nginx) total-vm:1kB, anon-rss:1kB":                             "kernel.oom_kill",
		"watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [ksoftirqd/3:30]":                                "kernel.cpu_stuck",
		"device eth0 entered promiscuous mode":                                                              "",
		"eth0: entered promiscuous mode":                                                                    "",
		"net_ratelimit: 40 callbacks suppressed":                                                            "",
		"usb 1-1: new high-speed USB device number 2":                                                       "",
		"": "",
	} {
		e, ok := classify(line)
		got := strings.TrimSpace(e.Kind + " " + e.Subject.Name)
		if got != want || ok != (want != "") || ok && (e.Text != line || e.Source != "kmsg") {
			t.Errorf("%s:\n got %q, want %q", line, got, want)
		}
	}
}

func TestParseRecord(t *testing.T) {
	// dd if=/dev/kmsg bs=8192 count=1, with a device line and escapes.
	r, ok := parseRecord([]byte("4,1234,5140900,-,caller=T1;e\\x1b[31m\\xc3\\xa4 eth0: x\\\\y \\xzz\n SUBSYSTEM=net\n DEVICE=n2\n"))
	if !ok || r.facility != 0 || r.level != 4 || r.at != 5140900*time.Microsecond || r.text != "e\x1b[31mä eth0: x\\\\y \\xzz" {
		t.Errorf("%+v %v", r, ok)
	}
	for _, bad := range []string{"", ";", "6;x", "6,1;x", "a,1,2,-;x", "6,1,99999999999999999999,-;x", "no semicolon", strings.Repeat("6", 1<<20)} {
		if _, ok := parseRecord([]byte(bad)); ok {
			t.Errorf("%.30q accepted", bad)
		}
	}
	if r, ok := parseRecord([]byte("6,1,2,-;" + strings.Repeat("\x1b", 1<<20))); !ok || len(r.text) > maxText {
		t.Errorf("%v, %d bytes", ok, len(r.text))
	}
}

func TestParseSyslogLine(t *testing.T) {
	for line, want := range map[string]string{
		"<6>[    5.140900] NET: up\n":         "0 6 5.1409s NET: up",
		"<30>[12345.000001][    T1] x: [y]\n": "3 6 3h25m45.000001s x: [y]",
		"<6>no time\n":                        "", "[1.000000] x": "", "<6>[1.5] x": "", "<x>[1.000000] x": "", "": "",
	} {
		r, ok := parseSyslogLine([]byte(line))
		got := ""
		if ok {
			got = fmt.Sprintf("%d %d %v %s", r.facility, r.level, r.at, r.text)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestSieveKeepsTheLatest(t *testing.T) {
	wall := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	s := newSieve(clockNow{wall, time.Hour})
	line := func(at time.Duration, facility int, n int) {
		s.add(record{facility: facility, at: at, text: fmt.Sprintf("igb 0000:01:00.0 eth%d: NIC Link is Down", n)})
	}
	line(time.Hour-Window-time.Second, 0, 9000) // too old
	line(time.Hour, 1, 9001)                    // written by a program
	for i := range maxEvents + 5 {
		line(time.Hour-Window+time.Duration(i)*time.Second, 0, i)
	}
	line(time.Hour+time.Minute, 0, 9002) // newer than the clock: now
	e := s.events()
	if len(e) != maxEvents || s.dropped != 6 || e[0].Subject.Name != "eth6" || e[0].Time != wall.Add(-Window+6*time.Second) {
		t.Errorf("%d events, %d dropped, first %+v", len(e), s.dropped, e[0])
	}
	if last := e[maxEvents-1]; last.Subject.Name != "eth9002" || !last.Time.Equal(wall) {
		t.Errorf("last %+v", last)
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;igb 0000:01:00.0 eth0: NIC Link is Down\n SUBSYSTEM=net\n"))
	f.Add([]byte("<6>[    5.140900] NETDEV WATCHDOG: eth0 (e1000e): transmit queue 0 timed out"))
	f.Add([]byte("6,1,2,-;\\x1b\\x\\martian source on dev \n"))
	f.Add([]byte("6,1,2,-;bond0: (slave "))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (record, bool){parseRecord, parseSyslogLine} {
			r, ok := parse(b)
			if !ok {
				continue
			}
			if len(r.text) > maxText || r.at < 0 || r.facility < 0 {
				t.Fatalf("%+v", r)
			}
			if e, ok := classify(r.text); ok && (e.Kind == "" || len(e.Subject.Name) > 15) {
				t.Fatalf("%+v", e)
			}
		}
		_, _ = classify(string(b))
	})
}

func TestReadDeviceFromFile(t *testing.T) {
	// A regular file gives one "record" and then its end, which is no error.
	p := filepath.Join(t.TempDir(), "kmsg")
	c, err := now()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, fmt.Appendf(nil, "6,1,%d,-;TCP: out of memory -- consider tuning tcp_mem\n", c.log.Microseconds()), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &facts.Host{}
	if err := Collect(t.Context(), h, p); err != nil || len(h.Log) != 1 || h.Log[0].Kind != "kernel.tcp_memory" || time.Since(h.Log[0].Time) > time.Minute {
		t.Errorf("%v %+v", err, h)
	}
	if _, err := readDevice(t.Context(), p+"x", newSieve(c)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Collect(ctx, h, p); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The real device: a line written now must be read back with the time of now,
// which also proves that the right clock was chosen.
func TestRealLog(t *testing.T) {
	testkit.NeedRoot(t)
	w, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	defer w.Close()
	mark := fmt.Sprintf("fathom test %d %d", os.Getpid(), time.Now().UnixNano())
	before := time.Now()
	if _, err := fmt.Fprintf(w, "<15>%s\n", mark); err != nil { // a program's line, debug level
		t.Fatal(err)
	}
	after := time.Now()
	var at time.Duration
	c, err := now()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b := make([]byte, recordSize)
	for {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EPIPE) {
			continue
		}
		if err != nil {
			break
		}
		if r, ok := parseRecord(b[:n]); ok && r.text == mark {
			at = r.at
			if r.facility != 1 {
				t.Errorf("facility %d: a program could pass for the kernel", r.facility)
			}
		}
	}
	wall := c.wall.Add(at - c.log)
	if slack := 5 * time.Second; at == 0 || wall.Before(before.Add(-slack)) || wall.After(after.Add(slack)) {
		t.Errorf("written %v, dated %v", before, wall)
	}
	h := &facts.Host{}
	if err := Collector().Collect(t.Context(), h); err != nil || len(h.Gaps) != 0 {
		t.Errorf("%v %v", err, h.Gaps)
	}
	for _, e := range h.Log {
		if e.Text == mark {
			t.Error("a program's line taken for the kernel's")
		}
	}
	viaCall := newSieve(c)
	if err := readSyslog(viaCall); err != nil || len(viaCall.events()) != len(h.Log) {
		t.Errorf("syslog(2): %v, %d events, the device gave %d", err, len(viaCall.events()), len(h.Log))
	}
}

func TestWithoutPermission(t *testing.T) {
	testkit.NeedRoot(t)
	if b, err := os.ReadFile("/proc/sys/kernel/dmesg_restrict"); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Skip("kernel.dmesg_restrict is off: everybody may read the log")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never given back: only this thread loses its privilege
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, e := unix.RawSyscall(call, 65534, 65534, 65534); e != 0 {
				t.Error(e)
				return
			}
		}
		h := &facts.Host{}
		if err := Collector().Collect(t.Context(), h); err != nil || len(h.Gaps) != 1 || h.Gaps[0].Unlock == "" || h.Log != nil {
			t.Errorf("%v %+v", err, h)
		}
		t.Log(h.Gaps)
	}()
	<-done
}

func BenchmarkClassifyOtherLine(b *testing.B) {
	line := "systemd[1]: Started Session 42 of User somebody with a name that is not short."
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := classify(line); ok {
			b.Fatal("matched")
		}
	}
}
