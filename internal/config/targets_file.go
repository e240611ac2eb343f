package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"fathom/internal/diagnose"
)

// Bounds of a targets file.
const (
	MaxTargetsFile = 1 << 20 // bytes
	MaxFileTargets = 10_000
	MaxWhyTargets  = 256 // of one diagnosis: each costs some 150 packets
	maxTimeout     = time.Hour
)

// TargetsFile is a targets.yaml.
type TargetsFile struct {
	Targets []FileTarget
	Anchors []netip.Addr  // nil with AnchorsSet: none
	Timeout time.Duration // 0: not given

	AnchorsSet bool
}

// FileTarget is one entry of the list.
type FileTarget struct {
	diagnose.Target
	Name         string // how the user calls it; "" if there is no special name
	ExpectStatus []int  // HTTP status codes that are right; none: all below 500
	Line         int
}

// Label is what to call the target in a table.
func (t FileTarget) Label() string {
	if t.Name != "" {
		return t.Name
	}
	return t.Raw
}

var (
	fileKeys   = []string{"targets", "anchors", "timeout"}
	targetKeys = []string{"host", "port", "url", "name", "resolve", "insecure", "expect_status"}
)

// LoadTargets reads a targets file; "-" is stdin.
func LoadTargets(path string, stdin io.Reader) (*TargetsFile, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open targets file %s: %w", path, cause(err))
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, MaxTargetsFile+1))
	if err != nil {
		return nil, fmt.Errorf("read targets file %s: %w", path, cause(err))
	}
	tf, err := DecodeTargets(b)
	if err != nil {
		return nil, fmt.Errorf("targets file %s: %w", path, err)
	}
	return tf, nil
}

