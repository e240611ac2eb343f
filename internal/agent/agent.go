// Package agent carries an investigation out: it asks the pure planner what to
// measure, measures side by side within a time budget, and hands the growing
// evidence back until nothing is left to ask. It is the only package that knows
// both the engine and the things that touch the network.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fathom/internal/builtin"
	"fathom/internal/collect"
	"fathom/internal/collect/link"
	"fathom/internal/collect/route"
	"fathom/internal/collect/socket"
	"fathom/internal/diagnose"
	"fathom/internal/facts"
	"fathom/internal/witness"
	"fathom/probe"
	"fathom/sample"
)

// Options of an investigation.
type Options struct {
	Question diagnose.Question
	Budget   time.Duration              // 0: QuickBudget, or DeepBudget when the question is deep
	Version  string                     // written into the evidence
	OnUpdate func(e *diagnose.Evidence) // called from one goroutine, with a copy, at most every updateEvery
}

// Time budgets. A quick run must answer within ten seconds, the verdict's own
// arithmetic and the last snapshot included.
const (
	QuickBudget = 9300 * time.Millisecond
	DeepBudget  = 30 * time.Second
	updateEvery = 100 * time.Millisecond
	// parallel bounds the measurements under way: each may be a series of packets.
	parallel = 48
	// maxSocketTargets bounds the addresses whose connections are listed.
	maxSocketTargets = 16
	// maxSnapshots bounds how often a closing snapshot may raise new questions.
	maxSnapshots = 6
	// lastSnapshot is what the closing snapshot may take when the budget is over.
	lastSnapshot = 2 * time.Second
)

// Investigate measures what the question needs. When ctx ends early it returns
// what was measured so far. An error means that nothing could be measured.
func Investigate(ctx context.Context, o Options) (*diagnose.Evidence, error) {
	if o.Budget <= 0 {
		o.Budget = QuickBudget
		if o.Question.Deep {
			o.Budget = DeepBudget
		}
	}
	r := &run{
		o: o, done: make(chan outcome), inflight: map[diagnose.Want]bool{},
		e: &diagnose.Evidence{Schema: diagnose.EvidenceSchema, Version: o.Version, Question: o.Question, Started: now()},
	}
	mctx, cancel := context.WithTimeout(ctx, o.Budget)
	defer cancel()
	stop := r.listen(mctx)
	r.update(true)
	r.e.Before = collect.Run(mctx, builtin.Collectors())
	if len(r.e.Before.Links) == 0 && ctx.Err() != nil {
		stop()
		return nil, fmt.Errorf("read this host's state: %w", ctx.Err())
	}
	r.update(true)
	r.loop(mctx)
	stop()
	r.close(ctx)
	return r.e, nil
}

// now is the wall clock without its monotonic part, in UTC and whole
// microseconds, so that evidence read back from a file is the same.
func now() time.Time { return time.Now().UTC().Round(time.Microsecond) }

// run is one investigation. All of it belongs to the goroutine of Investigate;
// measurements report through done.
type run struct {
	o        Options
	e        *diagnose.Evidence
	done     chan outcome
	inflight map[diagnose.Want]bool
	window   time.Duration // how long counters are to be watched
	wit      *witness.Witness
	events   <-chan sample.Event
	shots    int
	drawn    time.Time
}

// outcome is what came of one want.
type outcome struct {
	want   diagnose.Want
	result *probe.Result
	err    error
}

// listen starts what watches while we measure: rtnetlink events and the packet
// witness. Both are optional.
func (r *run) listen(ctx context.Context) (stop func()) {
	lctx, cancel := context.WithCancel(ctx)
	if ch, err := link.Watch(lctx); err == nil {
		r.events = ch
	} else {
		r.gap("link and route events", err, "")
	}
	if w, err := witness.Start(lctx); err == nil {
		r.wit, r.e.Witness = w, true
	} else {
		r.gap("what leaves and enters the interfaces", err, "run as root, or with CAP_NET_RAW")
	}
	return func() {
		r.readWitness()
		cancel()
		if r.wit != nil {
			r.wit.Close()
		}
		if r.events != nil { // the watcher closes its channel when its context ends
			for ev := range r.events {
				r.e.Events = append(r.e.Events, ev)
			}
		}
	}
}

func (r *run) gap(what string, err error, unlock string) {
	r.e.Gaps = append(r.e.Gaps, facts.Gap{What: what, Why: err.Error(), Unlock: unlock})
}

// loop measures until nothing is pending, or ctx ends.
func (r *run) loop(ctx context.Context) {
	tick := time.NewTicker(updateEvery)
	defer tick.Stop()
	for {
		waiting := r.start(ctx)
		if len(r.inflight) == 0 && !waiting && r.windowOver() {
			if r.closeWindow(ctx) {
				continue // the closing snapshot may have raised new questions
			}
			break
		}
		select {
		case <-ctx.Done():
			r.drain()
			return
		case out := <-r.done:
			r.take(out)
		case ev, ok := <-r.events:
			if !ok {
				r.events = nil
				continue
			}
			r.e.Events = append(r.e.Events, ev)
		case <-tick.C:
			if r.e.After == nil && r.windowOver() {
				r.snapshot(ctx) // rules that compare counters may have questions: let them ask early
			}
			r.update(false)
		}
	}
}

