package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ea766355/caddy-sse/hub"
)

const (
	lockTimeout = 3 * time.Second // a process that is about to end may have the file
	lockRetry   = 20 * time.Millisecond
)

var errInUse = errors.New("the file is in use")

// openFile opens the history file, and creates it if there is none. It reads the
// file from end to end under the lock under which the file is then used: bbolt
// trusts what it finds. A damaged file is set aside, and another one created.
func openFile(path string, with settings) (*file, error) {
	f, err := tryFile(path, with)
	if errors.Is(err, errAside) {
		f, err = tryFile(path, with)
	}
	if err != nil {
		return nil, wayOut(path, err)
	}
	return f, nil
}

// errAside means that the file was damaged, and is out of the way.
var errAside = errors.New("the file was set aside")

func tryFile(path string, with settings) (*file, error) {
	log := with.log()
	locked, err := lockFile(path, with.lockTimeout)
	if err != nil {
		return nil, err
	}
	found, lost, err := inspect(locked, with.uptime)
	if errors.Is(err, errDamaged) {
		// Under the lock, so that nobody else sets aside what takes its place.
		err = errors.Join(setAside(path, err, log), err)
	}
	if err != nil {
		return nil, errors.Join(err, locked.Close())
	}
	f, err := use(locked, path, found)
	if err == nil && lost {
		// Its positions would be used again.
		log.Error("the last transaction of the history is damaged: a new epoch begins, and clients are told of the gap")
		if err = f.renew(); err != nil {
			err = errors.Join(err, f.close())
		}
	}
	return f, err
}

// wayOut completes the error with the file's name and with what to do.
func wayOut(path string, err error) error {
	switch {
	case errors.Is(err, errInUse):
		return fmt.Errorf("%s is in use: stop the other process, or the other hub, that has it open, or give this hub a path of its own", path)
	case errors.Is(err, errLater):
		return fmt.Errorf("%s was written by a later version: update this one, or give the hub another path (%w)", path, err)
	case errors.Is(err, errNoHistory):
		return fmt.Errorf("%s is not a history: give the hub another path, or move the file away (%w)", path, err)
	case errors.Is(err, errAside):
		return fmt.Errorf("%s is damaged as soon as it is written: check the disk (%w)", path, err)
	case errors.Is(err, errDamaged):
		return fmt.Errorf("%s is damaged, and cannot be set aside: move it away (%w)", path, err)
	}
	return fmt.Errorf("cannot use %s, which must be writable for the user that runs this process, and so must its directory: %w", path, err)
}

// lockFile opens and locks the file that has this name, and creates it if there
// is none.
func lockFile(path string, timeout time.Duration) (*os.File, error) {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for began := time.Now(); ; time.Sleep(lockRetry) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		inUse, err := lock(f)
		if err == nil && !inUse {
			// It may have been set aside between opening and locking.
			var named bool
			if named, err = hasName(f, path); named {
				if err = syncDir(filepath.Dir(path)); err == nil {
					return f, nil
				}
			}
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if time.Since(began) > timeout-lockRetry {
			return nil, errInUse
		}
	}
}

// hasName reports whether the path still is that of the open file.
func hasName(f *os.File, path string) (bool, error) {
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, named), err
}

// use makes a history file of one that is locked and holds what was found.
func use(locked *os.File, path string, found *contents) (f *file, err error) {
	if found == nil {
		if err := locked.Truncate(0); err != nil { // an end in the middle of create leaves something
			return nil, errors.Join(err, locked.Close())
		}
	}
	opts := options()
	opts.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return locked, nil }
	var db *bbolt.DB
	broken, err := guard(func() error {
		if db, err = bbolt.Open(path, 0o600, opts); err != nil {
			return err // bbolt has closed it
		}
		pageSize := db.Info().PageSize
		if found == nil {
			found, err = create(db)
		} else {
			err = rewriteHeaders(locked, pageSize)
		}
		if err != nil {
			return err
		}
		f = &file{path: path, os: locked, db: db, contents: *found}
		f.headers.pageSize = int64(pageSize)
		return f.remember()
	})
	switch {
	case broken:
		return nil, errors.Join(err, unlock(locked), locked.Close())
	case err != nil && db != nil:
		return nil, errors.Join(err, db.Close())
	case err != nil:
		return nil, err
	}
	return f, nil
}

func options() *bbolt.Options {
	return &bbolt.Options{
		Timeout:        lockTimeout,
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: true, // it follows from the rest of the file
		NoStatistics:   true,
	}
}

// create makes an empty history.
func create(db *bbolt.DB) (*contents, error) {
	made := &contents{epoch: hub.NewEpoch(), span: span{1, 1}}
	return made, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketState, bucketEvents, bucketKeys} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		state := tx.Bucket(bucketState)
		return errors.Join(
			state.Put(keyFormat, seal([]byte{format}, nil)),
			state.Put(keyEpoch, seal([]byte(made.epoch), nil)),
			state.Put(keySpan, made.span.encode()),
		)
	})
}

// rewriteHeaders makes durable what bbolt's headers say. The process that wrote the
// last one may not have synced it, or not have been able to: then the page cache
// holds what the disk does not, and another sync alone would not write it, because
// the kernel takes it for written. What a header refers to was synced before it
// was written.
func rewriteHeaders(file *os.File, pageSize int) error {
	headers := make([]byte, 2*pageSize)
	if _, err := file.ReadAt(headers, 0); err != nil {
		return err
	}
	if _, err := file.WriteAt(headers, 0); err != nil {
		return err
	}
	return file.Sync()
}
