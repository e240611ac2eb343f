package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/miekg/dns"
)

// Validate says what in the Spec cannot be meant, without touching the network.
func (s Spec) Validate() error {
	kind := s.Kind()
	if kind == "" {
		return fmt.Errorf("service %q: want exactly one of dns, http, tcp, udp or one load", s.Name)
	}
	var errs []error
	if len(s.comm()) > 15 {
		errs = append(errs, fmt.Errorf("comm %q: longer than 15 bytes", s.comm()))
	}
	if s.NoFile > 0 && !s.Process {
		errs = append(errs, errors.New("nofile needs process: true"))
	}
	if s.Process && kind == "flap" {
		errs = append(errs, errors.New("flap cannot run in a process of its own: it calls the runner"))
	}
	switch kind {
	case "dns":
		errs = append(errs, s.DNS.validate())
	case "http":
		errs = append(errs, s.HTTP.validate())
	case "tcp":
		modes := []TCPMode{TCPEcho, TCPBanner, TCPSink, TCPReset, TCPClose, TCPStall, TCPHang, TCPHog, TCPSource}
		if !slices.Contains(modes, s.TCP.Mode) {
			errs = append(errs, fmt.Errorf("mode %q: want one of %v", s.TCP.Mode, modes))
		}
		errs = append(errs, checkListen(s.TCP.Listen, ""))
	case "udp":
		modes := []UDPMode{UDPEcho, UDPSink, UDPDeaf}
		if !slices.Contains(modes, s.UDP.Mode) {
			errs = append(errs, fmt.Errorf("mode %q: want one of %v", s.UDP.Mode, modes))
		}
		errs = append(errs, checkListen(s.UDP.Listen, ""))
	default:
		errs = append(errs, s.Load.validate())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("service %s: %w", s.name(), err)
	}
	return nil
}

func (s Spec) comm() string {
	if s.Comm != "" {
		return s.Comm
	}
	return s.name()
}

