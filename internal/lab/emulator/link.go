package emulator

// InNS runs f on a thread that is in a certain network namespace and returns
// f's error. Sockets that f opens belong to that namespace for good. It must be
// safe to call from several goroutines.
type InNS func(f func() error) error

// End is one end of a link: a Port (AF_PACKET on an existing interface, usually
// the far end of a veth) or a Tap (the interface itself is ours).
type End interface {
	// Name is the interface's name.
	Name() string
	// SetCarrier plugs the cable in or out: the node sees its interface lose or
	// gain carrier.
	SetCarrier(up bool) error
	// Close gives the end back; a Tap's interface disappears with it. Call it
	// after the Link that uses it has stopped.
	Close() error

	transport
}

// Options are the settings of a Link. The zero value is a perfect cable.
type Options struct {
	AtoB, BtoA Config
	// Seed makes the random decisions repeatable: the same seed and the same
	// packets at the same times meet the same fate.
	Seed uint64
}

// Here is the InNS of the namespace that the process is in.
func Here(f func() error) error { return f() }
