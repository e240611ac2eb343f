package cli

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"fathom/internal/config"
	"fathom/internal/diagnose"
)

// resolveTarget is a target's addresses, for commands that only want to reach it.
// It asks as this host's programs do; fathom check measures the resolvers themselves.
func resolveTarget(ctx context.Context, t diagnose.Target, v4, v6 bool) ([]netip.Addr, error) {
	if a, ok := t.Literal(); ok {
		if v4 && a.Is6() || v6 && a.Is4() {
			return nil, fmt.Errorf("%s has an address of the other family than -4 or -6 allows", t.Host)
		}
		return []netip.Addr{a}, nil
	}
	network := "ip"
	if v4 {
		network = "ip4"
	} else if v6 {
		network = "ip6"
	}
	r := net.Resolver{PreferGo: true}
	found, err := r.LookupNetIP(ctx, network, t.Host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", t.Host, err)
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found, nil
}

// parseTarget is config.ParseTarget with its error as one of usage.
func parseTarget(raw string) (diagnose.Target, error) {
	t, err := config.ParseTarget(raw)
	if err != nil {
		return t, usageError{err}
	}
	return t, nil
}

func hostPort(a netip.Addr, port uint16) string {
	return net.JoinHostPort(a.String(), strconv.Itoa(int(port)))
}
