package witness

import (
	"golang.org/x/net/bpf"

	"fathom/internal/wire"
)

// snapLen is how many bytes of a packet are read: an IPv6 header, an ICMP
// error, the quoted headers, with room for options.
const snapLen = 256

// filter passes what the package comment says. The socket is a cooked one:
// offset 0 is the network header. Fragments other than the first are dropped,
// IPv6 packets with extension headers too.
func filter() []bpf.Instruction {
	const drop, accept = "drop", "accept"
	p := program{labels: map[string]int{}}
	p.add(bpf.LoadExtension{Num: bpf.ExtProto})
	p.jump(bpf.JumpEqual, wire.EtherARP, accept, "")
	p.jump(bpf.JumpEqual, wire.EtherIPv6, "v6", "")
	p.jump(bpf.JumpEqual, wire.EtherIPv4, "", drop)

	p.add(bpf.LoadAbsolute{Off: 6, Size: 2})
	p.jump(bpf.JumpBitsSet, 0x1fff, drop, "")
	p.add(bpf.LoadMemShift{Off: 0}) // X = header length
	p.add(bpf.LoadAbsolute{Off: 9, Size: 1})
	p.jump(bpf.JumpEqual, wire.ProtoICMP, accept, "")
	p.jump(bpf.JumpEqual, wire.ProtoUDP, "udp4", "")
	p.jump(bpf.JumpEqual, wire.ProtoTCP, "", drop)
	p.add(bpf.LoadIndirect{Off: 13, Size: 1})
	p.jump(bpf.JumpBitsSet, wire.TCPSyn|wire.TCPRst, accept, drop)
	p.label("udp4")
	p.add(bpf.LoadIndirect{Off: 0, Size: 2})
	p.jump(bpf.JumpEqual, dnsPort, accept, "")
	p.add(bpf.LoadIndirect{Off: 2, Size: 2})
	p.jump(bpf.JumpEqual, dnsPort, accept, drop)

	p.label("v6")
	p.add(bpf.LoadAbsolute{Off: 6, Size: 1})
	p.jump(bpf.JumpEqual, wire.ProtoICMPv6, accept, "")
	p.jump(bpf.JumpEqual, wire.ProtoUDP, "udp6", "")
	p.jump(bpf.JumpEqual, wire.ProtoTCP, "", drop)
	p.add(bpf.LoadAbsolute{Off: wire.IPv6HeaderLen + 13, Size: 1})
	p.jump(bpf.JumpBitsSet, wire.TCPSyn|wire.TCPRst, accept, drop)
	p.label("udp6")
	p.add(bpf.LoadAbsolute{Off: wire.IPv6HeaderLen, Size: 2})
	p.jump(bpf.JumpEqual, dnsPort, accept, "")
	p.add(bpf.LoadAbsolute{Off: wire.IPv6HeaderLen + 2, Size: 2})
	p.jump(bpf.JumpEqual, dnsPort, accept, drop)

	p.label(accept)
	p.add(bpf.RetConstant{Val: snapLen})
	p.label(drop)
	p.add(bpf.RetConstant{Val: 0})
	return p.link()
}

// program is a filter with named jump targets. Jumps go forward only, as the
// kernel demands; "" is the next instruction.
type program struct {
	code   []bpf.Instruction
	jumps  []jump
	labels map[string]int
}

type jump struct {
	at      int
	yes, no string
}

func (p *program) add(i bpf.Instruction) { p.code = append(p.code, i) }
func (p *program) label(name string)     { p.labels[name] = len(p.code) }

func (p *program) jump(cond bpf.JumpTest, val uint32, yes, no string) {
	p.jumps = append(p.jumps, jump{len(p.code), yes, no})
	p.add(bpf.JumpIf{Cond: cond, Val: val})
}

// link resolves the names. The program is shorter than the 255 instructions a
// jump can cross.
func (p *program) link() []bpf.Instruction {
	skip := func(at int, name string) uint8 {
		if name == "" {
			return 0
		}
		return uint8(p.labels[name] - at - 1)
	}
	for _, j := range p.jumps {
		i := p.code[j.at].(bpf.JumpIf)
		i.SkipTrue, i.SkipFalse = skip(j.at, j.yes), skip(j.at, j.no)
		p.code[j.at] = i
	}
	return p.code
}
