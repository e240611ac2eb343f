package firewall

import (
	"bytes"
	"context"
	"slices"

	"fathom/internal/collect/nl"

	"golang.org/x/sys/unix"
)

// Attributes and flags of include/uapi/linux/netfilter/nf_tables.h.
const (
	setInterval     = 4 // NFT_SET_INTERVAL
	setMap          = 8 // NFT_SET_MAP
	setEval         = 0x20
	dataTypeVerdict = 0xffffff00
	elemIntervalEnd = 1
	elemCatchall    = 2
	elemKeyEnd      = 10 // NFTA_SET_ELEM_KEY_END
)

type setKey struct {
	family      uint8
	table, name string
}

// set is a set or map with its elements.
type set struct {
	flags    uint32
	keyLen   int
	verdicts bool // a verdict map
	elems    []elem
	tooMany  bool
}

// elem is one value, or the values lo to hi.
type elem struct {
	lo, hi  []byte // hi nil: one value
	any     bool   // the catch-all
	end     bool   // of an interval that began in the element before; gone after join
	verdict string
}

// readSets reads the sets that the rules look up, with their elements.
func readSets(ctx context.Context, c *nl.Conn, rules []rawRule, names nl.Names) (map[setKey]*set, error) {
	wanted := map[setKey]bool{}
	for _, r := range rules {
		for _, name := range r.sets() {
			wanted[setKey{r.family, r.table, name}] = true
		}
	}
	sets := map[setKey]*set{}
	if len(wanted) == 0 {
		return sets, nil
	}
	err := dump(ctx, c, unix.NFT_MSG_GETSET, familyAll, nil, func() { clear(sets) }, func(family uint8, b []byte) error {
		if k, s := decodeSet(family, b); wanted[k] {
			sets[k] = s
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	total := 0
	for k, s := range sets {
		if total > maxEntries {
			s.tooMany = true
			continue
		}
		if err := readElems(ctx, c, k, s); err != nil {
			// The set may have gone meanwhile: its rules become opaque.
			delete(sets, k)
			if ctx.Err() != nil {
				return nil, err
			}
			continue
		}
		total += len(s.elems)
		s.join()
	}
	return sets, nil
}

func readElems(ctx context.Context, c *nl.Conn, k setKey, s *set) error {
	req := nl.AppendAttr(nil, unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(k.table), 0))
	req = nl.AppendAttr(req, unix.NFTA_SET_ELEM_LIST_SET, append([]byte(k.name), 0))
	return dump(ctx, c, unix.NFT_MSG_GETSETELEM, k.family, req, func() { s.elems, s.tooMany = nil, false }, func(_ uint8, b []byte) error {
		s.addElems(b)
		if s.tooMany {
			return nl.ErrStop
		}
		return nil
	})
}

func decodeSet(family uint8, b []byte) (setKey, *set) {
	k, s := setKey{family: family}, &set{}
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case unix.NFTA_SET_TABLE:
			k.table = nl.Str(v)
		case unix.NFTA_SET_NAME:
			k.name = nl.Str(v)
		case unix.NFTA_SET_FLAGS:
			s.flags = nl.U32BE(v)
		case unix.NFTA_SET_KEY_LEN:
			s.keyLen = int(min(nl.U32BE(v), 1<<16))
		case unix.NFTA_SET_DATA_TYPE:
			s.verdicts = nl.U32BE(v) == dataTypeVerdict
		}
	}
	return k, s
}

// addElems reads the body of an NFT_MSG_NEWSETELEM.
func (s *set) addElems(b []byte) {
	for typ, list := range nl.Attrs(b) {
		if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for _, e := range nl.Attrs(list) {
			if len(s.elems) >= 2*maxElements { // an interval is two elements
				s.tooMany = true
				return
			}
			s.elems = append(s.elems, decodeElem(e))
		}
	}
}

func decodeElem(b []byte) elem {
	var e elem
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			e.lo = bytes.Clone(dataValue(v))
		case elemKeyEnd:
			e.hi = bytes.Clone(dataValue(v))
		case unix.NFTA_SET_ELEM_FLAGS:
			f := nl.U32BE(v)
			e.end, e.any = f&elemIntervalEnd != 0, f&elemCatchall != 0
		case unix.NFTA_SET_ELEM_DATA:
			e.verdict = dataVerdict(v)
		}
	}
	return e
}

// join makes ranges of the pairs in which an interval set lists them: a start,
// and the first value behind the end. A start without an end goes to the top.
// All sets are sorted, as the kernel lists hashed ones in an order of chance.
func (s *set) join() {
	slices.SortStableFunc(s.elems, func(a, b elem) int {
		if d := bytes.Compare(a.lo, b.lo); d != 0 || a.end == b.end {
			return d
		}
		if a.end {
			return -1
		}
		return 1
	})
	if s.flags&setInterval == 0 || slices.ContainsFunc(s.elems, func(e elem) bool { return e.hi != nil }) {
		return
	}
	var out []elem
	open := -1
	for _, e := range s.elems {
		switch {
		case e.any:
			out = append(out, e)
		case e.end:
			if open >= 0 {
				out[open].hi = before(e.lo)
				open = -1
			}
		default:
			out = append(out, e)
			open = len(out) - 1
		}
	}
	if open >= 0 {
		out[open].hi = bytes.Repeat([]byte{0xff}, len(out[open].lo))
	}
	s.elems = out
}

// before is the number below a big-endian one.
func before(b []byte) []byte {
	out := bytes.Clone(b)
	for i := len(out) - 1; i >= 0; i-- {
		out[i]--
		if out[i] != 0xff {
			break
		}
	}
	return out
}

// dataValue takes the bytes out of NFTA_DATA_VALUE.
func dataValue(b []byte) []byte {
	for typ, v := range nl.Attrs(b) {
		if typ == unix.NFTA_DATA_VALUE {
			return v
		}
	}
	return nil
}

// dataVerdict puts NFTA_DATA_VERDICT into words, "" for none.
func dataVerdict(b []byte) string {
	for typ, v := range nl.Attrs(b) {
		if typ != unix.NFTA_DATA_VERDICT {
			continue
		}
		var code int32
		var chain string
		for typ, v := range nl.Attrs(v) {
			switch typ {
			case unix.NFTA_VERDICT_CODE:
				code = int32(nl.U32BE(v))
			case unix.NFTA_VERDICT_CHAIN:
				chain = nl.Str(v)
			}
		}
		return verdict(code, chain)
	}
	return ""
}

func verdict(code int32, chain string) string {
	switch code {
	case unix.NFT_JUMP:
		return "jump " + chain
	case unix.NFT_GOTO:
		return "goto " + chain
	case unix.NFT_RETURN:
		return "return"
	case unix.NFT_CONTINUE:
		return "continue"
	case unix.NFT_BREAK:
		return "continue"
	}
	switch code & 0xff { // NF_VERDICT_MASK
	case 0:
		return "drop"
	case 1:
		return "accept"
	case 3:
		return "queue"
	}
	return "stolen"
}
