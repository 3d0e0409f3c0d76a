//go:build !linux

package hub

import (
	"net"
	"testing"
)

func withoutEpoll(*Hub) {}

func idleTCP() *net.TCPConn { return new(net.TCPConn) }

func watched(testing.TB, *Hub, int) {}
