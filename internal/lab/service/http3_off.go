//go:build !http3

package service

import (
	"crypto/tls"
	"errors"
	"net/http"
)

// serveHTTP3 is for builds without the tag http3: quic-go's http3 package cannot
// be linked until go.sum knows its dependencies.
func (b *base) serveHTTP3(string, http.Handler, *tls.Config) error {
	return errors.New("serve http/3: this fathom was built without HTTP/3 (build with -tags http3)")
}
