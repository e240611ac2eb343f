package kmsg

import (
	"strings"

	"fathom/sample"
)

// pattern is one thing that the kernel says about the network. A line matches
// when it has all the parts, in this order, letter case ignored.
type pattern struct {
	kind  string   // of the event
	parts []string // lower case
	dev   locate   // where the interface stands in the line
	not   string   // lower case; a line that has it means something else
}

// locate says where a line names its interface.
type locate int

const (
	none       locate = iota
	beforeIs          // the word before the first part: "igb 0000:01:00.0 eth0: igb: eth0 NIC Link is Down"
	afterPart         // the word after the first part: "NETDEV WATCHDOG: eth0 (e1000e): transmit queue 0 timed out"
	afterDev          // the word after " dev ": "martian source … on dev eth0"
	inParens          // in parentheses: "br0: port 1(veth0) entered disabled state"
	afterSlave        // "bond0: (slave eth1): link status definitely down"
)

// patterns, the more telling ones first: the first that matches counts. What
// is in brackets is where the words stand in the kernel's source.
var patterns = []pattern{
	{kind: "kernel.bond_member_down", parts: []string{"slave ", "link status definitely down"}, dev: afterSlave},       // drivers/net/bonding/bond_main.c
	{kind: "kernel.bond_member_down", parts: []string{"slave ", "link status down"}, dev: afterSlave},                  // the same, before downdelay
	{kind: "kernel.bond_member_up", parts: []string{"slave ", "link status definitely up"}, dev: afterSlave},           //
	{kind: "kernel.bond_no_member", parts: []string{"now running without any active interface"}, dev: beforeIs},        //
	{kind: "kernel.bond_no_lacp", parts: []string{"no 802.3ad response from the link partner"}, dev: beforeIs},         //
	{kind: "kernel.bridge_loop", parts: []string{"received packet on ", "with own address as source"}, dev: afterPart}, // net/bridge/br_fdb.c
	{kind: "kernel.tx_timeout", parts: []string{"netdev watchdog: cpu: ", "timed out"}, dev: beforeIs},                 // the same since 6.8
	{kind: "kernel.tx_timeout", parts: []string{"netdev watchdog: ", "timed out"}, dev: afterPart},                     // net/sched/sch_generic.c
	{kind: "kernel.tx_hang", parts: []string{"detected tx unit hang"}, dev: beforeIs},                                  // Intel drivers
	{kind: "kernel.tx_hang", parts: []string{"detected hardware unit hang"}, dev: beforeIs},                            // e1000e
	{kind: "kernel.driver_reset", parts: []string{"reset adapter"}, dev: beforeIs},                                     //
	{kind: "kernel.driver_reset", parts: []string{"resetting adapter"}, dev: beforeIs},                                 //
	{kind: "kernel.driver_reset", parts: []string{"initiating reset due to"}, dev: beforeIs},                           //
	{kind: "kernel.driver_fault", parts: []string{"firmware error"}, dev: beforeIs},                                    //
	{kind: "kernel.driver_fault", parts: []string{"pci bus error"}, dev: none},                                         //
	{kind: "kernel.driver_fault", parts: []string{"hw csum failure"}, dev: beforeIs},                                   // net/core/dev.c netdev_rx_csum_fault
	{kind: "kernel.gro_suspect", parts: []string{"driver has suspect gro implementation"}, dev: beforeIs},              // net/ipv4/tcp_input.c
	{kind: "kernel.mtu_suspect", parts: []string{"rx length error"}, dev: beforeIs},                                    //
	{kind: "kernel.neighbour_overflow", parts: []string{"neighbo", " table overflow"}},                                 // net/core/neighbour.c, "neighbour: arp_cache: neighbor table overflow!"
	{kind: "kernel.conntrack_full", parts: []string{"nf_conntrack: ", "table full, dropping packet"}},                  // net/netfilter/nf_conntrack_core.c
	{kind: "kernel.conntrack_expect_full", parts: []string{"nf_conntrack", "expectation table full"}},                  //
	{kind: "kernel.syn_flood", parts: []string{"possible syn flooding on port"}},                                       // net/ipv4/tcp_input.c
	{kind: "kernel.timewait_overflow", parts: []string{"time wait bucket table overflow"}},                             // net/ipv4/inet_timewait_sock.c
	{kind: "kernel.tcp_memory", parts: []string{"tcp: out of memory"}},                                                 // net/ipv4/tcp.c
	{kind: "kernel.tcp_orphans", parts: []string{"too many orphaned sockets"}},                                         // net/ipv4/tcp.c
	{kind: "kernel.route_cache_full", parts: []string{"route cache is full"}},                                          // net/ipv6/route.c
	{kind: "kernel.route_cache_full", parts: []string{"dst cache overflow"}},                                           //
	{kind: "kernel.martian", parts: []string{"martian source "}, dev: afterDev},                                        // net/ipv4/route.c
	{kind: "kernel.martian", parts: []string{"martian destination "}, dev: afterDev},                                   //
	{kind: "kernel.duplicate_address", parts: []string{"ipv6 duplicate address ", "detected"}, dev: beforeIs},          // net/ipv6/addrconf.c
	{kind: "kernel.duplicate_address", parts: []string{"duplicate address detected"}, dev: beforeIs},                   // older kernels
	{kind: "kernel.ipv6_disabled_by_dad", parts: []string{"ipv6 being disabled"}, dev: beforeIs},                       // accept_dad = 2
	{kind: "kernel.bad_checksum", parts: []string{"bad checksum. from "}},                                              // net/ipv4/udp.c
	{kind: "kernel.short_packet", parts: []string{"udp", "short packet"}},                                              //
	{kind: "kernel.netdev_leak", parts: []string{"unregister_netdevice: waiting for "}, dev: afterPart},                // net/core/dev.c
	{kind: "kernel.port_disabled", parts: []string{"port ", "entered disabled state"}, dev: inParens},                  // net/bridge/br_stp.c
	{kind: "kernel.link_down", parts: []string{"nic link is down"}, dev: beforeIs},                                     // Intel, Broadcom and others
	{kind: "kernel.link_down", parts: []string{"link is down"}, dev: beforeIs},                                         // phylib, tg3
	{kind: "kernel.link_down", parts: []string{"link down"}, dev: beforeIs, not: "sata link"},                          // mlx5, r8169; "ata1: SATA link down" is a disk
	{kind: "kernel.link_down", parts: []string{"lost carrier"}, dev: beforeIs},                                         //
	{kind: "kernel.link_up", parts: []string{"link becomes ready"}, dev: beforeIs},                                     // net/ipv6/addrconf.c
	{kind: "kernel.link_up", parts: []string{"nic link is up"}, dev: beforeIs},                                         //
	{kind: "kernel.link_up", parts: []string{"link is up"}, dev: beforeIs},                                             //
	{kind: "kernel.link_up", parts: []string{"link up"}, dev: beforeIs, not: "sata link"},                              //
	{kind: "kernel.oom_kill", parts: []string{"out of memory: killed process"}},                                        // mm/oom_kill.c: a service may be gone
	{kind: "kernel.cpu_stuck", parts: []string{"soft lockup - cpu"}},                                                   // kernel/watchdog.c: nothing is received meanwhile
}

