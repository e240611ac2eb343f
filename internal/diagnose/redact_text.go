package diagnose

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// This file holds the part of Redact that deals with names and with free text.

// publicLabels say nothing about anybody.
var publicLabels = []string{
	"localhost", "localdomain", "local", "arpa", "in-addr", "ip6", "test", "invalid", "example", "internal", "lan", "home",
	"com", "net", "org", "io", "dev", "cluster", "svc", "root-servers", "fathom-check", "ip6-localhost", "ip6-loopback", "ip6-localnet",
	"ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts",
}

// ordinaryWords are host names that are words of our own sentences and of the
// kernel's. They are no secret, and replacing them would garble the text.
var ordinaryWords = []string{
	"address", "client", "connection", "connect", "debian", "default", "device", "dns", "echo", "fedora", "firewall", "gateway", "gw", "host", "icmp",
	"interface", "internet", "kernel", "link", "linux", "local", "localhost", "name", "network", "no", "node", "path", "peer", "port", "proxy",
	"query", "raspberrypi", "refused", "resolver", "root", "route", "router", "server", "socket", "system", "target", "tcp", "test", "time",
	"timeout", "tls", "to", "ubuntu", "udp", "unreachable", "user",
}

func ordinaryWord(s string) bool { return slices.Contains(ordinaryWords, s) }

// ordinaryValue is a number, a word or a range of numbers in a firewall rule.
func ordinaryValue(s string) bool { return !strings.ContainsAny(s, ".:") }

// name maps a domain name label by label, so that a suffix stays a suffix and a
// search domain still fits. Addresses may stand where names are expected.
func (r *redactor) name(s string) string {
	if a, err := netip.ParseAddr(s); err == nil {
		return r.addr(a).String()
	}
	host, dot := strings.CutSuffix(s, ".")
	if host == "" {
		return s
	}
	if out, ok := r.reverseName(strings.ToLower(host)); ok {
		host = out
	} else {
		labels := strings.Split(host, ".")
		for i := range labels {
			labels[i] = r.label(labels[i])
		}
		host = strings.Join(labels, ".")
	}
	if dot {
		host += "."
	}
	return host
}

func (r *redactor) label(l string) string {
	l = strings.ToLower(l)
	if l == "" || l == "*" || l[0] == '_' || slices.Contains(publicLabels, l) || l+".invalid." == cannotExist {
		return l
	}
	if strings.IndexFunc(l, func(c rune) bool { return c >= utf8.RuneSelf }) >= 0 {
		if ascii, err := idna.Lookup.ToASCII(l); err == nil {
			l = ascii
		}
	}
	p, ok := r.labels[l]
	if !ok {
		p = "n" + strconv.Itoa(len(r.labels)+1)
		r.labels[l] = p
	}
	return p
}

// reverseName maps the address in 9.2.0.192.in-addr.arpa and in ip6.arpa names.
func (r *redactor) reverseName(s string) (string, bool) {
	if rest, ok := strings.CutSuffix(s, ".in-addr.arpa"); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		whole := slices.Concat(labels, []string{"0", "0", "0"})[:4]
		a, err := netip.ParseAddr(strings.Join(whole, "."))
		if err != nil || len(labels) > 4 {
			return "", false
		}
		out := strings.Split(r.addr(a).String(), ".")[:len(labels)]
		slices.Reverse(out)
		return strings.Join(out, ".") + ".in-addr.arpa", true
	}
	rest, ok := strings.CutSuffix(s, ".ip6.arpa")
	if !ok {
		return "", false
	}
	nibbles := strings.Split(rest, ".")
	slices.Reverse(nibbles)
	var b [16]byte
	for i, n := range nibbles {
		v, err := strconv.ParseUint(n, 16, 4)
		if err != nil || len(n) != 1 || i >= 32 {
			return "", false
		}
		b[i/2] |= byte(v) << (4 * (1 - i%2))
	}
	m := r.addr(netip.AddrFrom16(b)).As16()
	out := make([]string, len(nibbles))
	for i := range out {
		out[i] = strconv.FormatUint(uint64(m[i/2]>>(4*(1-i%2))&15), 16)
	}
	slices.Reverse(out)
	return strings.Join(out, ".") + ".ip6.arpa", true
}

