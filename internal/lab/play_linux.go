package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Play builds a scenario's network, says on w how to look around in it, lets the
// timed events happen and waits until ctx ends (Ctrl-C). The network is gone
// when it returns.
func Play(ctx context.Context, s *Scenario, w io.Writer, o Options) (err error) {
	binary, err := o.binary()
	if err != nil {
		return err
	}
	left, err := CleanUp()
	if err != nil {
		return err
	}
	for _, id := range left {
		fmt.Fprintf(w, "removed the left-over network %s\n", id)
	}
	n, err := Build(ctx, s)
	if err != nil {
		return fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.publishEtc(); err != nil {
		return err
	}
	if _, err := io.WriteString(w, n.Describe(binary)); err != nil {
		return fmt.Errorf("describe network: %w", err)
	}
	events := s.timeline()
	if err := n.playEvents(ctx, events, time.Now().Add(s.lead(events))); err != nil {
		return fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	<-ctx.Done()
	fmt.Fprintln(w, "\ntaking the network down")
	return nil
}

// publishEtc puts the nodes' files where `ip netns exec` finds them.
func (n *Network) publishEtc() error {
	for node := range n.Scenario.Nodes {
		n.state.Dirs = append(n.state.Dirs, filepath.Join(etcNetns, n.Namespace(node)))
	}
	if err := n.state.save(); err != nil {
		return err
	}
	for node, v := range n.Scenario.Nodes {
		files := v.etcFiles()
		for name := range files { // ip warns about files that this machine has not
			if _, err := os.Stat(filepath.Join("/etc", name)); err != nil {
				delete(files, name)
			}
		}
		if err := writeAll(filepath.Join(etcNetns, n.Namespace(node)), files); err != nil {
			return err
		}
	}
	return nil
}

// Describe tells a person what there is and what to try.
func (n *Network) Describe(binary string) string {
	s := n.Scenario
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (built in %d ms)\n\n%s\n\nnodes:\n", s.Name, s.Title, n.Built.Milliseconds(), strings.TrimSpace(s.Story))
	for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
		var addrs []string
		for _, a := range s.addressesOf(name) {
			addrs = append(addrs, a.String())
		}
		fmt.Fprintf(&b, "  %-12s %-7s %s\n", name, s.Nodes[name].Type, strings.Join(addrs, " "))
	}
	enter := "ip netns exec " + n.Namespace(HostNode)
	env := fmt.Sprintf("env SSL_CERT_FILE=%s SSL_CERT_DIR=%s", n.caBundle(HostNode), filepath.Join(n.dir, "certs"))
	fmt.Fprintf(&b, "\ntry, in another terminal, as root:\n")
	for _, a := range s.Ask {
		fmt.Fprintf(&b, "  %s %s %s %s\n", enter, env, binary, shellWords(a.Args))
	}
	fmt.Fprintf(&b, "  %s ip route\n  %s bash\n", enter, enter)
	fmt.Fprintf(&b, "\nother nodes: ip netns exec %s-NODE …\n", n.ID)
	if len(s.timeline()) > 0 {
		b.WriteString("the scenario's timed events happen now, counted from this moment\n")
	}
	b.WriteString("Ctrl-C takes everything down.\n")
	return b.String()
}

// shellWords quotes words where a shell would need it.
func shellWords(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$&|;<>()*?[]{}!#~`") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}

// kernelRelease is what uname -r says.
func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
