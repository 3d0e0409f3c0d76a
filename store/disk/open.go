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
	lockTimeout = 3 * time.Second // the process before may still be shutting down
	lockRetry   = 20 * time.Millisecond
)

var errInUse = errors.New("in use by another process or hub")

// openFile opens the history file, or creates it. It checks the whole file and
// keeps the lock from then on. A damaged file is quarantined, and an empty one
// created.
func openFile(path string, cfg settings) (*file, error) {
	f, err := tryOpen(path, cfg)
	if errors.Is(err, errQuarantined) {
		f, err = tryOpen(path, cfg)
	}
	if err != nil {
		return nil, explain(path, err)
	}
	return f, nil
}

// errQuarantined means that the file was damaged and now has another name.
var errQuarantined = errors.New("the damaged file was renamed")

// tryOpen opens the file once. After errQuarantined it can be called again.
func tryOpen(path string, cfg settings) (*file, error) {
	log := cfg.log()
	locked, err := lockFile(path, cfg.lockTimeout)
	if err != nil {
		return nil, err
	}
	found, lost, err := inspect(locked, cfg.uptime)
	if errors.Is(err, errDamaged) {
		// Rename it under the lock, so that no other process renames its successor.
		err = errors.Join(quarantine(path, err, log), err)
	}
	if err != nil {
		return nil, errors.Join(err, locked.Close())
	}
	f, err := openDB(locked, path, found)
	if err == nil && lost {
		// Clients may know positions of the lost transaction. In the old epoch these
		// positions would be given to other events.
		log.Error("the last transaction of the history file is damaged: started a new epoch; clients are told of the gap")
		if err = f.startEpoch(); err != nil {
			err = errors.Join(err, f.close())
		}
	}
	return f, err
}

// explain adds the file's name and the remedy to an error of opening.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, errInUse):
		return fmt.Errorf("%s is %w: stop that one, or give this hub a path of its own", path, errInUse)
	case errors.Is(err, errLater):
		return fmt.Errorf("%s was written by a later version: update this program, or give the hub another path (%w)", path, err)
	case errors.Is(err, errNoHistory):
		return fmt.Errorf("%s is not a history file: give the hub another path, or move the file away (%w)", path, err)
	case errors.Is(err, errQuarantined):
		return fmt.Errorf("%s was damaged again right after it was created: check the disk (%w)", path, err)
	case errors.Is(err, errDamaged):
		return fmt.Errorf("%s is damaged and cannot be renamed: move it away (%w)", path, err)
	}
	return fmt.Errorf("cannot use %s (the user of this process must be able to write to the file and its directory): %w", path, err)
}

// lockFile opens and locks the file at path, or creates it. The locked file is the
// one that has this name, not one that was renamed meanwhile.
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
			// Another process may have renamed it between opening and locking.
			var named bool
			if named, err = hasName(f, path); named {
				if err = syncName(path); err == nil {
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

// hasName reports whether path names the open file.
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

// openDB opens a locked file with bbolt. found is what the file contains; nil means
// no history yet, and an empty one is created. After an error the file is closed.
func openDB(locked *os.File, path string, found *contents) (f *file, err error) {
	if found == nil {
		if err := locked.Truncate(0); err != nil { // a process may have died during create
			return nil, errors.Join(err, locked.Close())
		}
	}
	opts := options()
	opts.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return locked, nil }
	var db *bbolt.DB
	broken, err := recoverFaults(func() error {
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
		return f.noteState()
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
		NoFreelistSync: true, // bbolt finds the free pages when it opens the file
		NoStatistics:   true,
	}
}

// create writes an empty history.
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

// rewriteHeaders writes and syncs bbolt's headers again. The process before may
// have failed to sync the last header. Then the page cache has it and the disk does
// not. Another sync alone would not help: the kernel considers the page clean. Only
// the headers need this, since bbolt syncs all other pages before it writes a header.
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
