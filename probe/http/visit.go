package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	nethttp "net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"fathom/probe"
	"fathom/probe/tls"
	"fathom/sample"
)

// visit is one request of a chain.
type visit struct {
	method string
	url    *url.URL
	sess   *session          // nil while there is no connection that may carry a request
	resp   *nethttp.Response // nil without a response; its body is closed
	note   string            // addresses that failed before the one used
}

// visit resolves, connects, shakes hands and asks. r.Elapsed is the whole of it.
func (c *chain) visit(ctx context.Context, v *visit) (probe.Result, error) {
	r := newResult(v.url)
	began := time.Now()
	addrs, err := c.addresses(ctx, v.url, &r)
	if err == nil && len(addrs) > 0 {
		err = c.open(ctx, v, addrs, &r)
	}
	if err == nil && v.sess != nil {
		err = c.exchange(ctx, v, &r)
	}
	if v.note != "" {
		r.Detail = strings.TrimSuffix(v.note+r.Detail, "; ")
	}
	r.Elapsed = sample.D(time.Since(began))
	return r, err
}

func newResult(u *url.URL) probe.Result {
	return probe.Result{HTTP: &probe.HTTP{URL: u.Redacted()}}
}

// exchange sends the request on v's session and reads the answer.
func (c *chain) exchange(ctx context.Context, v *visit, r *probe.Result) error {
	req, err := c.request(ctx, v)
	if err != nil {
		return err
	}
	var t times
	began := time.Now()
	resp, err := v.sess.tr.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, t.trace())))
	wrote, first := t.get()
	if err != nil {
		t.phases(r, began, wrote, first, time.Time{})
		return c.noResponse(ctx, v, r, err, wrote, first)
	}
	v.resp = resp
	DescribeResponse(r.HTTP, v.url, resp)
	JudgeStatus(r, resp.StatusCode)
	c.jar.SetCookies(v.url, resp.Cookies())
	var end time.Time
	if c.cfg.NoFollow || !isRedirect(resp) {
		var berr error
		r.HTTP.Bytes, r.HTTP.Truncated, berr = ReadBody(resp.Body, c.cfg.MaxBody)
		end = time.Now()
		err = BodyFailed(ctx, r, berr, end.Sub(first))
	}
	_ = resp.Body.Close()
	t.phases(r, began, wrote, first, end)
	return err
}

// request builds the request for v.
func (c *chain) request(ctx context.Context, v *visit) (*nethttp.Request, error) {
	req, err := nethttp.NewRequestWithContext(ctx, v.method, v.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("http request: %w", err)
	}
	req.Header.Set("Accept", "*/*")
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if mayTell(c.origin, v.url) {
		SetHeader(req, c.cfg.Header)
		if user := c.origin.User; user != nil {
			pass, _ := user.Password()
			req.SetBasicAuth(user.Username(), pass)
		}
	}
	if user := v.url.User; user != nil && v.url != c.origin {
		pass, _ := user.Password()
		req.SetBasicAuth(user.Username(), pass)
	}
	for _, ck := range c.jar.Cookies(v.url) {
		req.AddCookie(ck)
	}
	return req, nil
}

// SetHeader puts the caller's header into a request; Host sets the authority.
func SetHeader(req *nethttp.Request, header map[string]string) {
	for k, v := range header {
		if strings.EqualFold(k, "Host") {
			req.Host = v
			continue
		}
		req.Header.Set(k, v)
	}
}

// mayTell tells whether what the user gave for origin (header, password) may be
// sent to u: to the same origin, or to the same host's https from its http.
func mayTell(origin, u *url.URL) bool {
	a, err1 := endpoint(origin)
	b, err2 := endpoint(u)
	if err1 != nil || err2 != nil || !sameHost(origin, u) {
		return false
	}
	return origin.Scheme == u.Scheme && a == b || a == 80 && b == 443 && u.Scheme == "https"
}

