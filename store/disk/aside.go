package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// maxAside is how many damaged files are kept beside a history.
const maxAside = 3

// setAside gives a damaged file another name, and returns errAside when it has. Of
// the files that were set aside before it removes the oldest, so that a disk that
// damages every file does not fill up.
func setAside(path string, damage error, log *zap.Logger) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	name := path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000Z")
	if names := asides(path); len(names) > 0 {
		if last := names[len(names)-1]; name <= last { // the clock was set back since
			name = last + "+"
		}
	}
	if err := os.Rename(path, name); err != nil {
		return err
	}
	log.Error("the history is damaged: the file is set aside and an empty history begins; clients are told of the gap",
		zap.String("set_aside", name), zap.NamedError("damage", damage))
	for names := asides(path); len(names) > maxAside; names = names[1:] {
		log.Warn("removing the oldest of the damaged histories", zap.String("set_aside", names[0]), zap.Error(os.Remove(names[0])))
	}
	return errors.Join(errAside, syncDir(filepath.Dir(path)))
}

// asides lists the files that were set aside, the oldest first.
func asides(path string) (names []string) {
	entries, _ := os.ReadDir(filepath.Dir(path)) // sorted
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+".damaged-") {
			names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return names
}

// makeDir makes a directory that is still there after a power cut.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // a file system without that, as those of other systems
	}
	return errors.Join(err, d.Close())
}
