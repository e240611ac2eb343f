// Package socket collects this host's TCP and UDP sockets from sock_diag:
// how many are in which state, listeners with their queues, UDP sockets that
// lose datagrams, connections that nobody closes, and destinations that use up
// local ports. Only aggregates are kept, so a hundred thousand sockets cost a
// fraction of a second. Where the kernel or a sandbox has no sock_diag, it
// reads /proc/net instead and says so.
//
// All of it is about the network namespace of the calling thread.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"fathom/internal/collect"
	"fathom/internal/facts"
	"fathom/internal/sys/inetdiag"
)

// Collector returns the collector of facts.Host.Sockets.
func Collector() collect.Collector {
	return collect.Collector{Name: "socket", Collect: Collect}
}

// Method names in facts.Sockets.
const (
	methodDiag = "sock_diag"
	methodProc = "/proc/net"
)

// source gives all sockets of a protocol in some states, each once.
type source interface {
	each(ctx context.Context, req inetdiag.Request, f func(*inetdiag.Msg)) error
}

// Collect fills h.Sockets.
func Collect(ctx context.Context, h *facts.Host) error {
	diag, err := dialDiag(ctx)
	var src source = diag
	s := &facts.Sockets{Method: methodDiag}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		src, s.Method = procNet{procRoot}, methodProc
		h.Gaps = append(h.Gaps, diagGap(err))
	default:
		defer diag.Close()
	}
	t := newTally(localPortRange(procRoot))
	if err := collectTCP(ctx, src, t); err != nil {
		if ctx.Err() != nil || s.Method == methodProc {
			return err
		}
		// The socket could be opened, but the answer is no: a kernel without tcp_diag.
		h.Gaps = append(h.Gaps, diagGap(err))
		src, s.Method = procNet{procRoot}, methodProc
		t = newTally(localPortRange(procRoot))
		if err := collectTCP(ctx, src, t); err != nil {
			return err
		}
	}
	if err := collectUDP(ctx, src, t, h); err != nil {
		return err
	}
	o, err := findOwners(ctx, procRoot, t.wanted())
	if err != nil {
		return err
	}
	if o.hidden {
		h.Gaps = append(h.Gaps, facts.Gap{
			What:   "which processes own some of the sockets",
			Why:    o.why,
			Unlock: "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (run as root)",
		})
	}
	t.fill(s, o)
	if t.cut {
		h.Gaps = append(h.Gaps, facts.Gap{What: "part of the socket table", Why: "it is larger than what is kept of it; counts of states are complete, lists are not"})
	}
	h.Sockets = s
	return nil
}

func diagGap(err error) facts.Gap {
	return facts.Gap{
		What: "backlog limits of listeners, ages of CLOSE_WAIT and receive buffers (read /proc/net instead of sock_diag)",
		Why:  err.Error(), Unlock: "the kernel modules tcp_diag and udp_diag, and a sandbox that allows AF_NETLINK sockets",
	}
}

// collectTCP asks for listeners first, because connections to a listener do
// not use up local ports, then for everything else, and for TCP_INFO only when
// there are sockets in CLOSE_WAIT.
func collectTCP(ctx context.Context, src source, t *tally) error {
	ask := func(states uint32, ext uint8, f func(*inetdiag.Msg)) error {
		for _, family := range []uint8{inetdiag.FamilyV4, inetdiag.FamilyV6} {
			r := inetdiag.Request{Family: family, Protocol: inetdiag.ProtoTCP, Ext: ext, States: states}
			if err := src.each(ctx, r, f); err != nil {
				return fmt.Errorf("read TCP sockets: %w", err)
			}
		}
		return nil
	}
	listen := inetdiag.Mask(inetdiag.Listen)
	if err := ask(listen, 0, t.addListener); err != nil {
		return err
	}
	if err := ask(inetdiag.AllStates&^listen, 0, t.addTCP); err != nil {
		return err
	}
	if t.states[inetdiag.CloseWait] == 0 {
		return nil
	}
	return ask(inetdiag.Mask(inetdiag.CloseWait), inetdiag.ExtInfo, t.addCloseWait)
}

func collectUDP(ctx context.Context, src source, t *tally, h *facts.Host) error {
	read := func(src source) error {
		for _, family := range []uint8{inetdiag.FamilyV4, inetdiag.FamilyV6} {
			r := inetdiag.Request{Family: family, Protocol: inetdiag.ProtoUDP, Ext: inetdiag.ExtSkMemInfo, States: ^uint32(0)}
			if err := src.each(ctx, r, t.addUDP); err != nil {
				return fmt.Errorf("read UDP sockets: %w", err)
			}
		}
		return nil
	}
	err := read(src)
	if _, already := src.(procNet); err == nil || already || ctx.Err() != nil {
		return err
	}
	t.udp = t.udp[:0]
	h.Gaps = append(h.Gaps, facts.Gap{
		What: "receive buffer sizes of UDP sockets (read /proc/net/udp instead of sock_diag)",
		Why:  err.Error(), Unlock: "modprobe udp_diag",
	})
	return read(procNet{procRoot})
}

// To returns the TCP sockets to one address with what TCP_INFO says of them,
// listeners excepted. The kernel filters, so this costs little on a busy host.
// A v4 address also finds the v4-mapped ones of v6 sockets. At most
// maxTargets are returned.
func To(ctx context.Context, remote netip.Addr) ([]facts.TCPSocket, error) {
	remote = remote.Unmap().WithZone("") // the socket's scope is its interface index, not part of the address
	if !remote.IsValid() {
		return nil, errors.New("read TCP sockets: no remote address given")
	}
	diag, err := dialDiag(ctx)
	if err != nil {
		return nil, err
	}
	defer diag.Close()
	var out []facts.TCPSocket
	want := map[uint32]struct{}{}
	for _, family := range []uint8{inetdiag.FamilyV4, inetdiag.FamilyV6} {
		if remote.Is6() && family == inetdiag.FamilyV4 {
			continue
		}
		r := inetdiag.Request{Family: family, Protocol: inetdiag.ProtoTCP, Ext: inetdiag.ExtInfo, States: inetdiag.AllStates &^ inetdiag.Mask(inetdiag.Listen), Remote: remote}
		err := diag.each(ctx, r, func(m *inetdiag.Msg) {
			// Old kernels ignore a filter they cannot run; so look again.
			if m.Remote.Addr() != remote || len(out) >= maxTargets {
				return
			}
			out = append(out, tcpSocket(m))
			if m.Inode != 0 {
				want[m.Inode] = struct{}{}
			}
		})
		if err != nil {
			return out, fmt.Errorf("read TCP sockets to %s: %w", remote, err)
		}
	}
	o, err := findOwners(ctx, procRoot, want)
	for i := range out {
		if out[i].Inode != 0 {
			out[i].Process = o.name(uint32(out[i].Inode), out[i].UID)
		}
	}
	return out, err
}

// AddTargets puts the sockets to the addresses into h.Sockets.Targets. What
// cannot be read becomes a Gap.
func AddTargets(ctx context.Context, h *facts.Host, remotes ...netip.Addr) {
	if h.Sockets == nil {
		h.Sockets = &facts.Sockets{}
	}
	for _, r := range remotes {
		found, err := To(ctx, r)
		h.Sockets.Targets = append(h.Sockets.Targets, found...)
		if err != nil {
			h.Gaps = append(h.Gaps, facts.Gap{What: "TCP sockets to " + r.String(), Why: err.Error()})
		}
	}
}

// notExist reports whether a file is missing because the kernel lacks a part.
func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
