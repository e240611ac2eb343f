// Package witness watches, while probes run, what really passes this host's
// interfaces: whether our SYN left, whether an answer came back that a local
// rule then dropped, whether it came back by another interface. Beside that it
// notes who announces which address on the links, so that duplicate addresses
// and moving ones are noticed without asking.
//
// It is one packet socket with a filter in the kernel (ICMP, ARP, neighbour
// discovery, TCP with SYN or RST, UDP port 53), reads headers only, keeps
// bounded memory and stores no payload. It needs CAP_NET_RAW.
package witness
