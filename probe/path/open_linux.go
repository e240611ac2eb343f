package path

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"fathom/internal/sys/sock"
)

// openTrace opens the best way to trace that this process may use.
func openTrace(ctx context.Context, c Config, target netip.Addr) (network, way, error) {
	src, err := routeTo(target, c.Port, c.Source, c.Interface)
	if err != nil {
		return nil, way{}, err
	}
	o := sock.Options{Source: src, Interface: c.Interface, Stamps: true, Fragment: true}
	w := way{protocol: c.Protocol, port: c.Port, source: src}
	switch c.Protocol {
	case protoUDP:
		w.stamps = true
		return firstOf(w,
			try{"raw icmp socket and udp socket", func() (network, error) { return openRawUDP(o, target, c.Port) }},
			try{"udp socket with error queue", func() (network, error) { return openQueueUDP(o, target, c.Port) }})
	case protoTCP:
		return firstOf(w,
			try{"raw sockets", func() (network, error) { return openRawTCP(ctx, o, target, c.Port) }},
			try{
				"tcp connect with error queue (the source port differs from probe to probe)",
				func() (network, error) { return openConnect(ctx, c, src), nil },
			})
	}
	w.stamps = true
	net, w, err := firstOf(w, echoWays(o, target)...)
	if err == nil {
		return net, w, nil
	}
	// No ICMP socket of any kind: udp finds the same routers and needs no privilege.
	w = way{protocol: protoUDP, port: udpPort, source: src, stamps: true}
	net, w, uerr := firstOf(w, try{
		"udp socket with error queue (no icmp socket allowed)",
		func() (network, error) { return openQueueUDP(o, target, udpPort) },
	})
	if uerr != nil {
		return nil, way{}, errors.Join(err, uerr)
	}
	return net, w, nil
}

// openEcho opens a network for ICMP echo with DF, for the MTU search.
func openEcho(_ context.Context, c MTUConfig, target netip.Addr) (network, way, error) {
	src, err := routeTo(target, 0, c.Source, c.Interface)
	if err != nil {
		return nil, way{}, err
	}
	o := sock.Options{Source: src, Interface: c.Interface, Stamps: true, DF: true}
	return firstOf(way{protocol: protoICMP, source: src}, echoWays(o, target)...)
}

func echoWays(o sock.Options, target netip.Addr) []try {
	return []try{
		{"raw icmp socket", func() (network, error) { return openRawEcho(o, target) }},
		{"icmp datagram socket with error queue", func() (network, error) { return openQueueEcho(o, target) }},
	}
}

// try is one way to open a network.
type try struct {
	method string
	open   func() (network, error)
}

// firstOf takes the first way that opens. When none does, the error tells all of them.
func firstOf(w way, tries ...try) (network, way, error) {
	var errs []error
	for _, t := range tries {
		n, err := t.open()
		if err == nil {
			w.method = t.method
			return n, w, nil
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if errors.Is(err, sock.ErrPermission) {
		err = fmt.Errorf("%w (needs CAP_NET_RAW or a wider net.ipv4.ping_group_range)", err)
	}
	return nil, way{}, err
}

// routeTo asks the kernel for the source address of packets to target, which
// also tells whether it has a route at all. Nothing is sent.
func routeTo(target netip.Addr, port uint16, source netip.Addr, iface string) (netip.Addr, error) {
	c, err := sock.UDP(target.Is6(), sock.Options{Source: source, Interface: iface})
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	if port == 0 {
		port = udpPort
	}
	if err := c.Connect(netip.AddrPortFrom(target, port)); err != nil {
		return netip.Addr{}, &localError{op: fmt.Sprintf("route to %s", target), err: err}
	}
	a, err := c.LocalAddr()
	if err != nil {
		return netip.Addr{}, err
	}
	return a.Addr(), nil
}
