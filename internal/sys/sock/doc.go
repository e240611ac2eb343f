// Package sock opens the sockets that probes need and reads from them what the
// ordinary net package does not give: kernel time stamps of sending and
// receiving, ICMP errors from the socket's error queue, TTLs.
//
// A [Conn] is non-blocking and waits in the Go netpoller, so that deadlines and
// cancellation work and no thread is held. It is made for one goroutine that
// sends and receives; only SetReadDeadline and Close may be called by others.
package sock
