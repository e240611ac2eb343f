package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Bounds of a scenario.
const (
	maxNodes    = 64
	maxLinks    = 128
	maxServices = 64
	maxActions  = 100
	maxCount    = 60000
	maxText     = 256 << 10 // bytes of one nft ruleset or file
)

var (
	nameRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	nodeRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,14}$`)
	ifaceRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`)
	causeRE = regexp.MustCompile(`^[a-z][a-z0-9]*\.([a-z0-9_]+|\*)$`)
	keyRE   = regexp.MustCompile(`^net\.[A-Za-z0-9_./@-]+$`)
)

// knownNeeds are the kernel features and programs a scenario may name.
var knownNeeds = []string{"ipv6", "bridge", "tun", "conntrack", "nft", "tc", "tbf", "htb", "ip", "ethtool"}

// globalSysctls exist once per kernel.
var globalSysctls = []string{
	"net.ipv4.neigh.default.gc_thresh1", "net.ipv4.neigh.default.gc_thresh2", "net.ipv4.neigh.default.gc_thresh3",
	"net.ipv6.neigh.default.gc_thresh1", "net.ipv6.neigh.default.gc_thresh2", "net.ipv6.neigh.default.gc_thresh3",
	"net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets",
	"net.core.netdev_max_backlog", "net.core.netdev_budget", "net.core.netdev_budget_usecs",
	"net.core.rmem_max", "net.core.wmem_max", "net.core.rmem_default", "net.core.wmem_default",
	"net.ipv4.tcp_mem", "net.ipv4.udp_mem", "net.ipv4.tcp_max_orphans",
}

// fillDefaults makes explicit what the file may leave out.
func (s *Scenario) fillDefaults() {
	if s.User == "" {
		s.User = "root"
	}
	for _, n := range s.Nodes {
		if n != nil && n.Type == "" {
			n.Type = TypeHost
		}
	}
	for _, l := range s.Links {
		if l == nil {
			continue
		}
		if l.Type == "" {
			l.Type = "veth"
		}
		if l.Seed == 0 {
			l.Seed = 1
		}
		for _, e := range []*End{&l.A, &l.B} {
			if e.MTU == 0 {
				e.MTU = 1500
			}
		}
	}
	for _, v := range s.Services {
		if v != nil {
			v.fillDefaults()
		}
	}
	if s.Expect == nil && s.Kind == Healthy {
		s.Expect = new(Expect)
	}
	if len(s.Ask) == 0 {
		s.Ask = Asks{{Args: []string{"why"}}}
	}
	s.fillExpect(s.Expect)
	for i := range s.Ask {
		a := &s.Ask[i]
		if a.User == "" {
			a.User = s.User
		}
		if a.Expect == nil {
			a.Expect = s.Expect
		}
		s.fillExpect(a.Expect)
	}
}

func (s *Scenario) fillExpect(e *Expect) {
	if e == nil {
		return
	}
	if e.Verdict == "" {
		e.Verdict = string(s.Kind)
	}
	if e.MaxSeconds == 0 {
		e.MaxSeconds = 10
		if s.Kind == Healthy {
			e.MaxSeconds = 3
		}
	}
}

// at makes an error that names the line, when it is known.
func at(line int, format string, a ...any) error {
	err := fmt.Errorf(format, a...)
	if line > 0 {
		return fmt.Errorf("line %d: %w", line, err)
	}
	return err
}

// validate checks everything that decoding alone does not.
func (s *Scenario) validate() error {
	for _, check := range []func() error{s.validateTop, s.validateNodes, s.validateLinks, s.validateServices, s.validateActions, s.validateAsks} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Scenario) validateTop() error {
	switch {
	case !nameRE.MatchString(s.Name):
		return fmt.Errorf("name %q: want lower case letters, digits and dashes, at most 63", clip(s.Name))
	case s.Title == "" || strings.ContainsAny(s.Title, "\n\x1b"):
		return fmt.Errorf("title: want one line of text")
	case strings.TrimSpace(s.Story) == "":
		return fmt.Errorf("story is missing: say why this is a fault, or why it is none")
	case s.Kind != Fault && s.Kind != Healthy:
		return fmt.Errorf("kind %q: want fault or healthy", clip(string(s.Kind)))
	case len(s.GlobalSysctls) > 0 && !s.Exclusive:
		return fmt.Errorf("global_sysctls needs exclusive: true")
	case s.Settle < 0 || s.Settle.Std() > maxDuration:
		return fmt.Errorf("settle %s: want 0 to %s", s.Settle, maxDuration)
	}
	if err := oneOf("user", s.User, "root", "nobody"); err != nil {
		return err
	}
	for k := range s.GlobalSysctls {
		if err := oneOf("global_sysctls", k, globalSysctls...); err != nil {
			return err
		}
	}
	for _, n := range s.Needs {
		if err := oneOf("needs", n, knownNeeds...); err != nil {
			return err
		}
	}
	for name, text := range s.Files {
		if name != filepath.Base(name) || name == "." || name == ".." || name == "" || strings.ContainsRune(name, 0) {
			return fmt.Errorf("files: %q is not a plain file name", clip(name))
		}
		if len(text) > maxText {
			return fmt.Errorf("files: %s is larger than %d bytes", name, maxText)
		}
	}
	return nil
}

