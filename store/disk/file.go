package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/ea766355/caddy-sse/hub"
)

const format = 1

var (
	bucketState  = []byte("state")
	bucketEvents = []byte("events")
	bucketKeys   = []byte("keys")

	keyFormat = []byte("format")
	keyEpoch  = []byte("epoch")
	keySpan   = []byte("span")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is what a file is that cannot be trusted.
var errDamaged = errors.New("the file is damaged")

// span says which events a file holds.
type span struct{ oldest, next uint64 }

// contents is what the store knows of a file, and keeps in memory.
type contents struct {
	epoch string
	span  span
	keys  hub.Keys
}

// lockTimeout is how long a file may be in use by a process that is about to end.
const lockTimeout = 3 * time.Second

// openFile opens the file, creates it if there is none and that is wanted, and
// reads it from end to end: bbolt trusts what it finds, and panics in a goroutine
// of its own where it should not have.
func openFile(path string, createIt bool, timeout time.Duration) (*bbolt.DB, *contents, error) {
	db, found, err := func() (*bbolt.DB, *contents, error) {
		if createIt {
			if err := create(path); err != nil {
				return nil, nil, err
			}
		}
		intact, err := headersIntact(path)
		if err != nil {
			return nil, nil, err
		}
		found, err := inspect(path, timeout)
		if err != nil {
			return nil, nil, err
		}
		var file *os.File
		opts := options(timeout)
		opts.OpenFile = capture(&file)
		db, err := bbolt.Open(path, 0o600, opts)
		if err != nil {
			return nil, nil, err
		}
		err = rewriteHeaders(file, db.Info().PageSize)
		if err == nil && !intact {
			// With its last header bbolt lost its last transaction, and would
			// use its positions again.
			found.epoch = hub.NewEpoch()
			err = db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket(bucketState).Put(keyEpoch, seal([]byte(found.epoch), nil))
			})
		}
		if err != nil {
			return nil, nil, errors.Join(err, db.Close())
		}
		return db, found, nil
	}()
	if err != nil {
		return nil, nil, wayOut(path, err)
	}
	return db, found, nil
}

func options(timeout time.Duration) *bbolt.Options {
	return &bbolt.Options{
		Timeout:        timeout,
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: true, // it follows from the rest of the file
		NoStatistics:   true,
	}
}

// capture opens files for bbolt, and keeps the last.
func capture(file **os.File) func(string, int, os.FileMode) (*os.File, error) {
	return func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
		*file, err = os.OpenFile(name, flag&^os.O_CREATE, mode)
		return *file, err
	}
}

// rewriteHeaders makes durable what bbolt's headers say. Whoever wrote the last
// one may not have synced it, or not have been able to: then the page cache holds
// what the disk does not, and another sync alone would not write it, because the
// kernel takes it for written. What a header refers to was synced before it was
// written.
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

// wayOut completes the error with the file's name and with what to do.
func wayOut(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s is in use: stop the other process, or the other hub, that has it open, or give this hub a path of its own", path)
	case errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, errLater):
		return fmt.Errorf("%s was written by a later version: update this one, or give the hub another path (%w)", path, err)
	case errors.Is(err, errDamaged):
		return fmt.Errorf("%s is damaged or no history: restore it from a backup, or move it away to begin with an empty history (%w)", path, err)
	}
	return fmt.Errorf("cannot use %s, which must be writable for the user that runs this process, and so must its directory: %w", path, err)
}

