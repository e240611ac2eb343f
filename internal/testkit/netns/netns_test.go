package netns

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestNamespacesAreApartAndJoined(t *testing.T) {
	a, b := New(t), New(t)
	Veth(t, a, "x0", "10.9.0.1/24", b, "x1", "10.9.0.2/24")
	in, out := b.UDP(t, "10.9.0.2:0"), a.UDP(t, "10.9.0.1:0")
	if _, err := out.WriteTo([]byte("x"), in.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	_ = in.SetReadDeadline(time.Now().Add(10 * time.Second)) // a bound for a broken test
	if _, from, err := in.ReadFrom(make([]byte, 1)); err != nil || from.String() != out.LocalAddr().String() {
		t.Errorf("from %v: %v", from, err)
	}
	if _, err := net.InterfaceByName("x0"); err == nil {
		t.Error("the test's own namespace has the interface too")
	}
	if err := a.Do(func() error { return os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("error of the function: %v", err)
	}
}

func TestNobodyIsTheThreadAlone(t *testing.T) {
	n := New(t)
	write := func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	}
	n.InAsNobody(func() {
		if err := write(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("nobody may forward: %v", err)
		}
	})
	n.In(func() {
		if err := write(); err != nil {
			t.Errorf("root may not forward any more: %v", err)
		}
	})
}

func TestGoexitInsideIsSeen(t *testing.T) {
	if err := thread(func() error { runtime.Goexit(); return nil }); err != errEnded {
		t.Error(err)
	}
}

func TestOwn(t *testing.T) {
	if !Own(t) {
		return
	}
	r := Router(t)
	r.Nft("input", "udp dport 9 drop")
	if refused(t, Router4.String()+":9") {
		t.Error("the rule of the router does nothing")
	}
	DropRoot(t)
	if os.Geteuid() == 0 {
		t.Error("still root")
	}
}
