package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON writes v indented, with a newline at the end. <, > and & stay readable;
// what a terminal could act on (C1 controls, bidirectional overrides) is written
// as \u escapes, which mean the same to every reader of JSON.
func JSON(w io.Writer, v any) error { return writeJSON(w, v, "  ") }

// JSONLine is JSON without indentation: one value per line, for streams.
func JSONLine(w io.Writer, v any) error { return writeJSON(w, v, "") }

func writeJSON(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode as JSON: %w", err)
	}
	if _, err := w.Write(escapeJSON(b.Bytes())); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// escapeJSON escapes invisible characters. Outside of strings JSON is ASCII
// without DEL, so that each such character is inside one.
func escapeJSON(in []byte) []byte {
	out := make([]byte, 0, len(in)+16)
	for len(in) > 0 {
		r, size := utf8.DecodeRune(in)
		switch {
		case r < 0x7f || r != 0x7f && !invisible(r):
			out = append(out, in[:size]...)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		in = in[size:]
	}
	return out
}
