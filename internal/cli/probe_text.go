package cli

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"fathom/probe"
)

// resultLines is a result in one line, or a few where there is a list to show.
// The lines hold words from outside: sanitise them before a terminal sees them.
func resultLines(r probe.Result) []string {
	head := r.Kind + " " + r.Target
	if r.Address.IsValid() && !strings.Contains(r.Target, r.Address.String()) {
		head += " (" + r.Address.String() + ")"
	}
	head += ": " + string(r.Outcome)
	if r.Detail != "" && r.Outcome != probe.OK {
		head += ": " + r.Detail
	}
	if r.ICMP != nil {
		head += fmt.Sprintf(" (ICMP from %s: %s)", r.ICMP.From, r.ICMP.Text)
	}
	if s := summary(r); s != "" {
		head += "; " + s
	}
	return append([]string{head}, details(r)...)
}

func summary(r probe.Result) string {
	switch {
	case r.Echo != nil:
		return echoSummary(r.Echo)
	case r.HTTP != nil:
		return httpSummary(r)
	case r.DNS != nil:
		return dnsSummary(r.DNS)
	case r.Path != nil:
		if r.Path.Reached {
			return hops(len(r.Path.Hops))
		}
		return "not reached"
	case r.MTU != nil:
		return mtuSummary(r.MTU)
	case r.ARP != nil:
		if len(r.ARP.MACs) == 0 {
			return fmt.Sprintf("nobody answered %d requests on %s", r.ARP.Sent, r.ARP.Interface)
		}
		return strings.Join(r.ARP.MACs, ", ") + " on " + r.ARP.Interface
	case r.TLS != nil:
		return tlsSummary(r.TLS)
	case r.TCP != nil:
		return tcpSummary(r.TCP)
	case r.RTT != nil:
		return "round trip " + rttText(r.RTT)
	}
	return ""
}

func rttText(t *probe.RTT) string {
	if t.Error == 0 {
		return t.Value.String()
	}
	return fmt.Sprintf("%s ± %s", t.Value, t.Error)
}

func echoSummary(e *probe.Echo) string {
	sent := e.Sent - e.SendErrors
	if sent <= 0 {
		return "nothing left this host"
	}
	lo, hi := probe.LossInterval(sent-e.Received, sent)
	s := fmt.Sprintf("%d of %d answered (loss %s, 95 %% sure: %s–%s)", e.Received, sent, percent(e.Loss()), percent(lo), percent(hi))
	if len(e.RTTs) > 0 {
		s += fmt.Sprintf("; min %s, median %s, p95 %s, max %s, jitter %s", probe.Percentile(e.RTTs, 0), probe.Median(e.RTTs), probe.Percentile(e.RTTs, 95), probe.Percentile(e.RTTs, 100), probe.IPDV(e.RTTs))
	}
	if e.Duplicates > 0 {
		s += fmt.Sprintf("; %d duplicates", e.Duplicates)
	}
	if e.Corrupt > 0 {
		s += fmt.Sprintf("; %d corrupt", e.Corrupt)
	}
	return s
}

// percent has as many digits as are worth reading.
func percent(x float64) string {
	digits := 0
	if x > 0 && x < 0.0995 {
		digits = 1
	}
	return strconv.FormatFloat(100*x, 'f', digits, 64) + " %"
}

func hops(n int) string {
	if n == 1 {
		return "1 hop"
	}
	return strconv.Itoa(n) + " hops"
}

func tcpSummary(t *probe.TCP) string {
	s := fmt.Sprintf("%d of %d connected", t.Connected, t.Attempts)
	if len(t.Connects) > 0 {
		s += ", median " + probe.Median(t.Connects).String()
	}
	if t.Retried > 0 {
		s += fmt.Sprintf(", %d needed a second SYN", t.Retried)
	}
	return s
}

