//go:build !linux

package disk

import "time"

// sinceBoot implements uptime for systems that are not supported.
func sinceBoot() (boot string, up time.Duration) { return "", 0 }
