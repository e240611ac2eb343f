package link

import (
	"strconv"
	"strings"

	"fathom/internal/facts"
)

// parseBonding reads /proc/net/bonding/NAME (drivers/net/bonding/bond_procfs.c),
// for kernels before 3.13, which do not tell of members by rtnetlink.
func parseBonding(text string) facts.Bond {
	var b facts.Bond
	var m *facts.BondMember
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case !ok:
		case key == "Bonding Mode":
			b.Mode = bondMode(value)
		case key == "Currently Active Slave" && value != "None":
			b.Active = value
		case key == "Slave Interface" && len(b.Members) < 1024:
			b.Members = append(b.Members, facts.BondMember{Name: value})
			m = &b.Members[len(b.Members)-1]
		case key == "MII Status" && m != nil:
			m.Up = value == "up"
		case key == "Link Failure Count" && m != nil:
			m.Failures, _ = strconv.Atoi(value)
		}
	}
	return b
}

// bondMode turns the words of the proc file into those of `ip link`.
func bondMode(words string) string {
	for prefix, name := range map[string]string{
		"load balancing (round-robin)": "balance-rr", "fault-tolerance (active-backup)": "active-backup",
		"load balancing (xor)": "balance-xor", "fault-tolerance (broadcast)": "broadcast",
		"IEEE 802.3ad": "802.3ad", "transmit load balancing": "balance-tlb", "adaptive load balancing": "balance-alb",
	} {
		if strings.HasPrefix(words, prefix) {
			return name
		}
	}
	return words
}
