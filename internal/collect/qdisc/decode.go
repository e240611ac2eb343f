package qdisc

import (
	"fmt"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"
)

// Attributes of include/uapi/linux/{rtnetlink,gen_stats}.h.
const (
	sizeofTcMsg                                     = 20
	tcaKind, tcaOptions, tcaStats, tcaStats2        = 1, 2, 3, 7
	statsBasic, statsQueue, statsPkt64              = 1, 3, 8
	handleRoot, handleIngress, handleUnspec  uint32 = 0xffffffff, 0xfffffff1, 0
)

// decode reads the body of an RTM_NEWQDISC or RTM_NEWTCLASS: struct tcmsg and attributes.
func decode(b []byte) (q facts.Qdisc, link int, ok bool) {
	if len(b) < sizeofTcMsg {
		return q, 0, false
	}
	link = int(int32(nl.U32(b[4:])))
	q.Handle, q.Parent = handle(nl.U32(b[8:])), parent(nl.U32(b[12:]))
	var options, old, stats []byte
	for typ, v := range nl.Attrs(b[sizeofTcMsg:]) {
		switch typ {
		case tcaKind:
			q.Kind = nl.Str(v)
		case tcaOptions:
			options = v
		case tcaStats:
			old = v
		case tcaStats2:
			stats = v
		}
	}
	if stats != nil {
		decodeStats(&q, stats)
	} else {
		decodeOldStats(&q, old)
	}
	decodeOptions(&q, options)
	return q, link, q.Kind != ""
}

func handle(h uint32) string { return fmt.Sprintf("%x:%x", h>>16, h&0xffff) }

func parent(h uint32) string {
	switch h {
	case handleRoot:
		return "root"
	case handleIngress:
		return "ingress" // also clsact's
	case handleUnspec:
		return ""
	}
	return handle(h)
}

// decodeStats reads TCA_STATS2 (include/uapi/linux/gen_stats.h). The 64-bit
// packet counter (Linux 5.5) replaces the 32-bit one, which wraps.
func decodeStats(q *facts.Qdisc, b []byte) {
	wide := false
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case statsBasic: // struct gnet_stats_basic: u64 bytes, u32 packets
			q.Bytes = nl.U64(v)
			if !wide {
				q.Packets = uint64(nl.U32At(v, 8))
			}
		case statsPkt64:
			q.Packets, wide = nl.U64(v), true
		case statsQueue: // struct gnet_stats_queue
			q.QueueLen, q.Backlog = int(nl.U32At(v, 0)), int(nl.U32At(v, 4))
			q.Drops, q.Requeues, q.Overlimits = uint64(nl.U32At(v, 8)), uint64(nl.U32At(v, 12)), uint64(nl.U32At(v, 16))
		}
	}
}

// decodeOldStats reads struct tc_stats of kernels before 2.6.11.
func decodeOldStats(q *facts.Qdisc, b []byte) {
	q.Bytes, q.Packets = nl.U64(b), uint64(nl.U32At(b, 8))
	q.Drops, q.Overlimits = uint64(nl.U32At(b, 12)), uint64(nl.U32At(b, 16))
	q.QueueLen, q.Backlog = int(nl.U32At(b, 28)), int(nl.U32At(b, 32))
}

// decodeOptions reads the limits of the kinds we know (include/uapi/linux/pkt_sched.h).
// Rates come in bytes per second and leave in bits per second.
func decodeOptions(q *facts.Qdisc, b []byte) {
	switch q.Kind {
	case "pfifo", "bfifo", "pfifo_head_drop": // struct tc_fifo_qopt
		q.Limit = int(nl.U32(b))
	case "sfq": // struct tc_sfq_qopt
		q.Limit = int(nl.U32At(b, 8))
	case "netem":
		netem(q, b)
	case "tbf":
		tbf(q, b)
	case "htb":
		htb(q, b)
	case "hfsc":
		hfsc(q, b)
	case "red", "fq_codel", "codel", "fq_pie", "pie", "fq", "cake":
		simple(q, b)
	}
}

