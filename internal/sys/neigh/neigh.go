// Package neigh asks a link who owns an address, with ARP requests (IPv4,
// RFC 826) or neighbour solicitations (IPv6, RFC 4861) of its own on a packet
// socket. Unlike the kernel's neighbour table it sees every answer, which shows
// duplicate addresses. It needs CAP_NET_RAW.
package neigh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"fathom/internal/sys/sock"
	"fathom/internal/wire"
)

// maxAnswers bounds the distinct addresses kept of a link that lies.
const maxAnswers = 64

// Query is one question to a link.
type Query struct {
	Link   *net.Interface
	Target netip.Addr
	// Source is our address that asks. The zero Addr asks without one, as a host
	// does that wants to know whether its own address is taken (RFC 5227 §2.1.1,
	// RFC 4862 §5.4.2); nobody's neighbour cache changes then.
	Source netip.Addr
	Count  int           // requests, spread evenly over Wait
	Wait   time.Duration // from the first request to the end
	First  bool          // the first answer is enough
}

// Answer is a station that says it owns the address.
type Answer struct {
	MAC wire.MAC
	RTT time.Duration // since the latest request, by our own clock (error up to 1 ms)
}

// Ask sends the question and returns each distinct station that answered, in
// order of arrival, own interfaces left out. Silence is no error. When ctx ends
// early it returns what came until then, and the context's error if that is
// nothing.
func Ask(ctx context.Context, q Query) (answers []Answer, sent int, err error) {
	a, err := newAsker(q)
	if err != nil {
		return nil, 0, err
	}
	defer a.conn.Close()
	release := context.AfterFunc(ctx, func() { _ = a.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer release()
	if err := a.run(ctx); err != nil {
		return a.answers, a.sent, err
	}
	if len(a.answers) == 0 && ctx.Err() != nil {
		return nil, a.sent, ctx.Err()
	}
	return a.answers, a.sent, nil
}

type asker struct {
	q       Query
	conn    *sock.Conn
	frame   []byte
	own     map[wire.MAC]bool
	answers []Answer
	sent    int
	asked   time.Time
}

func newAsker(q Query) (*asker, error) {
	if len(q.Link.HardwareAddr) != 6 || q.Link.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
		return nil, fmt.Errorf("ask link %s for %s: %w (not an Ethernet link: it has no neighbour resolution)", q.Link.Name, q.Target, unix.EOPNOTSUPP)
	}
	own, err := ownMACs()
	if err != nil {
		return nil, err
	}
	proto, filter := uint16(unix.ETH_P_ARP), []bpf.Instruction(nil)
	if q.Target.Is6() {
		proto, filter = unix.ETH_P_IPV6, neighbourFilter()
	}
	c, err := sock.Packet(sock.PacketOptions{Interface: q.Link.Index, Protocol: proto, Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("ask link %s for %s: %w", q.Link.Name, q.Target, err)
	}
	return &asker{q: q, conn: c, frame: question(q), own: own}, nil
}

// ownMACs are the hardware addresses of all our interfaces: on a bridge our own
// ports may answer.
func ownMACs() (map[wire.MAC]bool, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	own := make(map[wire.MAC]bool, len(ifs))
	for _, i := range ifs {
		if len(i.HardwareAddr) == 6 {
			own[wire.MAC(i.HardwareAddr)] = true
		}
	}
	return own, nil
}

// question is the frame to send.
func question(q Query) []byte {
	me := wire.MAC(q.Link.HardwareAddr)
	if q.Target.Is4() {
		b := wire.Ethernet{Dst: wire.Broadcast, Src: me, Type: wire.EtherARP}.Append(nil)
		return wire.ARP{Op: wire.ARPRequest, SenderMAC: me, SenderIP: q.Source, TargetIP: q.Target}.Append(b)
	}
	src, opt := q.Source.WithZone(""), me
	if !src.IsValid() {
		src, opt = netip.IPv6Unspecified(), wire.MAC{} // RFC 4861 §4.3: no option then
	}
	group, mac := wire.SolicitedNode(q.Target)
	msg := wire.Neighbour{Target: q.Target.WithZone(""), MAC: opt}.Append(nil, src, group)
	b := wire.Ethernet{Dst: mac, Src: me, Type: wire.EtherIPv6}.Append(nil)
	// Hop limit 255 proves that it came from the link itself, RFC 4861 §7.1.
	b = wire.IPv6{Protocol: wire.ProtoICMPv6, HopLimit: 255, Src: src, Dst: group}.Append(b, len(msg))
	return append(b, msg...)
}

// neighbourFilter passes neighbour discovery over IPv6 on Ethernet.
func neighbourFilter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: wire.EthernetHeaderLen + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: wire.ProtoICMPv6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: wire.EthernetHeaderLen + wire.IPv6HeaderLen, Size: 1}, // type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: wire.ICMP6NeighbourSol, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: wire.ICMP6NeighbourAdv, SkipTrue: 1},
		bpf.RetConstant{Val: 2048},
		bpf.RetConstant{Val: 0},
	}
}

