package route

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// maxAlternatives bounds Lookup.Alternatives.
const maxAlternatives = 64

// Options narrow a look-up down, as a socket would.
type Options struct {
	Source netip.Addr // bound source address
	Link   string     // bound interface
	Mark   uint32     // SO_MARK
}

// Lookup asks the kernel how it would send to dst (RTM_GETROUTE) and reads the
// tables for the entry that decided and for those that would come next. "No
// route" is an answer (Lookup.Error); an error means that it could not be asked.
func Lookup(ctx context.Context, dst netip.Addr, o Options) (facts.Lookup, error) {
	dst = dst.Unmap()
	l := facts.Lookup{Destination: dst}
	if !dst.IsValid() {
		return l, errors.New("route look-up: no destination address")
	}
	if o.Source = o.Source.Unmap(); o.Source.IsValid() && o.Source.Is4() != dst.Is4() {
		return l, fmt.Errorf("route look-up of %s: the source %s is of the other address family", dst, o.Source)
	}
	fail := func(err error) (facts.Lookup, error) { return l, fmt.Errorf("route look-up of %s: %w", dst, err) }
	c, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	names, err := c.LinkNames(ctx)
	if err != nil {
		return fail(err)
	}
	link, err := linkIndex(names, o.Link, dst)
	if err != nil {
		return fail(err)
	}
	answer, err := ask(ctx, c, dst, o, link, 0)
	if err != nil {
		return fail(err)
	}
	l.Route, l.Error = answer.read(names)
	// A kernel without RTM_F_FIB_MATCH (before 4.13) answers as if it were not set.
	if exact, err := ask(ctx, c, dst, o, link, unix.RTM_F_FIB_MATCH); err == nil && exact.errno == 0 {
		if r, _ := exact.read(names); r.Dst.IsValid() {
			l.Matched = &r
		}
	}
	entries, err := covering(ctx, c, dst, names)
	if err != nil {
		return fail(err)
	}
	finish(&l, entries)
	return l, nil
}

func linkIndex(names nl.Names, link string, dst netip.Addr) (int, error) {
	if link == "" {
		link = dst.Zone()
	}
	if link == "" {
		return 0, nil
	}
	for i, name := range names {
		if name == link {
			return i, nil
		}
	}
	return 0, fmt.Errorf("there is no interface %q", link)
}

// answer is what the kernel said: a route, or an errno.
type answer struct {
	body  []byte
	errno unix.Errno
}

// ask sends one RTM_GETROUTE. Only what is not an answer of the routing code is an error.
func ask(ctx context.Context, c *nl.Conn, dst netip.Addr, o Options, link int, flags uint32) (answer, error) {
	b, err := c.Get(ctx, unix.RTM_GETROUTE, lookupRequest(dst, o, link, flags))
	var errno unix.Errno
	if errors.As(err, &errno) && errno != unix.ENOBUFS && errno != unix.ENOMEM && ctx.Err() == nil {
		return answer{errno: errno}, nil
	}
	return answer{body: b}, err
}

func lookupRequest(dst netip.Addr, o Options, link int, flags uint32) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0] = unix.AF_INET
	if dst.Is6() {
		b[0] = unix.AF_INET6
	}
	b[1] = byte(dst.BitLen())
	binary.NativeEndian.PutUint32(b[8:], unix.RTM_F_LOOKUP_TABLE|flags)
	u32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	b = nl.AppendAttr(b, unix.RTA_DST, dst.AsSlice())
	if o.Source.IsValid() {
		b[2] = byte(o.Source.BitLen())
		b = nl.AppendAttr(b, unix.RTA_SRC, o.Source.AsSlice())
	}
	if link != 0 {
		b = nl.AppendAttr(b, unix.RTA_OIF, u32(uint32(link)))
	}
	if o.Mark != 0 {
		b = nl.AppendAttr(b, unix.RTA_MARK, u32(o.Mark))
	}
	return b
}

