//go:build !unix

package caddysse

import "context"

// outOfFiles is for systems that limit the files of a process.
func outOfFiles(context.Context) bool { return false }
