package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fathom/internal/builtin"
	"fathom/internal/collect"
	"fathom/internal/facts"
	"fathom/internal/output"
)

func (a *app) factsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "facts [AREA...]",
		Short: "Show what can be read of this host's network state",
		Long: `Reads this host's links, addresses, routes, neighbours, resolvers, sockets,
firewall and counters, and shows them: as JSON all of it, as text the gist by
area. It sends nothing. What could not be read is listed, with the reason.

Areas: ` + strings.Join(areaNames(), ", ") + `.`,
		Example:   "  fathom facts\n  fathom facts links routes\n  fathom facts --json",
		ValidArgs: areaNames(),
		RunE: func(c *cobra.Command, args []string) error {
			for _, w := range args {
				if !slices.Contains(areaNames(), w) {
					return usagef("unknown area %q; known: %s", w, strings.Join(areaNames(), ", "))
				}
			}
			if asJSON && len(args) > 0 {
				return usagef("--json prints all areas")
			}
			return a.facts(c.Context(), args, asJSON)
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func (a *app) facts(ctx context.Context, areas []string, asJSON bool) error {
	h := collect.Run(ctx, builtin.Collectors())
	if ctx.Err() != nil {
		return fmt.Errorf("read this host's state: interrupted")
	}
	if asJSON {
		return output.JSON(a.out, h)
	}
	for _, x := range factAreas {
		if len(areas) > 0 && !slices.Contains(areas, x.name) {
			continue
		}
		lines := x.lines(h)
		if len(lines) == 0 {
			lines = []string{"none, or not readable"}
		}
		if err := writeArea(a.out, x.name, lines); err != nil {
			return err
		}
	}
	return nil
}

func writeArea(w io.Writer, name string, lines []string) error {
	if _, err := fmt.Fprintln(w, name); err != nil {
		return err
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(w, "  %s\n", strings.TrimRight(output.Sanitize(l), " ")); err != nil {
			return err
		}
	}
	return nil
}

// factAreas are the parts of the text, in order.
var factAreas = []struct {
	name  string
	lines func(h *facts.Host) []string
}{
	{"host", factsHost},
	{"links", factsLinks},
	{"addresses", factsAddrs},
	{"routes", factsRoutes},
	{"rules", factsRules},
	{"neighbours", factsNeighbours},
	{"resolver", factsResolver},
	{"sockets", factsSockets},
	{"queues", factsQdiscs},
	{"firewall", factsFirewall},
	{"log", factsLog},
	{"gaps", factsGaps},
}

func areaNames() []string {
	var out []string
	for _, x := range factAreas {
		out = append(out, x.name)
	}
	return out
}

// some shows at most n lines and says how many there are.
func some(lines []string, n int) []string {
	if len(lines) <= n {
		return lines
	}
	return append(slices.Clone(lines[:n]), fmt.Sprintf("… and %d more (--json has all)", len(lines)-n))
}

func factsHost(h *facts.Host) []string {
	p := h.Privilege
	can := []string{}
	for _, x := range []struct {
		ok   bool
		name string
	}{{p.NetRaw, "CAP_NET_RAW"}, {p.NetAdmin, "CAP_NET_ADMIN"}, {p.Ptrace, "other users' processes"}, {p.PingGroup, "unprivileged ping"}} {
		if x.ok {
			can = append(can, x.name)
		}
	}
	return []string{
		fmt.Sprintf("%s, Linux %s, read at %s", h.Hostname, h.Kernel, h.Taken.Format(time.RFC3339)),
		fmt.Sprintf("uid %d; may use: %s", p.UID, orNone(strings.Join(can, ", "))),
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func factsLinks(h *facts.Host) []string {
	var out []string
	for _, l := range h.Links {
		state := "up"
		switch {
		case !l.Up:
			state = "off"
		case !l.Carrier:
			state = "no carrier"
		}
		s := fmt.Sprintf("%-12s %-10s %-10s mtu %d", l.Name, state, l.Kind, l.MTU)
		if l.MAC != "" {
			s += "  " + l.MAC
		}
		if l.SpeedMbps > 0 {
			s += fmt.Sprintf("  %d Mbit/s %s", l.SpeedMbps, l.Duplex)
		}
		if l.Driver != "" {
			s += "  " + l.Driver
		}
		st := l.Stats
		s += fmt.Sprintf("  rx %d packets, %d errors, %d dropped; tx %d, %d, %d", st.RxPackets, st.RxErrors, st.RxDropped, st.TxPackets, st.TxErrors, st.TxDropped)
		out = append(out, s)
	}
	return some(out, 60)
}

func factsAddrs(h *facts.Host) []string {
	var out []string
	for _, x := range h.Addrs {
		out = append(out, fmt.Sprintf("%-12s %s %s %s", x.Link, x.Prefix, x.Scope, strings.Join(x.Flags, " ")))
	}
	return some(out, 60)
}

func factsRoutes(h *facts.Host) []string {
	var out []string
	for _, r := range h.Routes {
		s := r.Dst.String()
		if r.IsDefault() {
			s = "default (" + s + ")"
		}
		if r.Type != "" && r.Type != "unicast" {
			s += " " + r.Type
		}
		if r.Gateway.IsValid() {
			s += " via " + r.Gateway.String()
		}
		if r.Link != "" {
			s += " dev " + r.Link
		}
		for _, nh := range r.NextHops {
			s += fmt.Sprintf(" [via %s dev %s]", nh.Gateway, nh.Link)
		}
		if r.Metric != 0 {
			s += fmt.Sprintf(" metric %d", r.Metric)
		}
		if r.Table != 254 && r.Table != 0 {
			s += fmt.Sprintf(" table %d", r.Table)
		}
		out = append(out, s)
	}
	return some(out, 60)
}

func factsRules(h *facts.Host) []string {
	var out []string
	for _, r := range h.Rules {
		s := fmt.Sprintf("%5d  IPv%d", r.Priority, r.Family)
		for _, x := range []struct{ word, value string }{{"from", r.FromText}, {"to", r.ToText}, {"iif", r.IIF}, {"oif", r.OIF}} {
			if x.value != "" {
				s += " " + x.word + " " + x.value
			}
		}
		if r.Table != 0 {
			s += fmt.Sprintf(" table %d", r.Table)
		}
		out = append(out, strings.Join(append([]string{s, r.Action}, r.Other...), " "))
	}
	return some(out, 40)
}

func factsNeighbours(h *facts.Host) []string {
	var out []string
	for _, n := range h.Neighbours {
		out = append(out, fmt.Sprintf("%-12s %-24s %-18s %s", n.Link, n.Address, n.MAC, n.State))
	}
	return some(out, 30)
}

func factsResolver(h *facts.Host) []string {
	r := h.Resolver
	if r == nil {
		return nil
	}
	var servers []string
	for _, s := range r.Servers {
		servers = append(servers, s.String())
	}
	out := []string{"servers " + orNone(strings.Join(servers, ", "))}
	if len(r.Search) > 0 {
		out = append(out, "search "+strings.Join(r.Search, " "))
	}
	out = append(out, fmt.Sprintf("ndots %d, timeout %d s, %d attempts; nsswitch: %s", r.NDots, r.TimeoutS, r.Attempts, strings.Join(r.NSSHosts, " ")))
	out = append(out, fmt.Sprintf("%d lines in the hosts file", len(r.Hosts)))
	return append(out, r.Problems...)
}

func factsSockets(h *facts.Host) []string {
	s := h.Sockets
	if s == nil {
		return nil
	}
	states := []string{}
	for k := range s.States {
		states = append(states, k)
	}
	slices.Sort(states)
	for i, k := range states {
		states[i] = fmt.Sprintf("%s %d", k, s.States[k])
	}
	out := []string{fmt.Sprintf("%d TCP sockets (%s), read by %s", s.Total, orNone(strings.Join(states, ", ")), s.Method)}
	for _, l := range s.Listeners {
		out = append(out, fmt.Sprintf("listens on %s  queue %d of %d  %s", l.Local, l.RecvQ, l.SendQ, l.Process))
	}
	return some(out, 40)
}

func factsQdiscs(h *facts.Host) []string {
	var out []string
	for _, q := range h.Qdiscs {
		if q.Class {
			continue
		}
		out = append(out, fmt.Sprintf("%-12s %-10s sent %d packets, dropped %d, waiting %d", q.Link, q.Kind, q.Packets, q.Drops, q.QueueLen))
	}
	return some(out, 30)
}

func factsFirewall(h *facts.Host) []string {
	if h.Firewall == nil {
		return nil
	}
	var out []string
	for _, c := range h.Firewall.Chains {
		s := fmt.Sprintf("%s %s %s: %d rules", c.Family, c.Table, c.Name, len(c.Rules))
		if c.Hook != "" {
			s += fmt.Sprintf(", hook %s, policy %s", c.Hook, c.Policy)
		}
		out = append(out, s)
	}
	if len(h.Firewall.Legacy) > 0 {
		out = append(out, "legacy iptables tables: "+strings.Join(h.Firewall.Legacy, ", "))
	}
	return some(out, 40)
}

func factsLog(h *facts.Host) []string {
	var out []string
	for _, e := range h.Log {
		out = append(out, e.Time.Format("01-02 15:04:05")+"  "+e.Text)
	}
	if len(out) > 15 {
		out = append([]string{fmt.Sprintf("… %d earlier lines (--json has all)", len(out)-15)}, out[len(out)-15:]...)
	}
	return out
}

func factsGaps(h *facts.Host) []string {
	out := []string{}
	for _, g := range h.Gaps {
		s := g.What + ": " + g.Why
		if g.Unlock != "" {
			s += " (" + g.Unlock + ")"
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return []string{"none: everything could be read"}
	}
	return out
}
