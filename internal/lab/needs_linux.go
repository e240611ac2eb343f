package lab

import (
	"os"
	"os/exec"
)

// MissingError says that this machine lacks what a scenario needs. The scenario
// is skipped then, not failed.
type MissingError struct{ What string }

func (e *MissingError) Error() string { return "needs " + e.What }

// checkNeeds looks for what can be told without trying. Queue disciplines and
// bridges are tried while building.
func checkNeeds(needs []string) error {
	files := map[string]string{
		"ipv6": "/proc/net/if_inet6", "tun": "/dev/net/tun", "conntrack": "/proc/sys/net/netfilter/nf_conntrack_max",
	}
	for _, n := range needs {
		switch n {
		case "nft", "tc", "ip", "ethtool":
			if _, err := exec.LookPath(n); err != nil {
				return &MissingError{What: "the program " + n}
			}
		default:
			if f := files[n]; f != "" {
				if _, err := os.Stat(f); err != nil {
					return &MissingError{What: n + " (" + f + " is not there)"}
				}
			}
		}
	}
	return nil
}
