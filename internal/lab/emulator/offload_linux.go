package emulator

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DisableOffloads switches off what a veth leaves to hardware that is not there:
// transmit and receive checksums, scatter-gather, TSO, GSO and GRO. Without this
// the emulator sees 64 KiB packets where a wire would carry 45, and loses, delays
// and counts them as one. Call it in the namespace of the interface, on the
// nodes' ends. An offload that the driver does not have is no error.
func DisableOffloads(name string) error {
	var errs []error
	for _, o := range []struct {
		cmd  uint32
		what string
	}{ // include/uapi/linux/ethtool.h
		{0x1f, "tso"}, {0x24, "gso"}, {0x2c, "gro"}, {0x17, "tx checksum"}, {0x15, "rx checksum"}, {0x19, "scatter-gather"},
	} {
		v := [2]uint32{o.cmd, 0} // struct ethtool_value
		err := withIfreq(name, func(fd int, _ *unix.Ifreq) error { return ethtool(fd, name, unsafe.Pointer(&v)) })
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			errs = append(errs, fmt.Errorf("switch off %s of %s: %w", o.what, name, err))
		}
	}
	return errors.Join(errs...)
}

// ethtool does SIOCETHTOOL with the given command structure.
func ethtool(fd int, name string, data unsafe.Pointer) error {
	var ifr struct { // struct ifreq with ifr_data
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	ifr.data = data
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return errno
	}
	return nil
}
