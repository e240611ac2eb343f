package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"fathom/internal/diagnose"
)

// maxTarget bounds a target as typed, in bytes: longer than any URL a server
// accepts without complaint.
const maxTarget = 2000

// schemes are those of targets, with the port each implies (0: it must be given).
var schemes = []struct {
	name string
	port uint16
}{{"http", 80}, {"https", 443}, {"tcp", 0}, {"udp", 0}, {"tls", 443}, {"dns", 53}, {"icmp", 0}}

// ParseTarget reads a target as a person types it: host, host:port,
// [v6]:port, a bare IPv6 address, or a URL with the scheme http, https, tcp,
// udp, tls, dns or icmp.
func ParseTarget(raw string) (diagnose.Target, error) {
	t, err := parseTarget(raw)
	if errors.Is(err, errUserinfo) {
		return diagnose.Target{}, fmt.Errorf("target: %w", err) // without quoting it: it goes to a log
	}
	if err != nil {
		return diagnose.Target{}, fmt.Errorf("target %s: %w", quote(raw), err)
	}
	t.Raw = raw
	return t, nil
}

func parseTarget(raw string) (t diagnose.Target, err error) {
	if err := checkText(raw); err != nil {
		return t, err
	}
	if scheme, rest, ok := strings.Cut(raw, "://"); ok {
		return parseURL(raw, strings.ToLower(scheme), rest)
	}
	if strings.Contains(raw, "@") {
		return t, errUserinfo
	}
	if i := strings.IndexAny(raw, "/?#"); i >= 0 {
		if _, err := netip.ParsePrefix(raw); err == nil {
			return t, errors.New("this is a network, not a host")
		}
		return t, fmt.Errorf("a path needs a scheme before it, such as https:// in front of %s", quote(raw))
	}
	host, port, err := splitHostPort(raw)
	if err != nil {
		return t, err
	}
	t.Port = port
	t.Host, err = parseHost(host)
	return t, err
}

var errUserinfo = errors.New(`a user name or password ("…@") is refused: it would end up in reports and in saved evidence`)

// checkText refuses what can be no target, before anything is looked at closer.
func checkText(raw string) error {
	switch {
	case raw == "":
		return errors.New("it is empty")
	case len(raw) > maxTarget:
		return fmt.Errorf("%d bytes are more than a target can have (%d)", len(raw), maxTarget)
	case !utf8.ValidString(raw):
		return errors.New("it is not UTF-8 text")
	}
	for _, r := range raw {
		switch {
		case unicode.IsSpace(r):
			return errors.New("it contains a space; give several targets as several arguments")
		case unicode.IsControl(r), !unicode.IsPrint(r):
			return fmt.Errorf("it contains the character %U, which cannot be printed", r)
		}
	}
	return nil
}

func parseURL(raw, scheme, rest string) (t diagnose.Target, err error) {
	i := slices.IndexFunc(schemes, func(s struct {
		name string
		port uint16
	},
	) bool {
		return s.name == scheme
	})
	if i < 0 {
		names := schemeNames()
		return t, fmt.Errorf("unknown scheme %s%s; known: %s", quote(scheme), didYouMean(scheme, names), strings.Join(names, ", "))
	}
	authority := rest
	if j := strings.IndexAny(rest, "/?#"); j >= 0 {
		authority = rest[:j]
	}
	if strings.Contains(authority, "@") {
		return t, errUserinfo
	}
	web := scheme == "http" || scheme == "https"
	if tail := rest[len(authority):]; !web && tail != "" && tail != "/" {
		return t, fmt.Errorf("a path means nothing to %s", scheme)
	}
	// A zone is written %25eth0 in URLs (RFC 6874); people write %eth0.
	host, port, err := splitHostPort(strings.Replace(authority, "%25", "%", 1))
	if err != nil {
		return t, err
	}
	if t.Host, err = parseHost(host); err != nil {
		return t, err
	}
	switch {
	case scheme == "icmp" && port != 0:
		return t, errors.New("icmp has no ports")
	case port == 0:
		port = schemes[i].port
	}
	if port == 0 && scheme != "icmp" {
		return t, fmt.Errorf("%s needs a port: %s://%s:PORT", scheme, scheme, authority)
	}
	t.Port = port
	if scheme != "icmp" {
		t.Scheme = scheme
	}
	if web {
		t.URL, err = canonicalURL(scheme, t.Host, authority, rest[len(authority):])
	}
	return t, err
}

// canonicalURL is the URL with the host in the form that goes on the wire, a
// path, and without fragment, which no server ever sees.
func canonicalURL(scheme, host, authority, tail string) (string, error) {
	u, err := url.Parse(scheme + "://x" + tail)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return "", err
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	u.Host = host
	if _, port, err := splitHostPort(strings.Replace(authority, "%25", "%", 1)); err == nil && port != 0 {
		u.Host += ":" + strconv.Itoa(int(port))
	}
	u.Fragment, u.RawFragment = "", ""
	if u.Path == "" {
		u.Path = "/"
	}
	return u.String(), nil
}

func schemeNames() []string {
	var out []string
	for _, s := range schemes {
		out = append(out, s.name)
	}
	return out
}

