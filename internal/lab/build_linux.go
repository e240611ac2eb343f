package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fathom/internal/lab/emulator"
	"fathom/internal/lab/service"
)

// Network is a scenario's network while it exists.
type Network struct {
	Scenario *Scenario
	ID       string        // fathomlab-<pid>, the beginning of its namespaces' names
	Built    time.Duration // how long building took

	dir    string // files of this network
	state  *state
	lock   *os.File
	spaces map[string]*space
	ca     *service.CA

	mu       sync.Mutex // guards what actions change
	links    map[int]*cable
	services map[int]service.Service
}

// cable is an emulated link.
type cable struct {
	link *emulator.Link
	a, b emulator.End
}

// built counts the networks of this process, to tell their names apart.
var built atomic.Int64

// newID is fathomlab-<pid> for the first network of a process, then
// fathomlab-<pid>.2 and so on.
func newID() string {
	n := built.Add(1)
	if n == 1 {
		return fmt.Sprintf("%s%d", prefix, os.Getpid())
	}
	return fmt.Sprintf("%s%d.%d", prefix, os.Getpid(), n)
}

// Build makes the scenario's network. The caller must Close it; after an error
// (or when ctx ends) everything made so far is gone already. A missing kernel
// feature or program is a *MissingError.
func Build(ctx context.Context, s *Scenario) (_ *Network, err error) {
	began := time.Now()
	plan := NewPlan(s)
	if err := checkNeeds(plan.Needs); err != nil {
		return nil, err
	}
	n := &Network{
		Scenario: s, ID: newID(), spaces: map[string]*space{}, links: map[int]*cable{}, services: map[int]service.Service{},
	}
	n.dir = filepath.Join(stateDir, n.ID)
	if n.lock, err = lockMachine(ctx, s.Exclusive); err != nil {
		return nil, err
	}
	done := false
	defer func() { // a panic on the way too
		if !done {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := n.prepare(ctx, plan); err != nil {
		return nil, err
	}
	for _, step := range plan.Steps {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("build network: %w", err)
		}
		if err := n.apply(ctx, step); err != nil {
			return nil, fmt.Errorf("build network: %s: %w", step, err)
		}
	}
	n.Built = time.Since(began)
	done = true
	return n, nil
}

// prepare writes down what will be made, then makes what all steps need.
func (n *Network) prepare(ctx context.Context, plan Plan) (err error) {
	if n.state, err = newState(n.ID); err != nil {
		return err
	}
	for _, node := range plan.Nodes {
		n.state.Namespaces = append(n.state.Namespaces, n.Namespace(node))
	}
	n.state.Dirs = []string{n.dir}
	if err := n.state.save(); err != nil {
		return err
	}
	if err := prepareNetnsDir(ctx); err != nil {
		return err
	}
	if n.ca, err = service.NewCA(); err != nil {
		return fmt.Errorf("make the lab's certificate authority: %w", err)
	}
	return n.writeFiles()
}

// Namespace is the name of a node's namespace, for `ip netns exec`.
func (n *Network) Namespace(node string) string { return n.ID + "-" + node }

// Close takes the network down. It is harmless to call it twice.
func (n *Network) Close() error {
	n.mu.Lock()
	services, links := n.services, n.links
	n.services, n.links = map[int]service.Service{}, map[int]*cable{}
	n.mu.Unlock()
	var errs []error
	for i := len(n.Scenario.Services) - 1; i >= 0; i-- {
		if v := services[i]; v != nil {
			errs = append(errs, v.Stop())
		}
	}
	for _, c := range links {
		errs = append(errs, c.close())
	}
	for _, sp := range n.spaces {
		sp.close()
	}
	n.spaces = map[string]*space{}
	if n.state != nil {
		errs = append(errs, n.state.undo())
		n.state = nil
	}
	if n.lock != nil {
		n.lock.Close()
		n.lock = nil
	}
	return errors.Join(errs...)
}

func (c *cable) close() error {
	var errs []error
	if c.link != nil {
		errs = append(errs, c.link.Stop())
	}
	for _, e := range []emulator.End{c.a, c.b} {
		if e != nil {
			errs = append(errs, e.Close())
		}
	}
	return errors.Join(errs...)
}

// apply does one step of the plan.
func (n *Network) apply(ctx context.Context, st Step) error {
	switch st.Op {
	case OpNamespace:
		return n.makeNode(st)
	case OpGlobalSysctl:
		return n.setGlobal(st.Key, st.Value)
	case OpEmulate:
		return n.emulate(ctx, st.Link)
	case OpService:
		return n.startService(ctx, st.Service)
	case OpVeth:
		return n.makeVeth(st)
	case OpTap:
		return n.makeTap(st)
	case OpBridge:
		return n.makeBridge(st)
	case OpCarrierOff:
		return n.setCarrier(st.Node+"/"+st.Iface, false)
	case OpInject:
		return n.inject(st)
	case OpReady:
		return n.waitReady(ctx)
	}
	sp := n.spaces[st.Node]
	switch st.Op {
	case OpSysctls:
		return sp.do(func() error { return writeSysctls(st.Sysctls) })
	case OpNft:
		return sp.run(ctx, st.Text, "nft", "-f", "-")
	case OpTc:
		return sp.run(ctx, "", "tc", strings.Fields(st.Text)...)
	case OpRule:
		return sp.addRule(st.Rule)
	case OpRoute:
		return sp.route(st.Route, "add")
	case OpNeighbour:
		return sp.addNeighbour(st.Neighbour)
	}
	return n.applyLink(sp, st)
}

// applyLink does the steps that are about one existing interface.
func (n *Network) applyLink(sp *space, st Step) error {
	l, err := sp.nl.LinkByName(st.Iface)
	if err != nil {
		return err
	}
	switch st.Op {
	case OpAddress:
		return sp.addAddress(l, st)
	case OpUp:
		return sp.nl.LinkSetUp(l)
	case OpDown:
		return sp.nl.LinkSetDown(l)
	case OpPort:
		br, err := sp.nl.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		return sp.nl.LinkSetMaster(l, br)
	case OpEthtool:
		return n.setEthtool(sp, st)
	}
	return fmt.Errorf("step %q is not known", st.Op)
}

func (n *Network) makeNode(st Step) error {
	sp, err := newSpace(n.Namespace(st.Node))
	if err != nil {
		return err
	}
	n.spaces[st.Node] = sp
	return sp.do(func() error { return writeSysctls(st.Sysctls) })
}

func writeSysctls(list []Sysctl) error {
	for _, c := range list {
		err := writeSysctl(c.Key, c.Value)
		if c.Optional && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w (this kernel has it not, or not per namespace: see global_sysctls)", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setGlobal notes the old value on disk before it changes anything.
func (n *Network) setGlobal(key, value string) error {
	old, err := readSysctl(key)
	if err != nil {
		return err
	}
	n.state.Sysctls = append(n.state.Sysctls, oldValue{key, old})
	if err := n.state.save(); err != nil {
		return err
	}
	return writeSysctl(key, value)
}

func (n *Network) makeVeth(st Step) error {
	sp, peer := n.spaces[st.Node], n.spaces[st.PeerNode]
	v := netlink.NewVeth(netlink.NewLinkAttrs())
	v.Name, v.MTU, v.HardwareAddr = st.Iface, st.MTU, st.MAC
	if st.End.TxQueueLen != nil {
		v.TxQLen = *st.End.TxQueueLen
	}
	v.PeerName, v.PeerMTU, v.PeerNamespace = st.PeerIface, uint32(st.PeerMTU), netlink.NsFd(peer.ns)
	if st.PeerMAC != nil {
		v.PeerHardwareAddr = st.PeerMAC
	}
	if err := sp.nl.LinkAdd(v); err != nil {
		return err
	}
	if st.PeerNode == wireNode {
		return sp.do(func() error { return emulator.DisableOffloads(st.Iface) })
	}
	if _, b, ok := n.endOf(st.PeerNode + "/" + st.PeerIface); ok && b.TxQueueLen != nil {
		l, err := peer.nl.LinkByName(st.PeerIface)
		if err != nil {
			return err
		}
		return peer.nl.LinkSetTxQLen(l, *b.TxQueueLen)
	}
	return nil
}

// endOf finds an end of a link by node/interface.
func (n *Network) endOf(iface string) (link int, e *End, ok bool) {
	i, isA, ok := n.Scenario.end(iface)
	if !ok {
		return 0, nil, false
	}
	if isA {
		return i, &n.Scenario.Links[i].A, true
	}
	return i, &n.Scenario.Links[i].B, true
}

func (n *Network) makeTap(st Step) error {
	sp := n.spaces[st.Node]
	t, err := emulator.NewTap(sp.do, st.Iface)
	if err != nil {
		return err
	}
	c := n.links[st.Link]
	if c == nil {
		c = new(cable)
		n.links[st.Link] = c
	}
	if st.End == &n.Scenario.Links[st.Link].A {
		c.a = t
	} else {
		c.b = t
	}
	l, err := sp.nl.LinkByName(st.Iface)
	if err != nil {
		return err
	}
	err = errors.Join(sp.nl.LinkSetHardwareAddr(l, st.MAC), sp.nl.LinkSetMTU(l, st.MTU))
	if st.End.TxQueueLen != nil {
		err = errors.Join(err, sp.nl.LinkSetTxQLen(l, *st.End.TxQueueLen))
	}
	return errors.Join(err, sp.do(func() error { return emulator.DisableOffloads(st.Iface) }))
}

func (n *Network) makeBridge(st Step) error {
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name, br.HardwareAddr = st.Iface, st.MAC
	noSnooping := false // its queries would be traffic that nobody asked for
	br.MulticastSnooping = &noSnooping
	err := n.spaces[st.Node].nl.LinkAdd(br)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return &MissingError{What: "bridge devices in this kernel"}
	}
	return err
}

// emulate joins the two ends of a link by the emulator.
func (n *Network) emulate(ctx context.Context, i int) error {
	l := n.Scenario.Links[i]
	o := emulator.Options{Seed: l.Seed}
	o.AtoB, o.BtoA = l.Impair.configs()
	c := n.links[i]
	if c == nil {
		c = new(cable)
		n.links[i] = c
		wire := n.spaces[wireNode]
		a, err := emulator.OpenPort(wire.do, wireName(i, true))
		if err != nil {
			return err
		}
		c.a = a
		b, err := emulator.OpenPort(wire.do, wireName(i, false))
		if err != nil {
			return err
		}
		c.b = b
	}
	// The link lives until Close: a cancelled build closes it as well.
	link, err := emulator.Join(context.WithoutCancel(ctx), c.a, c.b, o)
	if err != nil {
		return err
	}
	c.link = link
	return nil
}

// setCarrier plugs the cable at one end in or out.
func (n *Network) setCarrier(iface string, up bool) error {
	i, isA, ok := n.Scenario.end(iface)
	n.mu.Lock()
	c := n.links[i]
	n.mu.Unlock()
	if !ok || c == nil {
		return fmt.Errorf("carrier of %s: the link is not emulated", iface)
	}
	if isA {
		return c.a.SetCarrier(up)
	}
	return c.b.SetCarrier(up)
}

func (n *Network) inject(st Step) error {
	i, isA, _ := n.Scenario.end(st.Node + "/" + st.Iface)
	end := n.links[i].b
	if isA {
		end = n.links[i].a
	}
	t, ok := end.(*emulator.Tap)
	if !ok {
		return errors.New("not a tap")
	}
	return t.InjectErrors(st.End.Inject.Kind, st.End.Inject.PerSecond)
}

// featureNames are the short names of ethtool -K.
var featureNames = map[string]string{
	"rx": "rx-checksum", "rx-checksumming": "rx-checksum", "tx": "tx-checksum-ip-generic", "tx-checksumming": "tx-checksum-ip-generic",
	"sg": "tx-scatter-gather", "tso": "tx-tcp-segmentation", "gso": "tx-generic-segmentation", "gro": "rx-gro",
}

func (n *Network) setEthtool(sp *space, st Step) error {
	t := st.End.Ethtool
	if t.Speed > 0 || t.Duplex != "" {
		i, isA, _ := n.Scenario.end(st.End.Iface)
		end := n.links[i].b
		if isA {
			end = n.links[i].a
		}
		tap, ok := end.(*emulator.Tap)
		if !ok {
			return errors.New("speed and duplex: not a tap")
		}
		speed := uint32(10000) // a tap's own
		if t.Speed > 0 {
			speed = uint32(t.Speed)
		}
		if err := tap.SetSpeed(sp.do, speed, t.Duplex != "half"); err != nil {
			return err
		}
	}
	if len(t.Features) == 0 {
		return nil
	}
	change := map[string]bool{}
	for k, v := range t.Features {
		if long, ok := featureNames[k]; ok {
			k = long
		}
		change[k] = v == "on" || v == "true"
	}
	return sp.do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return fmt.Errorf("open ethtool: %w", err)
		}
		defer e.Close()
		return e.Change(st.Iface, change)
	})
}

