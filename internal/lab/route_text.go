package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Route is a line of "routes", read.
type Route struct {
	Type       string // unicast | blackhole | unreachable | prohibit
	Dst        netip.Prefix
	Via        netip.Addr
	Dev        string
	Metric     int
	Table      int // 0: main
	Src        netip.Addr
	MTU        int
	AdvMSS     int
	OnLink     bool
	IfPossible bool // a refusal by the kernel is no error
	Nexthops   []Nexthop
	Text       string // as written
}

// Nexthop is one of several equal paths.
type Nexthop struct {
	Via    netip.Addr
	Dev    string
	Weight int
}

// words walks over the words of a line.
type words struct{ left []string }

func (w *words) next() (string, bool) {
	if len(w.left) == 0 {
		return "", false
	}
	s := w.left[0]
	w.left = w.left[1:]
	return s, true
}

// value is the word after key.
func (w *words) value(key string) (string, error) {
	s, ok := w.next()
	if !ok {
		return "", fmt.Errorf("%q needs a value", key)
	}
	return s, nil
}

func (w *words) number(key string, low, high int) (int, error) {
	s, err := w.value(key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%s %q is not a number from %d to %d", key, clip(s), low, high)
	}
	return n, nil
}

func (w *words) addr(key string) (netip.Addr, error) {
	s, err := w.value(key)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s %q is not an address", key, clip(s))
	}
	return a, nil
}

