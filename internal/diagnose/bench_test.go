package diagnose

import "testing"

func BenchmarkDecide(b *testing.B) {
	e := rich(b)
	b.ReportAllocs()
	for b.Loop() {
		Decide(e)
	}
}

// Pending is asked at every event of a run: a result, a tick, an interface message.
func BenchmarkPending(b *testing.B) {
	e := rich(b)
	b.ReportAllocs()
	for b.Loop() {
		Pending(e)
	}
}

func BenchmarkPendingAtTheStart(b *testing.B) {
	e := newWorld(askURL(webURL), dualStack, twoResolvers).e
	b.ReportAllocs()
	for b.Loop() {
		Pending(e)
	}
}
