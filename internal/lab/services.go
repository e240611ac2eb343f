package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"fathom/internal/lab/emulator/unit"
	"fathom/internal/lab/service"
)

// The types of service in a scenario file; everything else goes by "spec".
const (
	svcFlap   = "flap"
	svcCustom = "custom" // the type of an entry with spec
)

// serviceKeys are the keys of each type, besides node, type, name, at and process.
var serviceKeys = map[string][]string{
	"dns":             {"listen", "port", "authoritative", "zones", "records", "faults"},
	"http":            {"listen", "port", "status", "body_bytes", "first_byte_delay", "body_rate", "redirect", "headers", "paths", "date_skew", "alt_svc"},
	"https":           {"listen", "port", "status", "body_bytes", "first_byte_delay", "body_rate", "redirect", "headers", "paths", "date_skew", "alt_svc", "names", "certificate", "valid_days", "handshake_delay", "http1_only", "http3", "http3_closed"},
	"tcp":             {"listen", "port", "behaviour", "backlog", "banner", "rate", "rcvbuf"},
	"udp":             {"listen", "port", "behaviour", "rcvbuf", "rate"},
	"close_wait_leak": {"count", "to", "every", "max"},
	"time_wait":       {"count", "to"},
	"port_hog":        {"count", "to"},
	"traffic":         {"to", "protocol", "rate", "packet"},
	"listen_hog":      {"to", "count"},
	"neighbour_fill":  {"prefix", "count", "every"},
	svcFlap:           {"iface", "every", "down"},
	svcCustom:         {"spec"},
}

var (
	tcpModes = map[string]service.TCPMode{
		"accept": service.TCPSink, "echo": service.TCPEcho, "banner": service.TCPBanner, "reset": service.TCPReset,
		"close": service.TCPClose, "never_accept": service.TCPHang, "hog": service.TCPHog, "drop_data": service.TCPStall, "source": service.TCPSource,
	}
	udpModes  = map[string]service.UDPMode{"echo": service.UDPEcho, "sink": service.UDPSink, "silent": service.UDPDeaf}
	certKinds = []string{"good", "expired", "not_yet_valid", "wrong_name", "untrusted", "expiring", "missing_intermediate", "expired_intermediate"}
	dnsFaults = []string{
		"servfail", "refused", "nxdomain", "silent", "delay", "nxdomain_rewrite", "rewrite", "truncate", "not_auth",
		"formerr_edns", "no_edns", "silent_edns", "wrong_id", "only_tcp", "only_udp", "answer_from", "max_udp",
	}
)

// fillDefaults makes explicit what the file may leave out.
func (v *Service) fillDefaults() {
	if v.Spec != nil && v.Type == "" {
		v.Type = svcCustom
	}
	if v.Name == "" {
		v.Name = v.Type
	}
	if v.Port == 0 {
		v.Port = map[string]int{"dns": 53, "http": 80, "https": 443}[v.Type]
	}
	if v.Type == svcFlap && v.Node == "" {
		v.Node, _, _ = strings.Cut(v.Iface, "/")
	}
	if v.Behaviour == "" {
		v.Behaviour = map[string]string{"tcp": "accept", "udp": "echo"}[v.Type]
	}
	if v.Type == "https" && v.Certificate == "" {
		v.Certificate = "good"
	}
}

func (s *Scenario) validateServices() error {
	if len(s.Services) > maxServices {
		return fmt.Errorf("services: %d of them, at most %d", len(s.Services), maxServices)
	}
	for i, v := range s.Services {
		if v == nil {
			return fmt.Errorf("services: entry %d is empty", i+1)
		}
		if err := s.validateService(v); err != nil {
			return at(v.line, "service %s: %w", v.Name, err)
		}
	}
	return nil
}

func (s *Scenario) validateService(v *Service) error {
	keys, ok := serviceKeys[v.Type]
	if !ok {
		return oneOf("type", v.Type, slices.Sorted(maps.Keys(serviceKeys))...)
	}
	for _, k := range v.keys {
		if !slices.Contains(keys, k) && !slices.Contains([]string{"node", "type", "name", "at", "process"}, k) {
			return fmt.Errorf("key %q does not apply to type %s (it takes %s)", k, v.Type, strings.Join(keys, " "))
		}
	}
	if s.Nodes[v.Node] == nil {
		return oneOf("node", v.Node, slices.Sorted(maps.Keys(s.Nodes))...)
	}
	if len(v.Process) > 15 || strings.ContainsAny(v.Process, "\n/ \x00") {
		return fmt.Errorf("process %q: want at most 15 characters without blanks or slashes", clip(v.Process))
	}
	if v.At != nil && (v.At.Std() > maxDuration || v.At.Std() < -maxDuration) {
		return fmt.Errorf("at %s: want at most %s", *v.At, maxDuration)
	}
	for _, check := range []func(*Service) error{s.validateServer, s.validateLoad} {
		if err := check(v); err != nil {
			return err
		}
	}
	spec, err := s.serviceSpec(v)
	if err != nil {
		return err
	}
	if err := spec.Validate(); err != nil && v.Type != svcFlap {
		return err
	}
	return nil
}

