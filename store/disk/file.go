package disk

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"

	"github.com/ea766355/caddy-sse/hub"
)

// file is an open and locked history file.
type file struct {
	path   string
	os     *os.File  // bbolt closes it
	db     *bbolt.DB // nil after close
	broken bool      // bbolt panicked and may hold its own locks for ever
	contents

	// State of the file after the last transaction.
	size    int64
	headers headers
}

// contents is the part of a file that the store keeps in memory.
type contents struct {
	epoch string
	span  span
	keys  hub.Keys
}

// span is the seqs of the events in a file: from oldest up to, but not including, next.
type span struct{ oldest, next uint64 }

// errChanged means that another program changed the file.
var errChanged = errors.New("the file was changed by another program")

// unwritten wraps an error after which it is certain that nothing was written.
type unwritten struct{ error }

func (e unwritten) Unwrap() error { return e.error }

// update runs a transaction that writes. It returns an unwritten error if nothing was
// written. After any other error the transaction may be in the file or not.
func (f *file) update(change func(*bbolt.Tx) error) error {
	if err := f.checkUnchanged(); err != nil {
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
	before := f.headers
	if err := f.noteState(); err != nil {
		return err
	}
	if !f.headers.follows(&before) { // while the transaction ran: checkUnchanged would not see it
		return fmt.Errorf("%w: its header was rewritten", errChanged)
	}
	return nil
}

// errNoChange makes update roll back and return nil.
var errNoChange = errors.New("nothing to change")

// view runs a transaction that reads.
func (f *file) view(read func(*bbolt.Tx) error) error {
	if err := f.checkUnchanged(); err != nil {
		return err
	}
	return f.guard(func() error { return f.db.View(read) })
}

// guard runs use with recoverFaults, and remembers whether bbolt is broken.
func (f *file) guard(use func() error) error {
	broken, err := recoverFaults(use)
	f.broken = f.broken || broken
	return err
}

// recoverFaults runs use and turns its panics into errors: those of bbolt, and the
// memory fault of reading a mapped page that is gone because the file was cut or the
// disk failed. If broken, bbolt must not be used any more.
func recoverFaults(use func() error) (broken bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if failure := recover(); failure != nil {
			broken, err = true, fmt.Errorf("cannot read the file: %v", failure)
		}
	}()
	return false, use()
}

// checkUnchanged returns errChanged unless the file is as the last transaction left it
// and still has its name.
func (f *file) checkUnchanged() error {
	ours, err := f.os.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(f.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: it was removed", errChanged)
	case err != nil:
		return err
	case !os.SameFile(ours, named):
		return fmt.Errorf("%w: it was replaced", errChanged)
	case ours.Size() < f.size:
		return fmt.Errorf("%w: it was cut from %d to %d bytes", errChanged, f.size, ours.Size())
	}
	found, err := headersAt(f.os, f.headers.pageSize)
	if err == nil && found != f.headers {
		err = fmt.Errorf("%w: its header was rewritten", errChanged)
	}
	return err
}

// noteState records how a transaction left the file, for checkUnchanged. It reads the
// file itself, since bbolt would read its mapping, which may be gone.
func (f *file) noteState() error {
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

// startEpoch gives the history a new epoch. Clients with a position of the epoch before
// are told of a gap.
func (f *file) startEpoch() error {
	epoch := hub.NewEpoch()
	err := f.update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketState).Put(keyEpoch, seal([]byte(epoch), nil))
	})
	if err == nil {
		f.epoch = epoch
	}
	return err
}

// close closes the file and releases its lock. It can be called twice.
func (f *file) close() error {
	db := f.db
	f.db = nil
	switch {
	case db == nil:
		return nil
	case f.broken: // bbolt could block, so its mapping stays
		return errors.Join(unlock(f.os), f.os.Close())
	}
	return db.Close()
}
