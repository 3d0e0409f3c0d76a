package disk

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"

	"github.com/ea766355/caddy-sse/hub"
)

// file is an open history file. It is locked as long as it is open.
type file struct {
	path   string
	os     *os.File  // bbolt closes it
	db     *bbolt.DB // nil when it was closed
	broken bool      // bbolt panicked, and may hold its own locks for ever
	contents

	// How the last transaction left the file.
	size    int64
	headers headers
}

// contents is what the store knows of a file, and keeps in memory.
type contents struct {
	epoch string
	span  span
	keys  hub.Keys
}

// span says which events a file holds.
type span struct{ oldest, next uint64 }

// errTouched means that another program did something to the file.
var errTouched = errors.New("the file was changed by another program")

// unwritten is an error from before anything was written.
type unwritten struct{ error }

func (e unwritten) Unwrap() error { return e.error }

// update runs a transaction.
func (f *file) update(change func(*bbolt.Tx) error) error {
	if err := f.untouched(); err != nil {
		return unwritten{err}
	}
	err := f.guard(func() error {
		tx, err := f.db.Begin(true)
		if err != nil {
			return unwritten{err}
		}
		if err := change(tx); err != nil {
			return unwritten{errors.Join(err, tx.Rollback())}
		}
		return tx.Commit()
	})
	switch {
	case errors.Is(err, errNoChange):
		return nil
	case err != nil:
		return err
	}
	return f.remember()
}

// errNoChange ends a transaction that changes nothing.
var errNoChange = errors.New("nothing to change")

// view runs a transaction that reads.
func (f *file) view(read func(*bbolt.Tx) error) error {
	if err := f.untouched(); err != nil {
		return err
	}
	return f.guard(func() error { return f.db.View(read) })
}

// guard makes errors of the panics of bbolt, and of the fault when it reads a part
// of its mapping that has no page, because the file was cut or the disk failed.
func (f *file) guard(use func() error) error {
	broken, err := guard(use)
	f.broken = f.broken || broken
	return err
}

// guard is the same for a file that is being opened. broken says that bbolt must not
// be used any more.
func guard(use func() error) (broken bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if failure := recover(); failure != nil {
			broken, err = true, fmt.Errorf("the file cannot be read: %v", failure)
		}
	}()
	return false, use()
}

// untouched checks that the file is as the last transaction left it, and still has
// its name.
func (f *file) untouched() error {
	ours, err := f.os.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(f.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: it was removed", errTouched)
	case err != nil:
		return err
	case !os.SameFile(ours, named):
		return fmt.Errorf("%w: it was replaced", errTouched)
	case ours.Size() < f.size:
		return fmt.Errorf("%w: it was cut from %d to %d bytes", errTouched, f.size, ours.Size())
	}
	found, err := headersAt(f.os, f.headers.pageSize)
	if err == nil && found != f.headers {
		err = fmt.Errorf("%w: it was written to", errTouched)
	}
	return err
}

// remember notes how a transaction left the file. It does not ask bbolt, which would
// look at its mapping.
func (f *file) remember() error {
	info, err := f.os.Stat()
	if err != nil {
		return err
	}
	found, err := headersAt(f.os, f.headers.pageSize)
	if err == nil {
		f.size, f.headers = info.Size(), found
	}
	return err
}

// renew begins a new life of the history: clients that have a position of the
// former one are told of a gap.
func (f *file) renew() error {
	epoch := hub.NewEpoch()
	err := f.update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketState).Put(keyEpoch, seal([]byte(epoch), nil))
	})
	if err == nil {
		f.epoch = epoch
	}
	return err
}

// close gives up the file and its lock, unless that was done.
func (f *file) close() error {
	db := f.db
	f.db = nil
	switch {
	case db == nil:
		return nil
	case f.broken: // the mapping stays
		return errors.Join(unlock(f.os), f.os.Close())
	}
	return db.Close()
}
