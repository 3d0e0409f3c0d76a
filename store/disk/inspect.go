package disk

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// Reasons why a file cannot be used.
var (
	errDamaged   = errors.New("the file is damaged")
	errNoHistory = errors.New("the file is not a history file")
	errLater     = errors.New("unknown version")
)

// inspect reads and checks the whole file. found is nil if the file has no history
// yet. lost means that the last transaction is lost. The error is errDamaged,
// errNoHistory or errLater, or one of reading.
func inspect(f *os.File, uptime uptime) (found *contents, lost bool, err error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, false, err
	}
	headers, err := readHeaders(f)
	if err != nil {
		return nil, false, err
	}
	current, err := headers.current()
	if err != nil {
		return nil, false, err
	}
	if current.tx <= 1 {
		return nil, false, nil // create had not finished its transaction
	}
	if info.Size() < current.end*headers.pageSize {
		return nil, false, fmt.Errorf("%w: it ends before its last page", errDamaged)
	}
	pages := newPages(f, headers.pageSize, current.end)
	buckets := make(map[string][]byte)
	err = pages.bucket(current.bucket, func(e leaf) error {
		if e.bucket {
			buckets[string(e.key)] = e.value
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	ours := 0
	for _, name := range [][]byte{bucketState, bucketEvents, bucketKeys} {
		if buckets[string(name)] != nil {
			ours++
		}
	}
	switch {
	case ours == 0:
		return nil, false, fmt.Errorf("%w: it has none of the buckets of a history", errNoHistory)
	case ours < 3 || len(buckets) > 3:
		return nil, false, fmt.Errorf("%w: buckets are missing, or there are unknown ones", errDamaged)
	}
	found, err = readBuckets(pages, buckets, uptime)
	return found, !headers.intact(), err
}

// readBuckets reads and checks the contents of the buckets.
func readBuckets(pages *pages, buckets map[string][]byte, uptime uptime) (*contents, error) {
	each := func(bucket []byte, visit func(key, value []byte) error) error {
		return pages.bucket(buckets[string(bucket)], func(e leaf) error {
			if e.bucket {
				return fmt.Errorf("%w: bucket %q has a bucket in it", errDamaged, bucket)
			}
			return visit(e.key, e.value)
		})
	}
	state := make(map[string][]byte)
	err := each(bucketState, func(key, value []byte) error {
		state[string(key)] = value
		return nil
	})
	if err != nil {
		return nil, err
	}
	switch f, ok := unseal(state[string(keyFormat)], nil); {
	case !ok || len(f) != 1 || f[0] == 0:
		return nil, fmt.Errorf("%w: its format version is missing", errDamaged)
	case f[0] > format:
		return nil, fmt.Errorf("%w %d of the history format (supported: %d)", errLater, f[0], format)
	}
	epoch, ok := unseal(state[string(keyEpoch)], nil)
	found := &contents{epoch: string(epoch)}
	if _, valid := hub.ParsePosition(found.epoch + "-1"); !ok || !valid {
		return nil, fmt.Errorf("%w: its epoch is missing or invalid", errDamaged)
	}
	if err := found.span.decode(state[string(keySpan)]); err != nil {
		return nil, err
	}
	stamp, err := decodeStamp(state[string(keyStamp)])
	if err != nil {
		return nil, err
	}
	now := time.Now()
	ageOf := stamp.ageFunc(now, found.span.next, uptime)
	remember := func(sum hub.KeySum, seq uint64, at time.Time) {
		if age := ageOf(seq, at); age < hub.KeyLifetime {
			found.keys.Add(sum, seq, now.Add(-age))
		}
	}
	err = each(bucketKeys, func(_, chunk []byte) error { return eachKey(chunk, remember) })
	if err != nil {
		return nil, err
	}
	next := found.span.oldest
	err = each(bucketEvents, func(key, value []byte) error {
		r, sum, err := decodeRecord(key, value)
		if err != nil || r.Seq != next {
			return errors.Join(err, fmt.Errorf("%w: record %d is missing or out of order", errDamaged, next))
		}
		remember(sum, next, r.At)
		next++
		return nil
	})
	if err == nil && next != found.span.next {
		err = fmt.Errorf("%w: record %d is missing", errDamaged, next)
	}
	return found, err
}
