// Package neighbour collects the ARP and ND caches and the use and limits of
// their tables. Reading needs no privilege.
package neighbour

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"fathom/internal/collect"
	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// NDTA_… of include/uapi/linux/neighbour.h, which x/sys/unix lacks.
const ndtaName, ndtaThresh1, ndtaThresh2, ndtaThresh3, ndtaConfig, ndtaStats = 1, 2, 3, 4, 5, 7

// maxEntries bounds what a snapshot holds; the tables themselves may hold gc_thresh3.
const maxEntries = 10000

// Collector reads the neighbours of this network namespace.
func Collector() collect.Collector {
	return collect.Collector{Name: "neighbour", Collect: Collect}
}

// Collect fills h.Neighbours and h.NeighTables.
func Collect(ctx context.Context, h *facts.Host) error {
	c, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("read neighbours: %w", err)
	}
	defer c.Close()
	names, err := c.LinkNames(ctx)
	if err != nil {
		return err
	}
	truncated := false
	h.Neighbours, truncated, err = entries(ctx, c, names, maxEntries)
	if err != nil {
		h.Gaps = append(h.Gaps, facts.Gap{What: "neighbours", Why: err.Error()})
	}
	if truncated {
		h.Gaps = append(h.Gaps, facts.Gap{What: "neighbours beyond the first 10,000", Why: "there are more", Unlock: "ip neigh show"})
	}
	if h.NeighTables, err = tables(ctx, c); err != nil {
		h.Gaps = append(h.Gaps, facts.Gap{What: "limits of the neighbour tables", Why: err.Error()})
	}
	addProcStats(h)
	return ctx.Err()
}

func entries(ctx context.Context, c *nl.Conn, names nl.Names, limit int) (out []facts.Neighbour, truncated bool, err error) {
	err = c.DumpStable(ctx, unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), func() { out = nil }, func(typ uint16, b []byte) error {
		n, link, ok := decode(b)
		if !ok || typ != unix.RTM_NEWNEIGH {
			return nil
		}
		if len(out) >= limit {
			truncated = true
			return nl.ErrStop
		}
		n.Link = names.Of(link)
		out = append(out, n)
		return nil
	})
	// The kernel dumps by hash bucket, in an order that changes with each boot.
	slices.SortStableFunc(out, func(a, b facts.Neighbour) int {
		if d := strings.Compare(a.Link, b.Link); d != 0 {
			return d
		}
		return a.Address.Compare(b.Address)
	})
	return out, truncated, err
}

// decode reads the body of an RTM_NEWNEIGH: struct ndmsg and attributes
// (include/uapi/linux/neighbour.h). Entries of a bridge's forwarding table are
// not ok.
func decode(b []byte) (n facts.Neighbour, link int, ok bool) {
	if len(b) < unix.SizeofNdMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return n, 0, false
	}
	link = int(int32(nl.U32(b[4:])))
	n.State, n.Router = state(nl.U16(b[8:])), b[10]&unix.NTF_ROUTER != 0
	for typ, v := range nl.Attrs(b[unix.SizeofNdMsg:]) {
		switch typ {
		case unix.NDA_DST:
			n.Address = nl.Addr(v)
		case unix.NDA_LLADDR:
			if len(v) == 6 || len(v) == 8 || len(v) == 20 {
				n.MAC = strings.ReplaceAll(fmt.Sprintf("% x", v), " ", ":")
			}
		}
	}
	return n, link, n.Address.IsValid()
}

func state(v uint16) string {
	for _, s := range []struct {
		bit  uint16
		name string
	}{
		{unix.NUD_PERMANENT, "permanent"},
		{unix.NUD_NOARP, "noarp"},
		{unix.NUD_REACHABLE, "reachable"},
		{unix.NUD_STALE, "stale"},
		{unix.NUD_DELAY, "delay"},
		{unix.NUD_PROBE, "probe"},
		{unix.NUD_FAILED, "failed"},
		{unix.NUD_INCOMPLETE, "incomplete"},
	} {
		if v&s.bit != 0 {
			return s.name
		}
	}
	return "none"
}

// tables reads RTM_GETNEIGHTBL. The tables are one for all network namespaces:
// entries, limits and counters are the whole machine's, also in a container.
func tables(ctx context.Context, c *nl.Conn) ([]facts.NeighTable, error) {
	var out []facts.NeighTable
	err := c.DumpStable(ctx, unix.RTM_GETNEIGHTBL, make([]byte, 4), func() { out = nil }, func(typ uint16, b []byte) error {
		t, ok := decodeTable(b)
		// Messages per device follow, with the same name and without thresholds.
		if ok && typ == unix.RTM_NEWNEIGHTBL && !slices.ContainsFunc(out, func(o facts.NeighTable) bool { return o.Name == t.Name }) {
			out = append(out, t)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b facts.NeighTable) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// decodeTable reads struct ndtmsg (4 bytes) and NDTA_… (include/uapi/linux/neighbour.h).
func decodeTable(b []byte) (t facts.NeighTable, ok bool) {
	if len(b) < 4 {
		return t, false
	}
	hasConfig := false
	for typ, v := range nl.Attrs(b[4:]) {
		switch typ {
		case ndtaName:
			t.Name = nl.Str(v)
		case ndtaThresh1:
			t.Thresh1 = int(nl.U32(v))
		case ndtaThresh2:
			t.Thresh2 = int(nl.U32(v))
		case ndtaThresh3:
			t.Thresh3 = int(nl.U32(v))
		case ndtaConfig: // struct ndt_config: key_len, entry_size u16, entries u32, …
			t.Entries, hasConfig = int(nl.U32At(v, 4)), true
		case ndtaStats: // struct ndt_stats: u64s; res_failed is the 4th, table_fulls the 11th
			t.ResFailed = u64At(v, 3)
			t.TableFulls = u64At(v, 10)
		}
	}
	return t, hasConfig && (t.Name == "arp_cache" || t.Name == "ndisc_cache")
}

func u64At(b []byte, i int) uint64 {
	if len(b) < (i+1)*8 {
		return 0
	}
	return nl.U64(b[i*8:])
}

// addProcStats adds from /proc/net/stat/{arp,ndisc}_cache what netlink does not
// tell (unresolved_discards, on old kernels table_fulls). neigh_table_init
// (net/core/neighbour.c) makes the files in the initial network namespace only.
func addProcStats(h *facts.Host) {
	for i := range h.NeighTables {
		t := &h.NeighTables[i]
		b, err := os.ReadFile("/proc/thread-self/net/stat/" + t.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// No rule needs what only these files have: nothing is missing.
		case err != nil:
			h.Gaps = append(h.Gaps, facts.Gap{What: "counters of " + t.Name, Why: err.Error()})
		default:
			applyProcStats(t, string(b))
		}
	}
}
