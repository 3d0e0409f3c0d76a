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

// maxQuarantined is the number of damaged files that are kept beside a history.
const maxQuarantined = 3

// quarantine renames a damaged file to <path>.damaged-<time> and returns
// errQuarantined. It removes the oldest quarantined files beyond maxQuarantined, so
// that a disk that damages every file does not fill up.
func quarantine(path string, damage error, log *zap.Logger) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	name := path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000Z")
	if names := quarantined(path); len(names) > 0 {
		if last := names[len(names)-1]; name <= last { // the clock was set back
			name = last + "+"
		}
	}
	if err := os.Rename(path, name); err != nil {
		return err
	}
	log.Error("the history file is damaged: renamed it and started an empty history; clients are told of the gap",
		zap.String("set_aside", name), zap.NamedError("damage", damage))
	for names := quarantined(path); len(names) > maxQuarantined; names = names[1:] {
		log.Warn("removed the oldest damaged history file", zap.String("set_aside", names[0]), zap.Error(os.Remove(names[0])))
	}
	return errors.Join(errQuarantined, syncDir(filepath.Dir(path)))
}

// quarantined lists the quarantined files of a history, oldest first. If path is a symbolic
// link, they are beside the file that it names.
func quarantined(path string) (names []string) {
	if named, err := filepath.EvalSymlinks(path); err == nil {
		path = named
	}
	entries, _ := os.ReadDir(filepath.Dir(path)) // sorted by name, so by time
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+".damaged-") {
			names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return names
}

// makeDir creates a directory and its parents. It syncs each parent, so that the
// directories survive a power cut.
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

// syncName syncs the directory of a file. If path is a symbolic link, that is not the
// directory of the link.
func syncName(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir syncs a directory, so that the names in it survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // this file system or operating system cannot sync directories
	}
	return errors.Join(err, d.Close())
}
