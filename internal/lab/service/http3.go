package service

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/quic-go/quic-go/http3"
)

// serveHTTP3 serves the same pages over QUIC.
func (b *base) serveHTTP3(addr string, handler http.Handler, conf *tls.Config) error {
	pc, err := b.listenUDP(addr)
	if err != nil {
		return fmt.Errorf("open http/3 socket: %w", err)
	}
	srv := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(conf.Clone())}
	b.keep(srv)
	b.run(func() {
		if err := srv.Serve(pc); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			b.fail(fmt.Errorf("serve http/3 on %s: %w", addr, err))
		}
	})
	return nil
}
