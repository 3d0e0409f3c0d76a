package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ea766355/caddy-sse/hub"
)

// testUptime follows the fake clock of a synctest bubble.
func testUptime() (boot string, up time.Duration) {
	return "boot", time.Since(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC))
}

// setClock changes the times in a closed file, as if the clock had been ahead by that much when
// they were written (behind, if negative).
func setClock(t *testing.T, path string, ahead time.Duration) {
	t.Helper()
	shift := func(at []byte) {
		binary.BigEndian.PutUint64(at, binary.BigEndian.Uint64(at)+uint64(ahead))
	}
	change(t, path, func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketEvents).Cursor()
		for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
			value, _ = unseal(append([]byte(nil), value...), key)
			shift(value)
			if err := tx.Bucket(bucketEvents).Put(key, seal(value, key)); err != nil {
				return err
			}
		}
		cursor = tx.Bucket(bucketKeys).Cursor()
		for key, chunk := cursor.First(); key != nil; key, chunk = cursor.Next() {
			chunk, _ = unseal(append([]byte(nil), chunk...), nil)
			for at := 0; at < len(chunk); at += chunkEntry {
				shift(chunk[at+8:])
			}
			if err := tx.Bucket(bucketKeys).Put(key, seal(chunk, nil)); err != nil {
				return err
			}
		}
		stamped := tx.Bucket(bucketState).Get(keyStamp)
		if stamped == nil {
			return nil
		}
		made, err := decodeStamp(stamped)
		made.wall = made.wall.Add(ahead)
		return errors.Join(err, tx.Bucket(bucketState).Put(keyStamp, made.encode()))
	})
}

// change changes a closed file.
func change(t *testing.T, path string, do func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(do), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A key that was stored while the clock was ahead is remembered for as long as any other key, even
// after its event was dropped. Its event stays in the history, and its time is not in the future.
func TestClockWasAhead(t *testing.T) {
	for _, ahead := range []time.Duration{time.Second, time.Hour, 100 * 365 * 24 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "history.db")
				bounds := hub.Options{MaxEvents: 1_000_000, MaxAge: 24 * time.Hour}
				appendOne := func(s *Store, key string) hub.Stored {
					t.Helper()
					stored, err := s.Append(t.Context(), []hub.Entry{{Key: key, Data: []byte(key)}})
					if err != nil {
						t.Fatal(err)
					}
					return stored[0]
				}
				s := mustOpen(t, path)
				s.Retain(bounds, 0)
				_, stop := tail(s)
				dropped := appendOne(s, "dropped")
				if _, err := s.Append(t.Context(), entries("fill", minDrop, 0)); err != nil {
					t.Fatal(err)
				}
				s.Retain(bounds, minDrop+2)
				kept := appendOne(s, "kept")
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				setClock(t, path, ahead)

				s = mustOpen(t, path)
				s.Retain(bounds, 0)
				h, stop := tail(s)
				if h.oldest != minDrop+2 {
					t.Errorf("oldest record: got %d, want %d", h.oldest, minDrop+2)
				}
				if at := h.records[0].At; at.After(time.Now()) {
					t.Errorf("time of a record: got %v, want no later than now, %v", at, time.Now())
				}
				for key, first := range map[string]hub.Stored{"dropped": dropped, "kept": kept} {
					if again := appendOne(s, key); again.Position != first.Position || !again.Duplicate {
						t.Errorf("key %s: got %v, want a duplicate at %v", key, again, first.Position)
					}
				}
				time.Sleep(hub.KeyLifetime)
				for _, key := range []string{"dropped", "kept"} {
					if again := appendOne(s, key); again.Duplicate {
						t.Errorf("key %s after %v: got a duplicate, want it stored", key, hub.KeyLifetime)
					}
				}
				time.Sleep(hub.KeyLifetime)
				s.Retain(bounds, 1_000_000) // keys are removed when events are dropped
				time.Sleep(2 * idleAfter)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				db, err := bbolt.Open(path, 0o600, options())
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				_ = db.View(func(tx *bbolt.Tx) error {
					if key, _ := tx.Bucket(bucketKeys).Cursor().First(); key != nil {
						t.Error("expired keys in the file: got some, want none")
					}
					return nil
				})
			})
		})
	}
}

