//go:build race

package disk

// The race detector makes loading many times slower.
func init() { loadWithin *= 5 }