// CheckHeader refuses what net/http would refuse later, when it would look like the peer's fault.
func CheckHeader(header map[string]string) error {
	for k, v := range header {
		for i := range len(k) {
			if !isTokenChar(k[i]) {
				return fmt.Errorf("http header %q: %q cannot be in a name", k, k[i])
			}
		}
		if k == "" {
			return errors.New("http header without a name")
		}
		for i := range len(v) {
			if v[i] < ' ' && v[i] != '\t' || v[i] == 0x7f {
				return fmt.Errorf("http header %s: %q cannot be in a value", k, v[i])
			}
		}
	}
	return nil
}

// times are what net/http tells of a request, from its own goroutines and
// possibly after RoundTrip has returned.
type times struct {
	mu           sync.Mutex
	wrote, first time.Time
}

func (t *times) trace() *httptrace.ClientTrace {
	set := func(at *time.Time) {
		now := time.Now()
		t.mu.Lock()
		defer t.mu.Unlock()
		if at.IsZero() {
			*at = now
		}
	}
	return &httptrace.ClientTrace{
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if i.Err == nil {
				set(&t.wrote)
			}
		},
		GotFirstResponseByte: func() { set(&t.first) },
	}
}

// get returns when the request was written and when the response began. The
// writer's callback may run after the reader's: then the request was written when the
// response began at the latest.
func (t *times) get() (wrote, first time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wrote, first = t.wrote, t.first
	if !first.IsZero() && (wrote.IsZero() || wrote.After(first)) {
		wrote = first
	}
	return wrote, first
}

// phases adds the phases that were completed. A zero time means not reached.
func (t *times) phases(r *probe.Result, began, wrote, first, end time.Time) {
	from := began
	for _, p := range []struct {
		name string
		at   time.Time
	}{{"request", wrote}, {"first_byte", first}, {"body", end}} {
		if p.at.IsZero() {
			return
		}
		r.Phases = append(r.Phases, probe.Phase{Name: p.name, Duration: sample.D(p.at.Sub(from))})
		from = p.at
	}
}

// noResponse says in r why there is no (complete) response header. It returns an error
// only when ctx was cancelled, or the connection was used up (for repeats).
func (c *chain) noResponse(ctx context.Context, v *visit, r *probe.Result, err error, wrote, first time.Time) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("http request to %s: %w", v.url.Redacted(), context.Canceled)
	}
	if errors.Is(err, errSpent) {
		return errSpent
	}
	if v.sess.obs != nil && r.TLS != nil {
		if alert, text, ok := v.sess.obs.AlertIn(err); ok {
			r.Outcome, r.TLS.Alert, r.Detail = probe.Failed, alert, text
			return nil
		}
	}
	r.Outcome, r.Errno = probe.OutcomeOfErrno(err)
	if r.Errno == "" && (ctx.Err() != nil || r.Outcome == probe.Timeout) {
		r.Outcome = probe.Timeout
		switch {
		case !first.IsZero():
			r.Detail = "connected, request sent, response begun but its header not complete in " + wait(time.Since(wrote))
		case !wrote.IsZero():
			r.Detail = "connected, request sent, no response in " + wait(time.Since(wrote))
		default:
			r.Detail = "connected, but the request could not be sent in time"
		}
		return nil
	}
	r.Detail = responseText(err, r.Errno)
	return nil
}

// responseText puts net/http's words into a sentence.
func responseText(err error, errno string) string {
	text := err.Error()
	switch {
	case errno != "":
		return "connected, request sent: " + tls.Cause(err).Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "server closed idle connection"):
		return "the server closed the connection without a complete response"
	case strings.Contains(text, `malformed HTTP response "\x15\x03`), strings.Contains(text, `malformed HTTP response "\x16\x03`):
		return "the server does not speak plain HTTP but TLS: use https"
	}
	for _, prefix := range []string{"net/http: ", "HTTP/1.x transport connection broken: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return "response: " + Clip(text)
}