// A key is remembered for hub.KeyLifetime, even if the clock is set between two
// processes or between two events. After a boot, and for a file of an earlier version,
// only the clock can tell the age of a key.
func TestKeysAfterTheClockWasSet(t *testing.T) {
	for name, test := range map[string]struct {
		ahead     time.Duration // of the clock of the first process
		boot      string        // of the second process
		unstamped bool
		pause     time.Duration // between the processes
		known     bool
	}{
		"set forward":                     {ahead: -time.Hour, boot: "boot", pause: time.Minute, known: true},
		"set back":                        {ahead: time.Hour, boot: "boot", pause: time.Minute, known: true},
		"not set":                         {boot: "boot", pause: time.Minute, known: true},
		"set forward, too late":           {ahead: -time.Hour, boot: "boot", pause: 2 * time.Minute},
		"set back, too late":              {ahead: time.Hour, boot: "boot", pause: 2 * time.Minute},
		"not set, too late":               {boot: "boot", pause: 2 * time.Minute},
		"another boot":                    {boot: "another", pause: time.Minute, known: true},
		"another boot, too late":          {boot: "another", pause: 2 * time.Minute},
		"another boot, set forward":       {ahead: -time.Hour, boot: "another", pause: time.Minute},
		"no boot, set back":               {ahead: time.Hour, pause: 2 * time.Minute, known: true},
		"an earlier version":              {boot: "boot", unstamped: true, pause: time.Minute, known: true},
		"an earlier version, set forward": {ahead: -time.Hour, boot: "boot", unstamped: true, pause: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "history.db")
				s := mustOpen(t, path)
				_, stop := tail(s)
				publish := func(key string) hub.Stored {
					t.Helper()
					stored, err := s.Append(t.Context(), []hub.Entry{{Key: key, Data: []byte(key)}})
					if err != nil {
						t.Fatal(err)
					}
					return stored[0]
				}
				first := publish("key")
				publish("another")
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				setClock(t, path, test.ahead)
				if test.unstamped {
					change(t, path, func(tx *bbolt.Tx) error { return tx.Bucket(bucketState).Delete(keyStamp) })
				}
				time.Sleep(test.pause)
				cfg := quick(lockTimeout, retryAfter)
				cfg.uptime = func() (string, time.Duration) {
					_, up := testUptime()
					return test.boot, up
				}
				var err error
				if s, err = open(path, cfg); err != nil {
					t.Fatal(err)
				}
				_, stop = tail(s)
				if again := publish("key"); again.Duplicate != test.known || again.Duplicate && again.Position != first.Position {
					t.Errorf("the key: got %+v, want %v, duplicate: %t", again, first, test.known)
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A key from the time when the clock was set is remembered for hub.KeyLifetime, not forever.
func TestClockSetBetweenTwoEvents(t *testing.T) {
	for _, set := range []time.Duration{time.Hour, -time.Hour, 0} {
		now := time.Now()
		s := stamp{next: 10, since: 5, wall: now, up: time.Hour, boot: "boot"}
		for pause, want := range map[time.Duration]bool{0: true, hub.KeyLifetime - time.Second: true, hub.KeyLifetime: false} {
			ages := s.ageFunc(now.Add(24*time.Hour), 10, func() (string, time.Duration) { return "boot", time.Hour + pause })
			if age := ages(7, now.Add(-set)); age < hub.KeyLifetime != want {
				t.Errorf("age of a key %v after the clock was set by %v: got %v, want less than %v: %t", pause, set, age, hub.KeyLifetime, want)
			}
			if age := ages(4, now.Add(-set)); age < hub.KeyLifetime {
				t.Errorf("age of a forgotten key: got %v, want at least %v", age, hub.KeyLifetime)
			}
		}
	}
}

// The newest quarantined file is the last in order and is kept, even if the clock was set back
// after the earlier files were quarantined.
func TestQuarantineAfterTheClockWasSetBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	for i := range maxQuarantined {
		name := fmt.Sprintf("%s.damaged-2999010%dT000000.000000Z", path, i+1)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxQuarantined + 1 {
		damaged := fmt.Append(make([]byte, 10_000), i)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, path)
		names := quarantined(path)
		if len(names) != maxQuarantined {
			t.Fatalf("quarantined files: got %q, want %d", names, maxQuarantined)
		}
		last := names[maxQuarantined-1]
		if got, err := os.ReadFile(last); err != nil || !bytes.Equal(got, damaged) {
			t.Errorf("%s: got another content or %v, want the last damaged file", last, err)
		}
		if !strings.Contains(s.Note(), last) {
			t.Errorf("note: got %q, want one with %s", s.Note(), last)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
