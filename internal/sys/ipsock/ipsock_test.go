package ipsock

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var lo4, lo6 = netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()

// cmsg builds a control message as the kernel lays it out.
func cmsg(level, typ int, data []byte) []byte {
	b := make([]byte, 16, 64)
	ne.PutUint64(b, uint64(16+len(data)))
	ne.PutUint32(b[8:], uint32(level))
	ne.PutUint32(b[12:], uint32(typ))
	b = append(b, data...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

func extErr(errno syscall.Errno, origin, typ, code byte, info uint32, from netip.Addr) []byte {
	b := make([]byte, 16)
	ne.PutUint32(b, uint32(errno))
	b[4], b[5], b[6] = origin, typ, code
	ne.PutUint32(b[8:], info)
	if from.Is4() {
		sa := make([]byte, 16)
		ne.PutUint16(sa, unix.AF_INET)
		copy(sa[4:], from.AsSlice())
		return append(b, sa...)
	}
	sa := make([]byte, 28)
	ne.PutUint16(sa, unix.AF_INET6)
	copy(sa[8:], from.AsSlice())
	return append(b, sa...)
}

func TestParseControl(t *testing.T) {
	router := netip.MustParseAddr("192.0.2.1")
	c := ParseControl(cmsg(unix.IPPROTO_IP, unix.IP_RECVERR, extErr(syscall.EMSGSIZE, unix.SO_EE_ORIGIN_ICMP, 3, 4, 1400, router)))
	if want := (Control{Origin: ICMP4, TTL: -1, Offender: router, Type: 3, Code: 4, Info: 1400, Errno: syscall.EMSGSIZE}); c != want || c.MTU() != 1400 || !c.IsICMP() {
		t.Errorf("frag needed: %+v", c)
	}
	b := cmsg(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, extErr(syscall.EACCES, unix.SO_EE_ORIGIN_ICMP6, 1, 1, 99, lo6))
	c = ParseControl(append(b, cmsg(unix.SOL_IPV6, unix.IPV6_HOPLIMIT, ne.AppendUint32(nil, 63))...))
	if want := (Control{Origin: ICMP6, TTL: 63, Offender: lo6, Type: 1, Code: 1, Info: 99, Errno: syscall.EACCES}); c != want || c.MTU() != 0 || !c.IsICMP() {
		t.Errorf("prohibited: %+v", c)
	}
	c = ParseControl(cmsg(unix.IPPROTO_IP, unix.IP_RECVERR, extErr(syscall.EMSGSIZE, unix.SO_EE_ORIGIN_LOCAL, 0, 0, 1400, router)))
	if c.IsICMP() || c.MTU() != 0 || c.Origin != Local || c.Errno != syscall.EMSGSIZE {
		t.Errorf("local error: %+v", c)
	}
	stamp := make([]byte, 48)
	ne.PutUint64(stamp, 1000)
	ne.PutUint64(stamp[8:], 7)
	e := extErr(syscall.ENOMSG, unix.SO_EE_ORIGIN_TIMESTAMPING, 0, 0, 0, lo4)
	ne.PutUint32(e[12:], 5)
	c = ParseControl(append(cmsg(unix.SOL_SOCKET, unix.SCM_TIMESTAMPING, stamp), cmsg(unix.IPPROTO_IP, unix.IP_RECVERR, e)...))
	if c.Origin != Stamp || c.Key != 5 || !c.Kernel.Equal(time.Unix(1000, 7)) {
		t.Errorf("send stamp: %+v", c)
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add(cmsg(unix.IPPROTO_IP, unix.IP_RECVERR, extErr(syscall.ECONNREFUSED, unix.SO_EE_ORIGIN_ICMP, 3, 3, 0, lo4)))
	f.Add(cmsg(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, extErr(syscall.EACCES, unix.SO_EE_ORIGIN_ICMP6, 1, 1, 0, lo6)))
	f.Add(append(cmsg(unix.SOL_SOCKET, unix.SCM_TIMESTAMPING, make([]byte, 48)), cmsg(9, 9, nil)...))
	f.Add(append(cmsg(unix.SOL_IP, unix.IP_TTL, []byte{64, 0, 0, 0}), cmsg(unix.SOL_IP, unix.IP_RECVERR, append(make([]byte, 16), 2, 0, 0, 0, 127, 0, 0, 1))...))
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := ParseControl(b)
		if c.TTL < -1 || c.TTL > 255 || c.MTU() < 0 || c.MTU() > 0xffff || c.IsICMP() && c.Origin == Data {
			t.Fatalf("%+v", c)
		}
	})
}

func TestAddresses(t *testing.T) {
	for _, s := range []string{"192.0.2.1:443", "[2001:db8::1]:53", "[fe80::1%lo]:9"} {
		want := netip.MustParseAddrPort(s)
		sa, err := Sockaddr(want)
		if got := AddrPort(sa); err != nil || got != want {
			t.Errorf("%s became %s (%v)", want, got, err)
		}
	}
	if sa, err := Sockaddr(netip.MustParseAddrPort("[fe80::1%1]:9")); err != nil || AddrPort(sa).Addr().Zone() != "lo" {
		t.Errorf("zone by number: %v %v", sa, err)
	}
	for _, a := range []netip.AddrPort{{}, netip.MustParseAddrPort("[fe80::1%nosuch0]:1")} {
		if _, err := Sockaddr(a); err == nil {
			t.Errorf("%v accepted", a)
		}
	}
}
