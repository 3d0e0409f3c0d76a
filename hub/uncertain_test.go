package hub

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A publish is uncertain if it was not stored, but an earlier publish with the same key was uncertain:
// the first event may still have been stored.
func TestRepeatOfAnUncertainPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t, Options{}), newScriptedStore()
		useStore(t, h, s)
		synctest.Wait()
		feed{h}.Begin("one", 1)
		feed{h}.Status(nil, 0)
		publish := func(result error, keys ...string) error {
			t.Helper()
			var events []Event
			for _, key := range keys {
				events = append(events, Event{Key: key, Targets: []Target{{}}})
			}
			published := make(chan error, 1)
			go func() {
				_, err := h.Publish(t.Context(), events...)
				published <- err
			}()
			s.results <- func() ([]Stored, error) { return nil, fmt.Errorf("%w: as scripted", result) }
			return <-published
		}
		check := func(err error, uncertain bool, keys ...string) {
			t.Helper()
			u, is := errors.AsType[*Uncertain](err)
			if is != uncertain || errors.Is(err, ErrNotStored) == uncertain || is && !slices.Equal(u.Keys, keys) {
				t.Errorf("error of Publish: got %v, want uncertain %t with the keys %q", err, uncertain, keys)
			}
		}
		check(publish(ErrNotStored, "k"), false)
		check(publish(ErrUncertain, "a", "k"), true, "a", "k")
		check(publish(ErrNotStored, "k"), true, "k")
		check(publish(ErrNotStored, "b", "a"), true, "b", "a")
		check(publish(ErrNotStored, "other"), false)
		check(publish(ErrNotStored, ""), false)
		time.Sleep(KeyLifetime - time.Second)
		check(publish(ErrUncertain, "late"), true, "late")
		check(publish(ErrNotStored, "k"), true, "k")
		time.Sleep(KeyLifetime - time.Second)
		check(publish(ErrNotStored, "late"), true, "late")
		time.Sleep(2 * KeyLifetime)
		check(publish(ErrNotStored, "late"), false)
		check(publish(ErrNotStored, "k"), false)
	})
}

// However many publishes are uncertain, their keys take bounded memory. A key that is not remembered
// for that reason counts as uncertain, for as long as it would have been remembered.
func TestUncertainKeysAreBounded(t *testing.T) {
	var u uncertainKeys
	now := time.Now()
	const batch = 1000
	for i := 0; i < maxUncertainKeys+batch; i += batch {
		entries := make([]Entry, batch)
		for j := range entries {
			entries[j].Key = fmt.Sprint(i + j)
		}
		u.add(entries, now)
	}
	if n := len(u.recent.keys) + len(u.older.keys); n > maxUncertainKeys {
		t.Errorf("remembered keys: got %d, want at most %d", n, maxUncertainKeys)
	}
	last := []Entry{{Key: fmt.Sprint(maxUncertainKeys + batch/2)}}
	for _, c := range []struct {
		after     time.Duration
		entries   []Entry
		uncertain bool
	}{
		{0, last, true},
		{0, []Entry{{}}, false}, // without a key
		{KeyLifetime - time.Second, last, true},
		{KeyLifetime + time.Second, last, true}, // a second generation begins here
		{2*KeyLifetime + time.Second, last, false},
	} {
		err := u.reclassify(c.entries, ErrNotStored, now.Add(c.after))
		if errors.Is(err, ErrUncertain) != c.uncertain {
			t.Errorf("after %v, key %q: got %v, want uncertain %v", c.after, c.entries[0].Key, err, c.uncertain)
		}
	}
}
