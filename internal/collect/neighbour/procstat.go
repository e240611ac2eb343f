package neighbour

import (
	"strconv"
	"strings"

	"fathom/internal/facts"
)

// applyProcStats reads a table of /proc/net/stat (neigh_stat_seq_show): a line
// of column names, then a line of hexadecimal numbers for each CPU. Counters
// are summed; "entries" is the same whole number on each line and not used.
// Netlink has the sums of some columns already: the larger one is taken.
func applyProcStats(t *facts.NeighTable, text string) {
	head, rest, _ := strings.Cut(text, "\n")
	columns := strings.Fields(head)
	sums := map[string]uint64{}
	for line := range strings.Lines(rest) {
		for i, f := range strings.Fields(line) {
			if v, err := strconv.ParseUint(f, 16, 64); err == nil && i < len(columns) {
				sums[columns[i]] += v
			}
		}
	}
	t.UnresolvedDiscards = sums["unresolved_discards"]
	t.TableFulls = max(t.TableFulls, sums["table_fulls"])
	t.ResFailed = max(t.ResFailed, sums["res_failed"])
}
