package socket

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"fathom/internal/facts"
	"fathom/internal/sys/inetdiag"
	"fathom/sample"
)

// Bounds of what is kept. Counts are exact beyond them; lists are not.
const (
	maxUDP          = 200
	maxListeners    = 20_000
	maxDestinations = 50
	maxDestKeys     = 200_000 // distinct remote endpoints followed: 20 MB
	maxCloseWait    = 200_000
	maxGroups       = 50
	maxTargets      = 2_000
	maxSynLocals    = 20_000
)

// tally gathers the aggregates while sockets stream by.
type tally struct {
	low, high uint16 // ip_local_port_range
	states    [inetdiag.NumStates]int
	listeners []facts.Socket
	listening [1 << 16 / 64]uint64 // bit set of ports that have a listener
	synRecv   map[netip.AddrPort]int
	udp       []facts.Socket
	closeWait []closeWait
	dest      map[destKey]int // index into dests
	dests     []dest
	cut       bool // a bound was reached
}

type destKey struct {
	remote, local [16]byte
	port          uint16
}

type dest struct {
	key      destKey
	ports    []uint16 // local ports; may hold one twice, when a socket moved on during the dump
	timeWait int
}

type closeWait struct {
	inode, uid, unread uint32
	ageMS              uint32
	remote             netip.Addr
	local              netip.AddrPort
}

func newTally(low, high uint16) *tally {
	return &tally{low: low, high: high, synRecv: map[netip.AddrPort]int{}, dest: map[destKey]int{}}
}

func (t *tally) count(s inetdiag.State) {
	if int(s) < len(t.states) {
		t.states[s]++
	}
}

func (t *tally) addListener(m *inetdiag.Msg) {
	if m.State != inetdiag.Listen {
		return
	}
	t.count(m.State)
	p := m.Local.Port()
	t.listening[p/64] |= 1 << (p % 64)
	if len(t.listeners) >= maxListeners {
		t.cut = true
		return
	}
	t.listeners = append(t.listeners, facts.Socket{
		Proto: "tcp", Local: m.Local, RecvQ: m.RQueue, SendQ: m.WQueue, Inode: uint64(m.Inode), UID: m.UID,
	})
}

func (t *tally) addTCP(m *inetdiag.Msg) {
	if m.State == inetdiag.Listen {
		return
	}
	t.count(m.State)
	p := m.Local.Port()
	switch {
	case m.State == inetdiag.SynRecv:
		if _, known := t.synRecv[m.Local]; !known && len(t.synRecv) >= maxSynLocals {
			t.cut = true
			return
		}
		t.synRecv[m.Local]++
	case p < t.low || p > t.high || m.Remote.Port() == 0 || t.listening[p/64]&(1<<(p%64)) != 0:
		// Not a port that connect() chose; or it belongs to a server, whose connections share it.
	default:
		t.addDestination(m, p)
	}
}

func (t *tally) addDestination(m *inetdiag.Msg, port uint16) {
	k := destKey{remote: m.Remote.Addr().As16(), local: m.Local.Addr().As16(), port: m.Remote.Port()}
	i, ok := t.dest[k]
	if !ok {
		if len(t.dests) >= maxDestKeys {
			t.cut = true
			return
		}
		i = len(t.dests)
		t.dest[k] = i
		t.dests = append(t.dests, dest{key: k})
	}
	d := &t.dests[i]
	d.ports = append(d.ports, port)
	if m.State == inetdiag.TimeWait {
		d.timeWait++
	}
}

// addCloseWait notes since when the peer has been gone. tcpi_last_ack_recv is
// the age of the last segment with an ACK, and the FIN carries one; a FIN
// without data does not touch tcpi_last_data_recv, which keeps counting from
// the last data or from the handshake (seen on 6.18: data, FIN 300 ms later,
// read 300 ms after that: 300 against 600 ms; TestCloseWaitAge holds it). If
// our program went on sending after the FIN, or its keepalive probes are
// answered by a peer that only half closed, those ACKs make the figure too
// small, never too large.
func (t *tally) addCloseWait(m *inetdiag.Msg) {
	if m.State != inetdiag.CloseWait {
		return
	}
	if len(t.closeWait) >= maxCloseWait {
		t.cut = true
		return
	}
	t.closeWait = append(t.closeWait, closeWait{
		inode: m.Inode, uid: m.UID, unread: m.RQueue, remote: m.Remote.Addr(), local: m.Local,
		ageMS: inetdiag.ParseTCPInfo(m.Info).LastAckRecv,
	})
}

