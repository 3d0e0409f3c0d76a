//go:build unix

package e2e

import (
	"fmt"
	"syscall"
)

// nofile is the limit of open files that the tests need.
const nofile = 8192

// init raises the limit of open files, which the server inherits.
func init() {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(fmt.Sprintf("reading the limit of open files: %v", err))
	}
	limit.Cur = limit.Max
	if limit.Max < nofile {
		limit.Cur, limit.Max = nofile, nofile
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(fmt.Sprintf("the tests open up to %d files: raise the limit with `ulimit -n %d`: %v", nofile, nofile, err))
	}
}
