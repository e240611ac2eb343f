package http

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// AltService is one alternative of an Alt-Svc header (RFC 7838 §3).
type AltService struct {
	Protocol string        // ALPN protocol name: h3
	Host     string        // "": the origin's
	Port     uint16        // never 0
	MaxAge   time.Duration // ma=; 24 h when absent (§3.1)
}

const (
	maxAltSvcBytes = 8 << 10
	maxAltSvc      = 32 // entries
	maxAltAge      = 100 * 365 * 24 * time.Hour
)

// ParseAltSvc reads the value of an Alt-Svc header. clear is true for the value
// that withdraws all alternatives. Too long or malformed input is an error; the
// entries before the fault are returned with it.
func ParseAltSvc(v string) (services []AltService, clear bool, err error) {
	if len(v) > maxAltSvcBytes {
		return nil, false, fmt.Errorf("alt-svc: %d bytes are too many", len(v))
	}
	if strings.Trim(v, " \t") == "clear" { // case-sensitive, alone (§3)
		return nil, true, nil
	}
	p := altParser{s: v}
	for {
		p.space()
		for p.take(',') { // empty list elements are allowed (RFC 9110 §5.6.1.2)
			p.space()
		}
		if p.s == "" {
			return services, false, nil
		}
		if len(services) == maxAltSvc {
			return services, false, errors.New("alt-svc: too many alternatives")
		}
		s, err := p.service()
		if err != nil {
			return services, false, fmt.Errorf("alt-svc: %w", err)
		}
		services = append(services, s)
		p.space()
		if p.s != "" && p.s[0] != ',' {
			return services, false, fmt.Errorf("alt-svc: %q instead of a comma", p.s[0])
		}
	}
}

// H3Authority returns the first HTTP/3 alternative as host:port, "" if there is
// none. origin is the host that sent the header.
func H3Authority(values []string, origin string) string {
	services, clear, _ := ParseAltSvc(strings.Join(values, ", "))
	if clear {
		return ""
	}
	for _, s := range services {
		if s.Protocol != "h3" || s.MaxAge <= 0 { // drafts (h3-29) are dead
			continue
		}
		if s.Host == "" {
			s.Host = origin
		}
		return net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port)))
	}
	return ""
}

// altParser eats s from the front.
type altParser struct{ s string }

func (p *altParser) space() { p.s = strings.TrimLeft(p.s, " \t") }

func (p *altParser) take(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

// service reads protocol-id "=" quoted authority and its parameters.
func (p *altParser) service() (AltService, error) {
	id, err := p.token()
	if err != nil {
		return AltService{}, err
	}
	s := AltService{MaxAge: 24 * time.Hour}
	if s.Protocol, err = unpercent(id); err != nil {
		return AltService{}, err
	}
	if !p.take('=') {
		return AltService{}, errors.New("no = after the protocol")
	}
	authority, err := p.quoted()
	if err != nil {
		return AltService{}, err
	}
	if s.Host, s.Port, err = splitAuthority(authority); err != nil {
		return AltService{}, err
	}
	for {
		p.space()
		if !p.take(';') {
			return s, nil
		}
		p.space()
		if err := p.parameter(&s); err != nil {
			return AltService{}, err
		}
	}
}

// parameter reads token "=" ( token / quoted-string ); unknown ones are skipped (§3.1).
func (p *altParser) parameter(s *AltService) error {
	name, err := p.token()
	if err != nil {
		return err
	}
	if !p.take('=') {
		return fmt.Errorf("no = after parameter %q", name)
	}
	var value string
	if strings.HasPrefix(p.s, `"`) {
		value, err = p.quoted()
	} else {
		value, err = p.token()
	}
	if err != nil || !strings.EqualFold(name, "ma") {
		return err
	}
	sec, err := strconv.ParseUint(value, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && sec > uint64(maxAltAge/time.Second):
		s.MaxAge = maxAltAge // too large is "very long" (RFC 9111 §1.2.2)
	case err != nil:
		return fmt.Errorf("ma %q is not a number of seconds", value)
	default:
		s.MaxAge = time.Duration(sec) * time.Second
	}
	return nil
}

// token reads an RFC 9110 §5.6.2 token.
func (p *altParser) token() (string, error) {
	n := 0
	for n < len(p.s) && isTokenChar(p.s[n]) {
		n++
	}
	if n == 0 {
		return "", errors.New("a name is missing")
	}
	t := p.s[:n]
	p.s = p.s[n:]
	return t, nil
}

func isTokenChar(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// quoted reads an RFC 9110 §5.6.4 quoted-string and unescapes it.
func (p *altParser) quoted() (string, error) {
	if !p.take('"') {
		return "", errors.New("a quoted string is missing")
	}
	var b strings.Builder
	for i := 0; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return b.String(), nil
		case c == '\\' && i+1 < len(p.s):
			i++
			b.WriteByte(p.s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", errors.New("a quoted string does not end")
}

// unpercent decodes the percent-encoding of a protocol name (§3).
func unpercent(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", fmt.Errorf("protocol %q ends in the middle of an escape", s)
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("protocol %q holds a bad escape", s)
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), nil
}

// splitAuthority reads [ uri-host ] ":" port.
func splitAuthority(a string) (string, uint16, error) {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return "", 0, fmt.Errorf("authority %q is not host:port", a)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("authority %q has no usable port", a)
	}
	if !goodHost(host) {
		return "", 0, fmt.Errorf("authority %q has no usable host", a)
	}
	return host, uint16(n), nil
}

// goodHost accepts "", addresses and letters-digits-hyphen names (with _, which exists).
func goodHost(h string) bool {
	if a, err := netip.ParseAddr(h); err == nil {
		return a.Zone() == ""
	}
	if len(h) > 253 {
		return false
	}
	for i := range len(h) {
		c := h[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}