func (t *tally) addUDP(m *inetdiag.Msg) {
	if m.Local.Port() == 0 {
		return // not bound
	}
	s := facts.Socket{
		Proto: "udp", Local: m.Local, RecvQ: m.RQueue, SendQ: m.WQueue, Drops: uint64(m.Drops()),
		RcvBuf: m.RcvBuf(), Inode: uint64(m.Inode), UID: m.UID,
	}
	if m.Remote.Port() != 0 {
		s.Remote = m.Remote
	}
	t.udp = append(t.udp, s)
	if len(t.udp) >= 20*maxUDP {
		t.trimUDP()
	}
}

// trimUDP keeps the UDP sockets that matter most: those that lost datagrams,
// then those with unread bytes, then the lowest ports.
func (t *tally) trimUDP() {
	slices.SortStableFunc(t.udp, func(a, b facts.Socket) int {
		return cmp.Or(cmp.Compare(b.Drops, a.Drops), cmp.Compare(b.RecvQ, a.RecvQ), compareEndpoint(a.Local, b.Local), compareEndpoint(a.Remote, b.Remote))
	})
	t.udp = t.udp[:min(len(t.udp), maxUDP)]
}

func compareEndpoint(a, b netip.AddrPort) int {
	return cmp.Or(cmp.Compare(a.Port(), b.Port()), a.Addr().Compare(b.Addr()))
}

// wanted are the inodes whose owners are worth a walk over /proc.
func (t *tally) wanted() map[uint32]struct{} {
	w := map[uint32]struct{}{}
	for _, s := range t.listeners {
		w[uint32(s.Inode)] = struct{}{}
	}
	for _, s := range t.udp {
		if s.Drops > 0 {
			w[uint32(s.Inode)] = struct{}{}
		}
	}
	for _, c := range t.closeWait {
		w[c.inode] = struct{}{}
	}
	delete(w, 0)
	return w
}

// fill writes the aggregates into s.
func (t *tally) fill(s *facts.Sockets, o owners) {
	s.Procs = o.all
	s.States = map[string]int{}
	for i, n := range t.states {
		if n > 0 {
			s.States[inetdiag.State(i).String()] += n
			s.Total += n
		}
	}
	t.trimUDP()
	for i := range t.udp {
		if t.udp[i].Drops > 0 {
			t.udp[i].Process = o.name(uint32(t.udp[i].Inode), t.udp[i].UID)
		}
	}
	for i := range t.listeners {
		t.listeners[i].Process = o.name(uint32(t.listeners[i].Inode), t.listeners[i].UID)
	}
	slices.SortStableFunc(t.listeners, func(a, b facts.Socket) int { return compareEndpoint(a.Local, b.Local) })
	t.giveSynRecv()
	s.UDP, s.Listeners = t.udp, t.listeners
	s.CloseWait = t.groups(o)
	s.Destinations = t.topDestinations()
}

// listenerFor finds the listener that accepts connections to an address: one
// bound to it, else one bound to any address. Of several that share the port
// (SO_REUSEPORT) it takes the first: sock_diag does not tell whose a half-open
// connection is.
func (t *tally) listenerFor(local netip.AddrPort) *facts.Socket {
	var wild *facts.Socket
	i, _ := slices.BinarySearchFunc(t.listeners, local.Port(), func(s facts.Socket, p uint16) int { return cmp.Compare(s.Local.Port(), p) })
	for ; i < len(t.listeners) && t.listeners[i].Local.Port() == local.Port(); i++ {
		a := t.listeners[i].Local.Addr()
		if a == local.Addr() {
			return &t.listeners[i]
		}
		if wild == nil && a.IsUnspecified() && (a.Is6() || local.Addr().Is4()) {
			wild = &t.listeners[i]
		}
	}
	return wild
}

func (t *tally) giveSynRecv() {
	for local, n := range t.synRecv {
		if l := t.listenerFor(local); l != nil {
			l.SynRecv += n
		}
	}
}

// group collects the CLOSE_WAIT sockets of one process.
type group struct {
	facts.SocketGroup
	ages    []uint32
	remotes map[netip.Addr]int
	port    int // -1: several
}

// groups counts CLOSE_WAIT by process. A connection without inode has not been
// accepted yet: it belongs to whoever listens.
func (t *tally) groups(o owners) []facts.SocketGroup {
	by := map[string]*group{}
	for _, c := range t.closeWait {
		name, waiting := "", c.inode == 0
		if l := t.listenerFor(c.local); waiting && l != nil {
			name = l.Process
		} else {
			name = o.name(c.inode, c.uid)
		}
		g := by[name]
		if g == nil {
			g = &group{SocketGroup: facts.SocketGroup{Process: name}, remotes: map[netip.Addr]int{}, port: int(c.local.Port())}
			by[name] = g
		}
		g.Count++
		if waiting {
			g.Unaccepted++
		}
		g.UnreadBytes += uint64(c.unread)
		g.ages = append(g.ages, c.ageMS)
		g.remotes[c.remote]++
		if g.port != int(c.local.Port()) {
			g.port = -1
		}
	}
	out := make([]facts.SocketGroup, 0, len(by))
	for _, g := range by {
		out = append(out, g.finish())
	}
	slices.SortFunc(out, func(a, b facts.SocketGroup) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Process, b.Process))
	})
	return out[:min(len(out), maxGroups)]
}