// splitHostPort takes a bare IPv6 address for what it is. port is 0 when none is given.
func splitHostPort(s string) (host string, port uint16, err error) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		inside, after, closed := strings.Cut(rest, "]")
		if !closed {
			return "", 0, errors.New(`"[" without "]"`)
		}
		if a, err := netip.ParseAddr(inside); err != nil || !a.Is6() {
			return "", 0, fmt.Errorf("%s in brackets is no IPv6 address", quote(inside))
		}
		if after == "" {
			return inside, 0, nil
		}
		p, ok := strings.CutPrefix(after, ":")
		if !ok {
			return "", 0, fmt.Errorf("%s behind the brackets: expected :PORT", quote(after))
		}
		port, err := parsePort(p)
		return inside, port, err
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		return s, 0, nil
	}
	switch strings.Count(s, ":") {
	case 0:
		return s, 0, nil
	case 1:
		h, p, _ := strings.Cut(s, ":")
		if h == "" {
			return "", 0, errors.New("there is no host before the port")
		}
		port, err := parsePort(p)
		return h, port, err
	}
	return "", 0, errors.New("neither host:port nor an IPv6 address; with a port an IPv6 address needs brackets: [2001:db8::1]:443")
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if s == "" {
		return 0, errors.New(`the port behind ":" is missing`)
	}
	if err != nil || n == 0 || s[0] == '+' || s[0] == '0' {
		return 0, fmt.Errorf("port %s is not a number from 1 to 65535", quote(s))
	}
	return uint16(n), nil
}

// parseHost checks a name or an address and brings it into the form that is
// used on the wire: punycode, lower case.
func parseHost(h string) (string, error) {
	if h == "" {
		return "", errors.New("there is no host")
	}
	if a, err := netip.ParseAddr(h); err == nil {
		if err := checkAddr(a.Unmap()); err != nil {
			return "", err
		}
		return a.Unmap().String(), nil
	}
	name, dot := strings.CutSuffix(h, ".")
	for _, r := range name {
		if r >= utf8.RuneSelf {
			ascii, err := idna.Lookup.ToASCII(name)
			if err != nil {
				return "", fmt.Errorf("host %s is no valid internationalised name: %w", quote(h), err)
			}
			name = ascii
			break
		}
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	name = strings.ToLower(name)
	if dot {
		name += "."
	}
	return name, nil
}

func checkAddr(a netip.Addr) error {
	if z := a.Zone(); strings.Trim(z, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || len(z) > 15 {
		return fmt.Errorf("%s is no name of an interface", quote(z))
	}
	switch {
	case a.WithZone("").IsUnspecified():
		return fmt.Errorf("%s is no host's address", a)
	case a.IsMulticast():
		return fmt.Errorf("%s is a multicast address; fathom asks one host at a time", a)
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errors.New("the broadcast address is no host")
	}
	return nil
}

// checkName is RFC 1123 §2.1 with the underscore that real names have.
func checkName(name string) error {
	if len(name) > 253 {
		return fmt.Errorf("a host name has at most 253 characters, this one has %d", len(name))
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		switch {
		case l == "":
			return errors.New("there is an empty part in the host name (two dots, or one at the beginning)")
		case len(l) > 63:
			return fmt.Errorf("the part %s of the host name is longer than 63 characters", quote(l))
		case l[0] == '-' || l[len(l)-1] == '-':
			return fmt.Errorf("the part %s of the host name begins or ends with a hyphen", quote(l))
		}
		for i := range len(l) {
			if c := l[i]; !(c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
				return fmt.Errorf("%s cannot be part of a host name", quote(string(rune(c))))
			}
		}
	}
	// A name whose last part is a number is an address gone wrong (RFC 1123 §2.1).
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return errors.New("this is no valid IPv4 address: four numbers from 0 to 255 without leading zeros")
	}
	return nil
}

// ParseAnchors reads the values of --anchor: addresses, or the one word none.
func ParseAnchors(values []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, v := range values {
		if v == "none" {
			if len(values) > 1 {
				return nil, errors.New("anchor none: cannot be mixed with addresses")
			}
			return nil, nil
		}
		a, err := netip.ParseAddr(v)
		if err != nil {
			return nil, fmt.Errorf("anchor %s: it must be an IP address, or none: a name would have to be resolved first", quote(v))
		}
		if err := checkAddr(a.Unmap()); err != nil {
			return nil, fmt.Errorf("anchor %s: %w", quote(v), err)
		}
		if a = a.Unmap(); !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out, nil
}

// DefaultAnchors stand for "outside" when the user names none: two operators'
// anycast resolvers, chosen because they have answered echo requests for years.
func DefaultAnchors() []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{1, 1, 1, 1}), netip.AddrFrom4([4]byte{9, 9, 9, 9}),
		netip.MustParseAddr("2606:4700:4700::1111"),
	}
}

// ParsePin reads HOST:ADDR, the value of --resolve.
func ParsePin(s string) (host string, a netip.Addr, err error) {
	h, addr, ok := strings.Cut(s, ":")
	if !ok {
		return "", a, fmt.Errorf("resolve %s: expected HOST:ADDRESS", quote(s))
	}
	if host, err = parseHost(h); err != nil {
		return "", a, fmt.Errorf("resolve %s: %w", quote(s), err)
	}
	a, err = netip.ParseAddr(strings.Trim(addr, "[]"))
	if err != nil {
		return "", a, fmt.Errorf("resolve %s: %s is no IP address (expected HOST:ADDRESS, without port)", quote(s), quote(addr))
	}
	if err := checkAddr(a.Unmap()); err != nil {
		return "", a, fmt.Errorf("resolve %s: %w", quote(s), err)
	}
	return host, a.Unmap(), nil
}

// LooksLikeTarget reports whether a word that is no command is probably meant
// as a target: it has what only addresses, names with a domain and URLs have.
func LooksLikeTarget(word string) bool {
	return strings.ContainsAny(word, ".:/[") || word == "localhost"
}

// quote shows a piece of outside text safely and briefly.
func quote(s string) string {
	if len(s) > 80 {
		cut := 77
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strconv.QuoteToGraphic(s)
}