func (w *words) table() (int, error) {
	s, err := w.value("table")
	if err != nil {
		return 0, err
	}
	switch s {
	case "main":
		return 254, nil
	case "local":
		return 255, nil
	case "default":
		return 253, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 1<<20 {
		return 0, fmt.Errorf("table %q is not main, local, default or a number from 1", clip(s))
	}
	return n, nil
}

// ParseRoute reads a line such as "10.5.0.0/16 via 10.0.1.3 dev eth0 metric 5".
func ParseRoute(text string) (Route, error) {
	r, err := parseRoute(text)
	if err != nil {
		return Route{}, fmt.Errorf("route %q: %w", clip(text), err)
	}
	return r, nil
}

func parseRoute(text string) (Route, error) {
	r := Route{Type: "unicast", Text: text}
	w := &words{strings.Fields(text)}
	word, ok := w.next()
	if ok && slices.Contains([]string{"unicast", "blackhole", "unreachable", "prohibit"}, word) {
		r.Type = word
		word, ok = w.next()
	}
	if !ok {
		return r, errors.New("no destination")
	}
	isDefault := word == "default"
	if !isDefault {
		var err error
		if r.Dst, err = parsePrefix(word); err != nil {
			return r, err
		}
		if r.Dst != r.Dst.Masked() {
			return r, fmt.Errorf("%s has bits set behind its length; %s is meant?", word, r.Dst.Masked())
		}
	}
	for {
		key, ok := w.next()
		if !ok {
			break
		}
		if err := r.word(key, w); err != nil {
			return r, err
		}
	}
	if isDefault {
		r.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.isV6() {
			r.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	return r, r.check()
}

func (r *Route) isV6() bool {
	for _, n := range r.Nexthops {
		if n.Via.Is6() {
			return true
		}
	}
	return r.Via.Is6() || r.Src.Is6()
}

// word reads one key and its value into r.
func (r *Route) word(key string, w *words) (err error) {
	last := len(r.Nexthops) - 1
	switch key {
	case "nexthop":
		if len(r.Nexthops) == 64 {
			return errors.New("more than 64 nexthops")
		}
		r.Nexthops = append(r.Nexthops, Nexthop{Weight: 1})
	case "via":
		var a netip.Addr
		if a, err = w.addr(key); last >= 0 {
			r.Nexthops[last].Via = a
		} else {
			r.Via = a
		}
	case "dev":
		var d string
		if d, err = w.value(key); last >= 0 {
			r.Nexthops[last].Dev = d
		} else {
			r.Dev = d
		}
	case "weight":
		if last < 0 {
			return errors.New("weight without nexthop")
		}
		r.Nexthops[last].Weight, err = w.number(key, 1, 256)
	case "metric":
		r.Metric, err = w.number(key, 0, 1<<30)
	case "table":
		r.Table, err = w.table()
	case "src":
		r.Src, err = w.addr(key)
	case "mtu":
		r.MTU, err = w.number(key, 68, 65535)
	case "advmss":
		r.AdvMSS, err = w.number(key, 1, 65535)
	case "onlink":
		r.OnLink = true
	case "if_possible":
		r.IfPossible = true
	default:
		return unknownWord(key, "nexthop", "via", "dev", "weight", "metric", "table", "src", "mtu", "advmss", "onlink", "if_possible")
	}
	return err
}

func (r *Route) check() error {
	six := r.Dst.Addr().Is6()
	for _, a := range append([]netip.Addr{r.Via, r.Src}, viasOf(r.Nexthops)...) {
		if a.IsValid() && a.Is6() != six {
			return fmt.Errorf("%s is of another family than %s", a, r.Dst)
		}
	}
	if r.Type != "unicast" {
		if r.Via.IsValid() || len(r.Nexthops) > 0 {
			return fmt.Errorf("a %s route has no next hop", r.Type)
		}
		return nil
	}
	if !r.Via.IsValid() && r.Dev == "" && len(r.Nexthops) == 0 {
		return errors.New("needs via or dev")
	}
	if len(r.Nexthops) > 0 && (r.Via.IsValid() || r.Dev != "") {
		return errors.New("via or dev before nexthop: choose one form")
	}
	for _, n := range r.Nexthops {
		if !n.Via.IsValid() && n.Dev == "" {
			return errors.New("a nexthop needs via or dev")
		}
	}
	return nil
}

func viasOf(nh []Nexthop) []netip.Addr {
	var out []netip.Addr
	for _, n := range nh {
		out = append(out, n.Via)
	}
	return out
}

// PolicyRule is a line of "rules", read.
type PolicyRule struct {
	V6       bool
	Type     string // "" (look up Table) | blackhole | unreachable | prohibit
	From, To netip.Prefix
	IIF, OIF string
	Mark     uint32
	Table    int
	Priority int // 0: the kernel chooses
	Suppress int // suppress_prefixlength; -1: none
	Text     string
}

// ParseRule reads a line such as "from 10.0.1.0/24 table 100 priority 1000".
func ParseRule(text string) (PolicyRule, error) {
	r := PolicyRule{Suppress: -1, Text: text}
	w := &words{strings.Fields(text)}
	var err error
	for err == nil {
		key, ok := w.next()
		if !ok {
			break
		}
		err = r.word(key, w)
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return PolicyRule{}, fmt.Errorf("rule %q: %w", clip(text), err)
	}
	r.V6 = r.V6 || r.From.Addr().Is6() || r.To.Addr().Is6()
	return r, nil
}

func (r *PolicyRule) word(key string, w *words) (err error) {
	var s string
	switch key {
	case "-6":
		r.V6 = true
	case "-4":
	case "blackhole", "unreachable", "prohibit":
		r.Type = key
	case "from", "to":
		if s, err = w.value(key); err != nil || s == "all" {
			return err
		}
		var p netip.Prefix
		if p, err = parsePrefix(s); key == "from" {
			r.From = p
		} else {
			r.To = p
		}
	case "iif":
		r.IIF, err = w.value(key)
	case "oif":
		r.OIF, err = w.value(key)
	case "fwmark":
		if s, err = w.value(key); err != nil {
			return err
		}
		var m uint64
		if m, err = strconv.ParseUint(s, 0, 32); err != nil {
			return fmt.Errorf("fwmark %q is not a number", clip(s))
		}
		r.Mark = uint32(m)
	case "table", "lookup":
		r.Table, err = w.table()
	case "priority", "pref":
		r.Priority, err = w.number(key, 1, 32765)
	case "suppress_prefixlength":
		r.Suppress, err = w.number(key, 0, 128)
	default:
		return unknownWord(key, "from", "to", "iif", "oif", "fwmark", "table", "lookup", "priority", "pref", "suppress_prefixlength", "blackhole", "unreachable", "prohibit")
	}
	return err
}

func (r *PolicyRule) check() error {
	if (r.Table == 0) == (r.Type == "") {
		return errors.New("needs either a table or one of blackhole, unreachable, prohibit")
	}
	if r.From.IsValid() && r.To.IsValid() && r.From.Addr().Is6() != r.To.Addr().Is6() {
		return errors.New("from and to are of different families")
	}
	return nil
}

// StaticNeighbour is a line of "neighbours", read.
type StaticNeighbour struct {
	Addr  netip.Addr
	MAC   net.HardwareAddr
	Dev   string
	State string // permanent | reachable | stale | failed | noarp
	Text  string
}

// ParseNeighbour reads a line such as "10.0.1.1 lladdr 02:00:00:00:00:99 dev eth0".
func ParseNeighbour(text string) (StaticNeighbour, error) {
	n := StaticNeighbour{State: "permanent", Text: text}
	w := &words{strings.Fields(text)}
	var err error
	n.Addr, err = w.addr("neighbour")
	for err == nil {
		key, ok := w.next()
		if !ok {
			break
		}
		var s string
		if s, err = w.value(key); err != nil {
			break
		}
		switch key {
		case "lladdr":
			n.MAC, err = parseMAC(s)
		case "dev":
			n.Dev = s
		case "nud":
			if n.State = s; !slices.Contains([]string{"permanent", "reachable", "stale", "failed", "noarp"}, s) {
				err = fmt.Errorf("nud %q is none of permanent reachable stale failed noarp", clip(s))
			}
		default:
			err = unknownWord(key, "lladdr", "dev", "nud")
		}
	}
	if err == nil && n.Dev == "" {
		err = errors.New("needs dev")
	}
	if err == nil && n.MAC == nil && n.State != "failed" {
		err = errors.New("needs lladdr")
	}
	if err != nil {
		return StaticNeighbour{}, fmt.Errorf("neighbour %q: %w", clip(text), err)
	}
	return n, nil
}

func parseMAC(s string) (net.HardwareAddr, error) {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		return nil, fmt.Errorf("%q is not a MAC address", clip(s))
	}
	return m, nil
}

// parsePrefix reads a prefix or a single address.
func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not a prefix or address", clip(s))
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func unknownWord(w string, known ...string) error {
	if near := nearest(w, known); near != "" {
		return fmt.Errorf("unknown word %q (did you mean %q?)", clip(w), near)
	}
	return fmt.Errorf("unknown word %q (known: %s)", clip(w), strings.Join(known, " "))
}
