package output

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fathom/internal/diagnose"
)

// openPTY opens a pseudo-terminal of the given size; see pty(7).
func openPTY(t *testing.T, cols, rows uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: cols, Row: rows}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestLiveOnAPTY(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	t.Setenv("LC_ALL", "C.UTF-8")
	t.Setenv("NO_COLOR", "")
	t.Setenv("CLICOLOR_FORCE", "")
	t.Setenv("COLUMNS", "")
	master, slave := openPTY(t, 50, 12)
	o := DetectOptions(slave)
	if o != (Options{Color: true, Unicode: true, Width: 50}) {
		t.Errorf("detected %+v", o)
	}
	l := NewLive(slave, o)
	l.Start()
	l.Update([]diagnose.CheckLine{{Area: "gateway", State: "running", Text: hostile}})
	first := make([]byte, 4096)
	n, err := master.Read(first) // the first frame is there when Start returns
	if err != nil || !bytes.Contains(first[:n], []byte("looking")) {
		t.Fatalf("first frame %q, %v", first[:n], err)
	}
	for !bytes.Contains(first[:n], []byte("gateway")) {
		if n, err = master.Read(first); err != nil {
			t.Fatal(err)
		}
	}
	l.Finish()
	slave.Close()
	rest, _ := io.ReadAll(master) // ends with EIO when the other side is closed
	if all := string(rest); !strings.HasSuffix(all, clearBelow+syncOff) || strings.Contains(all, "?25l") {
		t.Errorf("ends in %q", all[max(0, len(all)-80):])
	}
}

func TestLiveOnADumbTerminal(t *testing.T) {
	t.Setenv("TERM", "dumb")
	_, slave := openPTY(t, 80, 24)
	if l := NewLive(slave, Options{}); l.scr != nil {
		t.Error("a dumb terminal cannot be redrawn")
	}
}
