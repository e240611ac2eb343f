package http

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"fathom/internal/testkit"
	"fathom/probe"
	"fathom/probe/tls/tlstest"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

const nginxConf = `
daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 64; }
http {
  access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  server {
    listen 127.0.0.1:%[2]d ssl http2; server_name www.example.net;
    ssl_certificate %[3]s; ssl_certificate_key %[4]s; ssl_protocols TLSv1.2 TLSv1.3;
    add_header Alt-Svc 'h3=":443"; ma=86400';
    location = / { return 200 "hello"; }
    location = /old { return 301 /; }
    location = /loop { return 302 /loop; }
    location = /busy { return 503; }
  }
}
`

// nginx starts Debian's nginx in the foreground on a free loopback port.
func nginx(t *testing.T, p pki) netip.AddrPort {
	tool, dir := testkit.NeedTool(t, "nginx"), t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	cert, key := p.leaf.Files(t, p.inter)
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, at.Port(), cert, key), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "-c", conf, "-p", dir, "-e", filepath.Join(dir, "error.log"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
	for range 200 {
		if c, err := net.Dial("tcp", at.String()); err == nil {
			c.Close()
			return at
		}
		time.Sleep(20 * time.Millisecond)
	}
	b, _ := os.ReadFile(filepath.Join(dir, "error.log"))
	t.Fatalf("nginx does not listen: %s", b)
	return at
}

func TestNginx(t *testing.T) {
	p := newPKI(t, tlstest.Want{})
	at := nginx(t, p)
	base := fmt.Sprintf("https://%s:%d", host, at.Port())
	cfg := Config{Roots: tlstest.Pool(p.root), Pin: at, Resolve: noResolver(t)}
	r := get(t, cfg, base+"/")
	want(t, r, probe.OK, "")
	if r.HTTP.Proto != "HTTP/2.0" || r.HTTP.Bytes != 5 || r.HTTP.Server == "" || r.HTTP.AltSvcH3 != host+":443" || !r.TLS.Verified || r.TLS.Version != "TLS 1.3" {
		t.Errorf("%+v %+v", r.HTTP, r.TLS)
	}
	if skew := time.Since(r.HTTP.Date); skew < -time.Minute || skew > time.Minute {
		t.Errorf("date %v", r.HTTP.Date)
	}
	wantPhases(t, r, "connect", "tls", "request", "first_byte", "body")
	if r = get(t, cfg, base+"/old"); len(r.HTTP.Redirects) != 1 || r.HTTP.Status != 200 {
		t.Errorf("%+v", r.HTTP)
	}
	if r = get(t, cfg, base+"/loop"); !r.HTTP.Loop {
		t.Errorf("%+v", r.HTTP)
	}
	want(t, get(t, cfg, base+"/busy"), probe.BadAnswer, "503")
	cfg.HTTP1Only, cfg.Repeat, cfg.Reuse = true, 3, true
	if r = get(t, cfg, base+"/"); r.HTTP.Proto != "HTTP/1.1" || len(r.HTTP.Repeats) != 3 || r.Detail != "" {
		t.Errorf("%+v %q", r.HTTP, r.Detail)
	}
	// Plain HTTP to the TLS port: nginx answers 400 in plain text, which is an answer.
	want(t, get(t, Config{}, "http://"+at.String()+"/"), probe.OK, "400 Bad Request")
}
