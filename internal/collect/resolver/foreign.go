package resolver

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"

	"fathom/internal/sys"
)

// foreign reports whether the settings belong to another network namespace: this
// process is not in the initial one, and nothing was mounted to give it a
// resolv.conf of its own, as `ip netns exec` (from /etc/netns), Docker and
// Kubernetes do. Such a namespace merely shares the host's file system.
func foreign(path string) bool {
	if init, _ := sys.InitNetNS(); init {
		return false
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	defer f.Close()
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return !mounted(f, path, real)
	}
	return !mounted(f, path)
}

// maxMountinfo bounds what is read of a table that anybody may lengthen.
const maxMountinfo = 4 << 20

// mounted reports whether one of the paths, or a directory above it, is a mount
// point other than the root (proc_pid_mountinfo(5), field 5).
func mounted(r io.Reader, paths ...string) bool {
	sc := bufio.NewScanner(io.LimitReader(r, maxMountinfo))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 5 || f[4] == "/" {
			continue
		}
		for _, p := range paths {
			if p == f[4] || strings.HasPrefix(p, f[4]+"/") && f[4] != "/run" {
				return true
			}
		}
	}
	return false
}