func tlsSummary(t *probe.TLS) string {
	var s []string
	if t.Version != "" {
		s = append(s, t.Version)
	}
	if t.ALPN != "" {
		s = append(s, t.ALPN)
	}
	if t.Handshake > 0 {
		s = append(s, "handshake "+t.Handshake.String())
	}
	if len(t.Chain) > 0 {
		s = append(s, fmt.Sprintf("certificate %s until %s", t.Chain[0].Subject, t.Chain[0].NotAfter.UTC().Format("2006-01-02")))
	}
	return strings.Join(s, ", ")
}

func httpSummary(r probe.Result) string {
	s := fmt.Sprintf("%s %d, %d bytes in %s", r.HTTP.Proto, r.HTTP.Status, r.HTTP.Bytes, r.Elapsed)
	if r.HTTP.Status == 0 {
		return phasesText(r.Phases)
	}
	if p := phasesText(r.Phases); p != "" {
		s += " (" + p + ")"
	}
	return s
}

func phasesText(ps []probe.Phase) string {
	var out []string
	for _, p := range ps {
		out = append(out, strings.ReplaceAll(p.Name, "_", " ")+" "+p.Duration.String())
	}
	return strings.Join(out, ", ")
}

func dnsSummary(d *probe.DNS) string {
	s := fmt.Sprintf("%s %s", d.Name, d.Type)
	if d.Rcode != "" {
		s += " " + d.Rcode
	}
	if len(d.Times) > 0 {
		s += " in " + probe.Median(d.Times).String()
	}
	if d.Lost > 0 {
		s += fmt.Sprintf(", %d of %d unanswered", d.Lost, d.Tries)
	}
	if len(d.Flags) > 0 {
		s += ", flags " + strings.Join(d.Flags, " ")
	}
	return s
}

func mtuSummary(m *probe.MTU) string {
	if m.Works == 0 {
		return "no size got through"
	}
	s := fmt.Sprintf("%d bytes get through", m.Works)
	if m.Fails > 0 {
		s += fmt.Sprintf(", %d do not", m.Fails)
	}
	switch {
	case m.Signalled:
		s += fmt.Sprintf("; %s says so", m.By)
	case m.Fails > 0 && m.LastGood.IsValid():
		s += fmt.Sprintf("; they vanish silently behind %s (hop %d)", m.LastGood, m.LastGoodTTL)
	case m.Fails > 0:
		s += "; nobody says so"
	}
	return s
}

// details are the further lines of results that are lists.
func details(r probe.Result) []string {
	var out []string
	switch {
	case r.Path != nil:
		for _, h := range r.Path.Hops {
			out = append(out, hopLine(h))
		}
	case r.DNS != nil:
		for _, rr := range r.DNS.Answers {
			out = append(out, fmt.Sprintf("  %s %d %s %s", rr.Name, rr.TTL, rr.Type, rr.Data))
		}
		for _, e := range r.DNS.EDE {
			out = append(out, "  "+e)
		}
	case r.HTTP != nil:
		for _, x := range r.HTTP.Redirects {
			out = append(out, fmt.Sprintf("  %d %s → %s", x.Status, x.From, x.To))
		}
	}
	if r.TLS != nil && r.TLS.Problem != "" {
		out = append(out, "  "+r.TLS.Problem+": "+r.TLS.ProblemText)
	}
	if r.Method != "" {
		out = append(out, "  by "+r.Method)
	}
	return out
}

func hopLine(h probe.Hop) string {
	if !h.Address.IsValid() {
		return fmt.Sprintf("  %2d  *", h.TTL)
	}
	s := fmt.Sprintf("  %2d  %s", h.TTL, h.Address)
	var times []string
	for _, d := range h.RTTs {
		times = append(times, d.String())
	}
	if len(times) > 0 {
		s += "  " + strings.Join(times, ", ")
	}
	if len(h.Others) > 0 {
		s += "  also " + joinAddrs(h.Others)
	}
	if h.Unreach != nil {
		s += "  " + h.Unreach.Text
	}
	return s
}

func joinAddrs(as []netip.Addr) string {
	var out []string
	for _, a := range as {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}
