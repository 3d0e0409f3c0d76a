package hub

import (
	"fmt"
	"sync"
	"time"
)

// uncertainKeys remembers the keys of events that may or may not have been stored. If such
// an event is published again and is not stored then, the first one may still have been
// stored: the answer must not be [ErrNotStored]. The zero value is empty. Any goroutine may
// call add and reclassify.
//
// It remembers a key for [KeyLifetime] at least, and for twice that at most. So it drops old
// keys without a list of them. When there are too many keys, it takes each key for
// uncertain.
type uncertainKeys struct {
	mu            sync.Mutex
	began         time.Time // when recent was begun
	recent, older uncertainGeneration
}

// uncertainGeneration has the keys of one [KeyLifetime].
type uncertainGeneration struct {
	keys map[KeySum]struct{}
	full bool // it lacks keys, because there were more than maxUncertainKeys
}

// maxUncertainKeys is how many keys a generation has at most. They take about 8 MB.
const maxUncertainKeys = 1 << 18

// add remembers the keys of the entries.
func (u *uncertainKeys) add(entries []Entry, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dropOld(now)
	if u.recent.keys == nil {
		u.recent.keys = make(map[KeySum]struct{})
	}
	for _, e := range entries {
		if len(u.recent.keys) >= maxUncertainKeys {
			u.recent.full = true
			return
		}
		u.recent.keys[SumKey(e.Key)] = struct{}{}
	}
}

// reclassify returns the error of a publish that was not stored: err, or one that wraps
// [ErrUncertain] in its place if it is not known whether an earlier publish with one of the
// keys was stored.
func (u *uncertainKeys) reclassify(entries []Entry, err error, now time.Time) error {
	if u.hasAny(entries, now) {
		// err is not wrapped: it may be ErrNotStored.
		return fmt.Errorf("%w: an earlier publish with the same key had no answer, and this one was refused: %v", ErrUncertain, err)
	}
	return err
}

// hasAny reports whether the key of one of the entries is remembered. Only reclassify calls
// it.
func (u *uncertainKeys) hasAny(entries []Entry, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dropOld(now)
	isFull := u.recent.full || u.older.full
	if !isFull && len(u.recent.keys)+len(u.older.keys) == 0 {
		return false
	}
	for _, e := range entries {
		sum := SumKey(e.Key)
		_, recent := u.recent.keys[sum]
		_, older := u.older.keys[sum]
		if e.Key != "" && (isFull || recent || older) {
			return true
		}
	}
	return false
}

// dropOld drops the keys that need not be remembered any more. The caller holds u.mu.
func (u *uncertainKeys) dropOld(now time.Time) {
	age := now.Sub(u.began)
	if age < KeyLifetime {
		return
	}
	u.began, u.older, u.recent = now, u.recent, uncertainGeneration{}
	if age >= 2*KeyLifetime {
		u.older = uncertainGeneration{}
	}
}
