package cli

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"fathom/internal/collect/resolver"
	"fathom/internal/config"
	"fathom/internal/facts"
	"fathom/probe"
	"fathom/probe/http"
	"fathom/probe/icmp"
	"fathom/probe/path"
	"fathom/probe/tcp"
	"fathom/probe/udp"
	"fathom/sample"
)

// lossThreshold is the loss that a target must be proven to exceed (the lower
// end of the 95 % interval) before it counts as a problem.
const lossThreshold = 0.01

// runChecks measures all targets, at most o.concurrency at a time. When ctx ends
// the targets not measured yet stay unknown.
func runChecks(ctx context.Context, o checkOptions, targets []config.FileTarget, progress func(done int)) (checkReport, error) {
	rep := checkReport{Schema: checkSchema, Started: time.Now().UTC().Round(time.Millisecond), Targets: make([]checkResult, len(targets))}
	began := time.Now()
	var h facts.Host
	if err := resolver.Collect(ctx, &h, resolver.DefaultPaths()); err != nil {
		return rep, err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	next := make(chan int)
	for range min(o.concurrency, len(targets)) {
		wg.Go(func() {
			for i := range next {
				rep.Targets[i] = checkTarget(ctx, o, h.Resolver, targets[i])
				mu.Lock()
				done++
				progress(done)
				mu.Unlock()
			}
		})
	}
	for i := range targets {
		next <- i // workers go on taking: with ctx over, checkTarget returns at once
	}
	close(next)
	wg.Wait()
	rep.Interrupted = ctx.Err() != nil
	rep.Elapsed = sample.D(time.Since(began).Round(time.Millisecond))
	for _, r := range rep.Targets {
		switch r.Status {
		case checkOK:
			rep.Summary.OK++
		case checkProblem:
			rep.Summary.Problem++
		default:
			rep.Summary.Unknown++
		}
	}
	return rep, nil
}

// checkTarget resolves the name, then measures everything else side by side.
func checkTarget(ctx context.Context, o checkOptions, rv *facts.Resolver, t config.FileTarget) checkResult {
	r := checkResult{Target: t.Raw, Name: t.Name, Host: t.Host, Problems: []string{}}
	if ctx.Err() != nil {
		r.Status, r.Notes = checkUnknown, []string{"not measured: interrupted"}
		return r
	}
	all, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	r.DNS = checkName(all, o, rv, t.Target)
	if len(r.DNS.IPs) == 0 {
		if r.Status = checkProblem; ctx.Err() != nil {
			r.Status = checkUnknown
		}
		r.Problems = append(r.Problems, "the name does not resolve: "+r.DNS.Error)
		return r
	}
	r.Address = reachable(r.DNS.IPs)
	var wg sync.WaitGroup
	wg.Go(func() { r.Ping = checkEcho(all, o, r.Address) })
	if t.Port != 0 {
		wg.Go(func() { r.Port = checkPortOf(all, t, r.Address) })
	}
	if !o.noPath {
		wg.Go(func() { r.Traceroute = checkPath(all, r.Address) })
	}
	if t.URL != "" {
		wg.Go(func() { r.HTTP = checkPage(all, o, t, r.Address) })
	}
	wg.Wait()
	r.judge(t, ctx.Err() != nil)
	return r
}

// reachable is the first address that this host has a route to, IPv6 before
// IPv4 as programs do; connecting a UDP socket sends nothing.
func reachable(as []netip.Addr) netip.Addr {
	for _, a := range as {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9)))
		if err != nil {
			continue
		}
		_ = c.Close()
		return a
	}
	return as[0]
}

func checkEcho(ctx context.Context, o checkOptions, a netip.Addr) *checkPing {
	res, err := icmp.New(icmp.Config{Count: o.count, Interval: 100 * time.Millisecond}).Probe(ctx, a.String())
	if err != nil {
		return &checkPing{Status: "error", Error: err.Error()}
	}
	p := &checkPing{Status: "failed", Method: res.Method}
	if res.Echo == nil {
		p.Error = detail(res)
		return p
	}
	e := res.Echo
	n := e.Sent - e.SendErrors
	p.Sent, p.Received, p.Duplicates = n, e.Received, e.Duplicates
	if n > 0 {
		p.Loss = e.Loss()
		p.LossLow, p.LossHigh = probe.LossInterval(n-e.Received, n)
	}
	if e.Received == 0 {
		p.Error = detail(res)
		return p
	}
	p.Status = "success"
	var sum sample.Duration
	for _, d := range e.RTTs {
		sum += d
	}
	if k := len(e.RTTs); k > 0 {
		p.AvgLatency, p.Median = ms(sum/sample.Duration(k)), ms(probe.Median(e.RTTs))
		p.MinLatency, p.MaxLatency = ms(slices.Min(e.RTTs)), ms(slices.Max(e.RTTs))
		p.median = probe.Median(e.RTTs).Std()
		if k > 1 {
			p.Jitter = ms(probe.IPDV(e.RTTs))
		}
	}
	return p
}

// detail is the outcome with the words that came with it.
func detail(r probe.Result) string {
	s := string(r.Outcome)
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	if r.ICMP != nil {
		s += fmt.Sprintf(" (ICMP from %s: %s)", r.ICMP.From, r.ICMP.Text)
	}
	return s
}

