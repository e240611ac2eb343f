// Package resolver collects how names are resolved on this host: resolv.conf
// as glibc reads it, the hosts line of nsswitch.conf, /etc/hosts, and what
// stands behind a local stub such as systemd-resolved. It reads files only and
// asks no server.
package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fathom/internal/collect"
	"fathom/internal/facts"
)

const (
	maxFile      = 1 << 20 // bytes of a file that are read
	maxHosts     = 2000    // lines of /etc/hosts that are kept
	maxProblems  = 20
	resolvedFile = "/run/systemd/resolve/resolv.conf"
)

// Paths are the files read, and the environment that glibc looks at.
type Paths struct {
	ResolvConf string
	NSSwitch   string
	Hosts      string
	// Behind are resolv.conf files that programs with a local stub write for
	// those who want to know the servers behind it, the likeliest first.
	Behind []string
	// Getenv gives LOCALDOMAIN and RES_OPTIONS.
	Getenv func(string) string
	// Hostname gives the domain when resolv.conf names none.
	Hostname func() (string, error)
	// LinkExists checks the interface of a scoped address; nil accepts any.
	LinkExists func(string) bool
}

// DefaultPaths are those of glibc.
func DefaultPaths() Paths {
	return Paths{
		ResolvConf: "/etc/resolv.conf", NSSwitch: "/etc/nsswitch.conf", Hosts: "/etc/hosts",
		Behind: []string{resolvedFile, "/run/NetworkManager/no-stub-resolv.conf", "/run/dnsmasq/resolv.conf", "/var/run/dnsmasq/resolv.conf"},
		Getenv: os.Getenv, Hostname: os.Hostname,
		LinkExists: func(name string) bool { _, err := net.InterfaceByName(name); return err == nil },
	}
}

// Collector returns the collector of facts.Host.Resolver.
func Collector() collect.Collector {
	return collect.Collector{Name: "resolver", Collect: func(ctx context.Context, h *facts.Host) error {
		err := Collect(ctx, h, DefaultPaths())
		if h.Resolver != nil {
			h.Resolver.Foreign = foreign(h.Resolver.Path)
		}
		return err
	}}
}

// Collect fills h.Resolver. A file that does not exist has a meaning for glibc
// and is a Problem; one that cannot be read is a Gap.
func Collect(ctx context.Context, h *facts.Host, p Paths) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r := &facts.Resolver{Path: p.ResolvConf}
	env := environment{}
	if p.Getenv != nil {
		env.localDomain, env.options = p.Getenv("LOCALDOMAIN"), p.Getenv("RES_OPTIONS")
	}
	conf, err := read(p.ResolvConf)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		problem(r, p.ResolvConf+" does not exist: programs ask a name server on this host itself (127.0.0.1)")
	case err != nil:
		h.Gaps = append(h.Gaps, gap("the resolver settings", err))
	}
	parseResolvConf(conf, env, p.LinkExists, r)
	if r.Search == nil && p.Hostname != nil {
		// glibc: without search and domain, what follows the first dot of the host name.
		if name, err := p.Hostname(); err == nil {
			if _, domain, ok := strings.Cut(name, "."); ok && domain != "" {
				r.Search = []string{domain}
			}
		}
	}
	if to, err := os.Readlink(p.ResolvConf); err == nil {
		r.LinkTo = to
		if _, err := os.Stat(p.ResolvConf); errors.Is(err, fs.ErrNotExist) {
			problem(r, p.ResolvConf+" is a symlink to "+quote(to)+", which does not exist")
		}
	}
	readNSSwitch(h, r, p.NSSwitch)
	readHosts(h, r, p.Hosts)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	findStub(r, conf, p)
	h.Resolver = r
	return nil
}

func readNSSwitch(h *facts.Host, r *facts.Resolver, path string) {
	b, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		problem(r, path+" does not exist: the C library's built-in order applies")
	case err != nil:
		h.Gaps = append(h.Gaps, gap("the order of name services", err))
	default:
		parseNSSwitch(b, r)
	}
}

func readHosts(h *facts.Host, r *facts.Resolver, path string) {
	b, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		problem(r, path+" does not exist: localhost has no address of its own")
	case err != nil:
		h.Gaps = append(h.Gaps, gap("the hosts file", err))
	default:
		parseHosts(b, r)
	}
}

// findStub sets Stub, Resolved and Upstreams. A server on a loopback address
// is a stub: its answers come from elsewhere, and that elsewhere is what a
// diagnosis must ask too.
func findStub(r *facts.Resolver, conf []byte, p Paths) {
	for _, s := range r.Servers {
		if !s.Addr().IsLoopback() {
			continue
		}
		r.Stub = true
		if a := s.Addr(); a == resolvedStub || a == resolvedProxy {
			r.Resolved = true
		}
	}
	if strings.Contains(r.LinkTo, "systemd/resolve/") {
		r.Resolved = true
	}
	if slices.Contains(r.NSSHosts, "resolve") && len(p.Behind) > 0 {
		// nss-resolve asks systemd-resolved whatever resolv.conf says, if it runs.
		if _, err := os.Stat(p.Behind[0]); err == nil {
			r.Resolved = true
		}
	}
	if !r.Stub && !r.Resolved {
		return
	}
	if ext := dockerServers(conf); len(ext) > 0 && slices.ContainsFunc(r.Servers, func(s netip.AddrPort) bool { return s.Addr() == dockerStub }) {
		r.Upstreams = ext
		return
	}
	for _, path := range p.Behind {
		if filepath.Base(filepath.Dir(path)) == "resolve" && !r.Resolved {
			continue // systemd-resolved may run, but is not the one asked
		}
		b, err := read(path)
		if err != nil {
			continue
		}
		var behind facts.Resolver
		parseResolvConf(b, environment{}, nil, &behind)
		r.Upstreams = slices.DeleteFunc(behind.Servers, func(s netip.AddrPort) bool { return s.Addr().IsLoopback() })
		if len(r.Upstreams) > 0 {
			return
		}
	}
	if r.Resolved {
		problem(r, "systemd-resolved has no DNS server to forward to, or only ones per link that "+resolvedFile+" does not list")
	}
}

// Well-known stub addresses.
var (
	resolvedStub  = netip.MustParseAddr("127.0.0.53") // systemd-resolved
	resolvedProxy = netip.MustParseAddr("127.0.0.54") // the same, proxy only
	dockerStub    = netip.MustParseAddr("127.0.0.11") // Docker's embedded server
)

func read(path string) ([]byte, error) {
	// A FIFO or device in the place of a file must not hold us up.
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxFile {
		b = b[:bytes.LastIndexByte(b[:maxFile], '\n')+1] // whole lines only
	}
	return b, nil
}

func gap(what string, err error) facts.Gap {
	g := facts.Gap{What: what, Why: err.Error()}
	if errors.Is(err, fs.ErrPermission) {
		g.Unlock = "run as root, or make the file readable"
	}
	return g
}

// problem notes what is odd in words for a human; bytes of the file in it are
// quoted by the caller with %q.
func problem(r *facts.Resolver, text string) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, text)
	}
}
