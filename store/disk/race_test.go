//go:build race

package disk

// The race detector makes it many times slower.
func init() { loadWithin *= 5 }
