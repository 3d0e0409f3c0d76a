package disk

import (
	"encoding/binary"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ea766355/caddy-sse/hub"
)

// setClock changes the times in a closed file as if the clock had been ahead by
// that, or behind, when they were written.
func setClock(t *testing.T, path string, ahead time.Duration) {
	t.Helper()
	shift := func(at []byte) {
		binary.BigEndian.PutUint64(at, binary.BigEndian.Uint64(at)+uint64(ahead))
	}
	db, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
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
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// A key that was stored while the clock was ahead is not remembered for longer
// than any other, whether its event is still there or was dropped. Its event is
// not older than the history goes, and no younger than now.
func TestClockThatWasAhead(t *testing.T) {
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
					t.Errorf("the history begins with %d", h.oldest)
				}
				if at := h.records[0].At; at.After(time.Now()) {
					t.Errorf("a record is from %v, and now is %v", at, time.Now())
				}
				for key, first := range map[string]hub.Stored{"dropped": dropped, "kept": kept} {
					if again := appendOne(s, key); again.Position != first.Position || !again.Duplicate {
						t.Errorf("%s is answered with %v, want %v", key, again, first)
					}
				}
				time.Sleep(hub.KeyLifetime)
				for _, key := range []string{"dropped", "kept"} {
					if again := appendOne(s, key); again.Duplicate {
						t.Errorf("%s is still known after %v", key, hub.KeyLifetime)
					}
				}
				time.Sleep(hub.KeyLifetime)
				s.Retain(bounds, 1_000_000) // keys go when events go
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
						t.Error("keys whose time is over are still in the file")
					}
					return nil
				})
			})
		})
	}
}
