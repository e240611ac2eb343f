package diagnose

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"fathom/internal/facts"
	"fathom/probe"
)

// Redact returns a copy of e that can be shown to strangers: host and domain
// names, addresses, MACs, certificate subjects, the paths of URLs and the
// arguments of programs are replaced by pseudonyms, everywhere the same one for
// the same thing, in free text too. Interface names, programs' names, table and
// chain names of the firewall, ports, times and versions stay.
//
// Two addresses share as many leading bits after as before, so what was on-link
// stays on-link; special ranges (private, loopback, link-local, multicast, …)
// stay what they are. Decide gives the same causes as before.
//
// The pseudonyms depend on the evidence alone; who knows a pair of real address
// and pseudonym learns how the bits in front of it were changed, no more.
func Redact(e *Evidence) *Evidence {
	r := &redactor{
		known: map[string]bool{}, labels: map[string]string{}, macs: map[string]string{},
		paths: map[string]string{}, certs: map[string]string{}, addrs: map[netip.Addr]netip.Addr{},
		sources: map[netip.Addr]bool{},
	}
	// The evidence holds inode numbers and nanoseconds: nobody guesses this key.
	if b, err := json.Marshal(e); err == nil {
		r.key = sha256.Sum256(b)
	}
	for _, l := range e.Lookups {
		r.sources[l.Destination] = true
	}
	r.learn(reflect.ValueOf(e).Elem())
	slices.SortFunc(r.phrases, func(a, b string) int { return firstNonZero(len(b)-len(a), strings.Compare(a, b)) })
	out := r.copy(reflect.ValueOf(e).Elem(), "").Interface().(Evidence)
	out.Sort()
	return &out
}

type redactor struct {
	key     [sha256.Size]byte
	known   map[string]bool   // names without last dot, lower case
	labels  map[string]string // label → pseudonym
	macs    map[string]string
	paths   map[string]string // path and query of a URL
	certs   map[string]string // distinguished name → pseudonym
	phrases []string          // parts of distinguished names, longest first
	addrs   map[netip.Addr]netip.Addr
	sources map[netip.Addr]bool // addresses that were measured
}

// Fields that are not free text, as Type.Field. What is not listed here is free
// text: a new field is redacted until somebody says that it need not be.
var redactAs = map[string]string{
	"Target.Host": "name", "Want.Name": "name", "DNS.Name": "name", "DNSRecord.Name": "name", "TLS.ServerName": "name",
	"Host.Hostname": "name", "Resolver.Search": "name", "HostsEntry.Names": "name", "Certificate.Names": "name",
	"Target.URL": "url", "HTTP.URL": "url", "Redirect.From": "url", "Redirect.To": "url",
	"Target.Raw": "target", "Want.Target": "target", "Result.Target": "target", "DNS.Server": "target", "HTTP.AltSvcH3": "target",
	"Subject.Name": "target",
	"Link.MAC":     "mac", "Neighbour.MAC": "mac", "ARP.MACs": "mac",
	"Socket.Process": "process", "SocketGroup.Process": "process", "TCPSocket.Process": "process",
	"Certificate.Subject": "dn", "Certificate.Issuer": "dn",
	"Certificate.SHA256": "opaque", "DNS.NSID": "opaque",
	"HTTP.Header": "header", "FWRule.Text": "rule",

	"Evidence.Version": "keep", "Want.Kind": "keep", "Want.Protocol": "keep", "Want.Type": "keep", "Want.Link": "keep",
	"Question.Link": "keep", "Target.Scheme": "keep", "Event.Kind": "keep", "Event.Source": "keep", "Subject.Kind": "keep",
	"Result.Kind": "keep", "Result.Outcome": "keep", "Result.Errno": "keep", "Result.Method": "keep", "RTT.Clock": "keep", "Phase.Name": "keep",
	"ICMPError.Text": "keep", "TLS.Version": "keep", "TLS.CipherSuite": "keep", "TLS.ALPN": "keep", "TLS.Problem": "keep", "TLS.Alert": "keep",
	"HTTP.Proto": "keep", "DNS.Transport": "keep", "DNS.Type": "keep", "DNS.Rcode": "keep", "DNS.Flags": "keep", "DNSRecord.Type": "keep",
	"Path.Protocol": "keep", "Hop.MPLS": "keep", "ARP.Interface": "keep",
	"Host.Kernel": "keep", "Link.Name": "keep", "Link.Kind": "keep", "Link.Flags": "keep", "Link.OperState": "keep", "Link.Master": "keep",
	"Link.Parent": "keep", "Link.Driver": "keep", "Link.Firmware": "keep", "Link.Duplex": "keep", "Bond.Mode": "keep", "Bond.Active": "keep",
	"BondMember.Name": "keep", "Addr.Link": "keep", "Addr.Scope": "keep", "Addr.Flags": "keep",
	"Route.Link": "keep", "Route.Type": "keep", "Route.Protocol": "keep", "NextHop.Link": "keep", "Lookup.Error": "keep",
	"PolicyRule.IIF": "keep", "PolicyRule.OIF": "keep", "PolicyRule.Action": "keep", "Neighbour.Link": "keep", "Neighbour.State": "keep",
	"NeighTable.Name": "keep", "Qdisc.Link": "keep", "Qdisc.Kind": "keep", "Qdisc.Handle": "keep", "Qdisc.Parent": "keep",
	"Resolver.Options": "keep", "Resolver.Path": "keep", "Resolver.LinkTo": "keep", "Resolver.NSSHosts": "keep",
	"Host.Sysctls": "keep", "Sockets.Method": "keep", "Socket.Proto": "keep", "TCPSocket.State": "keep",
	"Firewall.Legacy": "keep", "FWChain.Family": "keep", "FWChain.Table": "keep", "FWChain.Name": "keep", "FWChain.Hook": "keep",
	"FWChain.Policy": "keep", "FWChain.Device": "keep", "FWChain.Type": "keep", "FWRule.Verdict": "keep", "FWRule.Rewrite": "keep",
	"FWMatch.Field": "keep", "FWMatch.Op": "keep", "WireFlow.Link": "keep", "WireFlow.Proto": "keep", "WireFlow.OtherLinksIn": "keep",
}

