package nl

import (
	"net/netip"
	"strconv"
	"strings"

	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// The decoders of addresses and routes live here, below the collectors,
// because the route collector and the watcher of package link share them.

// DecodeAddr reads the body of an RTM_NEWADDR: struct ifaddrmsg and attributes.
// The link comes as an index and is not put into the Addr.
func DecodeAddr(b []byte) (a facts.Addr, link int, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return a, 0, false
	}
	bits, flags := int(b[1]), uint32(b[2])
	a.Scope = scope(b[3])
	link = int(U32(b[4:]))
	var address, local netip.Addr
	for typ, v := range Attrs(b[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_ADDRESS:
			address = Addr(v)
		case unix.IFA_LOCAL:
			local = Addr(v)
		case unix.IFA_FLAGS:
			flags = U32(v)
		}
	}
	// On a point-to-point link IFA_LOCAL is ours and IFA_ADDRESS the peer's;
	// IPv6 sends IFA_LOCAL only then.
	if local.IsValid() && address != local {
		a.Peer = address
	}
	if !local.IsValid() {
		local = address
	}
	a.Flags = addrFlags(flags)
	a.Prefix = netip.PrefixFrom(local, bits)
	return a, link, a.Prefix.IsValid()
}

func scope(v uint8) string {
	switch v {
	case unix.RT_SCOPE_UNIVERSE:
		return "global"
	case unix.RT_SCOPE_SITE:
		return "site"
	case unix.RT_SCOPE_LINK:
		return "link"
	case unix.RT_SCOPE_HOST:
		return "host"
	case unix.RT_SCOPE_NOWHERE:
		return "nowhere"
	}
	return strconv.Itoa(int(v))
}

var addrFlagNames = []struct {
	bit  uint32
	name string
}{
	{unix.IFA_F_TEMPORARY, "temporary"},
	{unix.IFA_F_NODAD, "nodad"},
	{unix.IFA_F_OPTIMISTIC, "optimistic"},
	{unix.IFA_F_DADFAILED, "dadfailed"},
	{unix.IFA_F_HOMEADDRESS, "home"},
	{unix.IFA_F_DEPRECATED, "deprecated"},
	{unix.IFA_F_TENTATIVE, "tentative"},
	{unix.IFA_F_PERMANENT, "permanent"},
	{unix.IFA_F_MANAGETEMPADDR, "mngtmpaddr"},
	{unix.IFA_F_NOPREFIXROUTE, "noprefixroute"},
	{unix.IFA_F_MCAUTOJOIN, "autojoin"},
	{unix.IFA_F_STABLE_PRIVACY, "stable-privacy"},
}

// addrFlags uses the words of `ip address`. Bit 0 says "secondary" for IPv4 and
// "temporary" for IPv6, as ip does for the privacy addresses it mostly marks.
func addrFlags(flags uint32) []string {
	var out []string
	for _, f := range addrFlagNames {
		if flags&f.bit != 0 {
			out = append(out, f.name)
		}
	}
	return out
}

// DecodeRoute reads the body of an RTM_NEWROUTE: struct rtmsg and attributes
// (include/uapi/linux/rtnetlink.h). ok is false for other families and for
// bytes that are no route. Cached exceptions (RTM_F_CLONED) are decoded too.
func DecodeRoute(b []byte, name func(int) string) (r facts.Route, ok bool) {
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return r, false
	}
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	dst := any4
	if b[0] == unix.AF_INET6 {
		dst = any6
	}
	r.Table, r.Protocol, r.Type = int(b[4]), RouteProtocol(b[5]), routeType(b[7])
	r.LinkDown = U32(b[8:])&unix.RTNH_F_LINKDOWN != 0
	r.Dead = U32(b[8:])&unix.RTNH_F_DEAD != 0
	for typ, v := range Attrs(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			if a := Addr(v); a.IsValid() {
				dst = a
			}
		case unix.RTA_GATEWAY:
			r.Gateway = Addr(v)
		case unix.RTA_VIA:
			r.Gateway = via(v)
		case unix.RTA_OIF:
			r.Link = name(int(U32(v)))
		case unix.RTA_PREFSRC:
			r.Source = Addr(v)
		case unix.RTA_PRIORITY:
			r.Metric = int(U32(v))
		case unix.RTA_TABLE:
			r.Table = int(U32(v))
		case unix.RTA_METRICS:
			r.MTU = metricMTU(v)
		case unix.RTA_ENCAP_TYPE:
			r.Tunnel = U16(v) != 0
		case unix.RTA_MULTIPATH:
			r.NextHops = nextHops(v, name)
		}
	}
	r.Dst = netip.PrefixFrom(dst, int(b[1]))
	return r, r.Dst.IsValid()
}

