package proc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"fathom/internal/facts"
)

// wanted are the settings that rules look at or a reader of a report asks for
// (Documentation/networking/ip-sysctl.rst). One that the kernel does not have,
// or hides in this namespace, is left out. Secrets (tcp_fastopen_key,
// stable_secret) must never be added.
var wanted = strings.Fields(`
net.core.default_qdisc net.core.dev_weight net.core.netdev_budget net.core.netdev_budget_usecs
net.core.netdev_max_backlog net.core.optmem_max net.core.rmem_default net.core.rmem_max
net.core.rps_sock_flow_entries net.core.somaxconn net.core.wmem_default net.core.wmem_max
net.ipv4.conf.all.arp_announce net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.forwarding
net.ipv4.conf.all.rp_filter net.ipv4.conf.default.rp_filter
net.ipv4.fib_multipath_hash_policy net.ipv4.fib_multipath_use_neigh
net.ipv4.icmp_echo_ignore_all net.ipv4.icmp_echo_ignore_broadcasts net.ipv4.icmp_msgs_burst
net.ipv4.icmp_msgs_per_sec net.ipv4.icmp_ratelimit net.ipv4.icmp_ratemask
net.ipv4.ip_default_ttl net.ipv4.ip_forward net.ipv4.ip_local_port_range
net.ipv4.ip_local_reserved_ports net.ipv4.ip_no_pmtu_disc net.ipv4.ip_nonlocal_bind
net.ipv4.ip_unprivileged_port_start net.ipv4.ipfrag_high_thresh net.ipv4.ipfrag_time
net.ipv4.neigh.default.gc_thresh1 net.ipv4.neigh.default.gc_thresh2 net.ipv4.neigh.default.gc_thresh3
net.ipv4.ping_group_range net.ipv4.route.min_pmtu net.ipv4.route.mtu_expires
net.ipv4.tcp_abort_on_overflow net.ipv4.tcp_available_congestion_control net.ipv4.tcp_base_mss
net.ipv4.tcp_congestion_control net.ipv4.tcp_ecn net.ipv4.tcp_fastopen net.ipv4.tcp_fin_timeout
net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes net.ipv4.tcp_keepalive_time
net.ipv4.tcp_max_orphans net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_max_tw_buckets net.ipv4.tcp_mem
net.ipv4.tcp_min_snd_mss net.ipv4.tcp_moderate_rcvbuf net.ipv4.tcp_mtu_probing
net.ipv4.tcp_no_metrics_save net.ipv4.tcp_notsent_lowat net.ipv4.tcp_orphan_retries
net.ipv4.tcp_retries1 net.ipv4.tcp_retries2 net.ipv4.tcp_rmem net.ipv4.tcp_sack
net.ipv4.tcp_slow_start_after_idle net.ipv4.tcp_syn_retries net.ipv4.tcp_synack_retries
net.ipv4.tcp_syncookies net.ipv4.tcp_timestamps net.ipv4.tcp_tw_reuse net.ipv4.tcp_window_scaling
net.ipv4.tcp_wmem net.ipv4.udp_mem net.ipv4.udp_rmem_min net.ipv4.udp_wmem_min
net.ipv6.bindv6only net.ipv6.conf.all.accept_ra net.ipv6.conf.all.disable_ipv6
net.ipv6.conf.all.forwarding net.ipv6.conf.default.accept_ra net.ipv6.conf.default.disable_ipv6
net.ipv6.fib_multipath_hash_policy net.ipv6.icmp.echo_ignore_all net.ipv6.icmp.ratelimit
net.ipv6.neigh.default.gc_thresh1 net.ipv6.neigh.default.gc_thresh2 net.ipv6.neigh.default.gc_thresh3
net.ipv6.route.max_size net.ipv6.route.mtu_expires
net.netfilter.nf_conntrack_buckets net.netfilter.nf_conntrack_max
net.netfilter.nf_conntrack_tcp_be_liberal net.netfilter.nf_conntrack_tcp_loose
net.netfilter.nf_conntrack_generic_timeout net.netfilter.nf_conntrack_icmp_timeout
net.netfilter.nf_conntrack_tcp_timeout_close_wait net.netfilter.nf_conntrack_tcp_timeout_established
net.netfilter.nf_conntrack_tcp_timeout_fin_wait net.netfilter.nf_conntrack_tcp_timeout_syn_recv
net.netfilter.nf_conntrack_tcp_timeout_syn_sent net.netfilter.nf_conntrack_tcp_timeout_time_wait
net.netfilter.nf_conntrack_tcp_timeout_unacknowledged
net.netfilter.nf_conntrack_udp_timeout net.netfilter.nf_conntrack_udp_timeout_stream
`)

// perLink are read for every interface.
var perLink = []struct {
	dir   string
	names []string
}{
	{"net/ipv4/conf", []string{"rp_filter", "arp_ignore", "arp_announce", "forwarding"}},
	{"net/ipv6/conf", []string{"disable_ipv6", "accept_ra", "forwarding", "mtu"}},
}

// maxLinks bounds the interfaces whose settings are read; a host with thousands
// of containers would spend its time here.
const maxLinks = 512

// maxValue bounds a value; ip_local_reserved_ports can be long.
const maxValue = 4096

// sysctls fills h.Sysctls. /proc/sys/net shows the namespace of the thread
// that looks (net/sysctl_net.c), so no thread-self is needed here.
func (r Reader) sysctls(ctx context.Context, h *facts.Host) error {
	h.Sysctls = make(map[string]string, len(wanted)+64)
	var denied []string
	read := func(key, path string) {
		b, err := r.read("sys/" + path)
		switch {
		case err == nil:
			h.Sysctls[key] = value(b)
		case errors.Is(err, fs.ErrPermission):
			denied = append(denied, key)
		}
	}
	for _, key := range wanted {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		read(key, strings.ReplaceAll(key, ".", "/"))
	}
	for _, p := range perLink {
		d, err := os.Open(filepath.Join(r.Root, "sys", p.dir))
		if err != nil {
			continue // no IPv6
		}
		// all, default and one more than wanted, to know whether there are more
		links, _ := d.Readdirnames(maxLinks + 3)
		_ = d.Close()
		if len(links) > maxLinks+2 {
			links = links[:maxLinks]
			h.Gaps = append(h.Gaps, facts.Gap{What: "sysctls of some interfaces", Why: "there are more interfaces than are looked at"})
		}
		for _, link := range links {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if link == "all" || link == "default" {
				continue
			}
			for _, n := range p.names {
				read(linkKey(p.dir, link, n), p.dir+"/"+link+"/"+n)
			}
		}
	}
	if len(denied) > 0 {
		h.Gaps = append(h.Gaps, facts.Gap{What: "sysctls: " + strings.Join(denied[:min(len(denied), 5)], ", "), Why: "permission denied", Unlock: "run as root"})
	}
	return nil
}

// linkKey names a setting as sysctl(8) does: a dot in an interface name (a
// VLAN) becomes a slash, net.ipv4.conf.eth0/100.rp_filter.
func linkKey(dir, link, name string) string {
	return strings.ReplaceAll(dir, "/", ".") + "." + strings.ReplaceAll(link, ".", "/") + "." + name
}

// value is a setting with its columns separated by one space.
func value(b []byte) string {
	return strings.Join(strings.Fields(string(b[:min(len(b), maxValue)])), " ")
}
