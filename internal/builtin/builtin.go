// Package builtin is the one page that lists the collectors compiled in; the
// kinds of measurement are listed in agent/measure.go. A test fails when a folder is missing.
package builtin

import (
	"context"

	"fathom/internal/collect"
	"fathom/internal/collect/firewall"
	"fathom/internal/collect/kmsg"
	"fathom/internal/collect/link"
	"fathom/internal/collect/neighbour"
	"fathom/internal/collect/proc"
	"fathom/internal/collect/qdisc"
	"fathom/internal/collect/resolver"
	"fathom/internal/collect/route"
	"fathom/internal/collect/socket"
	"fathom/internal/facts"
	"fathom/internal/sys"
)

// Collectors lists everything that is read from this host.
func Collectors() []collect.Collector {
	return []collect.Collector{
		{Name: "privilege", Collect: func(_ context.Context, h *facts.Host) error {
			h.Privilege = sys.Privilege()
			return nil
		}},
		link.Collector(),
		route.Collector(),
		neighbour.Collector(),
		qdisc.Collector(),
		proc.Collector(),
		socket.Collector(),
		resolver.Collector(),
		firewall.Collector(),
		kmsg.Collector(),
	}
}
