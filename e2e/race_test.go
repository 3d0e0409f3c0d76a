//go:build race

package e2e

// The server has the race detector too, which makes it many times slower.
func init() { firstStreamWithin *= 5 }
