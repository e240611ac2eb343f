package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	mdns "github.com/miekg/dns"
	"golang.org/x/net/idna"
)

// Limits of RFC 1035 section 2.3.4, in octets on the wire.
const (
	maxLabel = 63
	maxName  = 255
)

// questionName brings a name as typed into the absolute ASCII form that goes on
// the wire. Names with letters beyond ASCII become A-labels (UTS 46 mapping for
// look-ups); ASCII names are left alone, so that underscores, odd bytes (\DDD)
// and capitals survive. An address asked for as PTR becomes its in-addr.arpa or
// ip6.arpa name.
func questionName(name string, qtype uint16) (string, error) {
	if name == "" {
		return "", errors.New(`question name: empty (the root is ".")`)
	}
	if qtype == mdns.TypePTR {
		if a, err := netip.ParseAddr(name); err == nil {
			return mdns.ReverseAddr(a.Unmap().WithZone("").String())
		}
	}
	if strings.IndexFunc(name, func(r rune) bool { return r > 127 }) >= 0 {
		if !utf8.ValidString(name) {
			return "", fmt.Errorf(`question name %q: not UTF-8 (write bytes beyond ASCII as \DDD)`, name)
		}
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return "", fmt.Errorf("question name %q: %w", name, err)
		}
		name = ascii
	}
	if name == "." {
		return name, nil
	}
	name = mdns.Fqdn(name)
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("question name %q: %w", name, err)
	}
	return name, nil
}

// checkName walks an absolute name in presentation form and counts the octets
// its labels will have on the wire: `\.` and `\DDD` are one octet each.
func checkName(name string) error {
	wire, label := 1, 0 // the root's length octet
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return fmt.Errorf("empty label at position %d", i+1)
			}
			wire += 1 + label
			label = 0
			continue
		case c == '\\':
			n, err := escapeLen(name[i+1:])
			if err != nil {
				return err
			}
			i += n
		case c <= ' ' || c == 127:
			return fmt.Errorf(`blank or control character at position %d (write it as \%03d)`, i+1, c)
		}
		if label++; label > maxLabel {
			return fmt.Errorf("a label is longer than %d octets (RFC 1035 section 2.3.4)", maxLabel)
		}
	}
	if wire > maxName {
		return fmt.Errorf("%d octets on the wire, more than %d (RFC 1035 section 2.3.4)", wire, maxName)
	}
	return nil
}

// escapeLen says how many characters after a backslash belong to the escape.
func escapeLen(s string) (int, error) {
	switch {
	case s == "":
		return 0, errors.New("ends in a backslash")
	case s[0] < '0' || s[0] > '9':
		return 1, nil
	case len(s) < 3 || s[1] < '0' || s[1] > '9' || s[2] < '0' || s[2] > '9' || s[:3] > "255":
		return 0, fmt.Errorf(`\%.3s is not an octet (\000 to \255)`, s)
	}
	return 3, nil
}

// questionType reads a type by name ("A", "https") or number ("TYPE65"); "" is A.
// AXFR and IXFR are refused: a zone transfer is many messages, not one answer.
func questionType(s string) (uint16, error) {
	s = strings.ToUpper(s)
	if s == "" {
		return mdns.TypeA, nil
	}
	t, ok := mdns.StringToType[s]
	if !ok {
		var n uint16
		if _, err := fmt.Sscanf(s, "TYPE%d", &n); err != nil || s != fmt.Sprintf("TYPE%d", n) {
			return 0, fmt.Errorf("question type %q: not known (write it as TYPE65280 when it is a new one)", s)
		}
		t = n
	}
	switch t {
	case mdns.TypeNone, mdns.TypeOPT, mdns.TypeTSIG, mdns.TypeAXFR, mdns.TypeIXFR:
		return 0, fmt.Errorf("question type %s: cannot be asked for in one question", s)
	}
	return t, nil
}
