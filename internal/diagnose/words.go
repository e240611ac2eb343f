package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"fathom/probe"
	"fathom/sample"
)

// proof is a line of evidence that names its measurement.
func proof(source, format string, args ...any) Proof {
	return Proof{Text: fmt.Sprintf(format, args...), Measurement: source}
}

// percent prints a share with as many digits as it deserves.
func percent(x float64) string {
	switch p := x * 100; {
	case p == 0:
		return "0 %"
	case p < 0.1:
		return fmt.Sprintf("%.2f %%", p)
	case p < 10:
		return fmt.Sprintf("%.1f %%", p)
	default:
		return fmt.Sprintf("%.0f %%", p)
	}
}

// lossText is lost/sent with its 95 % interval: never a bare "0 %".
func lossText(lost, sent int) string {
	if sent <= 0 {
		return "nothing sent"
	}
	lo, hi := probe.LossInterval(lost, sent)
	return fmt.Sprintf("%d of %d lost (%s; 95 %% sure: %s–%s)", lost, sent, percent(float64(lost)/float64(sent)), percent(lo), percent(hi))
}

// echoText is the plain reading of an echo series.
func echoText(r *probe.Result) string {
	if r == nil || r.Echo == nil {
		return "not measured"
	}
	if r.Echo.Received == 0 {
		s := fmt.Sprintf("0 of %d echo requests answered", r.Echo.Sent)
		if r.ICMP != nil {
			s += fmt.Sprintf("; %s says: %s", r.ICMP.From, r.ICMP.Text)
		} else if r.Detail != "" {
			s += "; " + r.Detail
		}
		return s
	}
	return fmt.Sprintf("%d of %d echo requests answered, median %s", r.Echo.Received, r.Echo.Sent-r.Echo.SendErrors, median(r.Echo.RTTs))
}

// median of a series, 0 when it is empty.
func median(ds []sample.Duration) sample.Duration { return probe.Median(ds) }

// rateText prints bits per second in the unit a person would use.
func rateText(bps float64) string {
	switch {
	case bps >= 1e9:
		return fmt.Sprintf("%.2f Gbit/s", bps/1e9)
	case bps >= 1e6:
		return fmt.Sprintf("%.1f Mbit/s", bps/1e6)
	case bps >= 1e3:
		return fmt.Sprintf("%.0f kbit/s", bps/1e3)
	}
	return fmt.Sprintf("%.0f bit/s", bps)
}

// windowText says over how long counters were compared.
func (e *Evidence) windowText() string { return fmt.Sprintf("in %.1f s", e.Window().Seconds()) }

// hopText names a hop the way people point at it.
func hopText(h probe.Hop) string { return fmt.Sprintf("hop %d (%s)", h.TTL, h.Address) }

// plural picks the word for a count.
func plural(n int, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, one)
	}
	return fmt.Sprintf("%d %s", n, many)
}

// addrList joins addresses, at most six of them.
func addrList(as []netip.Addr) string {
	var s []string
	for _, a := range as {
		s = append(s, a.String())
	}
	return joinMax(s, 6)
}

// family is 4 or 6, for words.
func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// addTags appends without repeating.
func addTags(in []string, more ...string) []string {
	for _, t := range more {
		if !slices.Contains(in, t) {
			in = append(in, t)
		}
	}
	return in
}

// pairDepends tags what one address of one target relies on.
func (e *Evidence) pairDepends(t Target, a netip.Addr) []string {
	tags := addTags(e.DependsOnAddr(a), TagTarget(t.Raw))
	if _, lit := t.Literal(); !lit {
		tags = addTags(tags, TagName(t.Host))
	}
	return tags
}

// sideOf names a target for a sentence: "web.lab.test (10.0.9.9)" or just the literal.
func sideOf(t Target, a netip.Addr) string {
	if strings.Contains(t.Raw, a.String()) {
		return t.Raw
	}
	return fmt.Sprintf("%s (%s)", t.Raw, a)
}

// secs prints seconds for sentences.
func secs(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// maxOf is the largest of a series, 0 when it is empty.
func maxOf(ds []sample.Duration) (m sample.Duration) {
	for _, d := range ds {
		m = max(m, d)
	}
	return m
}
