package witness

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"fathom/internal/facts"
	"fathom/internal/wire"
)

// Bounds of what is kept; beyond them new entries are counted in Overflow only.
const (
	maxWatched   = 4096
	maxFlows     = 4096
	maxSightings = 4096
)

// Sighting is a station that announced an address on a link.
type Sighting struct {
	Link        string
	Addr        netip.Addr
	MAC         string
	First, Last time.Time
	Count       int
}

// Conflict is an address that more than one station announced on a link, or
// one of our own that another station announced (Own).
type Conflict struct {
	Link string
	Addr netip.Addr
	MACs []string // in order of first sighting
	Own  bool
}

type flowKey struct {
	link   string
	remote netip.Addr
	proto  string
	port   uint16
}

type sightKey struct {
	link string
	addr netip.Addr
	mac  wire.MAC
}

// tally is all that is remembered. It is pure and not safe for concurrent use.
type tally struct {
	watched   map[netip.Addr]bool
	flows     map[flowKey]*facts.WireFlow
	sightings map[sightKey]*Sighting
	overflow  int
}

func newTally() *tally {
	return &tally{map[netip.Addr]bool{}, map[flowKey]*facts.WireFlow{}, map[sightKey]*Sighting{}, 0}
}

func (t *tally) watch(a netip.Addr) {
	if len(t.watched) >= maxWatched {
		t.overflow++
		return
	}
	t.watched[a.Unmap().WithZone("")] = true
}

// add counts a packet seen on a link at a time.
func (t *tally) add(link string, s seen, at time.Time) {
	switch {
	case s.what == nothing:
	case s.what == announced:
		t.sight(link, s, at)
	case t.watched[s.remote]:
		t.count(link, s)
	}
}

func (t *tally) sight(link string, s seen, at time.Time) {
	if s.mac.IsZero() || s.mac.IsGroup() {
		return
	}
	k := sightKey{link, s.remote, s.mac}
	x := t.sightings[k]
	if x == nil {
		if len(t.sightings) >= maxSightings {
			t.overflow++
			return
		}
		x = &Sighting{Link: link, Addr: s.remote, MAC: s.mac.String(), First: at}
		t.sightings[k] = x
	}
	x.Last = at
	x.Count++
}

func (t *tally) count(link string, s seen) {
	k := flowKey{link, s.remote, s.proto, s.port}
	f := t.flows[k]
	if f == nil {
		if len(t.flows) >= maxFlows {
			t.overflow++
			return
		}
		f = &facts.WireFlow{Link: link, Remote: s.remote, Proto: s.proto, Port: s.port}
		t.flows[k] = f
	}
	switch s.what {
	case synOut:
		f.SynOut++
	case synAckIn:
		f.SynAckIn++
		f.SynAckTTL = s.ttl
	case rstIn:
		f.RstIn++
		f.RstTTL = s.ttl
	case out:
		f.Out++
	case in:
		f.In++
	case errorIn:
		f.ErrorsIn++
	}
}

// list returns the flows in a fixed order. OtherLinksIn of a flow on whose
// link only requests were seen names the links on which only answers were: a
// bridge and its port both see both, and are no news.
func (t *tally) list() []facts.WireFlow {
	list := make([]facts.WireFlow, 0, len(t.flows))
	type key struct {
		remote netip.Addr
		proto  string
		port   uint16
	}
	answers := map[key][]string{}
	for _, f := range t.flows {
		list = append(list, *f)
		if answered(*f) && !asked(*f) {
			k := key{f.Remote, f.Proto, f.Port}
			answers[k] = append(answers[k], f.Link)
		}
	}
	for i := range list {
		if f := &list[i]; asked(*f) && !answered(*f) {
			f.OtherLinksIn = slices.Sorted(slices.Values(answers[key{f.Remote, f.Proto, f.Port}]))
		}
	}
	slices.SortFunc(list, func(a, b facts.WireFlow) int {
		return cmp.Or(a.Remote.Compare(b.Remote), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Link, b.Link))
	})
	return list
}

func asked(f facts.WireFlow) bool    { return f.SynOut+f.Out > 0 }
func answered(f facts.WireFlow) bool { return f.SynAckIn+f.RstIn+f.In > 0 }

func (t *tally) sighted() []Sighting {
	list := make([]Sighting, 0, len(t.sightings))
	for _, s := range t.sightings {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Sighting) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Addr.Compare(b.Addr), a.First.Compare(b.First), cmp.Compare(a.MAC, b.MAC))
	})
	return list
}

// conflicts finds the addresses with several owners. own gives our addresses
// and hardware addresses.
func conflicts(list []Sighting, own identity) []Conflict {
	var found []Conflict
	for i := 0; i < len(list); {
		first := list[i]
		c := Conflict{Link: first.Link, Addr: first.Addr, Own: own.addrs[first.Addr]}
		for ; i < len(list) && list[i].Link == first.Link && list[i].Addr == first.Addr; i++ {
			if c.Own && own.macs[list[i].MAC] {
				continue // one of our interfaces heard another, over a bridge or one switch
			}
			c.MACs = append(c.MACs, list[i].MAC)
		}
		if len(c.MACs) > 1 || c.Own && len(c.MACs) > 0 {
			found = append(found, c)
		}
	}
	return found
}
