package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// packetSocket is a raw packet socket on one interface of the namespace.
type packetSocket struct {
	*os.File
	mac net.HardwareAddr
}

// openPacket opens it for one EtherType; 0 receives nothing. Needs CAP_NET_RAW.
func (b *base) openPacket(name string, etherType uint16) (*packetSocket, error) {
	p := &packetSocket{}
	err := b.inNS(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("%w (needs CAP_NET_RAW in the namespace)", err)
		}
		var n [2]byte
		binary.BigEndian.PutUint16(n[:], etherType)
		sa := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(n[:]), Ifindex: ifi.Index}
		if err := unix.Bind(fd, sa); err != nil {
			unix.Close(fd)
			return err
		}
		p.File, p.mac = os.NewFile(uintptr(fd), "packet:"+name), ifi.HardwareAddr
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", name, err)
	}
	if len(p.mac) != 6 {
		p.mac = make(net.HardwareAddr, 6)
	}
	if !b.keep(p) {
		return nil, net.ErrClosed
	}
	return p, nil
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arpPacket is ARP for IPv4 over Ethernet (RFC 826).
type arpPacket struct {
	op                 uint16 // 1 request, 2 reply
	senderMAC, destMAC net.HardwareAddr
	senderIP, destIP   netip.Addr
}

const arpFrameLen = 14 + 28

// parseARP reads an Ethernet frame with an ARP packet.
func parseARP(b []byte) (arpPacket, bool) {
	// Ethernet type ARP, hardware Ethernet, protocol IPv4, lengths 6 and 4.
	if len(b) < arpFrameLen || string(b[12:20]) != "\x08\x06\x00\x01\x08\x00\x06\x04" {
		return arpPacket{}, false
	}
	a := b[14:]
	return arpPacket{
		op: binary.BigEndian.Uint16(a[6:]), senderMAC: net.HardwareAddr(a[8:14]), destMAC: net.HardwareAddr(a[18:24]),
		senderIP: netip.AddrFrom4([4]byte(a[14:18])), destIP: netip.AddrFrom4([4]byte(a[24:28])),
	}, true
}

// append writes the frame, from the sender's MAC to the MAC `to`.
func (p arpPacket) append(b []byte, to net.HardwareAddr) []byte {
	b = append(append(b, to...), p.senderMAC...)
	b = append(b, "\x08\x06\x00\x01\x08\x00\x06\x04"...)
	b = binary.BigEndian.AppendUint16(b, p.op)
	b = append(append(b, p.senderMAC...), p.senderIP.AsSlice()...)
	return append(append(b, p.destMAC...), p.destIP.AsSlice()...)
}

// startARPResponder answers ARP requests for an address.
func (b *base) startARPResponder(s ARPResponder) error {
	addr, err := netip.ParseAddr(s.Address)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(s.MAC)
	if err != nil || len(mac) != 6 {
		return fmt.Errorf("mac %q: want six bytes", s.MAC)
	}
	sock, err := b.openPacket(s.Interface, unix.ETH_P_ARP)
	if err != nil {
		return err
	}
	b.run(func() { b.answerARP(sock, addr, mac, s.Delay) })
	if s.Announce > 0 {
		b.run(func() {
			f := arpPacket{op: 1, senderMAC: mac, destMAC: make(net.HardwareAddr, 6), senderIP: addr, destIP: addr}.append(nil, broadcast)
			for ok := true; ok; ok = b.sleep(s.Announce) {
				if _, err := sock.Write(f); err == nil {
					b.count("announced")
				}
			}
		})
	}
	return nil
}

