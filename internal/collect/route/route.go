// Package route collects addresses, routes and policy rules, and asks the
// kernel for its routing decision. Reading needs no privilege.
package route

import (
	"context"
	"fmt"
	"slices"

	"fathom/internal/collect"
	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// maxRoutes bounds what a snapshot holds: a router with a full table has a
// million, and no rule of ours reads them one by one.
const maxRoutes = 20000 // both families together

// Collector reads addresses, routes and policy rules of this network namespace.
func Collector() collect.Collector {
	return collect.Collector{Name: "route", Collect: Collect}
}

// Collect fills h.Addrs, h.Routes and h.Rules. What it cannot read of the
// three becomes a gap.
func Collect(ctx context.Context, h *facts.Host) error {
	c, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	defer c.Close()
	names, err := c.LinkNames(ctx)
	if err != nil {
		return err
	}
	gap := func(what string, err error) {
		if err != nil {
			h.Gaps = append(h.Gaps, facts.Gap{What: what, Why: err.Error()})
		}
	}
	h.Addrs, err = addrs(ctx, c, names)
	gap("addresses", err)
	var truncated bool
	h.Routes, truncated, err = routes(ctx, c, names, maxRoutes)
	gap("routes", err)
	if truncated {
		h.Gaps = append(h.Gaps, facts.Gap{
			What: "routes beyond the first 10,000 of each family", Why: "the tables hold more; look-ups of single destinations still see all of them",
			Unlock: "ip route show",
		})
	}
	h.Rules, err = rules(ctx, c)
	gap("policy rules", err)
	return ctx.Err()
}

func addrs(ctx context.Context, c *nl.Conn, names nl.Names) ([]facts.Addr, error) {
	type indexed struct {
		facts.Addr
		link int
	}
	var all []indexed
	err := c.DumpStable(ctx, unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func() { all = nil }, func(typ uint16, b []byte) error {
		if a, link, ok := nl.DecodeAddr(b); ok && typ == unix.RTM_NEWADDR {
			a.Link = names.Of(link)
			all = append(all, indexed{a, link})
		}
		return nil
	})
	slices.SortStableFunc(all, func(a, b indexed) int { return a.link - b.link })
	out := make([]facts.Addr, len(all))
	for i := range all {
		out[i] = all[i].Addr
	}
	return out, err
}

// routes reads every table but local, in the kernel's order, at most limit
// routes, half of them of each family. Default routes are kept beyond that: the
// dump of IPv6 ends with them, and a host without its default route looks broken.
func routes(ctx context.Context, c *nl.Conn, names nl.Names, limit int) (out []facts.Route, truncated bool, err error) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		start := len(out)
		err = c.DumpStable(ctx, unix.RTM_GETROUTE, dumpRequest(family), func() { out = out[:start] }, func(typ uint16, b []byte) error {
			full := len(out)-start >= limit/2
			if full && len(b) > 1 && b[1] != 0 { // rtm_dst_len: not a default route
				truncated = true
				return nil
			}
			r, ok := decodeEntry(typ, b, names)
			if !ok || r.Table == unix.RT_TABLE_LOCAL {
				return nil
			}
			if len(out)-start >= limit {
				truncated = true
				return nl.ErrStop
			}
			out = append(out, r)
			return nil
		})
		if err != nil {
			return out, truncated, fmt.Errorf("read routes: %w", err)
		}
	}
	return out, truncated, nil
}

func dumpRequest(family byte) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0] = family
	return b
}

// decodeEntry is nl.DecodeRoute without cached exceptions (path MTU, redirects),
// which old kernels mix into the dump.
func decodeEntry(typ uint16, b []byte, names nl.Names) (facts.Route, bool) {
	if typ != unix.RTM_NEWROUTE || len(b) < unix.SizeofRtMsg || nl.U32(b[8:])&unix.RTM_F_CLONED != 0 {
		return facts.Route{}, false
	}
	return nl.DecodeRoute(b, names.Of)
}
