package path

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"fathom/internal/sys/ipsock"
	"fathom/internal/sys/sock"
	"fathom/probe"
)

// Tests on loopback: they need neither root nor a namespace, and take the way
// that this process may use.

func TestTraceToLoopback(t *testing.T) {
	for _, proto := range []string{"udp", "tcp", "icmp"} {
		for _, target := range []string{"127.0.0.1", "::1"} {
			res, err := New(Config{Protocol: proto, Port: 9}).Probe(t.Context(), target)
			if err != nil {
				t.Errorf("%s %s: %v", proto, target, err)
				continue
			}
			if res.Outcome != probe.OK || len(res.Path.Hops) != 1 || !res.Path.Hops[0].Target || res.Method == "" || res.RTT == nil {
				t.Errorf("%s %s by %s: %s (%s), %+v", proto, target, res.Method, res.Outcome, res.Detail, res.Path)
			}
		}
	}
}

// A router that quotes eight bytes does not tell an unprivileged UDP socket
// which probe died; the next one goes out alone.
func TestProbeOnASocketOfItsOwn(t *testing.T) {
	target := netip.MustParseAddr("127.0.0.1")
	n, err := openQueueUDP(sock.Options{Source: target, Stamps: true, Fragment: true}, target, 9)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	q, ok := n.(*queueNet)
	if !ok {
		t.Fatalf("got a %T", n)
	}
	if _, ok := q.message(sock.Message{Control: ipsock.Control{Origin: sock.ICMP4, Type: 11, Offender: target}}); ok || !q.blind.Load() {
		t.Fatal("an error without payload was not noticed")
	}
	if err := n.Send(packet{ID: 77, TTL: 1, To: target, Size: 60}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for {
		select {
		case r := <-n.Replies():
			if r.Kind == kindSent {
				continue
			}
			if r.ID != 77 || r.Kind != kindTarget {
				t.Errorf("reply %+v", r)
			}
			return
		case <-deadline:
			t.Fatal("no reply")
		}
	}
}

// Raw sockets hear everything: traces at the same time must not take each
// other's answers.
func TestManyTracesAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			target := netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)})
			proto := []string{"udp", "icmp", "tcp"}[i%3]
			res, err := New(Config{Protocol: proto, Port: 9, Timeout: 10 * time.Second}).Probe(t.Context(), target.String())
			if err != nil || !res.Path.Reached || res.Path.Hops[0].Address != target {
				t.Errorf("%s %s: %v, %+v", proto, target, err, res.Path)
			}
		})
	}
	wg.Wait()
}
