package kmsg

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// maxText bounds a line that is kept.
const maxText = 1024

// record is one line of the kernel log.
type record struct {
	facility int           // 0: the kernel itself
	level    int           // 0 emergency … 7 debug
	at       time.Duration // local_clock() since boot
	text     string        // as the source wrote it
}

// parseRecord reads one read(2) of /dev/kmsg:
// "6,339,5140900,-;NET: Registered PF_INET\n SUBSYSTEM=net\n"
// — priority, sequence number, microseconds, flags and whatever later kernels
// add; the text up to the newline; then key=value lines, which are left out.
func parseRecord(b []byte) (record, bool) {
	head, text, ok := bytes.Cut(b, []byte{';'})
	if !ok {
		return record{}, false
	}
	f := strings.SplitN(string(head[:min(len(head), 256)]), ",", 4)
	if len(f) < 3 {
		return record{}, false
	}
	pri, err1 := strconv.ParseUint(f[0], 10, 32)
	us, err2 := strconv.ParseUint(f[2], 10, 53)
	if err1 != nil || err2 != nil {
		return record{}, false
	}
	text, _, _ = bytes.Cut(text, []byte{'\n'})
	return record{
		facility: int(pri >> 3), level: int(pri & 7), at: time.Duration(us) * time.Microsecond,
		text: unescape(text[:min(len(text), maxText)]),
	}, true
}

// unescape turns the kernel's \xNN back into bytes, so that Text holds the
// source's own words; who shows them escapes them in his own way.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) && b[i+1] == 'x' {
			if n, err := strconv.ParseUint(string(b[i+2:i+4]), 16, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}

// parseSyslogLine reads a line of syslog(2): "<6>[    5.140900] NET: …", with
// CONFIG_PRINTK_CALLER "<6>[    5.140900][    T1] NET: …". Lines without a
// time (printk.time=0) cannot be placed and are left out.
func parseSyslogLine(b []byte) (record, bool) {
	s := string(bytes.TrimRight(b[:min(len(b), maxText)], "\n"))
	p, s, ok := strings.Cut(s, ">[")
	pri, err := strconv.ParseUint(strings.TrimPrefix(p, "<"), 10, 32)
	if !ok || err != nil || !strings.HasPrefix(p, "<") {
		return record{}, false
	}
	stamp, text, ok := strings.Cut(s, "]")
	sec, frac, ok2 := strings.Cut(strings.TrimSpace(stamp), ".")
	n, err1 := strconv.ParseUint(sec, 10, 32)
	us, err2 := strconv.ParseUint(frac, 10, 32)
	if !ok || !ok2 || err1 != nil || err2 != nil || len(frac) != 6 {
		return record{}, false
	}
	if strings.HasPrefix(text, "[") {
		if _, after, ok := strings.Cut(text, "]"); ok {
			text = after
		}
	}
	return record{
		facility: int(pri >> 3), level: int(pri & 7), at: time.Duration(n)*time.Second + time.Duration(us)*time.Microsecond,
		text: strings.TrimPrefix(text, " "),
	}, true
}
