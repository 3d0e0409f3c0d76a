//go:build !linux

package netyield

import "runtime"

// waitForNetwork lets other goroutines run, and does not poll the network.
func waitForNetwork() { runtime.Gosched() }