// learn gathers the names and distinguished names that stand in fields of their
// own, so that they are recognised in free text.
func (r *redactor) learn(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			r.learn(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			r.learn(v.Index(i))
		}
	case reflect.Struct:
		t := v.Type()
		if t.PkgPath() == "net/netip" || t.PkgPath() == "time" {
			return
		}
		for i := range t.NumField() {
			how, f := redactAs[t.Name()+"."+t.Field(i).Name], v.Field(i)
			switch {
			case how == "name" && f.Kind() == reflect.String:
				r.learnName(f.String())
			case how == "name":
				for j := range f.Len() {
					r.learnName(f.Index(j).String())
				}
			case how == "dn":
				r.learnDN(f.String())
			default:
				r.learn(f)
			}
		}
	}
}

func (r *redactor) learnName(s string) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if _, err := netip.ParseAddr(s); err != nil && s != "" {
		r.known[s] = true
	}
}

// learnDN remembers the values in "CN=Example Root CA,O=Example Inc".
func (r *redactor) learnDN(dn string) {
	for part := range strings.SplitSeq(dn, ",") {
		_, v, _ := strings.Cut(part, "=")
		v = strings.TrimSpace(v)
		if len(v) >= 5 && !ordinaryWord(strings.ToLower(v)) && !looksLikeDomain(v) && !slices.Contains(r.phrases, v) {
			r.phrases = append(r.phrases, v)
		}
	}
}

// copy returns v with everything in it redacted; how is the kind of the field it stands in.
func (r *redactor) copy(v reflect.Value, how string) reflect.Value {
	switch x := v.Interface().(type) {
	case netip.Addr:
		return reflect.ValueOf(r.addr(x))
	case netip.AddrPort:
		if !x.IsValid() {
			return v
		}
		return reflect.ValueOf(netip.AddrPortFrom(r.addr(x.Addr()), x.Port()))
	case netip.Prefix:
		return reflect.ValueOf(r.prefix(x))
	case facts.FWMatch:
		return reflect.ValueOf(r.match(x))
	case *probe.DNS:
		if x != nil {
			v = reflect.ValueOf(r.trim(x))
		}
	case probe.DNSRecord:
		x.Name, x.Data = r.name(x.Name), r.recordData(x)
		return reflect.ValueOf(x)
	}
	switch v.Kind() {
	case reflect.String:
		return reflect.ValueOf(r.field(v.String(), how)).Convert(v.Type())
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if v.IsNil() {
			return v
		}
		return r.copyReference(v, how)
	case reflect.Struct:
		if v.Type().PkgPath() == "time" {
			return v
		}
		out := reflect.New(v.Type()).Elem()
		out.Set(v)
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.IsExported() {
				out.Field(i).Set(r.copy(v.Field(i), redactAs[v.Type().Name()+"."+f.Name]))
			}
		}
		return out
	}
	return v
}

