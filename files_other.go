//go:build !unix

package caddysse

import "context"

// outOfFiles is false on systems without a limit on the files of a process.
func outOfFiles(context.Context) bool { return false }
