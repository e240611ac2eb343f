package firewall

import (
	"fmt"
	"slices"
	"strings"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// rawRule is a rule whose expressions are still bytes.
type rawRule struct {
	family       uint8
	table, chain string
	handle       uint64
	exprs        []rawExpr
	comment      string
}

// rawExpr is one expression: its name and its attributes by number. The
// attributes of nf_tables expressions are scalars in network byte order or
// nested; none comes twice.
type rawExpr struct {
	name string
	attr map[uint16][]byte
}

func (e rawExpr) u32(a uint16) uint32 { return nl.U32BE(e.attr[a]) }
func (e rawExpr) u64(a uint16) uint64 { return nl.U64BE(e.attr[a]) }
func (e rawExpr) has(a uint16) bool   { _, ok := e.attr[a]; return ok }

// splitRule reads the attributes of an NFT_MSG_NEWRULE.
func splitRule(family uint8, b []byte) (r rawRule, ok bool) {
	r.family = family
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case unix.NFTA_RULE_TABLE:
			r.table = nl.Str(v)
		case unix.NFTA_RULE_CHAIN:
			r.chain = nl.Str(v)
		case unix.NFTA_RULE_HANDLE:
			r.handle = nl.U64BE(v)
		case unix.NFTA_RULE_EXPRESSIONS:
			r.exprs = splitExprs(v)
		case unix.NFTA_RULE_USERDATA:
			r.comment = comment(v)
		}
	}
	return r, r.chain != ""
}

func splitExprs(b []byte) []rawExpr {
	var out []rawExpr
	for _, v := range nl.Attrs(b) {
		e := rawExpr{attr: map[uint16][]byte{}}
		for typ, v := range nl.Attrs(v) {
			switch typ {
			case unix.NFTA_EXPR_NAME:
				e.name = nl.Str(v)
			case unix.NFTA_EXPR_DATA:
				for a, v := range nl.Attrs(v) {
					e.attr[a] = append([]byte{}, v...) // the receive buffer is used again
				}
			}
		}
		out = append(out, e)
	}
	return out
}

// comment finds the user's comment in libnftnl's type-length-value list (NFTNL_UDATA_RULE_COMMENT 0).
func comment(b []byte) string {
	for len(b) >= 2 {
		n := int(b[1])
		if 2+n > len(b) {
			break
		}
		if b[0] == 0 {
			return nl.Str(b[2 : 2+n])
		}
		b = b[2+n:]
	}
	return ""
}

// sets names the sets that the rule looks up.
func (r rawRule) sets() []string {
	var out []string
	for _, e := range r.exprs {
		if e.name == "lookup" {
			out = append(out, nl.Str(e.attr[unix.NFTA_LOOKUP_SET]))
		}
	}
	return out
}

// decoder turns the expressions of one rule into words and conditions.
type decoder struct {
	raw   rawRule
	sets  map[setKey]*set
	names nl.Names
	rule  facts.FWRule
	regs  map[uint32]field // by 4-byte slot
	parts []string         // of the text

	l3, l4         string // what the rule has settled so far
	l3part, l4part int    // where in parts that was said, -1 when nowhere: "tcp dport" takes "meta l4proto tcp" in
	variants       []facts.FWRule
}

// decodeRule gives one rule, or one for each element of a verdict map.
func decodeRule(r rawRule, sets map[setKey]*set, names nl.Names) []facts.FWRule {
	d := &decoder{raw: r, sets: sets, names: names, regs: map[uint32]field{}, l3part: -1, l4part: -1}
	d.rule.Handle = r.handle
	switch r.family {
	case unix.NFPROTO_IPV4:
		d.l3 = "ip"
	case unix.NFPROTO_IPV6:
		d.l3 = "ip6"
	}
	for _, e := range r.exprs {
		if h := handlers[e.name]; h != nil {
			h(d, e)
		} else {
			d.opaque(e.name)
			// It may have loaded any register: a comparison that follows must not
			// be taken for one with what was there before.
			clear(d.regs)
		}
	}
	return d.finish()
}

func (d *decoder) finish() []facts.FWRule {
	if d.raw.comment != "" {
		d.say(fmt.Sprintf("comment %q", d.raw.comment))
	}
	d.rule.Text = clip(strings.Join(slices.DeleteFunc(d.parts, func(s string) bool { return s == "" }), " "))
	if d.variants == nil {
		return []facts.FWRule{d.rule}
	}
	out := make([]facts.FWRule, 0, len(d.variants))
	for _, v := range d.variants {
		r := d.rule
		r.Matches = append(slices.Clone(d.rule.Matches), v.Matches...)
		r.Verdict = v.Verdict
		out = append(out, r)
	}
	return out
}

