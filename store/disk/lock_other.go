//go:build !unix || solaris || aix

package disk

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

func lock(*os.File) (inUse bool, err error) {
	return false, fmt.Errorf("store disk does not work on %s (%w): use store nats or memory", runtime.GOOS, errors.ErrUnsupported)
}

func unlock(*os.File) error { return errors.ErrUnsupported }