// oneOf checks a word against those known, and suggests.
func oneOf(what, got string, known ...string) error {
	if slices.Contains(known, got) {
		return nil
	}
	if near := nearest(got, known); near != "" {
		return fmt.Errorf("%s: unknown %q (did you mean %q?)", what, clip(got), near)
	}
	return fmt.Errorf("%s: unknown %q (known: %s)", what, clip(got), strings.Join(known, " "))
}

func (s *Scenario) validateNodes() error {
	switch {
	case len(s.Nodes) > maxNodes:
		return fmt.Errorf("nodes: %d of them, at most %d", len(s.Nodes), maxNodes)
	case s.Nodes[HostNode] == nil:
		return fmt.Errorf("nodes: one must be called %q and have at least {} as its value: fathom runs there", HostNode)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
		n := s.Nodes[name]
		if !nodeRE.MatchString(name) || name == wireNode {
			return fmt.Errorf("nodes: name %q: want lower case letters, digits and dashes, at most 15, and not %q", clip(name), wireNode)
		}
		if n == nil {
			return fmt.Errorf("nodes: %s has no value; write {}", name)
		}
		if err := n.validate(name); err != nil {
			return at(n.line, "node %s: %w", name, err)
		}
	}
	return nil
}

func (n *Node) validate(name string) error {
	if err := oneOf("type", n.Type, TypeHost, TypeRouter, TypeBridge); err != nil {
		return err
	}
	if name == HostNode && n.Type == TypeBridge {
		return fmt.Errorf("fathom cannot run in a bridge")
	}
	if len(n.Addresses) > 0 && n.Type != TypeBridge {
		return fmt.Errorf("addresses belong to the ends of links; here they are for bridges only (loopback is for lo)")
	}
	for i, r := range n.Routes {
		if _, err := ParseRoute(r); err != nil {
			return err
		}
		if slices.Contains(n.Routes[:i], r) {
			return fmt.Errorf("route %q is there twice", clip(r))
		}
	}
	for _, r := range n.Rules {
		if _, err := ParseRule(r); err != nil {
			return err
		}
	}
	for _, r := range n.Neighbours {
		if _, err := ParseNeighbour(r); err != nil {
			return err
		}
	}
	if err := validSysctls(n.Sysctls); err != nil {
		return err
	}
	if len(n.Nft) > maxText {
		return fmt.Errorf("nft is larger than %d bytes", maxText)
	}
	if _, err := pingRange(n.PingGroup); err != nil {
		return err
	}
	for _, p := range slices.Concat(n.Loopback, n.Addresses) {
		if !p.IsValid() {
			return fmt.Errorf("an address is empty")
		}
	}
	return n.validateFiles()
}

// validateFiles keeps what goes into the node's /etc files to single lines.
func (n *Node) validateFiles() error {
	lines := slices.Concat(n.Hosts, []string{n.Nsswitch})
	if r := n.ResolvConf; r != nil {
		if r.Raw != "" && len(r.Nameservers)+len(r.Search)+len(r.Options) > 0 {
			return fmt.Errorf("resolv_conf: raw excludes the other keys")
		}
		for _, a := range r.Nameservers {
			if !a.IsValid() {
				return fmt.Errorf("resolv_conf: a nameserver is empty")
			}
		}
		lines = slices.Concat(lines, r.Search, r.Options)
		if len(r.Raw) > maxText {
			return fmt.Errorf("resolv_conf: raw is larger than %d bytes", maxText)
		}
	}
	for _, l := range lines {
		if strings.ContainsAny(l, "\n\x00") {
			return fmt.Errorf("%q: one line only", clip(l))
		}
	}
	return nil
}