// read turns an answer into a route and the name of the errno. IPv6 answers
// with a route of type unreachable, blackhole or prohibit where IPv4 refuses.
func (a answer) read(names nl.Names) (facts.Route, string) {
	if a.errno != 0 {
		return facts.Route{}, unix.ErrnoName(a.errno)
	}
	r, ok := nl.DecodeRoute(a.body, names.Of)
	if !ok {
		return facts.Route{}, ""
	}
	for typ, v := range nl.Attrs(a.body[unix.SizeofRtMsg:]) {
		// struct rta_cacheinfo: rta_error at 12, a negative errno.
		if e := int32(nl.U32At(v, 12)); typ == unix.RTA_CACHEINFO && e < 0 {
			return r, unix.ErrnoName(unix.Errno(-e))
		}
	}
	switch r.Type {
	case "unreachable":
		return r, "EHOSTUNREACH"
	case "blackhole":
		return r, "EINVAL"
	case "prohibit":
		return r, "EACCES"
	}
	return r, ""
}

// covering reads the entries of all tables that contain dst and that some
// policy rule can reach, the most specific and then the lowest metric first.
// It streams: a full table is looked through, not kept.
func covering(ctx context.Context, c *nl.Conn, dst netip.Addr, names nl.Names) ([]facts.Route, error) {
	reach, err := reachableTables(ctx, c, dst)
	if err != nil {
		return nil, err
	}
	family := byte(unix.AF_INET)
	if dst.Is6() {
		family = unix.AF_INET6
	}
	var out []facts.Route
	plain := dst.WithZone("")
	err = c.DumpStable(ctx, unix.RTM_GETROUTE, dumpRequest(family), func() { out = nil }, func(typ uint16, b []byte) error {
		r, ok := decodeEntry(typ, b, names)
		if ok && reach[r.Table] && r.Dst.Contains(plain) && len(out) < 4*maxAlternatives {
			out = append(out, r)
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b facts.Route) int {
		if a.Dst.Bits() != b.Dst.Bits() {
			return b.Dst.Bits() - a.Dst.Bits()
		}
		return a.Metric - b.Metric
	})
	return out, err
}

func reachableTables(ctx context.Context, c *nl.Conn, dst netip.Addr) (map[int]bool, error) {
	all, err := rules(ctx, c)
	if err != nil {
		return nil, err
	}
	tables := map[int]bool{unix.RT_TABLE_MAIN: true, unix.RT_TABLE_DEFAULT: true, unix.RT_TABLE_LOCAL: true}
	for _, r := range all {
		if r.Action == "lookup" && (r.Family == 4) == dst.Is4() {
			tables[r.Table] = true
		}
	}
	return tables, nil
}

// finish chooses Matched when the kernel did not tell, and makes the other
// entries the alternatives. Pure.
func finish(l *facts.Lookup, entries []facts.Route) {
	better := map[int]bool{} // tables with a more specific entry than the one at hand
	for i := 0; i < len(entries) && l.Matched == nil; i++ {
		// A refusal can only come from the best entry of its table; it can also
		// come from a policy rule or an unusable source, and then nothing matches.
		if decided(*l, entries[i]) && (l.Error == "" || !better[entries[i].Table]) {
			l.Matched = &entries[i]
		}
		better[entries[i].Table] = true
	}
	for _, r := range entries {
		// Broadcast and anycast entries and other local addresses are no way out.
		if r.Table == unix.RT_TABLE_LOCAL || l.Matched != nil && same(r, *l.Matched) || len(l.Alternatives) >= maxAlternatives {
			continue
		}
		l.Alternatives = append(l.Alternatives, r)
	}
}

// decided reports whether a table entry explains the kernel's answer. Entries
// come most specific first, so the first that does is the one.
func decided(l facts.Lookup, r facts.Route) bool {
	if l.Error != "" {
		want := map[string]string{"EHOSTUNREACH": "unreachable", "EACCES": "prohibit", "EINVAL": "blackhole"}[l.Error]
		return r.Type == want || l.Route.Type != "" && r.Type == l.Route.Type
	}
	if r.Type != l.Route.Type || l.Route.Table != 0 && r.Table != l.Route.Table {
		return false
	}
	if len(r.NextHops) > 0 {
		return slices.ContainsFunc(r.NextHops, func(h facts.NextHop) bool {
			return h.Link == l.Route.Link && h.Gateway == l.Route.Gateway
		})
	}
	return r.Gateway == l.Route.Gateway && (r.Link == l.Route.Link || r.Type == "local")
}

// same compares what identifies an entry; a look-up leaves flags and MTU out.
func same(a, b facts.Route) bool {
	return a.Dst == b.Dst && a.Table == b.Table && a.Metric == b.Metric && a.Type == b.Type &&
		a.Gateway == b.Gateway && a.Link == b.Link && len(a.NextHops) == len(b.NextHops)
}