func (b *base) answerARP(sock *packetSocket, addr netip.Addr, mac net.HardwareAddr, delay time.Duration) {
	buf := make([]byte, 2048)
	for b.ctx.Err() == nil {
		n, err := sock.Read(buf)
		if err != nil {
			if errors.Is(err, os.ErrClosed) || !b.sleep(acceptPause) {
				return
			}
			continue // the interface is down for now
		}
		q, ok := parseARP(buf[:n])
		if !ok || q.op != 1 || q.destIP != addr || q.senderMAC.String() == mac.String() {
			continue
		}
		asker := append(net.HardwareAddr(nil), q.senderMAC...)
		f := arpPacket{op: 2, senderMAC: mac, destMAC: asker, senderIP: addr, destIP: q.senderIP}.append(nil, asker)
		b.run(func() {
			if !b.sleep(delay) {
				return
			}
			if _, err := sock.Write(f); err == nil {
				b.count("answered")
			}
		})
	}
}

func (f Frames) etherType() (uint16, error) {
	if f.EtherType == "" {
		return 0x88b5, nil
	}
	n, err := strconv.ParseUint(f.EtherType, 0, 16)
	if err != nil || n < 0x600 { // below are lengths of IEEE 802.3 frames
		return 0, fmt.Errorf("ethertype %q: want a number 0x0600…0xffff", f.EtherType)
	}
	return uint16(n), nil
}

// startFrames sends frames of an EtherType that nobody handles.
func (b *base) startFrames(s Frames) error {
	et, err := s.etherType()
	if err != nil {
		return err
	}
	dst := broadcast
	if s.To != "" {
		if dst, err = net.ParseMAC(s.To); err != nil || len(dst) != 6 {
			return fmt.Errorf("to %q: want a MAC of six bytes", s.To)
		}
	}
	if s.PerSecond == 0 {
		s.PerSecond = 10
	}
	if s.Size == 0 {
		s.Size = 46
	}
	sock, err := b.openPacket(s.Interface, 0)
	if err != nil {
		return err
	}
	frame := append(append([]byte(nil), dst...), sock.mac...)
	if s.VLAN > 0 {
		frame = binary.BigEndian.AppendUint16(append(frame, 0x81, 0), uint16(s.VLAN))
	}
	frame = append(binary.BigEndian.AppendUint16(frame, et), zeros[:min(int(s.Size), len(zeros))]...)
	gap := time.Duration(float64(time.Second) / s.PerSecond)
	b.run(func() {
		for ok := true; ok; ok = b.sleep(gap) {
			if _, err := sock.Write(frame); err != nil {
				b.count("errors")
			} else {
				b.count("sent")
			}
		}
	})
	return nil
}

// startFlap sets the link down and up, and leaves it up.
func (b *base) startFlap(s Flap) error {
	set := s.SetLink
	if set == nil {
		if s.Interface == "" {
			return errors.New("flap: nobody set SetLink, and no interface is given")
		}
		set = func(up bool) error { return b.setInterface(s.Interface, up) }
	}
	duty := float64(s.Duty)
	if duty == 0 {
		duty = 0.5
	}
	upFor := time.Duration(duty * float64(s.Period))
	b.run(func() {
		up := true
		change := func(to bool) {
			if err := set(to); err != nil {
				b.fail(fmt.Errorf("flap: %w", err))
				return
			}
			up = to
			b.count(map[bool]string{true: "up", false: "down"}[to])
		}
		for n := 0; (s.Count == 0 || n < s.Count) && b.sleep(upFor); n++ {
			change(false)
			ok := b.sleep(s.Period - upFor)
			change(true)
			if !ok {
				break
			}
		}
		if !up {
			change(true)
		}
	})
	return nil
}

// setInterface switches an interface of the namespace administratively.
func (b *base) setInterface(name string, up bool) error {
	return b.inNS(func() error {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
			return fmt.Errorf("read flags of %s: %w", name, err)
		}
		flags := r.Uint16() &^ unix.IFF_UP
		if up {
			flags |= unix.IFF_UP
		}
		r.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
			return fmt.Errorf("set %s up=%t: %w (needs CAP_NET_ADMIN)", name, up, err)
		}
		return nil
	})
}