func validSysctls(m map[string]string) error {
	for k, v := range m {
		if !keyRE.MatchString(k) || strings.Contains(k, "..") || strings.Contains(k, "//") {
			return fmt.Errorf("sysctls: %q is not a net.… name", clip(k))
		}
		if len(v) > 256 || strings.ContainsAny(v, "\n\x00") {
			return fmt.Errorf("sysctls: value of %s: one line only", k)
		}
	}
	return nil
}

// pingRange is the value of net.ipv4.ping_group_range.
func pingRange(s string) (string, error) {
	switch s {
	case "", "all":
		return "0 2147483647", nil
	case "none":
		return "1 0", nil
	}
	w := &words{strings.Fields(s)}
	low, err := w.number("ping_group", 0, 1<<31-1)
	high, err2 := w.number("ping_group", 0, 1<<31-1)
	if err != nil || err2 != nil || len(w.left) > 0 {
		return "", fmt.Errorf("ping_group %q: want all, none or two numbers", clip(s))
	}
	return fmt.Sprintf("%d %d", low, high), nil
}

func (s *Scenario) validateLinks() error {
	if len(s.Links) > maxLinks {
		return fmt.Errorf("links: %d of them, at most %d", len(s.Links), maxLinks)
	}
	seen := map[string]int{}
	for i, l := range s.Links {
		if l == nil {
			return fmt.Errorf("links: entry %d is empty", i+1)
		}
		if err := oneOf("type", l.Type, "veth", "tap"); err != nil {
			return at(l.line, "link: %w", err)
		}
		for _, e := range []*End{&l.A, &l.B} {
			line := max(e.line, l.line)
			if err := s.validateEnd(l, e); err != nil {
				return at(line, "link end %q: %w", clip(e.Iface), err)
			}
			if other, twice := seen[e.Iface]; twice {
				return at(line, "link end %q: already used at line %d", e.Iface, other)
			}
			seen[e.Iface] = line
		}
		if err := l.Impair.validate(); err != nil {
			return at(l.line, "link %s: %w", l.A.Iface, err)
		}
	}
	return nil
}

func (s *Scenario) validateEnd(l *Link, e *End) error {
	node, iface, ok := strings.Cut(e.Iface, "/")
	switch {
	case !ok || !ifaceRE.MatchString(iface):
		return fmt.Errorf("want node/interface, with at most 15 plain characters for the interface")
	case s.Nodes[node] == nil:
		return oneOf("node", node, slices.Sorted(maps.Keys(s.Nodes))...)
	case iface == "lo" || iface == bridgeName:
		return fmt.Errorf("%s is taken", iface)
	case s.Nodes[node].Type == TypeBridge && len(e.Addresses) > 0:
		return fmt.Errorf("a port of a bridge has no address; give it to the bridge itself (addresses)")
	case e.MTU < 68 || e.MTU > 65535:
		return fmt.Errorf("mtu %d: want 68 to 65535", e.MTU)
	case e.TxQueueLen != nil && (*e.TxQueueLen < 0 || *e.TxQueueLen > 100000):
		return fmt.Errorf("txqueuelen %d: want 0 to 100000", *e.TxQueueLen)
	}
	if e.MAC != "" {
		if _, err := parseMAC(e.MAC); err != nil {
			return err
		}
	}
	for _, p := range e.Addresses {
		if !p.IsValid() {
			return fmt.Errorf("an address is empty")
		}
	}
	if j := e.Inject; j != nil {
		if l.Type != "tap" {
			return fmt.Errorf("inject: on links of type tap only")
		}
		if err := oneOf("inject: kind", string(j.Kind), "dropped", "unknown_proto"); err != nil {
			return err
		}
		if !(j.PerSecond > 0 && j.PerSecond <= 10000) {
			return fmt.Errorf("inject: per_second %v: want up to 10,000", j.PerSecond)
		}
	}
	for _, t := range e.Tc {
		if len(strings.Fields(t)) < 3 || strings.Contains(t, "\n") {
			return fmt.Errorf("tc %q: write it as after the word tc: qdisc add dev …", clip(t))
		}
	}
	return e.Ethtool.validate(l.Type)
}

func (t *Ethtool) validate(linkType string) error {
	if t == nil {
		return nil
	}
	if (t.Speed != 0 || t.Duplex != "") && linkType != "tap" {
		return fmt.Errorf("ethtool: speed and duplex can be set on links of type tap only (a veth always says 10,000 full)")
	}
	if t.Speed < 0 || t.Speed > 800000 {
		return fmt.Errorf("ethtool: speed %d: want Mbit/s", t.Speed)
	}
	if t.Duplex != "" {
		if err := oneOf("ethtool: duplex", t.Duplex, "full", "half"); err != nil {
			return err
		}
	}
	for k, v := range t.Features {
		if v != "on" && v != "off" && v != "true" && v != "false" {
			return fmt.Errorf("ethtool: feature %s: want on or off", clip(k))
		}
	}
	return nil
}

