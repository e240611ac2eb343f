package sys

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fathom/internal/facts"
	"fathom/internal/testkit/netns"
)

// procCaps is what the kernel says of this thread by another way.
func procCaps(t *testing.T) Caps {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return Caps(n)
		}
	}
	t.Fatal("no CapEff")
	return 0
}

func TestEffectiveCaps(t *testing.T) {
	got, err := EffectiveCaps()
	if want := procCaps(t); err != nil || got != want {
		t.Errorf("%#x, %v; /proc says %#x", got, err, want)
	}
	if got.Has(-1) || got.Has(64) {
		t.Error("capabilities beyond the word")
	}
	if n := Caps(1 << unix.CAP_NET_RAW).Names(); len(n) != 1 || n[0] != "CAP_NET_RAW" {
		t.Error(n)
	}
}

func TestPrivilegeOfUserAndRoot(t *testing.T) {
	ns := netns.New(t)
	ns.In(func() {
		if p := Privilege(); !p.NetRaw || !p.NetAdmin || p.PingGroup || p.UID != 0 || p.Init {
			t.Errorf("root in a new namespace: %+v", p)
		}
		if own, err := InitNetNS(); own || err != nil && !errors.Is(err, ErrUnknown) {
			t.Errorf("a new namespace is taken for the first: %v %v", own, err)
		}
	})
	ns.InAsNobody(func() {
		if p := Privilege(); p.NetRaw || p.NetAdmin || p.Ptrace || p.PingGroup || p.UID != 65534 || p.Init {
			t.Errorf("user: %+v", p)
		}
	})
	ns.Sysctl("net.ipv4.ping_group_range", "65534 65534")
	ns.InAsNobody(func() {
		if !Privilege().PingGroup {
			t.Error("the group is in the range, the socket does not open")
		}
	})
}

func TestKernelRelease(t *testing.T) {
	want, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Skip(err)
	}
	if got, err := KernelRelease(); err != nil || got != strings.TrimSpace(string(want)) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestInitByInode(t *testing.T) {
	for s, want := range map[string]bool{"net:[4026531833]": true, "net:[4026531840]": true, "net:[4026531992]": true, "net:[4026532281]": false, "": false, "net:[x]": false} {
		if initByInode(s) != want {
			t.Errorf("%q: not %v", s, want)
		}
	}
}

func TestDescribe(t *testing.T) {
	poor := strings.Join(Describe(facts.Privilege{UID: 1000}), "\n")
	rich := strings.Join(Describe(facts.Privilege{NetRaw: true, NetAdmin: true, Ptrace: true, PingGroup: true, Init: true}), "\n")
	if strings.Count(poor, "needs CAP_") != 4 || strings.Contains(rich, "needs") || !strings.Contains(poor, "uid 1000") {
		t.Errorf("%s\n--\n%s", poor, rich)
	}
}
