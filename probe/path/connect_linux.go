package path

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"fathom/internal/sys/dial"
	"fathom/probe"
)

// connectNet traces with ordinary connects, one socket per probe: no privilege
// needed, but each has its own source port, so routers that balance by flow may
// send them different ways.
type connectNet struct {
	*readers
	ctx    context.Context
	cancel context.CancelFunc
	cfg    Config
	source netip.Addr
}

func openConnect(ctx context.Context, c Config, source netip.Addr) network {
	ctx, cancel := context.WithCancel(ctx)
	return &connectNet{readers: newReaders(), ctx: ctx, cancel: cancel, cfg: c, source: source}
}

// Send begins to connect; what comes of it is delivered later.
func (n *connectNet) Send(p packet) error {
	c, err := dial.Start(netip.AddrPortFrom(p.To, n.cfg.Port), dial.Options{Source: n.source, Interface: n.cfg.Interface, TTL: p.TTL})
	if err != nil {
		return &localError{op: fmt.Sprintf("connect to %s", p.To), err: err}
	}
	n.wg.Go(func() {
		a := c.Wait(n.ctx, max(n.cfg.Timeout, n.cfg.Linger))
		if a.Conn != nil {
			_ = a.Conn.Close(true) // reset: the server shall not wait for a request
		}
		if r, ok := outcome(p, a); ok {
			n.deliver(r)
		}
	})
	return nil
}

// Close ends all connects under way.
func (n *connectNet) Close() error {
	n.cancel()
	return n.readers.Close()
}

// outcome reads how a connect ended: an ICMP error, a connection, or a reset.
func outcome(p packet, a dial.Attempt) (reply, bool) {
	r := reply{ID: p.ID, Kind: kindTarget, From: p.To.WithZone(""), At: a.Start.Add(a.Took)}
	if i := a.ICMP; i != nil && i.From.IsValid() {
		r.From, r.ICMP = i.From, probe.NewICMPError(i.V6, i.From, i.Type, i.Code, i.MTU)
		var ok bool
		r.Kind, ok = classify(p.To, *r.ICMP)
		return r, ok
	}
	return r, a.Err == nil || errors.Is(a.Err, syscall.ECONNREFUSED)
}