// start begins every pending measurement that there is room for. It reports
// whether some could not be started yet.
func (r *run) start(ctx context.Context) (waiting bool) {
	for {
		again := false
		for _, w := range diagnose.Pending(r.e) {
			switch {
			case r.inflight[w]:
			case w.Kind == diagnose.KindWindow:
				r.window = max(r.window, w.Timeout.Std())
				if r.windowOverFor(w.Timeout.Std()) {
					r.add(diagnose.Measured{Want: w})
					again = true
				}
			case w.Kind == diagnose.KindLookup:
				r.lookup(ctx, w)
				again = true // a route opens further measurements at once
			case len(r.inflight) >= parallel:
				waiting = true
			default:
				r.begin(ctx, w)
			}
		}
		if !again || ctx.Err() != nil {
			return waiting
		}
	}
}

func (r *run) windowOver() bool { return r.windowOverFor(r.window) }

func (r *run) windowOverFor(d time.Duration) bool { return time.Since(r.e.Before.Taken) >= d }

func (r *run) lookup(ctx context.Context, w diagnose.Want) {
	a, err := netip.ParseAddr(w.Target)
	if err != nil {
		r.add(diagnose.Measured{Want: w, Error: err.Error()})
		return
	}
	l, err := route.Lookup(ctx, a, route.Options{Source: r.sourceFor(a), Link: r.o.Question.Link})
	if err != nil {
		// The engine must not ask for ever: an answer that says why there is none.
		l = facts.Lookup{Destination: a, Error: err.Error()}
	}
	r.e.Lookups = append(r.e.Lookups, l)
	r.watch(a)
	if l.Route.Gateway.IsValid() {
		r.watch(l.Route.Gateway)
	}
}

func (r *run) sourceFor(a netip.Addr) netip.Addr {
	if s := r.o.Question.Source; s.IsValid() && s.Is4() == a.Is4() {
		return s
	}
	return netip.Addr{}
}

func (r *run) watch(a netip.Addr) {
	if r.wit != nil {
		r.wit.Watch(a.WithZone(""))
	}
}

// begin starts one measurement in its own goroutine; it reports through done,
// which drain empties when the budget ends first.
func (r *run) begin(ctx context.Context, w diagnose.Want) {
	p, err := newProber(w, r.context(w))
	if err != nil {
		r.add(diagnose.Measured{Want: w, Error: err.Error()})
		return
	}
	if a, err := netip.ParseAddr(w.Target); err == nil {
		r.watch(a)
	} else if ap, err := netip.ParseAddrPort(w.Target); err == nil {
		r.watch(ap.Addr())
	}
	r.inflight[w] = true
	wait := r.headStart(w)
	go func() {
		if wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		res, err := p.Probe(ctx, w.Target)
		if err != nil {
			r.done <- outcome{want: w, err: err}
			return
		}
		r.done <- outcome{want: w, result: &res}
	}()
}

// traceHeadStart lets a trace go first. Routers answer with errors only at a
// small rate per destination (Linux: a burst of six, then one per second), and
// the trace needs them more than anything else that provokes them.
const traceHeadStart = 150 * time.Millisecond

// headStart is how long w has to wait for traces that are under way.
func (r *run) headStart(w diagnose.Want) time.Duration {
	if w.Kind == probe.KindPath || w.Kind == probe.KindDNS || w.Kind == probe.KindARP {
		return 0
	}
	for _, t := range r.o.Question.Targets {
		for _, a := range r.e.TargetAddrs(t) {
			concerns := a.String() == w.Target || w.Pin.Addr() == a
			if ap, err := netip.ParseAddrPort(w.Target); err == nil {
				concerns = concerns || ap.Addr() == a
			}
			if concerns && r.inflight[diagnose.WantTrace(a, "icmp", 0)] {
				return traceHeadStart
			}
		}
	}
	return 0
}

// context gathers what is known that helps a measurement.
func (r *run) context(w diagnose.Want) measureContext {
	c := measureContext{Question: r.o.Question}
	a, err := netip.ParseAddr(w.Target)
	if err != nil {
		return c
	}
	c.Own = r.e.Host().HasAddr(a)
	c.LinkMTU = r.mtuTowards(a)
	if tr := r.e.Trace(a, ""); w.Kind == probe.KindMTU && tr != nil {
		for _, h := range tr.Path.Hops {
			if h.Target {
				break
			}
			c.Hops = append(c.Hops, h.Address)
		}
		c.Hops = append(c.Hops, a)
	}
	return c
}