// simple reads kinds with one number of each sort.
func simple(q *facts.Qdisc, b []byte) {
	// TCA_CAKE_BASE_RATE64; TCA_{CAKE_MEMORY,FQ_CODEL_LIMIT,CODEL_LIMIT,FQ_PIE_LIMIT,PIE_LIMIT,FQ_PLIMIT}.
	limit := map[string]uint16{"cake": 10, "fq_codel": 2, "codel": 2, "fq_pie": 1, "pie": 2, "fq": 1}[q.Kind]
	for typ, v := range nl.Attrs(b) {
		switch {
		case q.Kind == "red" && typ == 1: // TCA_RED_PARMS, struct tc_red_qopt: limit first
			q.Limit = int(nl.U32(v))
		case q.Kind == "cake" && typ == 2:
			q.RateBps = bits(nl.U64(v))
		case limit != 0 && typ == limit:
			q.Limit = int(nl.U32(v))
		}
	}
}

// tbf: TCA_TBF_PARMS 1 (struct tc_tbf_qopt: two tc_ratespec of 12 bytes, then
// the limit in bytes), RATE64 4, PRATE64 5.
func tbf(q *facts.Qdisc, b []byte) {
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case 1:
			q.RateBps = max(q.RateBps, rate32(v, 0))
			q.CeilBps = max(q.CeilBps, rate32(v, 12))
			q.Limit = int(nl.U32At(v, 24))
		case 4:
			q.RateBps = bits(nl.U64(v))
		case 5:
			q.CeilBps = bits(nl.U64(v))
		}
	}
}

// htb: of a class TCA_HTB_PARMS 1 (struct tc_htb_opt: rate, ceil), RATE64 6,
// CEIL64 7; of the qdisc DIRECT_QLEN 5.
func htb(q *facts.Qdisc, b []byte) {
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case 1:
			q.RateBps = max(q.RateBps, rate32(v, 0))
			q.CeilBps = max(q.CeilBps, rate32(v, 12))
		case 5:
			q.Limit = int(nl.U32(v))
		case 6:
			q.RateBps = bits(nl.U64(v))
		case 7:
			q.CeilBps = bits(nl.U64(v))
		}
	}
}

// hfsc: of a class TCA_HFSC_RSC 1, FSC 2, USC 3, struct tc_service_curve {m1, d, m2}.
func hfsc(q *facts.Qdisc, b []byte) {
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case 1, 2:
			q.RateBps = max(q.RateBps, bits(uint64(nl.U32At(v, 8))))
		case 3:
			q.CeilBps = bits(uint64(nl.U32At(v, 8)))
		}
	}
}

// netem: struct tc_netem_qopt (24 bytes, limit at 4), then attributes: RATE 6, RATE64 8.
func netem(q *facts.Qdisc, b []byte) {
	if len(b) < 24 {
		return
	}
	q.Limit = int(nl.U32At(b, 4))
	for typ, v := range nl.Attrs(b[24:]) {
		switch typ {
		case 6:
			if q.RateBps == 0 && nl.U32(v) != 0xffffffff {
				q.RateBps = bits(uint64(nl.U32(v)))
			}
		case 8:
			q.RateBps = bits(nl.U64(v))
		}
	}
}

// rate32 reads the rate of a struct tc_ratespec at off; all ones says that
// the 64-bit attribute has it.
func rate32(b []byte, off int) uint64 {
	r := nl.U32At(b, off+8)
	if r == 0xffffffff {
		return 0
	}
	return bits(uint64(r))
}

// bits turns bytes per second into bits per second without wrapping.
func bits(bytes uint64) uint64 {
	if bytes > 1<<61-1 {
		return 1<<64 - 1
	}
	return bytes * 8
}