// DecodeTargets reads the text of a targets file. Errors name the line.
func DecodeTargets(b []byte) (*TargetsFile, error) {
	if len(b) > MaxTargetsFile {
		return nil, fmt.Errorf("larger than %d bytes", MaxTargetsFile)
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return nil, errors.New("it is binary, not text")
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New(`it is empty: a list under "targets:" is expected`)
	} else if err != nil {
		return nil, yamlError(err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	tf := &TargetsFile{}
	if err := tf.decode(doc.Content[0]); err != nil {
		return nil, err
	}
	return tf, nil
}

func yamlError(err error) error {
	return errors.New(strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n", " "), "yaml: "))
}

func (tf *TargetsFile) decode(root *yaml.Node) error {
	hasTargets := false
	err := eachKey(root, "the file", fileKeys, func(key string, v *yaml.Node) (err error) {
		switch key {
		case "targets":
			hasTargets = true
			return tf.decodeTargets(v)
		case "anchors":
			return tf.decodeAnchors(v)
		case "timeout":
			tf.Timeout, err = duration(v)
		}
		return err
	})
	if err == nil && !hasTargets {
		return errors.New(`there is no "targets:"`)
	}
	return err
}

func (tf *TargetsFile) decodeTargets(list *yaml.Node) error {
	if list.Kind != yaml.SequenceNode {
		return lineError(list, "targets: expected a list, found %s", kindName(list))
	}
	if len(list.Content) == 0 {
		return lineError(list, "targets: the list is empty")
	}
	if n := len(list.Content); n > MaxFileTargets {
		return lineError(list, "targets: %d are more than %d", n, MaxFileTargets)
	}
	for _, n := range list.Content {
		t, err := decodeTarget(n)
		if err != nil {
			return err
		}
		t.Line = n.Line
		tf.Targets = append(tf.Targets, t)
	}
	return nil
}

func decodeTarget(n *yaml.Node) (t FileTarget, err error) {
	if n.Kind == yaml.ScalarNode {
		s, err := text(n, "target")
		if err != nil {
			return t, err
		}
		if t.Target, err = ParseTarget(s); err != nil {
			return t, lineError(n, "%w", err)
		}
		return t, nil
	}
	var host, rawURL, pin string
	var port uint16
	err = eachKey(n, "a target", targetKeys, func(key string, v *yaml.Node) (err error) {
		switch key {
		case "host":
			host, err = text(v, key)
		case "url":
			rawURL, err = text(v, key)
		case "name":
			if t.Name, err = text(v, key); err == nil && len(t.Name) > 200 {
				err = lineError(v, "name: longer than 200 bytes")
			}
		case "resolve":
			pin, err = text(v, key)
		case "port":
			if v.Kind != yaml.ScalarNode {
				return lineError(v, "port: expected a number, found %s", kindName(v))
			}
			if port, err = parsePort(v.Value); err != nil {
				err = lineError(v, "%w", err)
			}
		case "insecure":
			t.Insecure, err = boolean(v)
		case "expect_status":
			t.ExpectStatus, err = statuses(v)
		}
		return err
	})
	if err != nil {
		return t, err
	}
	insecure := t.Insecure
	if t.Target, err = assemble(host, port, rawURL, pin); err != nil {
		return t, lineError(n, "%w", err)
	}
	t.Insecure = insecure
	if len(t.ExpectStatus) > 0 && t.URL == "" {
		return t, lineError(n, "expect_status: needs a url")
	}
	if insecure && t.URL == "" && t.Scheme != "tls" {
		return t, lineError(n, "insecure: needs a url")
	}
	return t, nil
}

// assemble makes one target out of the keys of a map.
func assemble(host string, port uint16, rawURL, pin string) (t diagnose.Target, err error) {
	switch {
	case rawURL != "":
		if t, err = ParseTarget(rawURL); err != nil {
			return t, err
		}
		if t.URL == "" {
			return t, fmt.Errorf("url %s: expected http:// or https://", quote(rawURL))
		}
		if host != "" {
			h, err := parseHost(strings.Trim(host, "[]"))
			if err != nil {
				return t, fmt.Errorf("host %s: %w", quote(host), err)
			}
			if h != t.Host {
				return t, fmt.Errorf("host %s and the host of the url %s differ; write two targets, or resolve: to choose the address", quote(host), quote(t.Host))
			}
		}
		if port != 0 && port != t.Port {
			return t, fmt.Errorf("port %d and the port of the url (%d) differ", port, t.Port)
		}
	case host == "":
		return t, errors.New("a target needs a host or a url")
	default:
		if t, err = ParseTarget(host); err != nil {
			return t, err
		}
		if port != 0 && t.Port != 0 && port != t.Port {
			return t, fmt.Errorf("the port is given twice: %d and %d", t.Port, port)
		}
		if port != 0 && t.Port == 0 {
			if t.Raw != host || strings.Contains(host, "://") {
				return t, errors.New("icmp has no ports")
			}
			t.Port = port
			t.Raw = joinHostPort(t.Host, port)
		}
	}
	if pin != "" {
		a, err := netip.ParseAddr(pin)
		if err != nil {
			return t, fmt.Errorf("resolve %s: expected an IP address", quote(pin))
		}
		if err := checkAddr(a.Unmap()); err != nil {
			return t, fmt.Errorf("resolve: %w", err)
		}
		t.Pin = a.Unmap()
	}
	return t, nil
}

func joinHostPort(h string, port uint16) string {
	if strings.Contains(h, ":") {
		h = "[" + h + "]"
	}
	return h + ":" + strconv.Itoa(int(port))
}

func (tf *TargetsFile) decodeAnchors(n *yaml.Node) error {
	tf.AnchorsSet = true
	var values []string
	switch n.Kind {
	case yaml.ScalarNode:
		s, err := text(n, "anchors")
		if err != nil {
			return err
		}
		values = []string{s}
	case yaml.SequenceNode:
		if len(n.Content) > 64 {
			return lineError(n, "anchors: %d are more than 64", len(n.Content))
		}
		for _, c := range n.Content {
			s, err := text(c, "anchors")
			if err != nil {
				return err
			}
			values = append(values, s)
		}
	default:
		return lineError(n, "anchors: expected a list of addresses or none, found %s", kindName(n))
	}
	var err error
	if tf.Anchors, err = ParseAnchors(values); err != nil {
		return lineError(n, "%w", err)
	}
	return nil
}

// eachKey walks a mapping: unknown and repeated keys are errors with their line.
func eachKey(n *yaml.Node, what string, known []string, f func(key string, v *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return lineError(n, "%s: expected keys and values, found %s", what, kindName(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode:
			return lineError(k, "%s: a key must be a word, found %s", what, kindName(k))
		case !slices.Contains(known, k.Value):
			return lineError(k, "unknown key %s in %s%s; known: %s", quote(k.Value), what, didYouMean(k.Value, known), strings.Join(known, ", "))
		case seen[k.Value]:
			return lineError(k, "key %s is given twice", k.Value)
		case v.Kind == yaml.AliasNode:
			return lineError(v, "%s: aliases (*name) are not supported", k.Value)
		}
		seen[k.Value] = true
		if err := f(k.Value, v); err != nil {
			return err
		}
	}
	return nil
}

func text(n *yaml.Node, key string) (string, error) {
	// An unquoted 10 or true is no text; 10.0.0.1 and ::1 are.
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		return "", lineError(n, "%s: expected text, found %s", key, kindName(n))
	}
	return n.Value, nil
}

func boolean(n *yaml.Node) (bool, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!bool" && n.Value == "true":
		return true, nil
	case n.Kind == yaml.ScalarNode && n.Tag == "!!bool" && n.Value == "false":
		return false, nil
	}
	return false, lineError(n, "insecure: expected true or false, found %s", kindName(n))
}

func duration(n *yaml.Node) (time.Duration, error) {
	if n.Kind != yaml.ScalarNode {
		return 0, lineError(n, "timeout: expected a duration such as 10s, found %s", kindName(n))
	}
	d, err := ParseTimeout(n.Value)
	if err != nil {
		return 0, lineError(n, "timeout: %w", err)
	}
	return d, nil
}

// ParseTimeout reads a duration with its unit (1.5s, 2m), from 100 ms to an hour.
func ParseTimeout(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%s is no duration with a unit, such as 10s or 1m30s", quote(s))
	}
	if d < 100*time.Millisecond || d > maxTimeout {
		return 0, fmt.Errorf("%s is not between 100ms and %s", d, maxTimeout)
	}
	return d, nil
}

func statuses(n *yaml.Node) ([]int, error) {
	list := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		list = n.Content
	}
	if len(list) == 0 || len(list) > 100 {
		return nil, lineError(n, "expect_status: expected 1 to 100 status codes")
	}
	var out []int
	for _, c := range list {
		s, err := strconv.Atoi(c.Value)
		if c.Kind != yaml.ScalarNode || err != nil || s < 100 || s > 599 {
			return nil, lineError(c, "expect_status: expected a number from 100 to 599, found %s", kindName(c))
		}
		out = append(out, s)
	}
	return out, nil
}

func lineError(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return quote(n.Value)
}