// url keeps scheme, port and whether there is a path; paths and queries become numbers.
func (r *redactor) url(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "redacted:"
	}
	out := ""
	if u.Scheme != "" {
		out = strings.ToLower(u.Scheme) + ":"
	}
	if u.Host != "" || strings.Contains(s, "://") {
		out += "//" + r.hostPort(u.Host)
	}
	rest := u.Opaque + u.EscapedPath()
	if u.RawQuery != "" {
		rest += "?" + u.RawQuery
	}
	if rest == "" || rest == "/" {
		return out + rest
	}
	if r.paths[rest] == "" {
		r.paths[rest] = "/p" + strconv.Itoa(len(r.paths)+1)
	}
	return out + r.paths[rest]
}

// hostPort maps what stands where a host is sure to be expected.
func (r *redactor) hostPort(s string) string {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(r.addr(ap.Addr()), ap.Port()).String()
	}
	if inside, ok := strings.CutPrefix(s, "["); ok {
		if inside, ok = strings.CutSuffix(inside, "]"); ok {
			return "[" + r.name(inside) + "]"
		}
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return r.name(s)
	}
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return r.name(s)
	}
	return r.name(host) + ":" + port
}

// target maps what a measurement or an event is about: an address, address:port,
// URL, host name or interface.
func (r *redactor) target(s string) string {
	switch {
	case strings.Contains(s, "://"):
		return r.url(s)
	case strings.ContainsAny(s, " /"):
		return r.text(s)
	case !strings.ContainsAny(s, ".:") && !r.known[strings.ToLower(s)]:
		return s // an interface, a table
	}
	return r.hostPort(s)
}

// text replaces every name and address in free text.
func (r *redactor) text(s string) string {
	for _, p := range r.phrases {
		if strings.Contains(s, p) {
			s = strings.ReplaceAll(s, p, "(redacted)")
		}
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		n := tokenLen(s[i:])
		if n == 0 {
			_, w := utf8.DecodeRuneInString(s[i:])
			b.WriteString(s[i : i+w])
			i += w
			continue
		}
		tok, rest := s[i:i+n], s[i+n:]
		if scheme, ok := strings.CutSuffix(tok, ":"); ok && strings.HasPrefix(rest, "//") && isScheme(scheme) {
			n += urlLen(rest)
			b.WriteString(r.url(s[i : i+n]))
			i += n
			continue
		}
		b.WriteString(r.token(tok, rest))
		i += n
	}
	return b.String()
}

// tokenLen is the length of the run of characters that names and addresses are made of.
func tokenLen(s string) int {
	for i, c := range s {
		if !(c < utf8.RuneSelf && (unicode.IsLetter(c) || unicode.IsDigit(c)) || strings.ContainsRune(".:_-%@*", c) || c >= utf8.RuneSelf && unicode.IsLetter(c)) {
			return i
		}
	}
	return len(s)
}

func isScheme(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool { return c >= utf8.RuneSelf || !unicode.IsLetter(c) && !unicode.IsDigit(c) }) < 0
}

// urlLen is how much of s belongs to a URL: closing punctuation does not.
func urlLen(s string) int {
	n := strings.IndexFunc(s, func(c rune) bool { return unicode.IsSpace(c) || strings.ContainsRune("\"'`<>(){}|\\^", c) })
	if n < 0 {
		n = len(s)
	}
	return len(strings.TrimRight(s[:n], ".,;:!"))
}

// token maps one token of free text; rest is what follows it.
func (r *redactor) token(t, rest string) string {
	if out, ok := r.tokenAddr(t, rest); ok {
		return out
	}
	if core := strings.Trim(t, ".:-%@*"); core == "" {
		return t
	} else if i := strings.Index(t, core); len(core) != len(t) {
		if strings.HasSuffix(t, ".") && looksLikeDomain(core) {
			return t[:i] + r.token(core, "") + t[i+len(core):]
		}
		if i+len(core) != len(t) {
			rest = ""
		}
		return t[:i] + r.token(core, rest) + t[i+len(core):]
	}
	if user, host, ok := strings.Cut(t, "@"); ok && user != "" {
		return "user@" + r.token(host, rest)
	}
	for i := range len(t) { // "via:2001:db8::1": the address begins behind one of the colons
		if t[i] != ':' {
			continue
		}
		if out, ok := r.tokenAddr(t[i+1:], rest); ok {
			return r.token(t[:i], "") + ":" + out
		}
	}
	if head, tail, ok := strings.Cut(t, ":"); ok {
		return r.token(head, "") + ":" + r.token(tail, rest)
	}
	if from, to, ok := strings.Cut(t, "-"); ok {
		a, ok1 := r.tokenAddr(from, "")
		b, ok2 := r.tokenAddr(to, rest)
		if ok1 && ok2 {
			return a + "-" + b
		}
	}
	l := strings.ToLower(t)
	if strings.Contains(t, ".") {
		if r.known[l] || looksLikeDomain(t) {
			return r.name(t)
		}
		return t
	}
	if r.known[l] && !ordinaryWord(l) && strings.Trim(l, "0123456789") != "" {
		return r.name(t)
	}
	return t
}

