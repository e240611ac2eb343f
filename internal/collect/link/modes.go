package link

import "fathom/internal/collect/nl"

// modeMbps is the speed in Mbit/s of each bit of enum ethtool_link_mode_bit_indices
// (include/uapi/linux/ethtool.h); 0 for bits that are no speed (pause, FEC, port
// kinds). Bits beyond the table are newer than this program and count as unknown.
var modeMbps = [...]int{
	10, 10, 100, 100, 1000, 1000, 0, 0, // 0
	0, 0, 0, 0, 10000, 0, 0, 2500, // 8
	0, 1000, 10000, 10000, 10000, 20000, 20000, 40000, // 16
	40000, 40000, 40000, 56000, 56000, 56000, 56000, 25000, // 24
	25000, 25000, 50000, 50000, 100000, 100000, 100000, 100000, // 32
	50000, 1000, 10000, 10000, 10000, 10000, 10000, 2500, // 40
	5000, 0, 0, 0, 50000, 50000, 50000, 50000, // 48
	50000, 100000, 100000, 100000, 100000, 100000, 200000, 200000, // 56
	200000, 200000, 200000, 100, 1000, 400000, 400000, 400000, // 64
	400000, 400000, 0, 100000, 100000, 100000, 100000, 100000, // 72
	200000, 200000, 200000, 200000, 200000, 400000, 400000, 400000, // 80
	400000, 400000, 100, 100, 10, 800000, 800000, 800000, // 88
	800000, 800000, 800000, 10, 10, 10, 10, 200000, // 96
	200000, 200000, 200000, 200000, 200000, 400000, 400000, 400000, // 104
	400000, 400000, 400000, 800000, 800000, 800000, 800000, 800000, // 112
	800000, // 120
}

// fastest is the highest speed of a link mode bitmap, in Mbit/s; 0 for none.
func fastest(mask []byte) int {
	best := 0
	for i, mbps := range modeMbps {
		// The kernel's words are 32 bits in host order.
		if word := i / 32 * 4; word+4 <= len(mask) && nl.U32(mask[word:])>>(i%32)&1 == 1 {
			best = max(best, mbps)
		}
	}
	return best
}