func (a *asker) run(ctx context.Context) error {
	start := time.Now()
	end, step := start.Add(a.q.Wait), a.q.Wait/time.Duration(max(a.q.Count, 1))
	buf := make([]byte, 2048)
	for ctx.Err() == nil {
		now := time.Now()
		if a.sent < a.q.Count && !now.Before(start.Add(time.Duration(a.sent)*step)) {
			if err := a.conn.Send(a.frame); err != nil {
				return fmt.Errorf("ask link %s for %s: send: %w", a.q.Link.Name, a.q.Target, err)
			}
			a.asked = time.Now()
			a.sent++
			continue
		}
		if !now.Before(end) {
			return nil
		}
		wake := end
		if a.sent < a.q.Count {
			wake = start.Add(time.Duration(a.sent) * step)
		}
		if err := a.conn.SetReadDeadline(wake); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		m, err := a.conn.Recv(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil: // ENETDOWN: the link was switched off
			return fmt.Errorf("ask link %s for %s: receive: %w", a.q.Link.Name, a.q.Target, err)
		case m.Link.Type != unix.PACKET_OUTGOING:
			if mac, ok := owner(m.Data, a.q.Target.WithZone("")); ok {
				a.add(mac, m.User)
			}
			if a.q.First && len(a.answers) > 0 {
				return nil
			}
		}
	}
	return nil
}

func (a *asker) add(mac wire.MAC, at time.Time) {
	if a.own[mac] || mac.IsZero() || len(a.answers) >= maxAnswers {
		return
	}
	for _, x := range a.answers {
		if x.MAC == mac {
			return
		}
	}
	a.answers = append(a.answers, Answer{mac, max(0, at.Sub(a.asked))})
}

// owner reads from a frame who claims the address: the sender of any ARP packet
// or the target of an advertisement; who merely probes for it (sender 0.0.0.0
// or ::) wants it too, which RFC 5227 §2.1.1 and RFC 4862 §5.4.3 call a conflict.
func owner(frame []byte, target netip.Addr) (wire.MAC, bool) {
	eth, b, err := wire.ParseEthernet(frame)
	if err != nil {
		return wire.MAC{}, false
	}
	if eth.Type == wire.EtherARP {
		a, err := wire.ParseARP(b)
		if err != nil {
			return wire.MAC{}, false
		}
		return a.SenderMAC, a.SenderIP == target || a.SenderIP.IsUnspecified() && a.Op == wire.ARPRequest && a.TargetIP == target
	}
	ip, msg, err := wire.ParseIPv6(b)
	if err != nil || eth.Type != wire.EtherIPv6 || ip.Protocol != wire.ProtoICMPv6 || ip.HopLimit != 255 ||
		wire.PseudoChecksum(ip.Src, ip.Dst, wire.ProtoICMPv6, msg) != 0 {
		return wire.MAC{}, false
	}
	n, err := wire.ParseNeighbour(msg)
	if err != nil {
		return wire.MAC{}, false
	}
	mac := n.MAC
	if mac.IsZero() { // an answer to a unicast question may leave it out
		mac = eth.Src
	}
	if n.Advert {
		return mac, n.Target == target
	}
	return mac, ip.Src == target || ip.Src.IsUnspecified() && n.Target == target
}

// SourceOn chooses our address on a link to ask about target with: one in the
// same prefix, else the first of the family; for IPv6 a link-local one is as
// good. ok is false when the link has none.
func SourceOn(link *net.Interface, target netip.Addr) (src netip.Addr, ok bool) {
	addrs, err := link.Addrs()
	if err != nil {
		return src, false
	}
	for _, a := range addrs {
		n, isNet := a.(*net.IPNet)
		if !isNet {
			continue
		}
		ip, valid := netip.AddrFromSlice(n.IP)
		ip = ip.Unmap()
		if !valid || ip.Is4() != target.Is4() {
			continue
		}
		bits, _ := n.Mask.Size()
		if p, err := ip.Prefix(bits); err == nil && p.Contains(target.WithZone("")) {
			return ip, true
		}
		if !src.IsValid() {
			src = ip
		}
	}
	return src, src.IsValid()
}