// tokenAddr maps a token that is an address, with port or as part of a prefix, or a MAC.
func (r *redactor) tokenAddr(t, rest string) (string, bool) {
	if a, err := netip.ParseAddr(t); err == nil {
		if bits, ok := prefixBits(rest); ok {
			if p := netip.PrefixFrom(a.WithZone(""), bits); p.IsValid() {
				return r.prefix(p).Addr().String(), true
			}
		}
		return r.addr(a).String(), true
	}
	if ap, err := netip.ParseAddrPort(t); err == nil {
		return netip.AddrPortFrom(r.addr(ap.Addr()), ap.Port()).String(), true
	}
	return r.tokenMACs(t)
}

// prefixBits reads "/24" at the beginning of what follows an address.
func prefixBits(s string) (int, bool) {
	d, ok := strings.CutPrefix(s, "/")
	if !ok {
		return 0, false
	}
	n := len(d) - len(strings.TrimLeft(d, "0123456789"))
	bits, err := strconv.Atoi(d[:n])
	return bits, err == nil
}

// tokenMACs maps six or more pairs of hex digits: the kernel's packet log writes
// both addresses and the type in one go.
func (r *redactor) tokenMACs(t string) (string, bool) {
	sep := ":"
	if strings.Contains(t, "-") {
		sep = "-"
	}
	pairs := strings.Split(t, sep)
	if len(pairs) < 6 {
		return "", false
	}
	for _, p := range pairs {
		if _, err := strconv.ParseUint(p, 16, 8); err != nil || len(p) != 2 {
			return "", false
		}
	}
	var out []string
	for ; len(pairs) >= 6; pairs = pairs[6:] {
		out = append(out, r.mac(strings.Join(pairs[:6], ":")))
	}
	return strings.Join(append(out, pairs...), ":"), true
}

// Endings and beginnings of dotted words that are files, counters and settings.
var (
	fileEndings = []string{
		"conf", "service", "socket", "timer", "scope", "slice", "mount", "target", "device", "yaml", "yml", "json", "so", "ko",
		"go", "log", "txt", "sock", "html", "php", "js", "css", "service-failed",
	}
	dottedWords = []string{
		"kernel", "ip", "ip6", "icmp", "icmp6", "icmpmsg", "tcp", "tcpext", "tcp6", "ipext", "udp", "udp6", "udplite", "mptcpext",
		"ipv4", "ipv6", "conf", "neigh",
	}
)

// looksLikeDomain reports whether a dotted word can be a domain name: its last
// part is letters, and it is no file name, counter or kernel setting.
func looksLikeDomain(s string) bool {
	labels := strings.Split(strings.ToLower(s), ".")
	if len(labels) < 2 || slices.Contains(labels, "") {
		return false
	}
	tld := labels[len(labels)-1]
	if utf8.RuneCountInString(tld) < 2 || slices.Contains(fileEndings, tld) || slices.Contains(dottedWords, labels[0]) {
		return false
	}
	if labels[0] == "net" && slices.Contains([]string{"ipv4", "ipv6", "core", "netfilter", "unix", "mptcp"}, labels[1]) {
		return false
	}
	return strings.HasPrefix(tld, "xn--") || strings.IndexFunc(tld, func(c rune) bool { return !unicode.IsLetter(c) }) < 0
}

// stripComments empties the comments and log prefixes that people write into firewall rules.
func stripComments(s string) string {
	for _, word := range []string{`comment "`, `prefix "`} {
		for from := 0; ; {
			i := strings.Index(s[from:], word)
			if i < 0 {
				break
			}
			begin := from + i + len(word)
			end := strings.IndexByte(s[begin:], '"')
			if end < 0 {
				s = s[:begin] + `…"`
				break
			}
			s = s[:begin] + "…" + s[begin+end:]
			from = begin + len("…") + 1
		}
	}
	return s
}
