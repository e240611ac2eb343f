package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var routeTypes = map[string]int{
	"unicast": unix.RTN_UNICAST, "blackhole": unix.RTN_BLACKHOLE, "unreachable": unix.RTN_UNREACHABLE, "prohibit": unix.RTN_PROHIBIT,
}

// route adds, replaces or deletes a route.
func (s *space) route(r *Route, op string) error {
	out := &netlink.Route{
		Dst: ipNet(r.Dst), Type: routeTypes[r.Type], Table: r.Table, Priority: r.Metric, MTU: r.MTU, AdvMSS: r.AdvMSS,
		Protocol: unix.RTPROT_STATIC, Family: family(r.Dst.Addr().Is6()),
	}
	if r.Src.IsValid() {
		out.Src = r.Src.AsSlice()
	}
	if r.OnLink {
		out.Flags |= int(netlink.FLAG_ONLINK)
	}
	if r.Via.IsValid() {
		out.Gw = r.Via.AsSlice()
	} else if r.Type == "unicast" && len(r.Nexthops) == 0 && r.Dst.Addr().Is4() {
		out.Scope = netlink.SCOPE_LINK
	}
	var err error
	if out.LinkIndex, err = s.index(r.Dev); err != nil {
		return err
	}
	for _, h := range r.Nexthops {
		nh := &netlink.NexthopInfo{Hops: h.Weight - 1}
		if h.Via.IsValid() {
			nh.Gw = h.Via.AsSlice()
		}
		if nh.LinkIndex, err = s.index(h.Dev); err != nil {
			return err
		}
		out.MultiPath = append(out.MultiPath, nh)
	}
	if err = s.changeRoute(op, out); err != nil && !r.IfPossible {
		return fmt.Errorf("%s route %q: %w", op, r.Text, err)
	}
	return nil
}

func (s *space) changeRoute(op string, r *netlink.Route) error {
	switch op {
	case "del":
		return s.nl.RouteDel(r)
	case "replace":
		return s.nl.RouteReplace(r)
	}
	return s.nl.RouteAdd(r)
}

// index is the number of an interface, 0 for none.
func (s *space) index(dev string) (int, error) {
	if dev == "" {
		return 0, nil
	}
	l, err := s.nl.LinkByName(dev)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", dev, err)
	}
	return l.Attrs().Index, nil
}

func (s *space) addRule(r *PolicyRule) error {
	out := netlink.NewRule()
	out.Family = family(r.V6)
	out.Table, out.Mark, out.IifName, out.OifName = r.Table, r.Mark, r.IIF, r.OIF
	out.SuppressPrefixlen = r.Suppress
	if r.Priority > 0 {
		out.Priority = r.Priority
	}
	if r.From.IsValid() {
		out.Src = ipNet(r.From)
	}
	if r.To.IsValid() {
		out.Dst = ipNet(r.To)
	}
	if r.Type != "" { // FR_ACT_* have the numbers of RTN_* (uapi/linux/fib_rules.h)
		out.Type = uint8(routeTypes[r.Type])
	}
	if err := s.nl.RuleAdd(out); err != nil {
		return fmt.Errorf("add rule %q: %w", r.Text, err)
	}
	return nil
}

var neighbourStates = map[string]int{
	"permanent": netlink.NUD_PERMANENT, "reachable": netlink.NUD_REACHABLE, "stale": netlink.NUD_STALE,
	"failed": netlink.NUD_FAILED, "noarp": netlink.NUD_NOARP,
}

func (s *space) addNeighbour(v *StaticNeighbour) error {
	idx, err := s.index(v.Dev)
	if err != nil {
		return err
	}
	err = s.nl.NeighSet(&netlink.Neigh{
		LinkIndex: idx, Family: family(v.Addr.Is6()), State: neighbourStates[v.State], IP: net.IP(v.Addr.AsSlice()), HardwareAddr: v.MAC,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %q: %w", v.Text, err)
	}
	return nil
}

func family(v6 bool) int {
	if v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