// mtuTowards is the MTU of the route or of the interface towards a, 0 if unknown.
func (r *run) mtuTowards(a netip.Addr) int {
	name := a.Zone()
	if l := r.e.Lookup(a); l != nil {
		if l.Route.MTU > 0 {
			return l.Route.MTU
		}
		name = l.Route.Link
	} else {
		for _, g := range r.e.Gateways() {
			if g.Addr == a.WithZone("") {
				name = g.Link
			}
		}
	}
	if l, ok := r.e.Host().LinkByName(name); ok {
		return l.MTU
	}
	return 0
}

// take files what came back.
func (r *run) take(out outcome) {
	delete(r.inflight, out.want)
	m := diagnose.Measured{Want: out.want, Result: out.result}
	if out.err != nil {
		m.Error = out.err.Error()
	}
	if m.Result != nil {
		m.Result.Start = m.Result.Start.UTC().Round(time.Microsecond)
	}
	r.add(m)
	r.update(false)
}

func (r *run) add(m diagnose.Measured) { r.e.Measured = append(r.e.Measured, m) }

// drain waits for the measurements that the ended context has called off; most
// of them still bring what they had.
func (r *run) drain() {
	for len(r.inflight) > 0 {
		out := <-r.done
		switch {
		case out.err != nil:
			out.err = fmt.Errorf("not finished in time: %w", out.err)
		case cutShort(out.want, out.result):
			out.result, out.err = nil, errors.New("not finished in time")
		}
		r.take(out)
	}
}

// cutShort: a silence that we ended ourselves, before the measurement's own
// time-out, is no evidence of silence. Series of echo requests and traces are
// judged by what came back until then.
func cutShort(w diagnose.Want, r *probe.Result) bool {
	if r == nil || r.Outcome != probe.Timeout || r.Elapsed >= w.Timeout*9/10 {
		return false
	}
	switch r.Kind {
	case probe.KindICMP, probe.KindPath, probe.KindMTU, probe.KindARP:
		return false
	}
	return true
}

// closeWindow takes a closing snapshot when the one at hand is not the last
// word, and reports whether the planner has new questions because of it.
func (r *run) closeWindow(ctx context.Context) bool {
	if r.shots >= maxSnapshots {
		return false
	}
	r.snapshot(ctx)
	return len(diagnose.Pending(r.e)) > 0
}

func (r *run) snapshot(ctx context.Context) {
	r.shots++
	r.readWitness()
	r.e.After = r.collectAll(ctx)
}

// collectAll reads this host's state, and its connections to the targets.
func (r *run) collectAll(ctx context.Context) *facts.Host {
	h := collect.Run(ctx, builtin.Collectors())
	var as []netip.Addr
	for _, t := range r.o.Question.Targets {
		for _, a := range r.e.TargetAddrs(t) {
			if !slices.Contains(as, a) && len(as) < maxSocketTargets {
				as = append(as, a)
			}
		}
	}
	if len(as) > 0 {
		socket.AddTargets(ctx, h, as...)
	}
	return h
}

func (r *run) readWitness() {
	if r.wit == nil {
		return
	}
	r.e.Wire = r.wit.Flows()
	if r.wit.Dropped() > 0 || r.wit.Err() != nil {
		r.e.Witness = false // not having seen something proves nothing now
	}
}

// close completes the evidence: last snapshot, canonical order, end time.
func (r *run) close(ctx context.Context) {
	if r.e.After == nil {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSnapshot)
		defer cancel()
		r.e.After = r.collectAll(sctx)
	}
	normalise(r.e.Before)
	normalise(r.e.After)
	for i := range r.e.Events {
		r.e.Events[i].Time = r.e.Events[i].Time.UTC().Round(time.Microsecond)
	}
	for _, w := range diagnose.Pending(r.e) {
		if w.Kind != diagnose.KindWindow && w.Kind != diagnose.KindLookup {
			r.e.Gaps = append(r.e.Gaps, facts.Gap{What: w.Kind + " " + w.Target, Why: "the time was up", Unlock: "--timeout, or --deep"})
		}
	}
	r.e.Finished = now()
	r.e.Sort()
}

func normalise(h *facts.Host) {
	h.Taken = h.Taken.UTC().Round(time.Microsecond)
	for i := range h.Log {
		h.Log[i].Time = h.Log[i].Time.UTC().Round(time.Microsecond)
	}
}

// update hands a copy of the evidence to the caller.
func (r *run) update(force bool) {
	if r.o.OnUpdate == nil || !force && time.Since(r.drawn) < updateEvery {
		return
	}
	r.drawn = time.Now()
	c := *r.e
	c.Finished = now()
	c.Measured = slices.Clone(r.e.Measured)
	c.Lookups = slices.Clone(r.e.Lookups)
	c.Events = slices.Clone(r.e.Events)
	c.Gaps = slices.Clone(r.e.Gaps)
	r.o.OnUpdate(&c)
}