func (r *redactor) copyReference(v reflect.Value, how string) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		out := reflect.New(v.Type().Elem())
		out.Elem().Set(r.copy(v.Elem(), how))
		return out
	case reflect.Slice:
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(r.copy(v.Index(i), how))
		}
		return out
	}
	out := reflect.MakeMapWithSize(v.Type(), v.Len())
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) // pseudonyms are numbered as met
	for _, k := range keys {
		h := how
		if how == "header" {
			h = "text"
			if strings.EqualFold(k.String(), "location") {
				h = "url"
			}
		}
		out.SetMapIndex(k, r.copy(v.MapIndex(k), h))
	}
	return out
}

func (r *redactor) field(s, how string) string {
	if s == "" {
		return ""
	}
	switch how {
	case "keep":
		return s
	case "name":
		return r.name(s)
	case "url":
		return r.url(s)
	case "target":
		return r.target(s)
	case "mac":
		return r.mac(s)
	case "process":
		return r.text(processOnly(s))
	case "dn":
		return r.dn(s)
	case "opaque":
		return r.opaque(s)
	case "rule":
		return r.text(stripComments(s))
	}
	return r.text(s)
}

// trim takes from a long list of addresses those that were not measured: which
// of them rules look at depends on their order, and pseudonyms have another.
func (r *redactor) trim(d *probe.DNS) *probe.DNS {
	if len(d.Answers) <= maxAddrs {
		return d
	}
	out := *d
	out.Answers = slices.DeleteFunc(slices.Clone(d.Answers), func(rr probe.DNSRecord) bool {
		a, err := netip.ParseAddr(rr.Data)
		return err == nil && (rr.Type == "A" || rr.Type == "AAAA") && !r.sources[a]
	})
	if len(out.Answers) == 0 {
		return d
	}
	return &out
}

func (r *redactor) recordData(rr probe.DNSRecord) string {
	switch rr.Type {
	case "A", "AAAA", "CNAME", "NS", "PTR", "DNAME":
		return r.name(rr.Data)
	case "MX", "SRV", "SOA":
		w := strings.Fields(rr.Data)
		for i := range w {
			if strings.Trim(w[i], "0123456789") != "" {
				w[i] = r.name(w[i])
			}
		}
		return strings.Join(w, " ")
	}
	if rr.Data == "" {
		return ""
	}
	return "redacted"
}

// mac gives numbered pseudonyms; what says something of its own stays: all
// zeros, group addresses, those of VRRP (RFC 9568 §7.3).
func (r *redactor) mac(s string) string {
	l := strings.ReplaceAll(strings.ToLower(s), "-", ":")
	first, err := strconv.ParseUint(l[:min(2, len(l))], 16, 8)
	if err != nil || first&1 == 1 || l == "00:00:00:00:00:00" || strings.HasPrefix(l, "00:00:5e:00:0") {
		return s
	}
	m, ok := r.macs[l]
	if !ok {
		n := len(r.macs) + 1
		m = "02:00:00:" + hexByte(n>>16) + ":" + hexByte(n>>8) + ":" + hexByte(n)
		r.macs[l] = m
	}
	return m
}

func hexByte(n int) string { return hex.EncodeToString([]byte{byte(n)}) }

// processOnly keeps "comm[pid]" of what may be a command line.
func processOnly(s string) string {
	pid := ""
	if i := strings.LastIndexByte(s, '['); i > 0 && strings.HasSuffix(s, "]") && strings.Trim(s[i+1:len(s)-1], "0123456789") == "" {
		s, pid = s[:i], s[i:]
	}
	if n, ok := strings.CutPrefix(s, "uid "); ok && strings.Trim(n, "0123456789") == "" {
		return s + pid
	}
	words := strings.Fields(s)
	if len(words) == 0 {
		return pid
	}
	w := words[0]
	return w[strings.LastIndexByte(w, '/')+1:] + pid
}

func (r *redactor) dn(s string) string {
	if _, ok := r.certs[s]; !ok {
		r.certs[s] = "CN=certificate " + strconv.Itoa(len(r.certs)+1)
	}
	return r.certs[s]
}

func (r *redactor) opaque(s string) string {
	h := sha256.Sum256(append(r.key[:], s...))
	return hex.EncodeToString(h[:8])
}
