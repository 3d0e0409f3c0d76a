package hub

import (
	"fmt"
	"sync"
	"time"
)

// doubts remembers the keys of events that may or may not have been stored. If a publisher
// sends such an event again, and the store does not store it, the first one may still have
// been stored: the answer must not be [ErrNotStored]. The zero value is empty. Any goroutine
// may call its methods.
//
// A key is remembered for [KeyLifetime] at least, and twice that at most. So old keys are
// dropped without a list of them.
type doubts struct {
	mu            sync.Mutex
	began         time.Time // when recent was begun
	recent, older map[KeySum]struct{}
}

// add remembers the keys of the entries.
func (d *doubts) add(entries []Entry, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire(now)
	if d.recent == nil {
		d.recent = make(map[KeySum]struct{})
	}
	for _, e := range entries {
		d.recent[SumKey(e.Key)] = struct{}{}
	}
}

// concern reports whether the key of one of the entries is remembered.
func (d *doubts) concern(entries []Entry, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.expire(now); len(d.recent)+len(d.older) == 0 {
		return false
	}
	for _, e := range entries {
		sum := SumKey(e.Key)
		_, recent := d.recent[sum]
		_, older := d.older[sum]
		if e.Key != "" && (recent || older) {
			return true
		}
	}
	return false
}

// expire drops old keys. The caller holds d.mu.
func (d *doubts) expire(now time.Time) {
	age := now.Sub(d.began)
	if age < KeyLifetime {
		return
	}
	d.began, d.older, d.recent = now, d.recent, nil
	if age >= 2*KeyLifetime {
		d.older = nil
	}
}

// judge returns the error of a publish that was not stored: err, or one that wraps
// [ErrUncertain] if an earlier publish of the same keys is in doubt.
func (d *doubts) judge(entries []Entry, err error, now time.Time) error {
	if d.concern(entries, now) {
		return fmt.Errorf("%w: an earlier publish of the same key had no answer, and this one was refused: %v", ErrUncertain, err)
	}
	return err
}
