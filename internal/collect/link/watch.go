package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"
	"fathom/sample"

	"golang.org/x/sys/unix"
)

const (
	watchQueue  = 1024    // events that wait for a slow reader
	watchBuffer = 1 << 20 // bytes in the kernel: some thousand messages
	// watchRetry is how often a lost-events notice is offered again while the
	// reader is behind and nothing new happens.
	watchRetry = 200 * time.Millisecond
)

// Watch reports changes until ctx ends, then closes the channel:
//
//	link.up, link.down          the carrier (IFF_LOWER_UP) came or went; also on ip link set up/down
//	link.added, link.removed
//	address.added, address.removed
//	route.added, route.removed  routes with a gateway and default routes, of all tables but local
//	overflow                    events were lost, here or in the kernel: take a new snapshot
//
// What was there before is not reported. A reader that is behind by more than
// 1,024 events loses events and gets "overflow"; the kernel's queue is emptied
// in any case. It needs no privilege.
func Watch(ctx context.Context) (<-chan sample.Event, error) {
	c, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	// A second socket reads the present state, now and after a loss. Both are
	// opened here, in the caller's network namespace.
	state, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	c.SetReadBuffer(watchBuffer)
	w := &watcher{ch: make(chan sample.Event, watchQueue), state: state, now: time.Now}
	err = c.Join(unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err == nil {
		_, err = w.sync(ctx) // after joining, so that nothing falls between
	}
	if err != nil {
		c.Close()
		state.Close()
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	go func() {
		defer close(w.ch)
		defer c.Close()
		defer state.Close()
		// The socket would obey ctx's deadline only, not an earlier cancel.
		rctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		w.run(rctx, c)
	}()
	return w.ch, nil
}

type known struct {
	name    string
	carrier bool
}

type watcher struct {
	ch    chan sample.Event
	state *nl.Conn
	links map[int]known
	lost  bool // an overflow has still to be told
	now   func() time.Time
}

func (w *watcher) run(ctx context.Context, c *nl.Conn) {
	for ctx.Err() == nil {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if w.lost {
			wait, cancel = context.WithTimeout(ctx, watchRetry)
		}
		err := c.Next(wait, w.message)
		cancel()
		switch {
		case err == nil, ctx.Err() != nil:
		case errors.Is(err, context.DeadlineExceeded):
			w.offerOverflow()
		case errors.Is(err, unix.ENOBUFS):
			w.lost = true
			w.offerOverflow()
			changes, err := w.sync(ctx)
			if err != nil {
				return
			}
			for _, e := range changes {
				w.emit(e.Kind, e.Subject, e.Text)
			}
		default:
			w.lost = true
			w.offerOverflow()
			return
		}
	}
}

// sync reads all links anew and returns the events that lie between what was
// known and what is. The first call returns none.
func (w *watcher) sync(ctx context.Context) ([]sample.Event, error) {
	all, err := dump(ctx, w.state)
	if err != nil {
		return nil, err
	}
	var events []sample.Event
	fresh := map[int]known{}
	for _, d := range all {
		l := d.link
		fresh[l.Index] = known{l.Name, l.Carrier}
		if old, ok := w.links[l.Index]; ok && old.carrier != l.Carrier {
			events = append(events, carrierEvent(l))
		}
	}
	for index, old := range w.links {
		if _, ok := fresh[index]; !ok {
			events = append(events, sample.Event{Kind: "link.removed", Subject: iface(old.name)})
		}
	}
	w.links = fresh
	return events, nil
}

func iface(name string) sample.Subject {
	return sample.Subject{Kind: sample.KindInterface, Name: name}
}

func carrierEvent(l facts.Link) sample.Event {
	e := sample.Event{Kind: "link.down", Subject: iface(l.Name), Text: "state " + l.OperState}
	switch {
	case l.Carrier:
		e.Kind = "link.up"
	case !l.Up:
		e.Text = "switched off (ip link set down)"
	default:
		e.Text = "no carrier, state " + l.OperState
	}
	return e
}

func (w *watcher) message(typ uint16, b []byte) {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// Messages of AF_BRIDGE tell of a port that joins or leaves, not of a link.
		if len(b) > 0 && b[0] == unix.AF_UNSPEC {
			w.link(typ, b)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, index, ok := nl.DecodeAddr(b)
		if !ok {
			return
		}
		kind := "address.added"
		if typ == unix.RTM_DELADDR {
			kind = "address.removed"
		}
		w.emit(kind, sample.Subject{Kind: sample.KindAddress, Name: a.Prefix.Addr().String()}, a.Prefix.String()+" on "+w.name(index))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, ok := nl.DecodeRoute(b, w.name)
		if !ok || r.Table == unix.RT_TABLE_LOCAL || !(r.IsDefault() || r.Gateway.IsValid() || len(r.NextHops) > 0) {
			return
		}
		kind := "route.added"
		if typ == unix.RTM_DELROUTE {
			kind = "route.removed"
		}
		w.emit(kind, sample.Subject{Kind: sample.KindRoute, Name: r.Dst.String()}, nl.RouteText(r))
	}
}

func (w *watcher) name(index int) string {
	if k, ok := w.links[index]; ok {
		return k.name
	}
	return nl.Names{}.Of(index)
}

func (w *watcher) link(typ uint16, b []byte) {
	d, ok := decode(b)
	if !ok {
		return
	}
	l := d.link
	old, seen := w.links[l.Index]
	switch {
	case typ == unix.RTM_DELLINK:
		delete(w.links, l.Index)
		w.emit("link.removed", iface(l.Name), "")
		return
	case !seen:
		w.emit("link.added", iface(l.Name), l.Kind)
		if l.Carrier {
			w.emit("link.up", iface(l.Name), "state "+l.OperState)
		}
	case old.carrier != l.Carrier:
		e := carrierEvent(l)
		w.emit(e.Kind, e.Subject, e.Text)
	}
	w.links[l.Index] = known{l.Name, l.Carrier}
}

// emit never blocks: a reader that is behind must not fill the kernel's queue.
func (w *watcher) emit(kind string, subject sample.Subject, text string) {
	if w.lost && !w.offerOverflow() {
		return
	}
	select {
	case w.ch <- sample.Event{Time: w.now(), Kind: kind, Subject: subject, Text: text, Source: "rtnetlink"}:
	default:
		w.lost = true
	}
}

func (w *watcher) offerOverflow() bool {
	select {
	case w.ch <- sample.Event{
		Time: w.now(), Kind: "overflow", Subject: sample.Subject{Kind: sample.KindHost}, Source: "rtnetlink",
		Text: "changes of links, addresses or routes were lost",
	}:
		w.lost = false
	default:
	}
	return !w.lost
}
