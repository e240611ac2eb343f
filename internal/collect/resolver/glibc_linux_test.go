package resolver

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"fathom/internal/facts"
	"fathom/internal/testkit"

	"golang.org/x/sys/unix"
)

// What this machine's glibc asks, seen by a name server of our own on loopback
// in a network and mount namespace of our own, must be what Candidates says.
func TestCandidatesAgreeWithGlibc(t *testing.T) {
	testkit.NeedRoot(t)
	getent, ip := testkit.NeedTool(t, "getent"), testkit.NeedTool(t, "ip")
	dir := t.TempDir()
	conf, nss := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "nsswitch.conf")
	if err := errors.Join(os.WriteFile(conf, nil, 0o644), os.WriteFile(nss, []byte("hosts: dns\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never given back: the namespaces end with the thread
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
		if err == nil {
			err = errors.Join(
				unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
				unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""),
				unix.Mount(nss, "/etc/nsswitch.conf", "", unix.MS_BIND, ""),
				exec.Command(ip, "link", "set", "lo", "up").Run(),
				// AI_ADDRCONFIG: without an address beyond loopback getent asks nothing.
				exec.Command(ip, "addr", "add", "192.0.2.77/32", "dev", "lo").Run())
		}
		if err != nil {
			t.Error(err)
			return
		}
		c, err := net.ListenPacket("udp4", "127.0.0.7:53")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		asked := make(chan string, 1000)
		go serveNXDOMAIN(c, asked)
		for _, lines := range []string{
			"", "search a.test b.test\n", "search a.test b.test\noptions ndots:3\n", "domain a.test\nsearch\n", "search a.test\ndomain b.test c.test\n",
			"search . a.test\noptions ndots:2\n", "search a.test\noptions no-tld-query\n", "search a.test\noptions ndots:0\n", "search .a.test b.test.\n",
			" search a.test\n", "search 1.t 2.t 3.t 4.t 5.t 6.t 7.t 8.t\n", "options ndots:99\nsearch a.test\n", "search a.test\n#search b.test\n;x\n",
			"search a.test\noptions ndots:2x attempts:1\n", "search\ta.test\tb.test \n",
		} {
			text := "nameserver 127.0.0.7 junk\n" + lines
			if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
				t.Error(err)
			}
			var r facts.Resolver
			parseResolvConf([]byte(text), environment{}, nil, &r)
			if r.Search == nil {
				r.Search = hostDomain()
			}
			for _, name := range []string{"web", "www.x", "a.b.c.example", "www.x.", "web.", "Web"} {
				cmd := exec.Command(getent, "ahostsv4", name)
				cmd.Env = []string{"PATH=/usr/bin:/bin"}
				_ = cmd.Run() // exits 2: not found
				var got []string
				for len(asked) > 0 {
					if q := <-asked; !slices.Contains(got, q) {
						got = append(got, q)
					}
				}
				if want := facts.Candidates(&r, name); !slices.Equal(got, want) {
					t.Errorf("%q looked up with %q:\nglibc %v\nwe    %v", name, lines, got, want)
				}
			}
		}
	}()
	<-done
}

func hostDomain() []string {
	n, _ := os.Hostname()
	if _, d, ok := strings.Cut(n, "."); ok {
		return []string{d}
	}
	return nil
}

// serveNXDOMAIN answers that there is no such name, until c is closed.
func serveNXDOMAIN(c net.PacketConn, asked chan<- string) {
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if n < 17 {
			continue
		}
		var labels []string
		for i := 12; i < n && b[i] != 0 && i+1+int(b[i]) <= n; i += 1 + int(b[i]) {
			labels = append(labels, string(b[i+1:i+1+int(b[i])]))
		}
		asked <- strings.Join(labels, ".") + "."
		b[2], b[3] = 0x81, 0x83 // response, RD, RA, NXDOMAIN
		_, _ = c.WriteTo(b[:n], from)
	}
}
