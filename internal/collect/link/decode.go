package link

import (
	"fmt"
	"strings"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// decoded is a link whose references to other links are still indices.
type decoded struct {
	link      facts.Link
	master    int
	parent    int
	elsewhere bool // the parent lives in another network namespace: its index means nothing here
	active    int  // bond: the active member
	member    *facts.BondMember
}

// hasParent reports whether IFLA_LINK names the device below. For a veth it
// names the other end, for a tunnel without one itself.
func (d decoded) hasParent(l facts.Link) bool {
	return d.parent != 0 && !d.elsewhere && d.parent != l.Index && l.Kind != "veth" && l.Kind != "netkit"
}

// decode reads the body of an RTM_NEWLINK: struct ifinfomsg and attributes
// (include/uapi/linux/if_link.h). ok is false when it is too short or nameless.
func decode(b []byte) (d decoded, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return d, false
	}
	l := &d.link
	arphrd, flags := nl.U16(b[2:]), nl.U32(b[8:])
	l.Index = int(int32(nl.U32(b[4:])))
	l.Flags = flagWords(flags)
	l.Up, l.Carrier = flags&unix.IFF_UP != 0, flags&unix.IFF_LOWER_UP != 0
	l.Kind = "device"
	if arphrd == unix.ARPHRD_LOOPBACK {
		l.Kind = "loopback"
	}
	var stats64 bool
	for typ, v := range nl.Attrs(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = nl.Str(v)
		case unix.IFLA_MTU:
			l.MTU = int(nl.U32(v))
		case unix.IFLA_ADDRESS:
			l.MAC = mac(v)
		case unix.IFLA_OPERSTATE:
			l.OperState = operState(nl.U8(v))
		case unix.IFLA_TXQLEN:
			l.TxQueue = int(nl.U32(v))
		case unix.IFLA_CARRIER_CHANGES:
			l.CarrierChanges = uint64(nl.U32(v))
		case unix.IFLA_MASTER:
			d.master = int(nl.U32(v))
		case unix.IFLA_LINK:
			d.parent = int(nl.U32(v))
		case unix.IFLA_LINK_NETNSID:
			d.elsewhere = true
		case unix.IFLA_STATS64:
			l.Stats, stats64 = stats(v, 8), true
		case unix.IFLA_STATS:
			if !stats64 {
				l.Stats = stats(v, 4) // a kernel before 2.6.35, or a driver that has no more
			}
		case unix.IFLA_LINKINFO:
			d.linkInfo(v)
		}
	}
	if d.member != nil {
		d.member.Name = l.Name
	}
	return d, l.Name != ""
}

func (d *decoded) linkInfo(b []byte) {
	var data, memberData []byte
	var memberKind string
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			d.link.Kind = nl.Str(v)
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			memberKind = nl.Str(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			memberData = v
		}
	}
	switch d.link.Kind {
	case "vlan":
		for typ, v := range nl.Attrs(data) {
			if typ == unix.IFLA_VLAN_ID {
				d.link.VLAN = int(nl.U16(v))
			}
		}
	case "bond":
		d.bond(data)
	}
	if memberKind == "bond" {
		d.bondMember(memberData)
	}
}

// bondModes is indexed by BOND_MODE_… (include/uapi/linux/if_bonding.h).
var bondModes = [...]string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}

func (d *decoded) bond(b []byte) {
	d.link.Bond = &facts.Bond{}
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case unix.IFLA_BOND_MODE:
			if m := int(nl.U8(v)); m < len(bondModes) {
				d.link.Bond.Mode = bondModes[m]
			} else {
				d.link.Bond.Mode = fmt.Sprintf("mode %d", m)
			}
		case unix.IFLA_BOND_ACTIVE_SLAVE:
			d.active = int(nl.U32(v))
		}
	}
}

func (d *decoded) bondMember(b []byte) {
	d.member = &facts.BondMember{}
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case unix.IFLA_BOND_SLAVE_MII_STATUS:
			d.member.Up = nl.U8(v) == 0 // BOND_LINK_UP
		case unix.IFLA_BOND_SLAVE_LINK_FAILURE_COUNT:
			d.member.Failures = int(nl.U32(v))
		}
	}
}

// stats reads struct rtnl_link_stats64 (size 8) or rtnl_link_stats (size 4). A
// shorter struct of an older kernel leaves the last fields 0.
func stats(b []byte, size int) facts.LinkStats {
	var s facts.LinkStats
	// In the order of the struct; nil is rx_compressed, tx_compressed.
	for i, p := range []*uint64{
		&s.RxPackets, &s.TxPackets, &s.RxBytes, &s.TxBytes, &s.RxErrors, &s.TxErrors, &s.RxDropped, &s.TxDropped,
		&s.Multicast, &s.Collisions, &s.RxLengthErrors, &s.RxOverErrors, &s.RxCRCErrors, &s.RxFrameErrors,
		&s.RxFIFOErrors, &s.RxMissedErrors, &s.TxAbortedErrors, &s.TxCarrierErrors, &s.TxFIFOErrors,
		&s.TxHeartbeatErrors, &s.TxWindowErrors, nil, nil, &s.RxNoHandler,
	} {
		if p == nil || (i+1)*size > len(b) {
			continue
		}
		if size == 8 {
			*p = nl.U64(b[i*size:])
		} else {
			*p = uint64(nl.U32(b[i*size:]))
		}
	}
	return s
}

// mac formats a hardware address; none, all zero (loopback) and the addresses
// of IP tunnels, which are no MACs, give "".
func mac(b []byte) string {
	if len(b) != 6 && len(b) != 8 && len(b) != 20 || strings.Trim(string(b), "\x00") == "" {
		return ""
	}
	return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":")
}

// operState names IF_OPER_… (RFC 2863 section 3.1.14).
func operState(v uint8) string {
	words := [...]string{"unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"}
	if int(v) < len(words) {
		return words[v]
	}
	return "unknown"
}

var flagNames = []struct {
	bit  uint32
	name string
}{
	{unix.IFF_UP, "up"},
	{unix.IFF_BROADCAST, "broadcast"},
	{unix.IFF_DEBUG, "debug"},
	{unix.IFF_LOOPBACK, "loopback"},
	{unix.IFF_POINTOPOINT, "pointopoint"},
	{unix.IFF_RUNNING, "running"},
	{unix.IFF_NOARP, "noarp"},
	{unix.IFF_PROMISC, "promisc"},
	{unix.IFF_ALLMULTI, "allmulti"},
	{unix.IFF_MASTER, "master"},
	{unix.IFF_SLAVE, "slave"},
	{unix.IFF_MULTICAST, "multicast"},
	{unix.IFF_DYNAMIC, "dynamic"},
	{unix.IFF_LOWER_UP, "lower_up"},
	{unix.IFF_DORMANT, "dormant"},
	{unix.IFF_ECHO, "echo"},
}

func flagWords(flags uint32) []string {
	var out []string
	for _, f := range flagNames {
		if flags&f.bit != 0 {
			out = append(out, f.name)
		}
	}
	return out
}