func (i *Impair) validate() error {
	if i == nil {
		return nil
	}
	if i.Both != nil && (i.AtoB != nil || i.BtoA != nil) {
		return fmt.Errorf("impair: both excludes a_to_b and b_to_a")
	}
	for _, d := range []*Direction{i.Both, i.AtoB, i.BtoA} {
		if d == nil {
			continue
		}
		if err := d.validate(); err != nil {
			return at(d.line, "impair: %w", err)
		}
	}
	return nil
}

func (d *Direction) validate() error {
	for name, v := range map[string]Duration{"delay": d.Delay, "jitter": d.Jitter} {
		if v < 0 || v.Std() > maxDelay {
			return fmt.Errorf("%s %s: want 0 to %s", name, v, maxDelay)
		}
	}
	for name, v := range map[string]int{"queue": d.Queue, "loss_every": d.LossEvery} {
		if v < 0 || v > 1e6 {
			return fmt.Errorf("%s %d: want 0 to 1,000,000", name, v)
		}
	}
	if d.Jitter > d.Delay {
		return fmt.Errorf("jitter %s is larger than the delay %s", d.Jitter, d.Delay)
	}
	if d.MaxFrame != 0 && (d.MaxFrame < 28 || d.MaxFrame > 65535) {
		return fmt.Errorf("max_frame %d: want 28 to 65535", d.MaxFrame)
	}
	if b := d.LossBurst; b != nil && (b.Period.Std() > maxDuration || b.For < 0 || b.For > b.Period) {
		return fmt.Errorf("loss_burst: want for ≤ period ≤ %s", maxDuration)
	}
	if err := d.config().Validate(); err != nil {
		return err
	}
	return nil
}

func (s *Scenario) validateActions() error {
	if len(s.Actions) > maxActions {
		return fmt.Errorf("actions: %d of them, at most %d", len(s.Actions), maxActions)
	}
	for i, a := range s.Actions {
		if a == nil {
			return fmt.Errorf("actions: entry %d is empty", i+1)
		}
		if err := s.validateAction(a); err != nil {
			return at(a.line, "action: %w", err)
		}
	}
	return nil
}

// actionKeys are the keys of each action, besides at, every, times and do.
var actionKeys = map[string][]string{
	"link_down": {"iface"}, "link_up": {"iface"}, "carrier_off": {"iface"}, "carrier_on": {"iface"},
	"impair": {"iface", "impair"}, "nft": {"node", "nft"}, "route": {"node", "route", "op"},
	"sysctl": {"node", "sysctls"}, "ip": {"node", "args"}, "tc": {"node", "args"},
	"service_stop": {"service"}, "service_start": {"service"},
}

func (s *Scenario) validateAction(a *Action) error {
	keys, ok := actionKeys[a.Do]
	if !ok {
		return oneOf("do", a.Do, slices.Sorted(maps.Keys(actionKeys))...)
	}
	for _, k := range a.keys {
		if !slices.Contains(keys, k) && !slices.Contains([]string{"at", "every", "times", "do"}, k) {
			return fmt.Errorf("key %q does not apply to do: %s (it takes %s)", k, a.Do, strings.Join(keys, " "))
		}
	}
	for _, k := range keys {
		if k != "op" && !slices.Contains(a.keys, k) {
			return fmt.Errorf("do: %s needs %q", a.Do, k)
		}
	}
	if a.At.Std() > maxDuration || a.At.Std() < -maxDuration {
		return fmt.Errorf("at %s: want at most %s", a.At, maxDuration)
	}
	if a.Times < 0 || a.Times > 1000 || a.Every < 0 || a.Every.Std() > maxDuration || (a.Times > 0) != (a.Every > 0) {
		return fmt.Errorf("every and times belong together: every 1s, times 5 (at most 1,000)")
	}
	return s.validateActionRefs(a, keys)
}