// classify turns a line into an event without a time; ok is false for lines
// that say nothing about the network. "entered promiscuous mode" and
// "callbacks suppressed" are no faults and have no pattern.
func classify(text string) (e sample.Event, ok bool) {
	low := lower(text)
	for _, p := range patterns {
		at, ok := find(low, p.parts)
		if !ok || p.not != "" && strings.Contains(low, p.not) {
			continue
		}
		e = sample.Event{Kind: p.kind, Text: text, Source: "kmsg"}
		if dev := p.dev.name(text, at, len(p.parts[0])); dev != "" {
			e.Subject = sample.Subject{Kind: sample.KindInterface, Name: dev}
		}
		return e, true
	}
	return sample.Event{}, false
}

// lower maps ASCII only, so that offsets stay those of the text.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// find returns where the first part begins, when all parts follow each other.
func find(s string, parts []string) (first int, ok bool) {
	at := 0
	for i, p := range parts {
		j := strings.Index(s[at:], p)
		if j < 0 {
			return 0, false
		}
		if i == 0 {
			first = at + j
		}
		at += j + len(p)
	}
	return first, true
}

// name finds the interface; at and n are where the first part stands.
func (l locate) name(text string, at, n int) string {
	switch l {
	case beforeIs:
		return deviceBefore(text[:at])
	case afterPart:
		return device(text[at+n:])
	case afterDev:
		if _, after, ok := strings.Cut(text[at:], " dev "); ok {
			return device(after)
		}
	case inParens:
		if _, after, ok := strings.Cut(text[at:], "("); ok {
			return device(after)
		}
	case afterSlave:
		return device(text[at+n:])
	}
	return ""
}

// device is the interface name at the beginning of s, "" when there is none.
// Names have at most 15 bytes, no blank and no slash (net/core/dev.c dev_valid_name).
func device(s string) string {
	end := strings.IndexAny(s, " \t:,()/!\"")
	if end < 0 {
		end = len(s)
	}
	if name := s[:end]; plausible(name) {
		return name
	}
	return ""
}

// deviceBefore is the interface a driver names in front of its message. The
// forms are "igc 0000:01:00.0 eth0: NIC Link is Down", "tg3 0000:02:00.0:
// eth0: Link is down", "igb: eth0 NIC Link is Down", "mlx5_core 0000:03:00.0
// eth0: Link down" and "eth0: link becomes ready" behind "IPv6:
// ADDRCONF(NETDEV_CHANGE): ": the last word that is not a bus address, a
// driver or a protocol.
func deviceBefore(s string) string {
	words := strings.Fields(s)
	for i := len(words) - 1; i >= 0 && i >= len(words)-3; i-- {
		w := strings.TrimRight(words[i], ":,")
		if strings.ContainsAny(w, "()") || strings.Count(w, ":") > 0 || !plausible(w) || notDevice[lower(w)] {
			continue
		}
		if i == 0 && len(words) > 1 && !strings.HasSuffix(words[0], ":") {
			return "" // the driver's name stands first
		}
		return w
	}
	return ""
}

// notDevice are words that stand where a device might.
var notDevice = map[string]bool{
	"ipv4": true, "ipv6": true, "tcp": true, "udp": true, "nic": true, "phy": true, "link": true, "the": true, "warning": true, "error": true,
	"icmpv6": true, "adapter": true, "port": true, "bonding": true, "copper": true, "fiber": true, "is": true, "unexpected": true, "device": true,
}

func plausible(name string) bool {
	if name == "" || len(name) > 15 || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == '/' || c == ':' {
			return false
		}
	}
	return true
}
