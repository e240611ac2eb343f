package collect_test

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"fathom/internal/collect"
	"fathom/internal/collect/firewall"
	"fathom/internal/collect/link"
	"fathom/internal/collect/neighbour"
	"fathom/internal/collect/qdisc"
	"fathom/internal/collect/route"
)

func all() []collect.Collector {
	return []collect.Collector{link.Collector(), route.Collector(), neighbour.Collector(), qdisc.Collector(), firewall.Collector()}
}

// A snapshot of the host the test runs on, whoever runs it.
func TestSnapshot(t *testing.T) {
	h := collect.Run(t.Context(), all())
	if lo, ok := h.LinkByName("lo"); !ok || lo.Kind != "loopback" {
		t.Errorf("%+v", h.Links)
	}
	for _, g := range h.Gaps {
		t.Logf("gap: %+v", g)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if h := collect.Run(ctx, all()); len(h.Gaps) < len(all()) {
		t.Errorf("cancelled, but only %d gaps", len(h.Gaps))
	}
}

func TestNoDescriptorIsLeftOpen(t *testing.T) {
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	collect.Run(t.Context(), all()) // the runtime opens its poller at first use
	before := count()
	for range 10 {
		collect.Run(t.Context(), all())
		if _, err := route.Lookup(t.Context(), netip.MustParseAddr("127.0.0.1"), route.Options{}); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ch, err := link.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		for range ch {
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, then %d", before, after)
	}
}

// BenchmarkSnapshot is all network collectors together; the target on a small host is 20 ms.
func BenchmarkSnapshot(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		collect.Run(b.Context(), all())
	}
}
