package firewall

import (
	"bytes"
	"fmt"
	"strings"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// handlers is by name of expression (net/netfilter/nft_*.c). What is not here
// makes the rule opaque.
var handlers = map[string]func(*decoder, rawExpr){
	"meta": (*decoder).meta, "payload": (*decoder).payload, "ct": (*decoder).ct,
	"cmp": (*decoder).cmp, "range": (*decoder).inRange, "lookup": (*decoder).lookup,
	"bitwise": (*decoder).bitwise, "byteorder": (*decoder).byteorder, "immediate": (*decoder).immediate,
	"counter": (*decoder).counter, "limit": (*decoder).limit, "quota": (*decoder).quota,
	"numgen": (*decoder).numgen, "hash": (*decoder).hash, "connlimit": (*decoder).connlimit,
	"objref": (*decoder).objref, "reject": (*decoder).reject, "queue": (*decoder).queue,
	"nat": (*decoder).nat, "masq": (*decoder).masq, "redir": (*decoder).redir, "tproxy": (*decoder).tproxy,
	"log": (*decoder).log, "dynset": (*decoder).dynset, "match": (*decoder).xtMatch, "target": (*decoder).xtTarget,
	"notrack": (*decoder).harmless, "last": (*decoder).harmless, "flow_offload": (*decoder).harmless,
}

// harmless expressions neither choose packets nor decide about them.
func (d *decoder) harmless(e rawExpr) { d.say(strings.ReplaceAll(e.name, "_", " ")) }

func (d *decoder) meta(e rawExpr) {
	f := metaField(e.u32(unix.NFTA_META_KEY))
	if e.has(unix.NFTA_META_SREG) { // a statement: meta mark set …
		d.say(strings.TrimSpace("meta " + f.name + f.text + " set"))
		return
	}
	d.load(e.u32(unix.NFTA_META_DREG), f)
}

func (d *decoder) ct(e rawExpr) {
	f := ctField(e.u32(unix.NFTA_CT_KEY))
	if e.has(unix.NFTA_CT_SREG) {
		d.say(strings.TrimSpace(strings.ReplaceAll(f.name, "_", " ") + f.text + " set"))
		return
	}
	d.load(e.u32(unix.NFTA_CT_DREG), f)
}

func (d *decoder) payload(e rawExpr) {
	f := payloadField(e.u32(unix.NFTA_PAYLOAD_BASE), e.u32(unix.NFTA_PAYLOAD_OFFSET), min(e.u32(unix.NFTA_PAYLOAD_LEN), 256), d.l3, d.l4)
	if e.has(unix.NFTA_PAYLOAD_SREG) { // it writes the header: later rules see other bytes
		d.opaque("a change of header bytes " + f.name + f.text)
		return
	}
	d.load(e.u32(unix.NFTA_PAYLOAD_DREG), f)
}

var cmpOps = [...]string{"==", "!=", "<", "<=", ">", ">="} // enum nft_cmp_ops

func (d *decoder) cmp(e rawExpr) {
	f, ok := d.regs[slot(e.u32(unix.NFTA_CMP_SREG))]
	data, op := dataValue(e.attr[unix.NFTA_CMP_DATA]), e.u32(unix.NFTA_CMP_OP)
	switch {
	case !ok || op >= uint32(len(cmpOps)) || len(data) == 0:
		d.opaque("cmp")
	case f.luck:
		d.rule.Partial = true
		d.say(fmt.Sprintf("%s %s %d", f.text, cmpOps[op], f.number(data)))
	case f.name == "":
		d.opaque(f.text)
	case f.name == "ct_state":
		d.ctState(f, cmpOps[op], data)
	case len(f.mask) > 0 && f.name != "saddr" && f.name != "daddr":
		d.opaque(fmt.Sprintf("%s & 0x%x %s 0x%x", f.name, f.mask, cmpOps[op], data))
	case len(f.mask) > 0 && !contiguous(f.mask):
		d.opaque(fmt.Sprintf("%s with the mask 0x%x", f.name, f.mask))
	case (f.name == "saddr" || f.name == "daddr") && op > 1 && (len(data) < f.full || len(f.mask) > 0):
		d.opaque(f.name + " " + cmpOps[op])
	default:
		d.match(f, cmpOps[op], []string{f.value(data, d.names)})
	}
}

func contiguous(mask []byte) bool { _, ok := prefixLen(mask); return ok }

// ctState reads "ct state & bits != 0", "== 0" as its contrary, and the
// comparison with one state.
func (d *decoder) ctState(f field, op string, data []byte) {
	if f.mask == nil {
		if words, ok := ctStateWords(nl.U32(data)); ok && len(words) == 1 && (op == "==" || op == "!=") {
			d.match(f, op, words)
			return
		}
		d.opaque("ct state")
		return
	}
	words, ok := ctStateWords(nl.U32(f.mask))
	if !ok || len(bytes.Trim(data, "\x00")) != 0 || op != "!=" && op != "==" {
		d.opaque("ct state")
		return
	}
	d.match(f, map[string]string{"!=": "in", "==": "not in"}[op], words)
}

// Attributes that x/sys/unix lacks (include/uapi/linux/netfilter/nf_tables.h).
const (
	rangeSreg, rangeOp, rangeFrom, rangeTo = 1, 2, 3, 4
	bitwiseOp                              = 6
	tproxyRegAddr                          = 2
	dynsetFlags, dynsetExpr, dynsetExprs   = 9, 7, 10
	connlimitCount, connlimitFlags         = 1, 2
	lookupInv                              = 1
	hashModulus, hashDreg                  = 4, 2
	logPrefix                              = 2
)

func (d *decoder) inRange(e rawExpr) {
	f, ok := d.regs[slot(e.u32(rangeSreg))]
	lo, hi := dataValue(e.attr[rangeFrom]), dataValue(e.attr[rangeTo])
	if !ok || f.name == "" || f.mask != nil || len(lo) == 0 || len(lo) != len(hi) {
		d.opaque("range")
		return
	}
	op := "=="
	if e.u32(rangeOp) != 0 {
		op = "!="
	}
	d.match(f, op, []string{f.span(lo, hi, d.names)})
}

func (d *decoder) bitwise(e rawExpr) {
	sreg := e.u32(unix.NFTA_BITWISE_SREG)
	f, ok := d.regs[slot(sreg)]
	mask, xor := dataValue(e.attr[unix.NFTA_BITWISE_MASK]), dataValue(e.attr[unix.NFTA_BITWISE_XOR])
	if !ok || f.luck || f.mask != nil || e.u32(bitwiseOp) != 0 || len(mask) == 0 || len(bytes.Trim(xor, "\x00")) > 0 {
		f = field{text: "bitwise " + f.name}
	} else {
		f.mask = mask
	}
	d.load(e.u32(unix.NFTA_BITWISE_DREG), f)
}

func (d *decoder) byteorder(e rawExpr) {
	f := d.regs[slot(e.u32(unix.NFTA_BYTEORDER_SREG))]
	f.host = e.u32(unix.NFTA_BYTEORDER_OP) == unix.NFT_BYTEORDER_NTOH
	d.load(e.u32(unix.NFTA_BYTEORDER_DREG), f)
}

func (d *decoder) immediate(e rawExpr) {
	dreg := e.u32(unix.NFTA_IMMEDIATE_DREG)
	if dreg != unix.NFT_REG_VERDICT {
		d.load(dreg, field{text: "a constant"})
		return
	}
	v := dataVerdict(e.attr[unix.NFTA_IMMEDIATE_DATA])
	switch v {
	case "":
		d.opaque("immediate")
	case "continue":
		d.say(v)
	default:
		d.rule.Verdict = v
		d.say(v)
	}
}

func (d *decoder) counter(e rawExpr) {
	d.rule.Counted = true
	d.rule.Packets, d.rule.Bytes = e.u64(unix.NFTA_COUNTER_PACKETS), e.u64(unix.NFTA_COUNTER_BYTES)
	d.say("counter")
}

func (d *decoder) limit(e rawExpr) {
	d.rule.Partial = true
	over, unit := "", e.u64(unix.NFTA_LIMIT_UNIT)
	if e.u32(unix.NFTA_LIMIT_FLAGS)&unix.NFT_LIMIT_F_INV != 0 {
		over = "over "
	}
	what := ""
	if e.u32(unix.NFTA_LIMIT_TYPE) == unix.NFT_LIMIT_PKT_BYTES {
		what = " bytes"
	}
	word := map[uint64]string{1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}[unit]
	if word == "" {
		word = fmt.Sprintf("%d seconds", unit)
	}
	d.say(fmt.Sprintf("limit rate %s%d%s/%s", over, e.u64(unix.NFTA_LIMIT_RATE), what, word))
}

func (d *decoder) quota(e rawExpr) {
	d.rule.Partial = true
	over := ""
	if e.u32(unix.NFTA_QUOTA_FLAGS)&1 != 0 { // NFT_QUOTA_F_INV
		over = "over "
	}
	d.say(fmt.Sprintf("quota %s%d bytes", over, e.u64(unix.NFTA_QUOTA_BYTES)))
}

func (d *decoder) connlimit(e rawExpr) {
	d.rule.Partial = true
	over := ""
	if e.u32(connlimitFlags)&1 != 0 { // NFT_CONNLIMIT_F_INV
		over = "over "
	}
	d.say(fmt.Sprintf("ct count %s%d", over, e.u32(connlimitCount)))
}

func (d *decoder) numgen(e rawExpr) {
	kind := "inc"
	if e.u32(unix.NFTA_NG_TYPE) == unix.NFT_NG_RANDOM {
		kind = "random"
	}
	d.load(e.u32(unix.NFTA_NG_DREG), field{luck: true, len: 4, host: true, text: fmt.Sprintf("numgen %s mod %d", kind, e.u32(unix.NFTA_NG_MODULUS))})
}

func (d *decoder) hash(e rawExpr) {
	d.load(e.u32(hashDreg), field{luck: true, len: 4, host: true, text: fmt.Sprintf("hash mod %d", e.u32(hashModulus))})
}

func (d *decoder) objref(e rawExpr) {
	name := nl.Str(e.attr[unix.NFTA_OBJREF_IMM_NAME])
	kinds := map[uint32]string{1: "counter", 2: "quota", 3: "ct helper", 4: "limit", 5: "ct count", 7: "ct timeout", 9: "ct expectation"}
	kind := kinds[e.u32(unix.NFTA_OBJREF_IMM_TYPE)]
	if name == "" || kind == "" {
		d.opaque("objref")
		return
	}
	d.rule.Partial = d.rule.Partial || kind == "quota" || kind == "limit" || kind == "ct count"
	d.say(fmt.Sprintf("%s name %q", kind, name))
}

func (d *decoder) reject(e rawExpr) {
	code := nl.U8(e.attr[unix.NFTA_REJECT_ICMP_CODE])
	d.rule.Verdict = "reject"
	switch e.u32(unix.NFTA_REJECT_TYPE) {
	case unix.NFT_REJECT_TCP_RST:
		d.say("reject with tcp reset")
	case unix.NFT_REJECT_ICMPX_UNREACH:
		words := [...]string{"no-route", "port-unreachable", "host-unreachable", "admin-prohibited"}
		d.say("reject with icmpx " + word(words[:], code))
	default:
		if d.l3 == "ip6" {
			words := [...]string{"no-route", "admin-prohibited", "beyond-scope", "addr-unreachable", "port-unreachable", "policy-fail", "reject-route"}
			d.say("reject with icmpv6 " + word(words[:], code))
			return
		}
		words := [...]string{"net-unreachable", "host-unreachable", "prot-unreachable", "port-unreachable", "", "", "", "", "", "net-prohibited", "host-prohibited", "", "", "admin-prohibited"}
		d.say("reject with icmp " + word(words[:], code))
	}
}

func word(words []string, code uint8) string {
	if int(code) < len(words) && words[code] != "" {
		return words[code]
	}
	return fmt.Sprintf("code %d", code)
}

func (d *decoder) queue(rawExpr) { d.rule.Verdict = "queue"; d.say("queue") }

func (d *decoder) rewrite(kind string) {
	d.rule.Rewrite, d.rule.Verdict = kind, "accept"
	d.say(kind)
}

func (d *decoder) nat(e rawExpr) {
	d.rewrite(map[uint32]string{unix.NFT_NAT_SNAT: "snat", unix.NFT_NAT_DNAT: "dnat"}[e.u32(unix.NFTA_NAT_TYPE)&1])
}
func (d *decoder) masq(rawExpr)  { d.rewrite("masquerade") }
func (d *decoder) redir(rawExpr) { d.rewrite("redirect") }

// tproxy decides nothing by itself; a verdict follows.
func (d *decoder) tproxy(rawExpr) { d.rule.Rewrite = "tproxy"; d.say("tproxy") }

func (d *decoder) log(e rawExpr) {
	if p := nl.Str(e.attr[logPrefix]); p != "" {
		d.say(fmt.Sprintf("log prefix %q", p))
		return
	}
	d.say("log")
}

// dynset adds to a set; with a limit inside it is a meter and hits some packets.
func (d *decoder) dynset(e rawExpr) {
	name := nl.Str(e.attr[unix.NFTA_DYNSET_SET_NAME])
	if e.u32(dynsetFlags)&unix.NFT_DYNSET_F_INV != 0 {
		d.opaque("dynset !")
		return
	}
	d.rule.Partial = d.rule.Partial || e.has(dynsetExpr) || e.has(dynsetExprs)
	d.say("update @" + name)
}

// variant is one element of a verdict map as a rule of its own.
func variant(m facts.FWMatch, verdict string) facts.FWRule {
	if verdict == "continue" {
		verdict = ""
	}
	return facts.FWRule{Matches: []facts.FWMatch{m}, Verdict: verdict}
}
