//go:build race

package e2e

// The race detector of the server makes it many times slower.
func init() { firstStreamCPU *= 5 }
