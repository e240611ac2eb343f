// Package link collects the network interfaces: state, counters and topology
// by rtnetlink, speed and driver counters by ethtool ioctls. None of it needs
// a privilege. Watch reports changes of links, addresses and routes as events.
package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"fathom/internal/collect"
	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// Collector reads the interfaces of this network namespace.
func Collector() collect.Collector {
	return collect.Collector{Name: "link", Collect: Collect}
}

// Collect fills h.Links, by index. Links whose driver does not answer ethtool
// are there without speed and driver counters.
func Collect(ctx context.Context, h *facts.Host) error {
	c, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("read interfaces: %w", err)
	}
	defer c.Close()
	decoded, err := dump(ctx, c)
	if err != nil {
		return fmt.Errorf("read interfaces: %w", err)
	}
	h.Links = resolve(decoded)
	for i := range h.Links {
		if b := h.Links[i].Bond; b != nil && len(b.Members) == 0 {
			bondFromProc(&h.Links[i])
		}
	}
	return addEthtool(ctx, h)
}

func dump(ctx context.Context, c *nl.Conn) ([]decoded, error) {
	var out []decoded
	err := c.DumpStable(ctx, unix.RTM_GETLINK, nl.IfInfoRequest(0), func() { out = out[:0] }, func(typ uint16, b []byte) error {
		if d, ok := decode(b); typ == unix.RTM_NEWLINK && ok {
			out = append(out, d)
		}
		return nil
	})
	return out, err
}

// resolve turns interface indices into names and counts the ports of bridges
// and bonds. Pure.
func resolve(in []decoded) []facts.Link {
	slices.SortStableFunc(in, func(a, b decoded) int { return a.link.Index - b.link.Index })
	in = slices.CompactFunc(in, func(a, b decoded) bool { return a.link.Index == b.link.Index })
	names := nl.Names{}
	ports := map[int]int{}
	for _, d := range in {
		names[d.link.Index] = d.link.Name
		ports[d.master]++
	}
	out := make([]facts.Link, 0, len(in))
	for _, d := range in {
		l := d.link
		l.Master = names.Of(d.master)
		if d.hasParent(l) {
			l.Parent = names.Of(d.parent)
		}
		if holdsPorts(l.Kind) {
			l.Ports = ports[l.Index]
		}
		if l.Bond != nil {
			l.Bond.Active = names.Of(d.active)
			for _, m := range in {
				if m.master == l.Index && m.member != nil {
					l.Bond.Members = append(l.Bond.Members, *m.member)
				}
			}
		}
		out = append(out, l)
	}
	return out
}

func holdsPorts(kind string) bool {
	return kind == "bridge" || kind == "bond" || kind == "team" || kind == "vrf" || kind == "openvswitch"
}

func bondFromProc(l *facts.Link) {
	b, err := os.ReadFile("/proc/thread-self/net/bonding/" + l.Name)
	if err != nil {
		return // no members, or a kernel without the file: the link says what is known
	}
	if parsed := parseBonding(string(b)); len(parsed.Members) > 0 {
		l.Bond = &parsed
	}
}

// addEthtool asks each link's driver. A driver that refuses is the ordinary
// case for virtual links and no gap.
func addEthtool(ctx context.Context, h *facts.Host) error {
	e, err := openEthtool()
	if err != nil {
		h.Gaps = append(h.Gaps, facts.Gap{What: "speed, duplex and driver counters of interfaces", Why: err.Error()})
		return nil
	}
	defer e.close()
	for i := range h.Links {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("ask the driver of %s: %w", h.Links[i].Name, err)
		}
		if err := e.fill(&h.Links[i]); err != nil && !refusal(err) {
			h.Gaps = append(h.Gaps, facts.Gap{What: "driver data of " + h.Links[i].Name, Why: err.Error()})
		}
	}
	return nil
}

// refusal tells "this link has no such thing", or has gone meanwhile, from a failure.
func refusal(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
}
