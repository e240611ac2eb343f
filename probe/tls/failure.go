package tls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"fathom/probe"
)

// failure is a handshake that did not work, in words.
type failure struct {
	outcome probe.Outcome
	errno   string
	detail  string
	alert   string
}

// explain says why a handshake failed, waited after it began.
func (o *Observer) explain(ctx context.Context, err error, waited time.Duration) failure {
	var first []byte
	var total int64
	if o.rec != nil {
		first, total = o.rec.seen()
	}
	if alert, text, ok := o.AlertIn(err); ok {
		return failure{outcome: probe.Failed, alert: alert, detail: text}
	}
	outcome, errno := probe.OutcomeOfErrno(err)
	switch {
	case errno == "" && (ctx.Err() != nil || outcome == probe.Timeout):
		if total == 0 {
			return failure{outcome: probe.Timeout, detail: "connected, no answer to the tls handshake in " + Wait(waited)}
		}
		return failure{outcome: probe.Timeout, detail: fmt.Sprintf("connected, tls handshake not finished in %s (%d bytes received)", Wait(waited), total)}
	case len(first) > 0 && !looksLikeTLS(first):
		return failure{outcome: probe.Failed, detail: "the server does not speak TLS: it answered " + Excerpt(first)}
	case errno != "":
		return failure{outcome: outcome, errno: errno, detail: "tls handshake: " + Cause(err).Error()}
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return failure{outcome: probe.Failed, detail: "the server closed the connection during the tls handshake"}
	}
	return failure{outcome: probe.Failed, detail: "tls handshake: " + strings.TrimPrefix(Cause(err).Error(), "tls: ")}
}

// AlertIn finds the TLS alert from the server that err is about: its words, and
// a sentence. It may come after the handshake too (see verdictWait).
func (o *Observer) AlertIn(err error) (alert, text string, ok bool) {
	if alert, ok = remoteAlert(err); !ok {
		return "", "", false
	}
	return alert, o.AlertText(alert), true
}

// AlertText is the sentence for an alert.
func (o *Observer) AlertText(alert string) string {
	text := "the server ended the tls handshake with alert: " + alert
	if o.Asked() {
		text += " (it asked for a client certificate, and fathom has none)"
	}
	return text
}

// remoteAlert returns the words of an alert the server sent. crypto/tls gives it
// as a net.OpError with this operation and an unexported type inside.
func remoteAlert(err error) (string, bool) {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && op.Err != nil {
		return strings.TrimPrefix(op.Err.Error(), "tls: "), true
	}
	return "", false
}

// looksLikeTLS tells whether b begins like a TLS record: a known content type and
// major version 3 (RFC 8446 §5.1). Fewer than two bytes are given the benefit of the doubt.
func looksLikeTLS(b []byte) bool {
	if len(b) < 2 {
		return b[0] >= 20 && b[0] <= 24
	}
	return b[0] >= 20 && b[0] <= 24 && b[1] == 3
}

// Excerpt quotes the first line of what a server sent, at most 64 bytes, with
// everything but printable ASCII replaced by dots.
func Excerpt(b []byte) string {
	const most = 64
	cut := len(b) > most
	b = b[:min(len(b), most)]
	for i, c := range b {
		if i > 0 && (c == '\r' || c == '\n') {
			b, cut = b[:i], false
			break
		}
	}
	out := make([]byte, len(b))
	for i, c := range b {
		if c < ' ' || c > '~' {
			c = '.'
		}
		out[i] = c
	}
	s := `"` + string(out)
	if cut {
		s += "…"
	}
	return s + `"`
}