func (s *space) addAddress(l netlink.Link, st Step) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: st.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(st.Prefix.Bits(), st.Prefix.Addr().BitLen())}}
	if st.Prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return s.nl.AddrAdd(l, a)
}

// waitReady waits until every interface that should have a carrier reports it:
// the kernel tells user space a moment after the other end came up.
func (n *Network) waitReady(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	giveUp := time.NewTimer(5 * time.Second) // veth takes under a millisecond; this is a broken kernel
	defer giveUp.Stop()
	for _, l := range n.Scenario.Links {
		for _, e := range []*End{&l.A, &l.B} {
			for !n.linkReady(l, e) {
				select {
				case <-ctx.Done():
					return fmt.Errorf("wait for link %s: %w", e.Iface, ctx.Err())
				case <-giveUp.C:
					return fmt.Errorf("link %s has no carrier after 5 s", e.Iface)
				case <-tick.C:
				}
			}
		}
	}
	return nil
}

func (n *Network) linkReady(l *Link, e *End) bool {
	isUp := func(e *End) bool { return e.Up == nil || *e.Up }
	if !isUp(e) || noCarrier(e) || !n.Scenario.isEmulated(l) && !(isUp(&l.A) && isUp(&l.B)) {
		return true
	}
	for _, v := range n.Scenario.Services {
		if v.Type == svcFlap && v.Iface == e.Iface {
			return true
		}
	}
	node, iface, _ := strings.Cut(e.Iface, "/")
	link, err := n.spaces[node].nl.LinkByName(iface)
	return err == nil && link.Attrs().RawFlags&unix.IFF_RUNNING != 0
}

