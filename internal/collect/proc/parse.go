package proc

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"fathom/internal/facts"
)

// Bounds for files that are not what they should be.
const (
	maxNames = 4096 // counters of one file; 6.18 has some 140 in TcpExt
	maxCPUs  = 8192
)

var errFormat = errors.New("not in the format expected")

// parsePairs reads /proc/net/snmp and /proc/net/netstat: a line of names and a
// line of values, both beginning with the group (net/ipv4/proc.c). Negative
// values (Tcp.MaxConn is -1) are no counters and left out.
func parsePairs(b []byte, out map[string]uint64) error {
	var head []string
	seen := 0
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		if head == nil {
			head = f
			continue
		}
		if f[0] != head[0] || len(f) != len(head) || !strings.HasSuffix(f[0], ":") {
			return fmt.Errorf("%w: values do not match the names of %q", errFormat, clip(head[0]))
		}
		group := strings.TrimSuffix(f[0], ":")
		for i := 1; i < len(f) && seen < maxNames; i++ {
			if n, err := strconv.ParseUint(f[i], 10, 64); err == nil {
				out[group+"."+head[i]] = n
				seen++
			}
		}
		head = nil
	}
	if seen == 0 || head != nil {
		return errFormat
	}
	return nil
}

// snmp6Groups are the prefixes of names in /proc/net/snmp6.
var snmp6Groups = []string{"UdpLite6", "Icmp6", "Udp6", "Ip6"}

// parseSNMP6 reads /proc/net/snmp6: a name and a value per line. Ip6InNoRoutes
// becomes Ip6.InNoRoutes.
func parseSNMP6(b []byte, out map[string]uint64) error {
	seen := 0
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) != 2 || seen >= maxNames {
			continue
		}
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			continue
		}
		for _, g := range snmp6Groups {
			if name, ok := strings.CutPrefix(f[0], g); ok && name != "" {
				out[g+"."+name] = n
				seen++
				break
			}
		}
	}
	if seen == 0 {
		return errFormat
	}
	return nil
}

// parseSockstat reads lines such as "TCP: inuse 5 orphan 0 tw 0 alloc 6 mem 1".
// mem is in pages and, like alloc, counts the whole host, not the namespace.
func parseSockstat(b []byte, out map[string]int64) error {
	seen := 0
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < 3 || !strings.HasSuffix(f[0], ":") {
			continue
		}
		for i := 1; i+1 < len(f) && seen < maxNames; i += 2 {
			if n, err := strconv.ParseInt(f[i+1], 10, 64); err == nil {
				out[strings.TrimSuffix(f[0], ":")+"."+f[i]] = n
				seen++
			}
		}
	}
	if seen == 0 {
		return errFormat
	}
	return nil
}

// Columns of /proc/net/softnet_stat (net/core/net-procfs.c softnet_seq_show).
// The last two came with Linux 5.10; before, the line number has to do for the
// CPU, which is wrong while CPUs are off-line.
const (
	colProcessed, colDropped, colSqueeze = 0, 1, 2
	colBacklog, colCPU                   = 11, 12
)

func parseSoftnet(b []byte) ([]facts.Softnet, error) {
	var out []facts.Softnet
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		if len(f) < 3 || len(out) >= maxCPUs {
			return out, errFormat
		}
		s := facts.Softnet{CPU: len(out)}
		col := func(i int) (n uint64) {
			if i < len(f) {
				n, _ = strconv.ParseUint(f[i], 16, 32)
			}
			return n
		}
		if _, err := strconv.ParseUint(f[colProcessed], 16, 32); err != nil {
			return out, errFormat
		}
		s.Processed, s.Dropped, s.TimeSqueeze, s.Backlog = col(colProcessed), col(colDropped), col(colSqueeze), int(col(colBacklog))
		if len(f) > colCPU {
			s.CPU = int(col(colCPU))
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, errFormat
	}
	return out, nil
}

// parseConntrack adds up /proc/net/stat/nf_conntrack: names, then one line of
// hexadecimal numbers per CPU (net/netfilter/nf_conntrack_standalone.c
// ct_cpu_seq_show). Columns have come and gone, so they go by name. The
// kernel's counters are 32 bits wide per CPU.
func parseConntrack(b []byte, c *facts.Conntrack) error {
	var head []string
	cpus := 0
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if head == nil {
			head = f
			continue
		}
		if len(f) > len(head) || cpus >= maxCPUs {
			return errFormat
		}
		cpus++
		for i, v := range f {
			n, err := strconv.ParseUint(v, 16, 32)
			if err != nil {
				return errFormat
			}
			switch head[i] {
			case "drop":
				c.Drop += n
			case "early_drop":
				c.EarlyDrop += n
			case "insert_failed":
				c.InsertFailed += n
			case "invalid":
				c.Invalid += n
			}
		}
	}
	if cpus == 0 {
		return errFormat
	}
	return nil
}

// number reads a small file with one number; 0 when it is none.
func number(b []byte) int {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 0)
	if err != nil || n < 0 {
		return 0
	}
	return int(n)
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40]
	}
	return s
}
