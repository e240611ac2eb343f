// Package firewall reads nftables rules into facts and words. It needs
// CAP_NET_ADMIN, as the kernel shows the rules to nobody else.
//
// It decodes the netlink messages itself: google/nftables (v0.3.0) silently
// leaves out expressions it does not know, so that a rule would look as if it
// hit more packets than it does, and we would accuse an innocent rule.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"fathom/internal/collect"
	"fathom/internal/collect/nl"
	"fathom/internal/facts"

	"golang.org/x/sys/unix"
)

const (
	maxRules    = 2000  // rules read
	maxElements = 2000  // elements of one set; a rule with a larger set is opaque
	maxVerdicts = 256   // elements of a verdict map that become rules of their own
	maxText     = 1000  // bytes of a rule's text
	maxEntries  = 20000 // set elements read altogether
)

// Collector reads the firewall of this network namespace.
func Collector() collect.Collector {
	return collect.Collector{Name: "firewall", Collect: Collect}
}

// Collect fills h.Firewall. Without CAP_NET_ADMIN it stays nil and a gap says so.
func Collect(ctx context.Context, h *facts.Host) error {
	fw := &facts.Firewall{}
	legacyErr := legacy(fw)
	truncated, err := read(ctx, fw)
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		h.Gaps = append(h.Gaps, facts.Gap{
			What: "firewall rules", Why: "the kernel shows nftables rules only to who may change them",
			Unlock: "run as root, or give CAP_NET_ADMIN",
		})
		return nil
	case errors.Is(err, errUnsupported):
		// No nf_tables in this kernel: there are no rules, which is an answer.
	case err != nil:
		return fmt.Errorf("read nftables rules: %w", err)
	}
	if legacyErr != nil {
		h.Gaps = append(h.Gaps, facts.Gap{What: "legacy iptables tables", Why: legacyErr.Error(), Unlock: "run as root"})
	}
	if truncated {
		h.Gaps = append(h.Gaps, facts.Gap{What: "firewall rules beyond the first 2,000", Why: "there are more", Unlock: "nft list ruleset"})
	}
	h.Firewall = fw
	return nil
}

var errUnsupported = errors.New("the kernel has no nf_tables")

