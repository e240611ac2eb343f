package socket

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"fathom/internal/sys/inetdiag"
)

// procNet reads /proc/net/{tcp,tcp6,udp,udp6}: slower than sock_diag, without
// backlog limits and TCP_INFO, but everywhere (gVisor, strict sandboxes). It
// goes by thread-self, because /proc/net itself is that of the process' first
// thread, which may be in another network namespace.
type procNet struct{ root string }

func (p procNet) each(ctx context.Context, req inetdiag.Request, f func(*inetdiag.Msg)) error {
	name := map[uint8]string{inetdiag.ProtoTCP: "tcp", inetdiag.ProtoUDP: "udp"}[req.Protocol]
	if req.Family == inetdiag.FamilyV6 {
		name += "6"
	}
	file, err := os.Open(filepath.Join(p.root, "thread-self/net", name))
	if notExist(err) && req.Family == inetdiag.FamilyV6 {
		return nil // a kernel without IPv6
	}
	if err != nil {
		return err
	}
	defer file.Close()
	var m inetdiag.Msg
	sc := bufio.NewScanner(file)
	for sc.Scan() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if parseProcNet(sc.Text(), &m) == nil && req.States&(1<<m.State) != 0 {
			f(&m)
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return nil
}

var errProcNet = errors.New("not a line of a socket table")

// parseProcNet reads a line of /proc/net/tcp and its kin (net/ipv4/tcp_ipv4.c
// tcp4_seq_show, net/ipv4/udp.c udp4_format_sock): slot, local, remote, state,
// tx:rx, timer, retransmits, uid, timeout, inode, references, address, drops.
func parseProcNet(line string, m *inetdiag.Msg) error {
	f := strings.Fields(line)
	if len(f) < 10 || !strings.HasSuffix(f[0], ":") {
		return errProcNet
	}
	*m = inetdiag.Msg{}
	var err1, err2 error
	m.Local, m.Family, err1 = hexEndpoint(f[1])
	m.Remote, _, err2 = hexEndpoint(f[2])
	state, err3 := strconv.ParseUint(f[3], 16, 8)
	tx, rx, ok := strings.Cut(f[4], ":")
	w, err4 := strconv.ParseUint(tx, 16, 32)
	r, err5 := strconv.ParseUint(rx, 16, 32)
	uid, err6 := strconv.ParseUint(f[7], 10, 32)
	inode, err7 := strconv.ParseUint(f[9], 10, 32)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil || !ok || state >= inetdiag.NumStates {
		return errProcNet
	}
	m.State, m.WQueue, m.RQueue, m.UID, m.Inode = inetdiag.State(state), uint32(w), uint32(r), uint32(uid), uint32(inode)
	if len(f) == 13 { // udp has drops at the end; tcp has 12 columns or more than 13
		if d, err := strconv.ParseUint(f[12], 10, 64); err == nil {
			m.SkMem = dropsOnly(d)
		}
	}
	return nil
}

// dropsOnly puts a count where Msg.Drops finds it.
func dropsOnly(n uint64) []byte {
	b := make([]byte, 36)
	binary.NativeEndian.PutUint32(b[32:], uint32(min(n, 1<<32-1)))
	return b
}

// hexEndpoint reads 0100007F:1F90: each group of 8 digits is a 32-bit word in
// the machine's byte order, the port is a plain number.
func hexEndpoint(s string) (netip.AddrPort, uint8, error) {
	a, p, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(a)
	port, err2 := strconv.ParseUint(p, 16, 16)
	if !ok || err != nil || err2 != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, 0, errProcNet
	}
	family := uint8(inetdiag.FamilyV4)
	if len(b) == 16 {
		family = inetdiag.FamilyV6
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), family, nil
}