// ReadBody reads at most limit bytes and tells whether there were more.
func ReadBody(body io.Reader, limit int64) (n int64, truncated bool, err error) {
	n, err = io.Copy(io.Discard, io.LimitReader(body, limit+1))
	if n > limit {
		return limit, true, nil
	}
	return n, false, err
}

// BodyFailed says in r what went wrong with the body, waited after its first byte;
// nothing for a nil berr. It returns an error only when ctx was cancelled.
func BodyFailed(ctx context.Context, r *probe.Result, berr error, waited time.Duration) error {
	if berr == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("read body: %w", context.Canceled)
	}
	r.Outcome, r.Errno = probe.OutcomeOfErrno(berr)
	why := ""
	switch {
	case r.Errno == "" && (ctx.Err() != nil || r.Outcome == probe.Timeout):
		r.Outcome, why = probe.Timeout, "not complete in "+wait(waited)
	case r.Errno != "":
		why = "broken off: " + tls.Cause(berr).Error()
	case errors.Is(berr, io.ErrUnexpectedEOF):
		why = "ended early"
	default:
		why = "broken off: " + Clip(berr.Error())
	}
	r.Detail = fmt.Sprintf("status %d, body %s (%d bytes received", r.HTTP.Status, why, r.HTTP.Bytes)
	if l := r.HTTP.Header["Content-Length"]; l != "" {
		r.Detail += " of " + l
	}
	r.Detail += ")"
	return nil
}

// repeat asks the last URL again, at the address already used.
func (c *chain) repeat(ctx context.Context, v *visit, r *probe.Result) error {
	r.HTTP.Repeats = []probe.HTTPRepeat{asRepeat(r)}
	if v.sess == nil || r.HTTP.Loop {
		return nil // no connection, or nothing sensible to ask again
	}
	failed, why := 0, ""
	for i := 1; i < c.cfg.Repeat && ctx.Err() == nil; i++ { // the caller's deadline ends the series; what we have is a result
		again, err := c.again(ctx, v)
		if err != nil {
			return err
		}
		r.HTTP.Repeats = append(r.HTTP.Repeats, asRepeat(&again))
		if again.Outcome != probe.OK {
			failed, why = failed+1, again.Detail
		}
	}
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return fmt.Errorf("repeat http request: %w", err)
	}
	if failed > 0 {
		text := fmt.Sprintf("%d of %d repeats failed, the last of them: %s", failed, len(r.HTTP.Repeats)-1, why)
		r.Detail = strings.TrimPrefix(r.Detail+"; "+text, "; ")
	}
	return nil
}

// again makes one repeat for v, over its session when that may and can be used.
func (c *chain) again(ctx context.Context, v *visit) (probe.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	began, at := time.Now(), v.sess.addr
	if c.cfg.Reuse {
		r := newResult(v.url)
		err := c.exchange(ctx, v, &r)
		r.Elapsed = sample.D(time.Since(began))
		if !errors.Is(err, errSpent) {
			return r, err
		}
		began = time.Now()
	}
	old := v.sess
	old.close()
	v.sess = nil
	r := newResult(v.url)
	err := c.open(ctx, v, []netip.AddrPort{at}, &r)
	if err == nil && v.sess != nil {
		err = c.exchange(ctx, v, &r)
	}
	if v.sess == nil {
		v.sess = old // closed; it only remembers the address
	}
	r.Elapsed = sample.D(time.Since(began))
	return r, err
}

func asRepeat(r *probe.Result) probe.HTTPRepeat {
	first, _ := r.PhaseNamed("first_byte")
	rep := probe.HTTPRepeat{Status: r.HTTP.Status, FirstByte: first, Total: r.Elapsed}
	if r.HTTP.Status == 0 || r.Outcome != probe.OK && r.Outcome != probe.BadAnswer {
		rep.Detail = r.Detail
	}
	return rep
}