func (s *Scenario) validateServer(v *Service) error {
	switch v.Type {
	case "dns", "http", "https", "tcp", "udp":
		if v.Port < 1 || v.Port > 65535 {
			return fmt.Errorf("port %d: want 1 to 65535", v.Port)
		}
		if len(v.Listen) == 0 && len(s.addressesOf(v.Node)) == 0 {
			return fmt.Errorf("node %s has no address to listen on", v.Node)
		}
	}
	if v.Certificate != "" {
		if err := oneOf("certificate", v.Certificate, certKinds...); err != nil {
			return err
		}
	}
	for name, d := range map[string]Duration{"handshake_delay": v.HandshakeDelay, "first_byte_delay": v.FirstByteDelay, "down": v.Down, "every": v.Every} {
		if d < 0 || d.Std() > maxDuration {
			return fmt.Errorf("%s %s: want 0 to %s", name, d, maxDuration)
		}
	}
	for _, p := range append([]PagePath{{Path: "/", Page: v.Page}}, v.Paths...) {
		switch {
		case !strings.HasPrefix(p.Path, "/"):
			return fmt.Errorf("path %q: want one that starts with /", clip(p.Path))
		case p.Status != 0 && (p.Status < 200 || p.Status > 599):
			return fmt.Errorf("status %d: want 200 to 599", p.Status)
		case p.BodyBytes < 0 || p.BodyBytes > 100<<20:
			return fmt.Errorf("body_bytes %d: want 0 to 100 MiB", p.BodyBytes)
		case p.FirstByteDelay < 0 || p.FirstByteDelay.Std() > maxDuration:
			return fmt.Errorf("first_byte_delay %s: want 0 to %s", p.FirstByteDelay, maxDuration)
		}
	}
	if v.ValidDays < 0 || v.ValidDays > 3650 || v.Backlog < 0 || v.Backlog > 65535 || v.RcvBuf < 0 || v.RcvBuf > 64<<20 || v.Packet < 0 || v.Packet > 65000 {
		return fmt.Errorf("valid_days, backlog, rcvbuf or packet is out of range")
	}
	return nil
}

func (s *Scenario) validateLoad(v *Service) error {
	if v.Count < 0 || v.Count > maxCount || v.Max < 0 || v.Max > maxCount {
		return fmt.Errorf("count %d, max %d: want 0 to %d", v.Count, v.Max, maxCount)
	}
	switch v.Type {
	case "port_hog", "traffic", "listen_hog":
		if !v.To.IsValid() || v.To.Port() == 0 {
			return fmt.Errorf("needs to: address:port")
		}
	case "neighbour_fill":
		if !v.Prefix.IsValid() {
			return fmt.Errorf("needs prefix")
		}
	case svcFlap:
		if _, _, ok := s.end(v.Iface); !ok {
			return fmt.Errorf("no link has the end %q", clip(v.Iface))
		}
		if v.Every <= 0 || v.Down <= 0 || v.Down >= v.Every {
			return fmt.Errorf("needs every and down, with 0 < down < every")
		}
	case svcCustom:
		if v.Spec == nil {
			return fmt.Errorf("needs spec")
		}
	}
	if v.Protocol != "" {
		return oneOf("protocol", v.Protocol, "udp", "tcp")
	}
	return nil
}

// serviceSpec says the same in the words of package service.
func (s *Scenario) serviceSpec(v *Service) (service.Spec, error) {
	spec := service.Spec{Name: v.Name}
	if v.Spec != nil {
		spec = *v.Spec
		if spec.Name == "" {
			spec.Name = v.Name
		}
	}
	if v.Process != "" {
		spec.Process, spec.Comm = true, v.Process
	}
	var err error
	switch v.Type {
	case "dns":
		spec.DNS, err = s.dnsSpec(v)
	case "http", "https":
		spec.HTTP = s.httpSpec(v)
	case "tcp":
		mode, ok := tcpModes[v.Behaviour]
		if !ok {
			return spec, oneOf("behaviour", v.Behaviour, slices.Sorted(maps.Keys(tcpModes))...)
		}
		spec.TCP = &service.TCP{Listen: s.listenOn(v), Mode: mode, Banner: v.Banner, Backlog: v.Backlog, Rcvbuf: unit.Size(v.RcvBuf), Rate: unit.Rate(v.Rate)}
	case "udp":
		mode, ok := udpModes[v.Behaviour]
		if !ok {
			return spec, oneOf("behaviour", v.Behaviour, slices.Sorted(maps.Keys(udpModes))...)
		}
		spec.UDP = &service.UDP{Listen: s.listenOn(v), Mode: mode, Rcvbuf: unit.Size(v.RcvBuf), Flood: unit.Rate(v.Rate)}
	case svcCustom:
	default:
		spec.Load = v.loadSpec()
	}
	return spec, err
}