// startService runs one of the scenario's services.
func (n *Network) startService(ctx context.Context, i int) error {
	v := n.Scenario.Services[i]
	spec, err := n.Scenario.serviceSpec(v)
	if err != nil {
		return err
	}
	spec.CA = n.ca
	if spec.Load != nil && spec.Load.Flap != nil && spec.Load.Flap.Link != "" {
		f := *spec.Load.Flap
		f.SetLink = func(up bool) error { return n.setCarrier(f.Link, up) }
		spec.Load = &service.Load{Flap: &f}
	}
	running, err := service.Start(context.WithoutCancel(ctx), n.spaces[v.Node].do, spec)
	if err != nil {
		return fmt.Errorf("start service %s on %s: %w", v.Name, v.Node, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services[i] = running
	return nil
}

// run runs a program inside the namespace; what it says on stderr is part of
// the error.
func (s *space) run(ctx context.Context, stdin, program string, args ...string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return &MissingError{What: "the program " + program}
	}
	return s.do(func() error {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			if strings.Contains(string(out), "qdisc kind is unknown") {
				return &MissingError{What: "a queue discipline in this kernel: " + strings.Join(args, " ")}
			}
			return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(clipBytes(out, 2000)))
		}
		return nil
	})
}

func clipBytes(b []byte, n int) string {
	if len(b) > n {
		return string(b[:n]) + "…"
	}
	return string(b)
}