func (s *Scenario) validateActionRefs(a *Action, keys []string) error {
	if slices.Contains(keys, "iface") {
		if _, _, ok := s.end(a.Iface); !ok {
			return fmt.Errorf("no link has the end %q", clip(a.Iface))
		}
	}
	if slices.Contains(keys, "node") && s.Nodes[a.Node] == nil {
		return oneOf("node", a.Node, slices.Sorted(maps.Keys(s.Nodes))...)
	}
	if slices.Contains(keys, "service") {
		n := 0
		for _, v := range s.Services {
			if v.Name == a.Service {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%d services are called %q", n, clip(a.Service))
		}
	}
	switch a.Do {
	case "route":
		if a.Op != "" {
			if err := oneOf("op", a.Op, "add", "replace", "del"); err != nil {
				return err
			}
		}
		_, err := ParseRoute(a.Route)
		return err
	case "sysctl":
		return validSysctls(a.Sysctls)
	case "impair":
		return a.Impair.validate()
	case "ip", "tc":
		if strings.TrimSpace(a.Args) == "" {
			return fmt.Errorf("args is empty")
		}
	}
	if len(a.Nft) > maxText {
		return fmt.Errorf("nft is larger than %d bytes", maxText)
	}
	return nil
}

// end finds the link that has an end, and whether it is the a end.
func (s *Scenario) end(iface string) (index int, isA, ok bool) {
	for i, l := range s.Links {
		if l.A.Iface == iface || l.B.Iface == iface {
			return i, l.A.Iface == iface, true
		}
	}
	return 0, false, false
}

func (s *Scenario) validateAsks() error {
	if len(s.Ask) > 20 {
		return fmt.Errorf("ask: %d questions, at most 20", len(s.Ask))
	}
	for _, a := range s.Ask {
		if len(a.Args) == 0 {
			return at(a.line, "ask: args is empty")
		}
		if err := oneOf("user", a.User, "root", "nobody"); err != nil {
			return at(a.line, "ask: %w", err)
		}
		if a.Timeout < 0 || a.Timeout.Std() > maxDuration {
			return at(a.line, "ask: timeout %s: want 0 to %s", a.Timeout, maxDuration)
		}
		for _, w := range a.Args {
			if strings.ContainsRune(w, 0) {
				return at(a.line, "ask: a zero byte in args")
			}
		}
		for k, v := range a.Env {
			if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
				return at(a.line, "ask: env %q", clip(k))
			}
		}
		if a.Expect == nil {
			return fmt.Errorf("expect is missing: a fault must say what is to be found")
		}
		if err := a.Expect.validate(); err != nil {
			return at(a.Expect.line, "expect: %w", err)
		}
	}
	return nil
}

func (e *Expect) validate() error {
	if err := oneOf("verdict", e.Verdict, "healthy", "fault", "unknown"); err != nil {
		return err
	}
	if !(e.MaxSeconds > 0 && e.MaxSeconds <= maxDuration.Seconds()) {
		return fmt.Errorf("max_seconds %v: want up to %v", e.MaxSeconds, maxDuration.Seconds())
	}
	found := e.Findings()
	if len(found) == 0 && e.Verdict == "fault" {
		return fmt.Errorf("a fault needs a cause (or any_of)")
	}
	if len(e.Causes()) == 0 && (e.Subject != "" || e.Location != "" || e.Severity != "") {
		return fmt.Errorf("subject, location and severity need a cause (or any_of)")
	}
	for _, f := range found {
		if err := f.validate(); err != nil {
			return err
		}
	}
	for _, c := range e.Absent {
		if !causeRE.MatchString(c) {
			return fmt.Errorf("absent %q: want area.cause or area.*", clip(c))
		}
	}
	return nil
}

func (f ExpectedFinding) validate() error {
	if len(f.Causes()) == 0 {
		return fmt.Errorf("also: an entry without cause (or any_of)")
	}
	for _, c := range f.Causes() {
		if !causeRE.MatchString(c) {
			return fmt.Errorf("cause %q: want area.cause", clip(c))
		}
	}
	if f.Severity != "" {
		if err := oneOf("severity", f.Severity, "critical", "major", "minor", "info"); err != nil {
			return err
		}
	}
	for _, p := range []string{f.Subject, f.Location} {
		if _, err := newPattern(p); err != nil {
			return err
		}
	}
	return nil
}

// addressesOf are all addresses of a node that are up from the start.
func (s *Scenario) addressesOf(node string) []netip.Addr {
	var out []netip.Addr
	n := s.Nodes[node]
	for _, p := range slices.Concat(n.Loopback, n.Addresses) {
		out = append(out, p.Addr())
	}
	for _, l := range s.Links {
		for _, e := range []*End{&l.A, &l.B} {
			if owner, _, _ := strings.Cut(e.Iface, "/"); owner == node && (e.Up == nil || *e.Up) {
				for _, p := range e.Addresses {
					out = append(out, p.Addr())
				}
			}
		}
	}
	return out
}