// listenOn lists address:port for every address given, or that the node has.
// Explicit addresses, because an answer over UDP from a wildcard socket may
// leave from another address than the one asked.
func (s *Scenario) listenOn(v *Service) []string {
	addrs := v.Listen
	if len(addrs) == 0 {
		addrs = s.addressesOf(v.Node)
	}
	var out []string
	for _, a := range addrs {
		if n := s.Nodes[v.Node]; a.Is6() && n.IPv6 != nil && !*n.IPv6 {
			continue
		}
		out = append(out, netip.AddrPortFrom(a, uint16(v.Port)).String())
	}
	return out
}

func (v *Service) loadSpec() *service.Load {
	to := ""
	if v.To.IsValid() {
		to = v.To.String()
	}
	switch v.Type {
	case "close_wait_leak":
		c := &service.CloseWait{Count: v.Count, Max: v.Max, To: to}
		if v.Every > 0 {
			c.Growth = 1 / v.Every.Std().Seconds()
		}
		return &service.Load{CloseWait: c}
	case "time_wait":
		return &service.Load{TimeWait: &service.TimeWait{Count: v.Count, To: to}}
	case "port_hog":
		return &service.Load{PortHog: &service.PortHog{To: to, Count: v.Count}}
	case "traffic":
		return &service.Load{Traffic: &service.Traffic{Network: v.Protocol, To: to, Rate: unit.Rate(v.Rate), Size: v.Packet}}
	case "listen_hog":
		return &service.Load{Connect: &service.Connect{To: to, Parallel: v.Count, Hold: time.Hour}}
	case "neighbour_fill":
		return &service.Load{NeighbourFill: &service.NeighbourFill{Prefix: v.Prefix.String(), Count: v.Count, Every: v.Every.Std()}}
	case svcFlap:
		duty := 1 - v.Down.Std().Seconds()/v.Every.Std().Seconds()
		return &service.Load{Flap: &service.Flap{Link: v.Iface, Period: v.Every.Std(), Duty: unit.Share(duty)}}
	}
	return nil
}

func (s *Scenario) httpSpec(v *Service) *service.HTTP {
	h := &service.HTTP{
		Listen: s.listenOn(v), Names: v.Names, ExpiringDays: v.ValidDays, HTTP3: v.HTTP3, HTTP3Closed: v.HTTP3Closed,
		AltSvc: v.AltSvc, NoHTTP2: v.HTTP1Only, HandshakeDelay: v.HandshakeDelay.Std(), DateSkew: v.DateSkew.Std(),
		Page: v.Page.spec(),
	}
	if v.Type == "https" {
		h.Cert = service.CertKind(v.Certificate)
	}
	for _, p := range v.Paths {
		if h.Paths == nil {
			h.Paths = map[string]service.Page{}
		}
		h.Paths[p.Path] = p.Page.spec()
	}
	return h
}

func (p Page) spec() service.Page {
	return service.Page{
		Status: p.Status, Size: unit.Size(p.BodyBytes), Delay: p.FirstByteDelay.Std(), Rate: unit.Rate(p.BodyRate),
		Redirect: p.Redirect, Headers: p.Headers,
	}
}

func (s *Scenario) dnsSpec(v *Service) (*service.DNS, error) {
	d := &service.DNS{Listen: s.listenOn(v), Recursive: !v.Authoritative}
	var err error
	if d.Zones, err = dnsZones(v); err != nil {
		return nil, err
	}
	for _, f := range v.Faults {
		if err := addDNSFault(d, f); err != nil {
			return nil, fmt.Errorf("fault %s: %w", f.Fault, err)
		}
	}
	return d, nil
}

// dnsZones sorts the records into the zones that hold them. A server that looks
// recursive gets the root zone, so that names outside its zones do not exist.
func dnsZones(v *Service) ([]service.DNSZone, error) {
	zones := make([]service.DNSZone, 0, len(v.Zones)+1)
	for _, z := range v.Zones {
		zones = append(zones, service.DNSZone{Name: fqdn(z)})
	}
	if !v.Authoritative && !slices.ContainsFunc(zones, func(z service.DNSZone) bool { return z.Name == "." }) {
		zones = append(zones, service.DNSZone{Name: "."})
	}
	for _, text := range v.Records {
		name, line, err := dnsRecord(text)
		if err != nil {
			return nil, fmt.Errorf("record %q: %w", clip(text), err)
		}
		best := -1
		for i, z := range zones {
			if inZone(name, z.Name) && (best < 0 || len(z.Name) > len(zones[best].Name)) {
				best = i
			}
		}
		if best < 0 {
			return nil, fmt.Errorf("record %q is in none of the zones", clip(text))
		}
		zones[best].Records += line + "\n"
	}
	return zones, nil
}

