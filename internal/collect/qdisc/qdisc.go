// Package qdisc collects queue disciplines and their classes: what they sent,
// dropped and hold, and the limits they were given. Reading needs no privilege.
package qdisc

import (
	"context"
	"encoding/binary"
	"fmt"

	"fathom/internal/collect"
	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// maxQdiscs bounds a snapshot: a host with thousands of containers or an ISP's
// shaper can have tens of thousands of classes.
const maxQdiscs = 10000

// classful lists the kinds whose classes are configured by somebody. The
// classes of mq repeat its child qdiscs, those of fq_codel, sfq and cake are
// the flows of the moment.
var classful = map[string]bool{"htb": true, "hfsc": true, "prio": true, "ets": true, "drr": true, "qfq": true, "cbq": true}

// Collector reads the queue disciplines of this network namespace.
func Collector() collect.Collector {
	return collect.Collector{Name: "qdisc", Collect: Collect}
}

// Collect fills h.Qdiscs: all qdiscs in the kernel's order (by interface), then
// the classes of the classful ones.
func Collect(ctx context.Context, h *facts.Host) error {
	c, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("read queue disciplines: %w", err)
	}
	defer c.Close()
	names, err := c.LinkNames(ctx)
	if err != nil {
		return err
	}
	var links []int
	err = dump(ctx, c, unix.RTM_GETQDISC, 0, func() { h.Qdiscs, links = nil, nil }, func(q facts.Qdisc, link int) error {
		if len(h.Qdiscs) >= maxQdiscs {
			return tooMany(h)
		}
		q.Link = names.Of(link)
		h.Qdiscs = append(h.Qdiscs, q)
		if classful[q.Kind] && (len(links) == 0 || links[len(links)-1] != link) {
			links = append(links, link)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read queue disciplines: %w", err)
	}
	for _, link := range links {
		if err := classes(ctx, c, h, link, names.Of(link)); err != nil {
			h.Gaps = append(h.Gaps, facts.Gap{What: "queue classes of " + names.Of(link), Why: err.Error()})
		}
	}
	return ctx.Err()
}

func classes(ctx context.Context, c *nl.Conn, h *facts.Host, link int, name string) error {
	start := len(h.Qdiscs)
	return dump(ctx, c, unix.RTM_GETTCLASS, link, func() { h.Qdiscs = h.Qdiscs[:start] }, func(q facts.Qdisc, _ int) error {
		if !classful[q.Kind] {
			return nil // a class of an inner fq_codel: a flow
		}
		if len(h.Qdiscs) >= maxQdiscs {
			return tooMany(h)
		}
		q.Link, q.Class = name, true
		h.Qdiscs = append(h.Qdiscs, q)
		return nil
	})
}

func tooMany(h *facts.Host) error {
	const what = "queue disciplines and classes beyond the first 10,000"
	for _, g := range h.Gaps {
		if g.What == what {
			return nl.ErrStop
		}
	}
	h.Gaps = append(h.Gaps, facts.Gap{What: what, Why: "there are more", Unlock: "tc -s qdisc show, tc -s class show dev NAME"})
	return nl.ErrStop
}

func dump(ctx context.Context, c *nl.Conn, typ uint16, link int, begin func(), fn func(facts.Qdisc, int) error) error {
	req := make([]byte, sizeofTcMsg)
	binary.NativeEndian.PutUint32(req[4:], uint32(link))
	return c.DumpStable(ctx, typ, req, begin, func(got uint16, b []byte) error {
		if got != unix.RTM_NEWQDISC && got != unix.RTM_NEWTCLASS {
			return nil
		}
		if q, link, ok := decode(b); ok {
			return fn(q, link)
		}
		return nil
	})
}
