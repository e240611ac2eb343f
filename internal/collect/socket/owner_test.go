package socket

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// procTree builds a proc file system: path → content, or → link when it begins with "->".
func procTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, body := range files {
		p := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		if len(body) > 2 && body[:2] == "->" {
			err = errors.Join(err, os.Symlink(body[2:], p))
		} else {
			err = errors.Join(err, os.WriteFile(p, []byte(body), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestOwners(t *testing.T) {
	root := procTree(t, map[string]string{
		"thread-self/ns/net": "->net:[1]", "thread-self/status": "Name:\tx\nCapEff:\t000001ffffffffff\n",
		"10/ns/net": "->net:[1]", "10/comm": "web\x1b[31m \n", "10/fd/0": "->/dev/null", "10/fd/3": "->socket:[42]", "10/fd/4": "->socket:[nonsense]", "10/fd/5": "->socket:[99999999999]",
		"11/ns/net": "->net:[2]", "11/comm": "proxy\n", "11/fd/7": "->socket:[43]", "11/fd/8": "->socket:[42]",
		"12/ns/net": "->net:[1]", // ended: no fd any more
		"13/fd/1":   "->socket:[44]",
		"uptime":    "1 1\n",
	})
	want := map[uint32]struct{}{42: {}, 43: {}, 44: {}, 45: {}}
	o, err := findOwners(t.Context(), root, want)
	if err != nil {
		t.Fatal(err)
	}
	// comm stays raw; the process in this namespace comes before one elsewhere; one without comm has still a pid.
	for inode, name := range map[uint32]string{42: "web\x1b[31m [10]", 43: "proxy[11]", 44: "?[13]", 45: "uid 7", 0: "uid 7"} {
		if got := o.name(inode, 7); got != name {
			t.Errorf("%d: %q, want %q", inode, got, name)
		}
	}
	if !o.all || o.hidden {
		t.Errorf("a socket without a process is not a lack of privilege: %+v", o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := findOwners(ctx, root, want); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if o, err := findOwners(t.Context(), filepath.Join(root, "none"), nil); err != nil || o.all || o.hidden {
		t.Errorf("nothing wanted: no walk, but no claim either: %+v %v", o, err)
	}
}

func TestHiddenProcesses(t *testing.T) {
	root := procTree(t, map[string]string{"thread-self/ns/net": "->net:[1]", "thread-self/status": "CapEff:\t0000000000000000\n"})
	o, err := findOwners(t.Context(), root, map[uint32]struct{}{42: {}})
	if err != nil || o.all || !o.hidden || o.why == "" {
		t.Errorf("mounted with hidepid: %+v %v", o, err)
	}
}

func TestLocalPortRange(t *testing.T) {
	for content, want := range map[string][2]uint16{"20000\t20100\n": {20000, 20100}, "x y": {32768, 60999}, "9 1": {32768, 60999}, "": {32768, 60999}} {
		root := procTree(t, map[string]string{"sys/net/ipv4/ip_local_port_range": content})
		if l, h := localPortRange(root); l != want[0] || h != want[1] {
			t.Errorf("%q: %d %d", content, l, h)
		}
	}
}
