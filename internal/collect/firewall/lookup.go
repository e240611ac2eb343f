package firewall

import (
	"slices"
	"strings"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// lookup reads "field in set", or a verdict map.
func (d *decoder) lookup(e rawExpr) {
	name := nl.Str(e.attr[unix.NFTA_LOOKUP_SET])
	s := d.sets[setKey{d.raw.family, d.raw.table, name}]
	if s == nil || s.tooMany || s.flags&setEval != 0 {
		// A dynamic set changes with the traffic: what it holds now says little.
		d.opaque("a look-up in set " + name)
		return
	}
	fields := d.keyFields(slot(e.u32(unix.NFTA_LOOKUP_SREG)), s.keyLen)
	if fields == nil {
		d.opaque("a look-up in set " + name)
		return
	}
	if len(fields) == 1 && fields[0].luck {
		d.rule.Partial = true
		d.rule.Opaque = d.rule.Opaque || s.verdicts
		d.say(fields[0].text + " @" + name)
		return
	}
	anonymous := strings.HasPrefix(name, "__set") || strings.HasPrefix(name, "__map")
	switch {
	case e.has(unix.NFTA_LOOKUP_DREG) && s.verdicts && e.u32(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT:
		d.verdictMap(s, fields, name)
	case e.has(unix.NFTA_LOOKUP_DREG): // a data map: an address or mark to set
		d.load(e.u32(unix.NFTA_LOOKUP_DREG), field{text: "map " + name})
		d.opaque("a map " + name) // what is not in the map does not match
	default:
		op := "in"
		if e.u32(unix.NFTA_LOOKUP_FLAGS)&lookupInv != 0 {
			op = "not in"
		}
		values := make([]string, 0, len(s.elems))
		for _, el := range s.elems {
			values = append(values, d.elemText(el, fields))
		}
		d.matchSet(joined(fields), op, values, name, !anonymous)
	}
}

// matchSet is match, with the name instead of the values for a named set.
func (d *decoder) matchSet(f field, op string, values []string, name string, named bool) {
	d.match(f, op, values)
	if !named {
		return
	}
	last := len(d.parts) - 1
	if i := strings.LastIndex(d.parts[last], "{"); i >= 0 {
		d.parts[last] = d.parts[last][:i] + "@" + name
	} else if f.name == "ct_state" {
		d.parts[last] = "ct state @" + name
	}
}

func joined(fields []field) field {
	f := fields[0]
	if len(fields) > 1 {
		names := make([]string, len(fields))
		for i := range fields {
			names[i] = fields[i].name
		}
		f = field{name: strings.Join(names, " . ")}
	}
	return f
}

// keyFields gathers the fields that fill a set's key: one, or for a
// concatenation one after the other, each padded to 4 bytes.
func (d *decoder) keyFields(at uint32, keyLen int) []field {
	var out []field
	for left := keyLen; left > 0; {
		f, ok := d.regs[at]
		if !ok || f.len <= 0 || f.name == "" && !f.luck || f.mask != nil || len(out) > 0 && f.luck {
			return nil
		}
		n := f.len
		if left > n { // more to come
			n = (n + 3) &^ 3
		}
		if n > left && f.len != left {
			return nil
		}
		out = append(out, f)
		left -= n
		at += uint32(f.len+3) / 4
	}
	return out
}

// elemText writes an element, "10.0.0.1 . 80" for a concatenation.
func (d *decoder) elemText(e elem, fields []field) string {
	if e.any {
		return "*"
	}
	parts := make([]string, len(fields))
	off := 0
	for i, f := range fields {
		cut := func(b []byte) []byte { return b[min(off, len(b)):min(off+f.len, len(b))] }
		var hi []byte
		if e.hi != nil {
			hi = cut(e.hi)
		}
		if f.name == "ct_state" && hi == nil {
			words, _ := ctStateWords(nl.U32(cut(e.lo)))
			parts[i] = strings.Join(words, ",")
		} else {
			parts[i] = f.span(cut(e.lo), hi, d.names)
		}
		off += (f.len + 3) &^ 3
	}
	return strings.Join(parts, " . ")
}

// verdictMap makes a rule of each element: "tcp dport vmap { 22 : accept }".
// The keys exclude each other, so their order does not matter, but for the
// catch-all, which comes last.
func (d *decoder) verdictMap(s *set, fields []field, name string) {
	if len(s.elems) > maxVerdicts || d.variants != nil {
		d.opaque("a verdict map " + name)
		return
	}
	elems := slices.Clone(s.elems)
	slices.SortStableFunc(elems, func(a, b elem) int {
		switch {
		case a.any == b.any:
			return 0
		case a.any:
			return 1
		}
		return -1
	})
	f := joined(fields)
	d.variants = []facts.FWRule{}
	var words, keys []string
	for _, e := range elems {
		key := d.elemText(e, fields)
		words = append(words, key+" : "+e.verdict)
		m := facts.FWMatch{Field: f.name, Op: "in", Values: []string{key}}
		if e.any {
			m = facts.FWMatch{Field: f.name, Op: "not in", Values: keys}
		}
		keys = append(keys, key)
		d.variants = append(d.variants, variant(m, e.verdict))
	}
	d.say(d.fieldText(f) + " vmap { " + strings.Join(words, ", ") + " }")
}
