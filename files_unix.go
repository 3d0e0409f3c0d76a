//go:build unix

package caddysse

import (
	"context"
	"crypto/tls"
	"net"
	"reflect"
	"syscall"

	"golang.org/x/sys/unix"
)

// spareFiles is how many file descriptors streams leave free for others at least, such as
// requests that publish.
const spareFiles = 64

// outOfFiles reports whether the connection of a request has one of the last file
// descriptors of the process. A new file gets the lowest free number [POSIX open], so all
// lower numbers were in use when the client connected, and a stream would hold one of the
// last numbers for hours. An old connection of HTTP/2 may have a high number although many
// are free now. It must be closed, too, so that its client reconnects with a lower one.
func outOfFiles(ctx context.Context) bool {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	fd, known := fileOf(c)
	var limit unix.Rlimit
	if !known || unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return false
	}
	return isLastFile(fd, uint64(limit.Cur))
}

// isLastFile reports whether fewer descriptors are left above fd than streams must leave
// free.
func isLastFile(fd, limit uint64) bool {
	return fd+max(spareFiles, limit/20) >= limit
}

// fileOf returns the number of the file descriptor below c, if it is known. With HTTP/3 it
// is not known: all connections share one socket.
func fileOf(c net.Conn) (fd uint64, known bool) {
	for c != nil {
		switch outer := c.(type) {
		case syscall.Conn:
			raw, err := outer.SyscallConn()
			if err != nil {
				return 0, false
			}
			err = raw.Control(func(n uintptr) { fd = uint64(n) })
			return fd, err == nil
		case *tls.Conn:
			c = outer.NetConn()
		case interface{ Raw() net.Conn }: // of a PROXY header
			c = outer.Raw()
		default: // Caddy's own types have no method to unwrap them
			v := reflect.Indirect(reflect.ValueOf(c))
			if v.Kind() != reflect.Struct || !v.FieldByName("Conn").IsValid() {
				return 0, false
			}
			c, _ = v.FieldByName("Conn").Interface().(net.Conn)
		}
	}
	return 0, false
}
