package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fathom/internal/lab/emulator"
)

// playEvents does the timed events of a scenario: those at or before 0, then
// started is closed by the caller's hand-over and the others follow. It returns
// when all are done, one failed, or ctx ended.
func (n *Network) playEvents(ctx context.Context, events []Event, clock time.Time) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, e := range events {
		timer.Reset(time.Until(clock.Add(e.At)))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := n.act(ctx, e); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("at %s: %w", e.At, err)
		}
	}
	return nil
}

// act does one event now.
func (n *Network) act(ctx context.Context, e Event) error {
	if e.Action == nil {
		return n.startService(ctx, e.Service)
	}
	a := e.Action
	var err error
	switch a.Do {
	case "link_down", "link_up":
		err = n.setUp(a.Iface, a.Do == "link_up")
	case "carrier_off", "carrier_on":
		err = n.setCarrier(a.Iface, a.Do == "carrier_on")
	case "impair":
		err = n.impair(a)
	case "service_stop", "service_start":
		err = n.switchService(ctx, a.Service, a.Do == "service_start")
	default:
		err = n.actOnNode(ctx, a)
	}
	if err != nil {
		return fmt.Errorf("action %s: %w", a.Do, err)
	}
	return nil
}

func (n *Network) actOnNode(ctx context.Context, a *Action) error {
	sp := n.spaces[a.Node]
	switch a.Do {
	case "nft":
		return sp.run(ctx, a.Nft, "nft", "-f", "-")
	case "ip", "tc":
		return sp.run(ctx, "", a.Do, strings.Fields(a.Args)...)
	case "route":
		r, err := ParseRoute(a.Route)
		if err != nil {
			return err
		}
		op := a.Op
		if op == "" {
			op = "replace"
		}
		return sp.route(&r, op)
	case "sysctl":
		var list []Sysctl
		for _, k := range slices.Sorted(maps.Keys(a.Sysctls)) {
			list = append(list, Sysctl{Key: k, Value: a.Sysctls[k]})
		}
		return sp.do(func() error { return writeSysctls(list) })
	}
	return fmt.Errorf("not known")
}

// setUp switches an interface administratively. Going down loses the routes
// through it, so they are set again with it coming up.
func (n *Network) setUp(iface string, up bool) error {
	node, dev, _ := strings.Cut(iface, "/")
	sp := n.spaces[node]
	l, err := sp.nl.LinkByName(dev)
	if err != nil {
		return err
	}
	if !up {
		return sp.nl.LinkSetDown(l)
	}
	if err := sp.nl.LinkSetUp(l); err != nil {
		return err
	}
	for _, t := range n.Scenario.Nodes[node].Routes {
		if r, err := ParseRoute(t); err == nil {
			r.IfPossible = true // routes through other interfaces may be refused for good reasons
			if err := sp.route(&r, "replace"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Network) impair(a *Action) error {
	i, _, _ := n.Scenario.end(a.Iface)
	n.mu.Lock()
	c := n.links[i]
	n.mu.Unlock()
	if c == nil {
		return fmt.Errorf("the network is closed")
	}
	ab, ba := a.Impair.configs()
	if err := c.link.Set(emulator.AtoB, ab); err != nil {
		return err
	}
	return c.link.Set(emulator.BtoA, ba)
}

func (n *Network) switchService(ctx context.Context, name string, on bool) error {
	for i, v := range n.Scenario.Services {
		if v.Name != name {
			continue
		}
		n.mu.Lock()
		running := n.services[i]
		delete(n.services, i)
		n.mu.Unlock()
		if running != nil {
			if err := running.Stop(); err != nil && !on {
				return fmt.Errorf("stop service %s: %w", name, err)
			}
		}
		if on {
			return n.startService(ctx, i)
		}
		return nil
	}
	return fmt.Errorf("no service %q", name)
}