func (g *group) finish() facts.SocketGroup {
	slices.Sort(g.ages)
	ms := func(v uint32) sample.Duration { return sample.D(time.Duration(v) * time.Millisecond) }
	g.OldestAge, g.MedianAge = ms(g.ages[len(g.ages)-1]), ms(g.ages[len(g.ages)/2])
	best, most := netip.Addr{}, 0
	for a, n := range g.remotes {
		if n > most || n == most && a.Less(best) {
			best, most = a, n
		}
	}
	g.Remote = best.String()
	if g.port > 0 {
		g.LocalPort = uint16(g.port)
	}
	return g.SocketGroup
}

func (t *tally) topDestinations() []facts.Destination {
	for i := range t.dests {
		slices.Sort(t.dests[i].ports)
		t.dests[i].ports = slices.Compact(t.dests[i].ports)
	}
	slices.SortFunc(t.dests, func(a, b dest) int {
		return cmp.Or(cmp.Compare(len(b.ports), len(a.ports)), cmp.Compare(a.key.port, b.key.port),
			slices.Compare(a.key.remote[:], b.key.remote[:]), slices.Compare(a.key.local[:], b.key.local[:]))
	})
	var out []facts.Destination
	for _, d := range t.dests[:min(len(t.dests), maxDestinations)] {
		out = append(out, facts.Destination{
			Remote: netip.AddrPortFrom(netip.AddrFrom16(d.key.remote).Unmap(), d.key.port),
			Local:  netip.AddrFrom16(d.key.local).Unmap(),
			Ports:  len(d.ports), TimeWait: min(d.timeWait, len(d.ports)),
		})
	}
	return out
}

// tcpSocket translates a socket with its TCP_INFO.
func tcpSocket(m *inetdiag.Msg) facts.TCPSocket {
	s := facts.TCPSocket{
		Local: m.Local, Remote: m.Remote, State: m.State.String(), RecvQ: m.RQueue, SendQ: m.WQueue,
		UID: m.UID, Inode: uint64(m.Inode), Info: len(m.Info) > 0,
	}
	if !s.Info {
		return s
	}
	i := inetdiag.ParseTCPInfo(m.Info)
	us := func(v uint64) sample.Duration { return sample.D(time.Duration(min(v, 1<<53)) * time.Microsecond) }
	ms := func(v uint32) sample.Duration { return sample.D(time.Duration(v) * time.Millisecond) }
	s.RTT, s.RTTVar, s.RTO = us(uint64(i.RTT)), us(uint64(i.RTTVar)), us(uint64(i.RTO))
	if i.MinRTT != ^uint32(0) {
		s.MinRTT = us(uint64(i.MinRTT))
	}
	s.Backoff, s.Retransmits, s.CongState = int(i.Backoff), int(i.Retransmits), int(i.CAState)
	s.TotalRetrans, s.SegsOut, s.DataSegsOut = i.TotalRetrans, i.SegsOut, i.DataSegsOut
	s.Unacked, s.Lost, s.Reordering, s.Cwnd, s.SSThresh = i.Unacked, i.Lost, i.Reordering, i.SndCwnd, i.SndSSThresh
	s.SndMSS, s.RcvMSS, s.PMTU, s.SndWnd, s.NotSent = i.SndMSS, i.RcvMSS, i.PMTU, i.SndWnd, i.NotSent
	s.BytesSent, s.BytesRetrans, s.BytesAcked, s.BytesReceived = i.BytesSent, i.BytesRetrans, i.BytesAcked, i.BytesReceived
	s.DeliveryRate, s.AppLimited = bits(i.DeliveryRate), i.AppLimited
	if i.PacingRate != ^uint64(0) {
		s.PacingRate = bits(i.PacingRate)
	}
	s.Busy, s.RwndLimited, s.SndbufLimited = us(i.Busy), us(i.RwndLimited), us(i.SndbufLimited)
	s.LastDataSent, s.LastDataRecv, s.LastAckRecv = ms(i.LastDataSent), ms(i.LastDataRecv), ms(i.LastAckRecv)
	return s
}

// bits turns bytes/s into bits/s; what does not fit is as good as endless.
func bits(bytes uint64) uint64 {
	if bytes > ^uint64(0)/8 {
		return ^uint64(0)
	}
	return 8 * bytes
}
