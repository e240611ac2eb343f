package resolver

import (
	"strings"
	"testing"
)

// From `cat /proc/self/mountinfo` in a namespace entered by ip netns exec, cut.
const netnsMounts = `402 31 254:0 / / rw,relatime - ext4 /dev/vda rw
410 402 0:21 / /proc rw,nosuid - proc proc rw
411 402 0:24 / /run rw,nosuid - tmpfs tmpfs rw
415 402 254:0 /etc/netns/myca/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw
`

func TestMounted(t *testing.T) {
	bare := strings.ReplaceAll(netnsMounts, "/etc/resolv.conf rw", "/etc/hosts rw")
	for _, c := range []struct {
		name, mounts string
		paths        []string
		want         bool
	}{
		{"a file of its own", netnsMounts, []string{"/etc/resolv.conf"}, true},
		{"the host's file", bare, []string{"/etc/resolv.conf"}, false},
		{"the host's stub below /run", bare, []string{"/etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"}, false},
		{"a whole /etc of its own", "420 402 0:30 / /etc rw - tmpfs tmpfs rw\n", []string{"/etc/resolv.conf"}, true},
		{"nonsense", "\x00 \n1 2\n", []string{"/etc/resolv.conf"}, false},
	} {
		if got := mounted(strings.NewReader(c.mounts), c.paths...); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