// create makes a file with an empty history, unless there is one. It gets its
// name when it is complete, so an empty file is never one that was just made.
func create(path string) (err error) {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temp.Name())) }()
	if err := temp.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(temp.Name(), 0o600, options(lockTimeout))
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketState, bucketEvents, bucketKeys} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		state := tx.Bucket(bucketState)
		return errors.Join(
			state.Put(keyFormat, []byte{format}),
			state.Put(keyEpoch, seal([]byte(hub.NewEpoch()), nil)),
			state.Put(keySpan, span{1, 1}.encode()),
		)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	// A link, since a rename would replace what another process made meanwhile.
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a file's name durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// headersIntact reports whether both of bbolt's headers are valid. It uses the one
// of the last transaction, and the other one when that was torn.
func headersIntact(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	var page [80]byte // 16 bytes of page header, 64 of meta, the last 8 its sum
	for i := range int64(2) {
		pageSize := int64(binary.NativeEndian.Uint32(page[24:]))
		if _, err := file.ReadAt(page[:], i*pageSize); errors.Is(err, io.EOF) {
			return false, fmt.Errorf("%w: it has no header", errDamaged)
		} else if err != nil {
			return false, err
		}
		sum := fnv.New64a()
		sum.Write(page[16:72])
		if sum.Sum64() != binary.NativeEndian.Uint64(page[72:]) {
			return false, nil
		}
	}
	return true, nil
}

var errLater = errors.New("unknown format")

