//go:build !linux

package disk

import "time"

// sinceBoot implements uptime: it is not known.
func sinceBoot() (boot string, up time.Duration) { return "", 0 }
