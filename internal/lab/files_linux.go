package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The files of a node that programs in it see instead of those of /etc.
const (
	fileResolv = "resolv.conf"
	fileHosts  = "hosts"
	fileNSS    = "nsswitch.conf"
)

// etcFiles are the contents of a node's files in /etc.
func (n *Node) etcFiles() map[string]string {
	nss := n.Nsswitch
	if nss == "" {
		nss = "files dns"
	}
	hosts := append([]string{"127.0.0.1 localhost", "::1 localhost ip6-localhost"}, n.Hosts...)
	return map[string]string{
		fileResolv: n.ResolvConf.text(),
		fileHosts:  strings.Join(hosts, "\n") + "\n",
		fileNSS:    "passwd: files\ngroup: files\nshadow: files\nhosts: " + nss + "\nservices: files\nprotocols: files\n",
	}
}

// text is the file as a resolver reads it.
func (r *ResolvConf) text() string {
	if r == nil {
		return ""
	}
	if r.Raw != "" {
		return r.Raw
	}
	var b strings.Builder
	if len(r.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Search, " "))
	}
	for _, a := range r.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(r.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.Options, " "))
	}
	return b.String()
}

// writeFiles puts what programs in the nodes need into the network's folder:
//
//	<node>/resolv.conf, hosts, nsswitch.conf   over those of /etc
//	ca.pem, none.pem, certs/                   the lab's CA; no CA; an empty folder
//	work/                                      fathom's working directory
//	bin/                                       where the asked program is bound to
func (n *Network) writeFiles() error {
	for _, d := range []string{"", "certs", "work", "bin"} {
		if err := os.MkdirAll(filepath.Join(n.dir, d), 0o755); err != nil {
			return fmt.Errorf("make lab folder: %w", err)
		}
	}
	for node, v := range n.Scenario.Nodes {
		d := filepath.Join(n.dir, node)
		if err := writeAll(d, v.etcFiles()); err != nil {
			return err
		}
	}
	ca := map[string]string{"ca.pem": string(n.ca.Bundle()), "none.pem": ""}
	if err := writeAll(n.dir, ca); err != nil {
		return err
	}
	work := filepath.Join(n.dir, "work")
	if err := writeAll(work, n.Scenario.Files); err != nil {
		return err
	}
	if err := os.Chmod(work, 0o777); err != nil { // `nobody` may save evidence there
		return fmt.Errorf("make lab folder: %w", err)
	}
	return nil
}

func writeAll(dir string, files map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make lab folder: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write lab file: %w", err)
		}
	}
	return nil
}

// caBundle is the file of trusted roots for programs in a node.
func (n *Network) caBundle(node string) string {
	if n.Scenario.Nodes[node].TrustsCA() {
		return filepath.Join(n.dir, "ca.pem")
	}
	return filepath.Join(n.dir, "none.pem")
}