// via reads struct rtvia: a family and an address of it (an IPv6 gateway of an IPv4 route).
func via(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	return Addr(b[2:])
}

func metricMTU(b []byte) int {
	for typ, v := range Attrs(b) {
		if typ == unix.RTAX_MTU {
			return int(U32(v))
		}
	}
	return 0
}

// nextHops reads RTA_MULTIPATH: struct rtnexthop, each with attributes.
func nextHops(b []byte, name func(int) string) []facts.NextHop {
	var out []facts.NextHop
	for len(b) >= unix.SizeofRtNexthop {
		n := int(U16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			break
		}
		h := facts.NextHop{
			Weight: int(b[3]) + 1, Link: name(int(U32(b[4:]))),
			Dead: b[2]&unix.RTNH_F_DEAD != 0, LinkDown: b[2]&unix.RTNH_F_LINKDOWN != 0,
		}
		for typ, v := range Attrs(b[unix.SizeofRtNexthop:n]) {
			switch typ {
			case unix.RTA_GATEWAY:
				h.Gateway = Addr(v)
			case unix.RTA_VIA:
				h.Gateway = via(v)
			}
		}
		out = append(out, h)
		b = b[min(align(n), len(b)):]
	}
	return out
}

func routeType(v uint8) string {
	words := [...]string{"unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw", "nat", "xresolve"}
	if int(v) < len(words) {
		return words[v]
	}
	return strconv.Itoa(int(v))
}

// RouteProtocol names RTPROT_…, in the words of iproute2's rt_protos.
func RouteProtocol(v uint8) string {
	switch v {
	case unix.RTPROT_UNSPEC:
		return "unspec"
	case unix.RTPROT_REDIRECT:
		return "redirect"
	case unix.RTPROT_KERNEL:
		return "kernel"
	case unix.RTPROT_BOOT:
		return "boot"
	case unix.RTPROT_STATIC:
		return "static"
	case unix.RTPROT_RA:
		return "ra"
	case unix.RTPROT_ZEBRA:
		return "zebra"
	case unix.RTPROT_BIRD:
		return "bird"
	case unix.RTPROT_DHCP:
		return "dhcp"
	case unix.RTPROT_KEEPALIVED:
		return "keepalived"
	case unix.RTPROT_BABEL:
		return "babel"
	case unix.RTPROT_BGP:
		return "bgp"
	case unix.RTPROT_ISIS:
		return "isis"
	case unix.RTPROT_OSPF:
		return "ospf"
	case unix.RTPROT_RIP:
		return "rip"
	case unix.RTPROT_EIGRP:
		return "eigrp"
	}
	return strconv.Itoa(int(v))
}

// RouteText writes a route like `ip route` does.
func RouteText(r facts.Route) string {
	var w []string
	add := func(key, value string) { w = append(w, key, value) }
	if r.Type != "" && r.Type != "unicast" {
		w = append(w, r.Type)
	}
	if r.IsDefault() {
		w = append(w, "default")
	} else {
		w = append(w, r.Dst.String())
	}
	if r.Gateway.IsValid() {
		add("via", r.Gateway.String())
	}
	if r.Link != "" {
		add("dev", r.Link)
	}
	if r.Table != 0 && r.Table != unix.RT_TABLE_MAIN {
		add("table", strconv.Itoa(r.Table))
	}
	if r.Metric != 0 {
		add("metric", strconv.Itoa(r.Metric))
	}
	for _, h := range r.NextHops {
		w = append(w, "nexthop")
		if h.Gateway.IsValid() {
			add("via", h.Gateway.String())
		}
		add("dev", h.Link)
	}
	return strings.Join(w, " ")
}