func fqdn(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) + "." }

func inZone(name, zone string) bool {
	return zone == "." || name == zone || strings.HasSuffix(name, "."+zone)
}

// dnsRecord turns NAME [TTL] TYPE DATA into a line of a zone file with absolute
// names and a TTL.
func dnsRecord(text string) (name, line string, err error) {
	if strings.ContainsAny(text, "\n\r$") {
		return "", "", fmt.Errorf("one line, without $")
	}
	f := strings.Fields(text)
	if len(f) < 3 {
		return "", "", fmt.Errorf("want NAME [TTL] TYPE DATA")
	}
	name, f = fqdn(f[0]), f[1:]
	ttl := "300"
	if n, err := strconv.ParseUint(f[0], 10, 31); err == nil {
		ttl, f = strconv.FormatUint(n, 10), f[1:]
	}
	if len(f) > 0 && strings.EqualFold(f[0], "IN") {
		f = f[1:]
	}
	if len(f) < 2 {
		return "", "", fmt.Errorf("want NAME [TTL] TYPE DATA")
	}
	typ := strings.ToUpper(f[0])
	last := len(f) - 1
	switch typ {
	case "CNAME", "NS", "PTR", "MX", "SRV", "DNAME":
		f[last] = fqdn(f[last])
	case "SOA":
		for i := 1; i < len(f) && i <= 2; i++ {
			f[i] = fqdn(f[i])
		}
	}
	return name, strings.Join(append([]string{name, ttl, "IN", typ}, f[1:]...), " "), nil
}

// addDNSFault puts a fault of the file where the server keeps it: some belong to
// the whole server, the others to questions.
func addDNSFault(d *service.DNS, f DNSFault) error {
	if err := oneOf("fault", f.Fault, dnsFaults...); err != nil {
		return err
	}
	if f.Delay < 0 || f.Delay.Std() > maxDuration || (f.Fault == "delay") != (f.Delay > 0) {
		return fmt.Errorf("delay: want 0 to %s, with fault: delay and only there", maxDuration)
	}
	needsAddr := f.Fault == "nxdomain_rewrite" || f.Fault == "rewrite" || f.Fault == "answer_from"
	if needsAddr != f.Address.IsValid() {
		return fmt.Errorf("address belongs to nxdomain_rewrite, rewrite and answer_from")
	}
	switch f.Fault {
	case "only_tcp":
		d.TCPOnly = true
		return nil
	case "only_udp":
		d.UDPOnly = true
		return nil
	case "answer_from":
		d.From = f.Address.String()
		return nil
	case "max_udp":
		if f.Bytes < 12 || f.Bytes > 65535 {
			return fmt.Errorf("needs bytes: 12 to 65535")
		}
		d.MaxUDP = f.Bytes
		return nil
	case "rewrite":
		if len(f.Names) == 0 {
			return fmt.Errorf("needs names")
		}
	}
	names, types := f.Names, f.Types
	if len(names) == 0 {
		names = []string{""}
	}
	if len(types) == 0 {
		types = []string{""}
	}
	if len(names)*len(types) > 1000 {
		return fmt.Errorf("more than 1000 names and types")
	}
	for _, n := range names {
		for _, t := range types {
			d.Faults = append(d.Faults, f.spec(n, t))
		}
	}
	return nil
}

// spec is the fault for one name and one type, "" meaning all.
func (f DNSFault) spec(name, typ string) service.DNSFault {
	out := service.DNSFault{Type: strings.ToUpper(typ), Delay: f.Delay.Std()}
	if name = strings.TrimPrefix(name, "*."); name != "" {
		out.Suffix = fqdn(name)
	}
	if f.Percent != nil {
		out.Share = share(*f.Percent)
	}
	switch f.Fault {
	case "servfail":
		out.ServFail = true
	case "refused":
		out.Refused = true
	case "nxdomain":
		out.NXDomain = true
	case "silent":
		out.Silent = true
	case "nxdomain_rewrite":
		out.NXRewrite = f.Address.String()
	case "rewrite":
		out.Lie = map[string]string{fqdn(name): f.Address.String()}
	case "truncate":
		out.Truncate = true
	case "not_auth":
		out.NotAuth = true
	case "formerr_edns":
		out.FormErr = true
	case "no_edns":
		out.NoEDNS = true
	case "silent_edns":
		out.EDNSDie = true
	case "wrong_id":
		out.WrongID = true
	}
	return out
}
