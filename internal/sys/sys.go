// Package sys says what this process may do on this kernel: capabilities, user,
// namespaces, and whether ICMP sockets open. It asks by trying where it can.
package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"fathom/internal/facts"
)

// Privilege is what this process may do. It never fails: what cannot be found
// out counts as not allowed, so that nothing is promised that does not work.
func Privilege() facts.Privilege {
	caps, _ := EffectiveCaps()
	init, _ := InitNetNS()
	return facts.Privilege{
		UID:      os.Geteuid(),
		NetRaw:   caps.Has(unix.CAP_NET_RAW),
		NetAdmin: caps.Has(unix.CAP_NET_ADMIN),
		// /proc/PID/fd is closed to others by its mode and by the ptrace check.
		Ptrace:    caps.Has(unix.CAP_SYS_PTRACE) && (caps.Has(unix.CAP_DAC_READ_SEARCH) || caps.Has(unix.CAP_DAC_OVERRIDE)),
		PingGroup: PingGroup(),
		Init:      init,
	}
}

// Caps is a set of capabilities (capabilities(7)), one bit each.
type Caps uint64

// Has reports whether a capability (unix.CAP_…) is in the set.
func (c Caps) Has(capability int) bool {
	return capability >= 0 && capability < 64 && c&(1<<capability) != 0
}

// capNames are the ones that matter to fathom, for Names.
var capNames = []struct {
	bit  int
	name string
}{
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"},
	{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	{unix.CAP_SYSLOG, "CAP_SYSLOG"},
	{unix.CAP_PERFMON, "CAP_PERFMON"},
	{unix.CAP_BPF, "CAP_BPF"},
}

// Names lists the capabilities that fathom can use, by their kernel names.
func (c Caps) Names() []string {
	var out []string
	for _, n := range capNames {
		if c.Has(n.bit) {
			out = append(out, n.name)
		}
	}
	return out
}

// EffectiveCaps is the effective set of the calling thread, by capget(2). Go
// programs change it on all threads alike or not at all.
func EffectiveCaps() (Caps, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // version 3 has two words
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return Caps(data[0].Effective) | Caps(data[1].Effective)<<32, nil
}

// PingGroup reports whether net.ipv4.ping_group_range lets this process open
// ICMP datagram sockets. Reading the sysctl would not do: the groups that count
// are those of the process, and sandboxes forbid the socket by other means.
func PingGroup() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// ErrUnknown is wrapped when the kernel does not let us know.
var ErrUnknown = errors.New("cannot be told")

// InitNetNS reports whether this process is in the network namespace of
// process 1. In a container with its own process namespace that is the
// container's, so this is a best guess. Ordinary users may not look at process
// 1: the error wraps [ErrUnknown] then.
func InitNetNS() (bool, error) {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return false, fmt.Errorf("network namespace: %w: %w", ErrUnknown, err)
	}
	first, err := os.Readlink("/proc/1/ns/net")
	if err != nil {
		return initByInode(own), fmt.Errorf("network namespace of process 1: %w: %w", ErrUnknown, err)
	}
	return own == first, nil
}

// initByInode guesses from the inode number: the initial namespace is made at
// boot and has one of the first numbers, 4026531833 on Linux 6.18 and a little
// higher before; namespaces made later have higher ones.
func initByInode(link string) bool {
	const low, high = 4026531833, 4026531999
	var n uint64
	if _, err := fmt.Sscanf(link, "net:[%d]", &n); err != nil {
		return false
	}
	return n >= low && n <= high
}

// KernelRelease is the running kernel's release, 6.1.0-28-amd64.
func KernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	b, _, _ := bytes.Cut(u.Release[:], []byte{0})
	return string(b), nil
}

// Describe says in words what p allows and what would allow more, one sentence
// each; the first is about who we are.
func Describe(p facts.Privilege) []string {
	who := fmt.Sprintf("running as uid %d", p.UID)
	if p.UID == 0 {
		who = "running as root"
	}
	if !p.Init {
		who += ", in a network namespace of its own or one that could not be compared with the host's"
	}
	out := []string{who}
	say := func(have bool, yes, no string) {
		if have {
			out = append(out, yes)
		} else {
			out = append(out, no)
		}
	}
	switch {
	case p.PingGroup:
		out = append(out, "ICMP echo by datagram sockets works")
	case p.NetRaw:
		out = append(out, "ICMP echo works by raw sockets only (net.ipv4.ping_group_range does not include our group)")
	default:
		out = append(out, "ICMP echo is not possible: needs CAP_NET_RAW or a wider net.ipv4.ping_group_range")
	}
	say(p.NetRaw, "packet sockets work: ARP probes, other next hops and the packet witness are available",
		"no ARP probes, no other next hops, no packet witness: needs CAP_NET_RAW")
	say(p.NetAdmin, "firewall rules and network settings can be read in full",
		"firewall rules cannot be read: needs CAP_NET_ADMIN")
	say(p.Ptrace, "the sockets of all processes can be attributed",
		"only the sockets of our own user's processes can be attributed: needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH")
	return out
}