func clip(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

func (d *decoder) say(text string) int {
	d.parts = append(d.parts, text)
	return len(d.parts) - 1
}

// opaque notes an expression that was not understood.
func (d *decoder) opaque(what string) {
	d.rule.Opaque = true
	d.say("# " + what + " not understood #")
}

// slot turns a register number into the 4-byte slot it begins at: NFT_REG_1 to
// 4 are 16 bytes each, NFT_REG32_00 (8) and up are 4.
func slot(reg uint32) uint32 {
	if reg >= unix.NFT_REG32_00 {
		return reg - unix.NFT_REG32_00
	}
	return (reg - 1) * 4 // NFT_REG_VERDICT (0) wraps to a slot nobody reads
}

// load forgets what the register held: a later comparison is about f.
func (d *decoder) load(reg uint32, f field) {
	d.regs[slot(reg)] = f
}

// match adds a condition and its words.
func (d *decoder) match(f field, op string, values []string) {
	if d.closeRange(f, op, values) {
		return
	}
	d.rule.Matches = append(d.rule.Matches, facts.FWMatch{Field: f.name, Op: op, Values: values})
	sep := map[string]string{"==": " ", "in": " ", "not in": " != "}[op]
	if sep == "" {
		sep = " " + op + " "
	}
	text := strings.Join(values, ",")
	if len(values) > 1 || op == "in" || op == "not in" {
		text = "{ " + strings.Join(values, ", ") + " }"
		if f.name == "ct_state" {
			text = strings.Join(values, ",")
		}
	}
	at := d.say(d.fieldText(f) + sep + text)
	if op == "==" && len(values) == 1 {
		d.settle(f.name, values[0], at)
	}
}

// closeRange makes one range of the ">= low" before and the "<= high" of now,
// into which nft splits it.
func (d *decoder) closeRange(f field, op string, values []string) bool {
	n := len(d.rule.Matches)
	if op != "<=" || n == 0 {
		return false
	}
	last := &d.rule.Matches[n-1]
	if last.Field != f.name || last.Op != ">=" {
		return false
	}
	last.Op, last.Values = "==", []string{last.Values[0] + "-" + values[0]}
	d.parts[len(d.parts)-1] = d.fieldText(f) + " " + last.Values[0]
	return true
}

// settle remembers the protocols that the rule demands, by which later header
// bytes get their names.
func (d *decoder) settle(name, value string, at int) {
	switch name {
	case "l4proto":
		d.l4, d.l4part = value, at
	case "nfproto":
		d.l3, d.l3part = map[string]string{"ipv4": "ip", "ipv6": "ip6"}[value], at
	case "protocol":
		d.l3, d.l3part = value, at
	}
}

// fieldText is a field in nft's words. Where nft leaves out the protocol match
// that the words imply, so do we.
func (d *decoder) fieldText(f field) string {
	drop := func(part *int) {
		if *part >= 0 {
			d.parts[*part], *part = "", -1
		}
	}
	if strings.Contains(f.name, " . ") {
		var w []string
		for name := range strings.SplitSeq(f.name, " . ") {
			w = append(w, d.fieldText(field{name: name, len: f.len}))
		}
		return strings.Join(w, " . ")
	}
	switch f.name {
	case "saddr", "daddr":
		drop(&d.l3part)
		return d.l3 + " " + f.name
	case "sport", "dport":
		if d.l4 == "" {
			return "th " + f.name
		}
		drop(&d.l4part)
		return d.l4 + " " + f.name
	case "icmp_type", "icmp_code":
		drop(&d.l3part)
		drop(&d.l4part)
		return d.l4 + " " + strings.TrimPrefix(f.name, "icmp_")
	case "tcp_flags":
		drop(&d.l4part)
		return "tcp flags"
	case "iif", "oif":
		if f.full == 16 {
			return f.name + "name"
		}
		return f.name
	case "ttl", "tos", "frag", "hoplimit":
		return d.l3 + " " + f.name
	case "l4proto", "nfproto", "protocol", "mark", "length", "skuid", "skgid":
		return "meta " + f.name
	}
	return strings.ReplaceAll(f.name, "_", " ")
}