func checkPortOf(ctx context.Context, t config.FileTarget, a netip.Addr) *checkPort {
	ap := hostPort(a, t.Port)
	protocol := "tcp"
	var res probe.Result
	var err error
	if t.Scheme == "udp" || t.Scheme == "dns" {
		protocol = "udp"
		if t.Scheme == "udp" {
			res, err = udp.New(udp.Config{Count: 3}).Probe(ctx, ap)
		} else {
			res, err = askRoot(ctx, ap)
		}
	} else {
		res, err = tcp.New(tcp.Config{}).Probe(ctx, ap)
	}
	if err != nil {
		return &checkPort{Number: t.Port, Status: "error", Protocol: protocol, Error: err.Error()}
	}
	p := &checkPort{Number: t.Port, Status: portStatus(res, protocol), Protocol: protocol}
	if res.Outcome != probe.OK {
		p.Error = detail(res)
	}
	if t.Scheme == "dns" && res.DNS != nil && res.DNS.Rcode != "" {
		p.Status = "open" // whatever it answers, it answers
	}
	switch {
	case res.TCP != nil:
		p.SYNRetries = res.TCP.SYNRetrans
		if len(res.TCP.Connects) > 0 {
			p.ResponseTime = ms(res.TCP.Connects[0])
		}
	case res.RTT != nil && p.Status == "open":
		p.ResponseTime = ms(res.RTT.Value)
	}
	return p
}

func checkPath(ctx context.Context, a netip.Addr) *checkTraceroute {
	res, err := path.New(path.Config{}).Probe(ctx, a.String())
	if err != nil {
		return &checkTraceroute{Status: "error", Error: err.Error()}
	}
	t := &checkTraceroute{Status: "failed"}
	if res.Path == nil {
		t.Error = detail(res)
		return t
	}
	t.Protocol = res.Path.Protocol
	for _, h := range res.Path.Hops {
		hop := checkHop{TTL: h.TTL, Address: h.Address}
		if d, ok := h.BestRTT(); ok {
			hop.RTT = ms(d)
		}
		t.Hops = append(t.Hops, hop)
		switch {
		case h.Target && res.Path.Reached && t.HopCount == 0:
			t.Status, t.HopCount = "success", h.TTL
		case h.Address.IsValid() && t.HopCount == 0:
			t.LastHop = h.Address
		}
	}
	if t.HopCount > 0 {
		t.LastHop = netip.Addr{}
	} else {
		t.Error = detail(res)
	}
	return t
}

func checkPage(ctx context.Context, o checkOptions, t config.FileTarget, a netip.Addr) *checkHTTP {
	c := http.Config{Pin: netip.AddrPortFrom(a, t.Port), Insecure: o.insecure || t.Insecure, NoFollow: redirectWanted(t.ExpectStatus)}
	res, err := http.New(c).Probe(ctx, t.URL)
	if err != nil {
		return &checkHTTP{Status: "error", Error: err.Error()}
	}
	p := &checkHTTP{Status: "ok", ResponseTime: ms(res.Elapsed)}
	for _, ph := range res.Phases {
		if p.Phases == nil {
			p.Phases = map[string]float64{}
		}
		p.Phases[ph.Name] += *ms(ph.Duration)
	}
	if res.HTTP != nil {
		p.StatusCode, p.Protocol = res.HTTP.Status, res.HTTP.Proto
	}
	bad := res.TLS != nil && res.TLS.Problem != "" && !c.Insecure
	switch {
	case bad:
		p.Status, p.Error = "bad_certificate", res.TLS.Problem+": "+res.TLS.ProblemText
	case p.StatusCode == 0:
		p.Status, p.Error, p.ResponseTime = "failed", detail(res), nil
	case !statusRight(p.StatusCode, t.ExpectStatus):
		p.Status, p.Error = "unexpected_status", fmt.Sprintf("HTTP status %d", p.StatusCode)
	}
	return p
}

// redirectWanted: who expects a 301 wants to see it, not what it leads to.
func redirectWanted(expect []int) bool {
	return slices.ContainsFunc(expect, func(s int) bool { return s >= 300 && s < 400 })
}

func statusRight(status int, expect []int) bool {
	if len(expect) == 0 {
		return status < 400
	}
	return slices.Contains(expect, status)
}

// judge sums the measurements up.
func (r *checkResult) judge(t config.FileTarget, interrupted bool) {
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	note := func(format string, args ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) }
	r.Status = checkUnknown
	known := false // something says that the target is well
	if p := r.Port; p != nil {
		switch p.Status {
		case "open":
			known = true
		case "error":
			note("port %d could not be measured: %s", t.Port, p.Error)
		case "no_answer":
			note("no answer from UDP port %d, which may be normal", t.Port)
		default:
			problem("port %d is %s (%s)", t.Port, p.Status, p.Error)
		}
	}
	if h := r.HTTP; h != nil && h.Status != "ok" {
		if h.Status == "error" {
			note("the page could not be measured: %s", h.Error)
		} else {
			problem("%s: %s", strings.ReplaceAll(h.Status, "_", " "), h.Error)
		}
	}
	known = r.judgePing(t, known, problem, note)
	switch {
	case interrupted:
		note("interrupted")
		r.Problems = []string{} // what was cut off proves nothing
	case len(r.Problems) > 0:
		r.Status = checkProblem
	case known:
		r.Status = checkOK
	}
}

func (r *checkResult) judgePing(t config.FileTarget, known bool, problem, note func(string, ...any)) bool {
	p := r.Ping
	switch {
	case p.Status == "error":
		note("echo could not be measured: %s", p.Error)
	case p.Received > 0 && p.LossLow > lossThreshold:
		problem("%d of %d echo requests lost (95 %% sure: %.0f–%.0f %%)", p.Sent-p.Received, p.Sent, 100*p.LossLow, 100*p.LossHigh)
	case p.Received > 0:
		return known || t.Port == 0 || t.Scheme == "udp"
	case t.Port == 0:
		problem("no answer to %d echo requests (%s)", p.Sent, p.Error)
	case known:
		note("ignores echo requests")
	}
	return known
}