// inspect reads the whole file, and trusts nothing.
func inspect(path string, timeout time.Duration) (*contents, error) {
	var file *os.File
	opts := options(timeout)
	opts.ReadOnly = true
	opts.OpenFile = capture(&file)
	db, err := bbolt.Open(path, 0o600, opts)
	var refused syscall.Errno
	switch {
	case err == nil:
		found, err := inspectOpen(db, file)
		return found, errors.Join(err, db.Close())
	case errors.As(err, &refused), errors.Is(err, bolterrors.ErrTimeout), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", errDamaged, err)
}

// inspectOpen is inspect with the file open. Pages that make no sense make bbolt
// panic, and such that are missing from the file, the processor.
func inspectOpen(db *bbolt.DB, file *os.File) (found *contents, err error) {
	defer func() {
		if failure := recover(); failure != nil {
			err = fmt.Errorf("%w: %v", errDamaged, failure)
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = db.View(func(tx *bbolt.Tx) error {
		if info, err := file.Stat(); err != nil || info.Size() < tx.Size() {
			return fmt.Errorf("%w: it was cut off", errors.Join(errDamaged, err))
		}
		pages := newPages(file, db.Info().PageSize, tx.Size())
		if err := pages.check(tx.Cursor().Bucket()); err != nil {
			return err
		}
		for _, name := range [][]byte{bucketState, bucketEvents, bucketKeys} {
			bucket := tx.Bucket(name)
			if bucket == nil {
				return fmt.Errorf("%w: it has not the buckets of a history", errDamaged)
			}
			if err := pages.check(bucket); err != nil {
				return err
			}
		}
		found, err = read(tx)
		return err
	})
	return found, err
}

func read(tx *bbolt.Tx) (*contents, error) {
	state, events, keys := tx.Bucket(bucketState), tx.Bucket(bucketEvents), tx.Bucket(bucketKeys)
	switch f := state.Get(keyFormat); {
	case len(f) != 1 || f[0] == 0:
		return nil, fmt.Errorf("%w: its format is not given", errDamaged)
	case f[0] > format:
		return nil, fmt.Errorf("%w %d, %d is known", errLater, f[0], format)
	}
	epoch, ok := unseal(state.Get(keyEpoch), nil)
	found := &contents{epoch: string(epoch)}
	if _, valid := hub.ParsePosition(found.epoch + "-1"); !ok || !valid {
		return nil, fmt.Errorf("%w: it has no epoch", errDamaged)
	}
	if err := found.span.decode(state.Get(keySpan)); err != nil {
		return nil, err
	}
	err := keys.ForEach(func(_, chunk []byte) error { return eachKey(chunk, found.keys.Add) })
	if err != nil {
		return nil, err
	}
	next := found.span.oldest
	remembered := time.Now().Add(-hub.KeyLifetime)
	err = events.ForEach(func(key, value []byte) error {
		r, sum, err := decodeRecord(key, value)
		if err != nil || r.Seq != next {
			return errors.Join(err, fmt.Errorf("%w: event %d is not in its place", errDamaged, next))
		}
		if r.At.After(remembered) {
			found.keys.Add(sum, next, r.At)
		}
		next++
		return nil
	})
	if err == nil && next != found.span.next {
		err = fmt.Errorf("%w: event %d is missing", errDamaged, next)
	}
	return found, err
}

// valueOverhead is what a value takes beside its data: the time of storing, the
// key's sum, and a checksum.
const valueOverhead = 8 + len(hub.KeySum{}) + crc32.Size

func encodeSeq(seq uint64) [8]byte {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], seq)
	return key
}

// decodeRecord reads a value. The record's Data is a part of it.
func decodeRecord(key, value []byte) (r hub.Record, sum hub.KeySum, err error) {
	value, ok := unseal(value, key)
	if !ok || len(key) != 8 || len(value) < 8+len(sum) {
		return r, sum, fmt.Errorf("%w: the checksum of record %x is wrong", errDamaged, key)
	}
	r.Seq = binary.BigEndian.Uint64(key)
	r.At = time.Unix(0, int64(binary.BigEndian.Uint64(value)))
	r.Data = value[8+copy(sum[:], value[8:]):]
	return r, sum, nil
}

func (s span) encode() []byte {
	buf := binary.BigEndian.AppendUint64(nil, s.oldest)
	return seal(binary.BigEndian.AppendUint64(buf, s.next), nil)
}

func (s *span) decode(buf []byte) error {
	buf, ok := unseal(buf, nil)
	if !ok || len(buf) != 16 {
		return fmt.Errorf("%w: it does not say which events it has", errDamaged)
	}
	s.oldest, s.next = binary.BigEndian.Uint64(buf), binary.BigEndian.Uint64(buf[8:])
	return nil
}

// seal appends the sum of what is in buf, and of what it is filed under.
func seal(buf, key []byte) []byte {
	return binary.BigEndian.AppendUint32(buf, checksum(buf, key))
}

func checksum(buf, key []byte) uint32 {
	return crc32.Update(crc32.Checksum(buf, castagnoli), castagnoli, key)
}

func unseal(buf, key []byte) ([]byte, bool) {
	n := len(buf) - crc32.Size
	if n < 0 {
		return nil, false
	}
	return buf[:n], checksum(buf[:n], key) == binary.BigEndian.Uint32(buf[n:])
}

// A chunk holds the keys of events that were dropped together, in order: the seq of
// each, when it was stored at the latest, and the key's sum.

const chunkEntry = 16 + len(hub.KeySum{})

func appendKey(chunk []byte, sum hub.KeySum, seq uint64, at time.Time) []byte {
	chunk = binary.BigEndian.AppendUint64(chunk, seq)
	chunk = binary.BigEndian.AppendUint64(chunk, uint64(at.UnixNano()))
	return append(chunk, sum[:]...)
}

// eachKey reads a chunk.
func eachKey(chunk []byte, add func(sum hub.KeySum, seq uint64, at time.Time)) error {
	chunk, ok := unseal(chunk, nil)
	if !ok || len(chunk)%chunkEntry != 0 {
		return fmt.Errorf("%w: the sum of its keys is wrong", errDamaged)
	}
	for entry := range slices.Chunk(chunk, chunkEntry) {
		seq, at := binary.BigEndian.Uint64(entry), binary.BigEndian.Uint64(entry[8:])
		add(hub.KeySum(entry[16:]), seq, time.Unix(0, int64(at)))
	}
	return nil
}

// over reports whether all keys of a chunk are. The last was stored last.
func over(chunk []byte, remembered time.Time) bool {
	last := len(chunk) - crc32.Size - chunkEntry
	return last >= 0 && !time.Unix(0, int64(binary.BigEndian.Uint64(chunk[last+8:]))).After(remembered)
}
