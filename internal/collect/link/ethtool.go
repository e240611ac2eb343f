package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

// We speak the ethtool ioctl ourselves: safchain/ethtool sends no handshake for
// ETHTOOL_GLINKSETTINGS, so that the kernel refuses its mask size, and then
// prints a warning to standard output and forgets the modern link modes.

const (
	maxDriverStats = 200   // kept per link
	maxStatNames   = 20000 // read per link: a 100 Gbit/s NIC with 128 queues has about 6,000
	gstringLen     = 32    // ETH_GSTRING_LEN
	unknown32      = 0xffffffff
	ethSSStats     = 1 // ETH_SS_STATS
)

type ethtool struct{ fd int }

func openEthtool() (*ethtool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		return &ethtool{fd}, nil
	}
	// A host without IPv4: any socket that reaches dev_ioctl will do.
	fd, err2 := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err2 != nil {
		return nil, fmt.Errorf("open a socket for ethtool: %w", err)
	}
	return &ethtool{fd}, nil
}

func (e *ethtool) close() { unix.Close(e.fd) }

// ifreq is struct ifreq with a pointer in its union.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// ioctl runs SIOCETHTOOL; data begins with the command and is changed in place.
func (e *ethtool) ioctl(link string, data []byte) error {
	req := ifreq{data: unsafe.Pointer(unsafe.SliceData(data))}
	if copy(req.name[:unix.IFNAMSIZ-1], link) < len(link) {
		return unix.ENODEV
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}

// fill adds what the driver tells. Parts it does not have stay empty.
func (e *ethtool) fill(l *facts.Link) error {
	var errs []error
	nStats, err := e.driver(l)
	errs = append(errs, wrap("ask for the driver", err))
	errs = append(errs, wrap("ask for the speed", e.settings(l)))
	if nStats > 0 {
		errs = append(errs, wrap("read driver counters", e.stats(l, nStats)))
	}
	return errors.Join(errs...)
}

func wrap(what string, err error) error {
	if err == nil || refusal(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// driver reads struct ethtool_drvinfo (196 bytes).
func (e *ethtool) driver(l *facts.Link) (nStats int, err error) {
	b := make([]byte, 196)
	binary.NativeEndian.PutUint32(b, unix.ETHTOOL_GDRVINFO)
	if err := e.ioctl(l.Name, b); err != nil {
		return 0, err
	}
	l.Driver, l.Firmware = nl.Str(b[4:36]), strings.TrimSpace(nl.Str(b[68:100]))
	if l.Firmware == "N/A" {
		l.Firmware = ""
	}
	return int(nl.U32(b[180:])), nil
}

// settings reads struct ethtool_link_settings (48 bytes and three bitmaps). The
// first call, with no room for bitmaps, answers with their size, negative, in words.
func (e *ethtool) settings(l *facts.Link) error {
	b := make([]byte, 48)
	binary.NativeEndian.PutUint32(b, unix.ETHTOOL_GLINKSETTINGS)
	if err := e.ioctl(l.Name, b); err != nil {
		return err
	}
	words := -int(int8(b[15]))
	if words <= 0 {
		return fmt.Errorf("the kernel gave a link mode bitmap of %d words", words)
	}
	b = make([]byte, 48+3*4*words)
	binary.NativeEndian.PutUint32(b, unix.ETHTOOL_GLINKSETTINGS)
	b[15] = byte(words)
	if err := e.ioctl(l.Name, b); err != nil {
		return err
	}
	applySettings(l, b, words)
	return nil
}

// applySettings decodes struct ethtool_link_settings with its bitmaps:
// supported, advertised, advertised by the partner. Pure.
func applySettings(l *facts.Link, b []byte, words int) {
	if words < 0 || words > 127 || len(b) < 48+12*words {
		return
	}
	if s := nl.U32(b[4:]); s != unknown32 && s < 1<<31 {
		l.SpeedMbps = int(s)
	}
	switch b[8] {
	case 0:
		l.Duplex = "half"
	case 1:
		l.Duplex = "full"
	}
	if b[11] <= 1 {
		on := b[11] == 1
		l.Autoneg = &on
	}
	l.SupportedMbps = fastest(b[48 : 48+4*words])
	l.PartnerMbps = fastest(b[48+8*words : 48+12*words])
}

// stats reads the driver's own counters (ethtool -S). The number of counters
// may grow between the calls and the kernel then writes more than was asked
// for (dev_ethtool has this race), hence the room to spare.
func (e *ethtool) stats(l *facts.Link, n int) error {
	if n > maxStatNames {
		return fmt.Errorf("the driver has %d counters, more than %d", n, maxStatNames)
	}
	room := 2*n + 256
	names := make([]byte, 12+room*gstringLen)
	binary.NativeEndian.PutUint32(names, unix.ETHTOOL_GSTRINGS)
	binary.NativeEndian.PutUint32(names[4:], ethSSStats)
	binary.NativeEndian.PutUint32(names[8:], uint32(n))
	if err := e.ioctl(l.Name, names); err != nil {
		return err
	}
	values := make([]byte, 8+room*8)
	binary.NativeEndian.PutUint32(values, unix.ETHTOOL_GSTATS)
	binary.NativeEndian.PutUint32(values[4:], uint32(n))
	if err := e.ioctl(l.Name, values); err != nil {
		return err
	}
	count := min(int(nl.U32(names[8:])), int(nl.U32(values[4:])), room)
	l.DriverStats = keepStats(statPairs(names[12:], values[8:], count))
	return nil
}

type stat struct {
	name  string
	value uint64
}

func statPairs(names, values []byte, count int) []stat {
	var out []stat
	for i := range min(count, len(names)/gstringLen, len(values)/8) {
		// Some drivers pad names with blanks on the left.
		if name := strings.TrimSpace(nl.Str(names[i*gstringLen : (i+1)*gstringLen])); name != "" {
			out = append(out, stat{name, nl.U64(values[i*8:])})
		}
	}
	return out
}

// errorWords mark counters that tell of trouble, also while they are zero: an
// increase can only be seen by who has kept the zero.
var errorWords = []string{
	"err", "drop", "miss", "discard", "fail", "fault", "crc", "fcs", "timeout", "overrun", "overflow", "over_",
	"no_buf", "nobuf", "no_dma", "lost", "bad", "jabber", "fragment", "undersize", "oversize", "collision", "abort",
	"reset", "invalid", "starv", "full", "watchdog", "symbol", "carrier", "pause", "stop", "busy", "no_desc", "out_of_",
}

func errorLike(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(errorWords, func(w string) bool { return strings.Contains(name, w) })
}

// keepStats keeps at most maxDriverStats: error-like ones that count first,
// then the other error-like ones, then the rest that is not zero; names of
// several queues in the same order each time. Equal names are added up.
func keepStats(all []stat) map[string]uint64 {
	rank := func(s stat) int {
		switch {
		case errorLike(s.name) && s.value != 0:
			return 0
		case errorLike(s.name):
			return 1
		case s.value != 0:
			return 2
		}
		return 3
	}
	slices.SortStableFunc(all, func(a, b stat) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	out := map[string]uint64{}
	for _, s := range all {
		if _, seen := out[s.name]; rank(s) == 3 || !seen && len(out) >= maxDriverStats {
			continue
		}
		out[s.name] += s.value
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