// unsupported tells the answers to the very first request by which a kernel
// without nfnetlink or nf_tables is known.
func unsupported(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// legacy reads which tables of the old ip_tables exist. Their rules are another
// kernel interface, which we do not read.
func legacy(fw *facts.Firewall) error {
	var errs []error
	for _, f := range []struct{ file, family string }{{"ip_tables_names", "ip "}, {"ip6_tables_names", "ip6 "}} {
		b, err := os.ReadFile("/proc/thread-self/net/" + f.file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, name := range strings.Fields(string(b)) {
			fw.Legacy = append(fw.Legacy, f.family+name)
		}
	}
	return errors.Join(errs...)
}

func read(ctx context.Context, fw *facts.Firewall) (truncated bool, err error) {
	c, err := nl.Dial(unix.NETLINK_NETFILTER)
	if unsupported(err) {
		return false, errUnsupported
	}
	if err != nil {
		return false, err
	}
	defer c.Close()
	var chains []facts.FWChain
	err = dump(ctx, c, unix.NFT_MSG_GETCHAIN, familyAll, nil, func() { chains = nil }, func(family uint8, b []byte) error {
		if ch, ok := decodeChain(family, b); ok {
			chains = append(chains, ch)
		}
		return nil
	})
	if unsupported(err) {
		return false, errUnsupported
	}
	if err != nil || len(chains) == 0 {
		return false, err
	}
	var rules []rawRule
	err = dump(ctx, c, unix.NFT_MSG_GETRULE, familyAll, nil, func() { rules, truncated = nil, false }, func(family uint8, b []byte) error {
		if len(rules) >= maxRules {
			truncated = true
			return nl.ErrStop
		}
		if r, ok := splitRule(family, b); ok {
			rules = append(rules, r)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	names, err := netdevNames(ctx)
	if err != nil {
		return false, err
	}
	sets, err := readSets(ctx, c, rules, names)
	if err != nil {
		return false, err
	}
	assemble(fw, chains, rules, sets, names)
	if truncated {
		opaqueEnd(fw)
	}
	return truncated, nil
}

// assemble decodes the rules into their chains. Pure.
func assemble(fw *facts.Firewall, chains []facts.FWChain, rules []rawRule, sets map[setKey]*set, names nl.Names) {
	index := map[string]*facts.FWChain{}
	fw.Chains = chains
	for i := range fw.Chains {
		c := &fw.Chains[i]
		index[c.Family+" "+c.Table+" "+c.Name] = c
	}
	for _, r := range rules {
		if c := index[familyName(r.family)+" "+r.table+" "+r.chain]; c != nil {
			c.Rules = append(c.Rules, decodeRule(r, sets, names)...)
		}
	}
}

// opaqueEnd ends each chain with a rule that may do anything: what was not
// read must not be taken for an accept.
func opaqueEnd(fw *facts.Firewall) {
	for i := range fw.Chains {
		fw.Chains[i].Rules = append(fw.Chains[i].Rules, facts.FWRule{Text: "# further rules were not read", Opaque: true})
	}
}

func netdevNames(ctx context.Context) (nl.Names, error) {
	c, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.LinkNames(ctx)
}

const familyAll = 0 // NFPROTO_UNSPEC

// dump asks for all objects of a kind; fn gets their family and attributes.
func dump(ctx context.Context, c *nl.Conn, msg uint16, family uint8, attrs []byte, begin func(), fn func(family uint8, attrs []byte) error) error {
	body := append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)
	return c.DumpStable(ctx, unix.NFNL_SUBSYS_NFTABLES<<8|msg, body, begin, func(typ uint16, b []byte) error {
		if len(b) < 4 || typ>>8 != unix.NFNL_SUBSYS_NFTABLES {
			return nil
		}
		return fn(b[0], b[4:])
	})
}

func familyName(f uint8) string {
	switch f {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_ARP:
		return "arp"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	}
	return fmt.Sprintf("family%d", f)
}

func decodeChain(family uint8, b []byte) (c facts.FWChain, ok bool) {
	c.Family = familyName(family)
	var hook []byte
	for typ, v := range nl.Attrs(b) {
		switch typ {
		case unix.NFTA_CHAIN_TABLE:
			c.Table = nl.Str(v)
		case unix.NFTA_CHAIN_NAME:
			c.Name = nl.Str(v)
		case unix.NFTA_CHAIN_TYPE:
			c.Type = nl.Str(v)
		case unix.NFTA_CHAIN_POLICY:
			c.Policy = "accept"
			if nl.U32BE(v) == 0 { // NF_DROP
				c.Policy = "drop"
			}
		case unix.NFTA_CHAIN_HOOK:
			hook = v
		}
	}
	for typ, v := range nl.Attrs(hook) {
		switch typ {
		case unix.NFTA_HOOK_HOOKNUM:
			c.Hook = hookName(family, nl.U32BE(v))
		case unix.NFTA_HOOK_PRIORITY:
			c.Priority = int(int32(nl.U32BE(v)))
		case unix.NFTA_HOOK_DEV:
			c.Device = nl.Str(v)
		case hookDevs:
			var devs []string
			for _, d := range nl.Attrs(v) {
				devs = append(devs, nl.Str(d))
			}
			c.Device = strings.Join(devs, ", ")
		}
	}
	return c, c.Name != ""
}

const hookDevs = 4 // NFTA_HOOK_DEVS

func hookName(family uint8, n uint32) string {
	words := []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	switch family {
	case unix.NFPROTO_NETDEV:
		words = []string{"ingress", "egress"}
	case unix.NFPROTO_ARP:
		words = []string{"input", "output", "forward"}
	}
	if n < uint32(len(words)) {
		return words[n]
	}
	return fmt.Sprintf("hook%d", n)
}