func (d DNS) validate() error {
	errs := []error{checkListen(d.Listen, "53")}
	if d.UDPOnly && d.TCPOnly {
		errs = append(errs, errors.New("udp_only and tcp_only exclude each other"))
	}
	if d.Forward != "" {
		_, err := target(d.Forward, "53")
		errs = append(errs, err)
	}
	addrs := []string{d.From}
	for _, f := range d.Faults {
		addrs = append(addrs, f.NXRewrite)
		for _, a := range f.Lie {
			addrs = append(addrs, a)
		}
		if f.Type != "" {
			if _, ok := dns.StringToType[f.Type]; !ok {
				errs = append(errs, fmt.Errorf("fault type %q: no such record type", f.Type))
			}
		}
	}
	for _, a := range addrs {
		if a != "" {
			if _, err := netip.ParseAddr(a); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, z := range d.Zones {
		_, err := parseZone(z)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (h HTTP) validate() error {
	errs := []error{checkListen(h.Listen, h.port())}
	if h.Cert != "" && !slices.Contains(certKinds, h.Cert) {
		errs = append(errs, fmt.Errorf("cert %q: want one of %v", h.Cert, certKinds))
	}
	if h.Cert == "" && (h.HTTP3 || h.HTTP3Closed || h.HandshakeDelay > 0) {
		errs = append(errs, errors.New("http3 and handshake_delay need a cert"))
	}
	pages := []Page{h.Page}
	for path, p := range h.Paths {
		pages = append(pages, p)
		if path == "" || path[0] != '/' {
			errs = append(errs, fmt.Errorf("path %q: must begin with /", path))
		}
	}
	for _, p := range pages {
		for _, st := range []int{p.Status, p.FailStatus} {
			if st != 0 && (st < 200 || st > 999) {
				errs = append(errs, fmt.Errorf("status %d: want 200…999", st))
			}
		}
		if p.Abort != "" && p.Abort != "close" && p.Abort != "reset" {
			errs = append(errs, fmt.Errorf("abort %q: want close or reset", p.Abort))
		}
		if p.Size > 1<<40 {
			errs = append(errs, fmt.Errorf("size %d: more than 1 TiB", p.Size))
		}
	}
	return errors.Join(errs...)
}

func (l Load) validate() error {
	var errs []error
	to := func(addr, port string, need bool) {
		if addr == "" && !need {
			return
		}
		_, err := target(addr, port)
		errs = append(errs, err)
	}
	positive := func(what string, n int, least int) {
		if n < least || n > 1_000_000 {
			errs = append(errs, fmt.Errorf("%s %d: want %d…1000000", what, n, least))
		}
	}
	switch {
	case l.CloseWait != nil:
		to(l.CloseWait.To, "", false)
		positive("count", l.CloseWait.Count, 0)
		if g := l.CloseWait.Growth; !(g >= 0 && g <= 10_000) {
			errs = append(errs, fmt.Errorf("growth %v: want 0…10000 a second", g))
		}
	case l.TimeWait != nil:
		to(l.TimeWait.To, "", false)
		positive("count", l.TimeWait.Count, 1)
	case l.PortHog != nil:
		to(l.PortHog.To, "", true)
		positive("count", l.PortHog.Count, 0)
	case l.Connect != nil:
		to(l.Connect.To, "", true)
		positive("parallel", l.Connect.Parallel, 0)
	case l.Traffic != nil:
		errs = append(errs, l.Traffic.validate())
	case l.Flap != nil:
		if f := l.Flap; f.Period <= 0 || f.SetLink == nil && f.Interface == "" && f.Link == "" {
			errs = append(errs, errors.New("flap needs a period and a link or interface"))
		}
	case l.NeighbourFill != nil:
		_, err := netip.ParsePrefix(l.NeighbourFill.Prefix)
		errs = append(errs, err)
		positive("count", l.NeighbourFill.Count, 0)
	case l.ARPResponder != nil:
		a, err := netip.ParseAddr(l.ARPResponder.Address)
		if err == nil && !a.Is4() {
			err = fmt.Errorf("address %s: ARP is for IPv4", a)
		}
		_, err2 := net.ParseMAC(l.ARPResponder.MAC)
		errs = append(errs, err, err2)
	case l.Frames != nil:
		_, err := l.Frames.etherType()
		errs = append(errs, err)
		if l.Frames.To != "" {
			_, err := net.ParseMAC(l.Frames.To)
			errs = append(errs, err)
		}
		if r := l.Frames.PerSecond; !(r >= 0 && r <= 1e6) || l.Frames.Size > 65000 || l.Frames.VLAN < 0 || l.Frames.VLAN > 4094 {
			errs = append(errs, errors.New("frames: want per_second ≤ 1e6, size ≤ 65000, vlan 0…4094"))
		}
	case l.ConntrackFill != nil:
		to(l.ConntrackFill.To, "9", true)
		positive("flows", l.ConntrackFill.Flows, 1)
		positive("per_second", l.ConntrackFill.PerSecond, 0)
	}
	return errors.Join(errs...)
}

func (t Traffic) validate() error {
	var errs []error
	if t.Network != "" && t.Network != "udp" && t.Network != "tcp" {
		errs = append(errs, fmt.Errorf("network %q: want udp or tcp", t.Network))
	}
	_, err := target(t.To, "")
	errs = append(errs, err)
	if t.From != "" {
		_, err := target(t.From, "0")
		errs = append(errs, err)
	}
	if t.Rate <= 0 || t.Size < 0 || t.Size > 65507 || t.DSCP < 0 || t.DSCP > 63 || t.Streams < 0 || t.Streams > 1000 {
		errs = append(errs, errors.New("traffic: want rate > 0, size ≤ 65507, dscp 0…63, streams ≤ 1000"))
	}
	if (t.On > 0) != (t.Off > 0) {
		errs = append(errs, errors.New("traffic: on and off go together"))
	}
	return errors.Join(errs...)
}

// target reads "address:port" or "address" with a default port. Names are
// refused: resolving one would ask the machine's own resolver.
func target(s, port string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil && port != "" {
		p, err := strconv.ParseUint(port, 10, 16)
		return netip.AddrPortFrom(a, uint16(p)), err
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return ap, fmt.Errorf("address %q: want address:port, such as 10.0.0.2:80 or [fd00::2]:80", s)
	}
	return ap, nil
}

// checkListen wants at least one listening address.
func checkListen(list []string, port string) error {
	if len(list) == 0 {
		return errors.New("listen: want at least one address")
	}
	for _, s := range list {
		if _, err := listenAddr(s, port); err != nil {
			return err
		}
	}
	return nil
}

// listenAddr completes a listening address: "10.0.0.1", ":80", "10.0.0.1:80".
func listenAddr(s, port string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil && port != "" {
		return net.JoinHostPort(a.String(), port), nil
	}
	host, p, err := net.SplitHostPort(s)
	if err == nil && host != "" {
		_, err = netip.ParseAddr(host)
	}
	if err == nil {
		_, err = strconv.ParseUint(p, 10, 16)
	}
	if err != nil {
		return "", fmt.Errorf("listen %q: want address:port or :port", s)
	}
	return s, nil
}
