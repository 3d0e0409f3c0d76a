package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ea766355/caddy-sse/hub"
)

// damage creates a damaged history file.
func damage(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, 20_000), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.Create(to) // like cp: an existing file keeps its inode
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(target, source); err != nil {
		t.Fatal(err)
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
}

// Another program changes the file while it is in use. Events that are answered after that are in
// the file, and the history has a new epoch.
func TestChangedFileGetsANewEpoch(t *testing.T) {
	for name, touch := range map[string]func(t *testing.T, path, older string) error{
		"emptied":   func(_ *testing.T, path, _ string) error { return os.Truncate(path, 0) },
		"truncated": func(_ *testing.T, path, _ string) error { return os.Truncate(path, 20_000) },
		"truncated and filled up": func(_ *testing.T, path, _ string) error {
			info, err := os.Stat(path)
			return errors.Join(err, os.Truncate(path, 5_000), os.Truncate(path, info.Size()))
		},
		"removed":                        func(_ *testing.T, path, _ string) error { return os.Remove(path) },
		"moved":                          func(_ *testing.T, path, _ string) error { return os.Rename(path, path+".moved") },
		"directory removed":              func(_ *testing.T, path, _ string) error { return os.RemoveAll(filepath.Dir(path)) },
		"replaced by an older copy":      func(_ *testing.T, path, older string) error { return os.Rename(older, path) },
		"overwritten with an older copy": func(t *testing.T, path, older string) error { copyFile(t, older, path); return nil },
		"replaced by another history": func(t *testing.T, path, _ string) error {
			other := filepath.Join(t.TempDir(), "other.db")
			sample(t, other)
			return os.Rename(other, path)
		},
		"replaced by a damaged file": func(t *testing.T, path, _ string) error {
			damage(t, path+".other")
			return os.Rename(path+".other", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sse", "history.db")
			older := filepath.Join(t.TempDir(), "older.db")
			s, err := open(path, quick(lockTimeout, 10*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			h, stop := tail(s)
			mustAppend := func(name string, n int) hub.Position {
				t.Helper()
				stored, err := s.Append(t.Context(), entries(name, n, 100))
				if err != nil {
					t.Fatal(err)
				}
				return stored[0].Position
			}
			before := mustAppend("first", 500).Epoch
			copyFile(t, path, older)
			mustAppend("second", 500)
			if err := touch(t, path, older); err != nil {
				t.Fatal(err)
			}
			refusals := 0
			var stored []hub.Stored
			for deadline := time.Now().Add(2 * time.Minute); ; {
				stored, err = s.Append(t.Context(), entries("after", 1, 100))
				if err == nil {
					break
				}
				if !errors.Is(err, hub.ErrNotStored) {
					t.Errorf("error of a publish: got %v, want ErrNotStored", err)
				}
				if refusals++; time.Now().After(deadline) {
					t.Fatalf("publishing did not resume: %v", err)
				}
				time.Sleep(time.Millisecond)
			}
			if refusals == 0 {
				t.Error("refused publishes after the change: got 0, want at least 1")
			}
			after := stored[0].Position
			if after.Epoch == before || stored[0].Duplicate {
				t.Errorf("position after the change: got %v, want one of another epoch than %s", after, before)
			}
			last := mustAppend("last", 10)
			if err := stop(); err != nil {
				t.Error(err)
			}
			if h.epoch != after.Epoch {
				t.Errorf("epoch of the feed: got %s, want that of the answers, %s", h.epoch, after.Epoch)
			}
			got := contentsOf(t, path)
			if !strings.HasPrefix(got, after.Epoch+" ") || !strings.Contains(got, " after-0.") || !strings.Contains(got, " last-9.") {
				t.Errorf("file: got %.300s, want the events at %v to %v", got, after, last)
			}
		})
	}
}

// A file is truncated while it is in use, so that the next transactions neither read nor write the
// missing part. The store still notices it.
func TestTruncatedFileGetsANewEpoch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s, err := open(path, quick(lockTimeout, 10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	_, stop := tail(s)
	put := func(entries []hub.Entry) hub.Position {
		t.Helper()
		stored, err := s.Append(t.Context(), entries)
		if err != nil {
			t.Fatal(err)
		}
		return stored[0].Position
	}
	put(entries("first", 100, 100))
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	put(entries("large", 1, 200_000))
	epochBefore := put(entries("last", 100, 100)).Epoch
	for i := range 10 { // their pages are before the part that is cut off
		put(entries(fmt.Sprint("small-", i), 1, 0))
	}
	if err := os.Truncate(path, before.Size()); err != nil {
		t.Fatal(err)
	}
	_, err = s.Append(t.Context(), entries("after", 1, 0))
	if !errors.Is(err, hub.ErrNotStored) || !strings.Contains(err.Error(), "it was cut") {
		t.Errorf("error of a publish: got %v, want ErrNotStored with \"it was cut\"", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := contentsOf(t, path); strings.HasPrefix(got, epochBefore) || strings.Contains(got, "after") {
		t.Errorf("file: got %.200s, want a new epoch without the refused event", got)
	}
}

// An older copy of the same size differs only in its headers.
func TestOlderCopyOfTheSameSizeGetsANewEpoch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	older := path + ".older"
	s, err := open(path, quick(lockTimeout, 10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	_, stop := tail(s)
	put := func(name string) error {
		_, err := s.Append(t.Context(), entries(name, 1, 0))
		return err
	}
	if err := put("first"); err != nil {
		t.Fatal(err)
	}
	copyFile(t, path, older)
	if err := put("second"); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(older)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(content); err != nil { // without truncation, so it is never shorter
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := put("third"); !errors.Is(err, hub.ErrNotStored) || !strings.Contains(err.Error(), "its header was rewritten") {
		t.Errorf("a publish was answered with %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Retain was called for the history that was replaced. Its seq does not apply to the new history.
func TestOtherHistoryIsNotDropped(t *testing.T) {
	path, other := filepath.Join(t.TempDir(), "history.db"), filepath.Join(t.TempDir(), "other.db")
	const n = 2 * minDrop
	s := mustOpen(t, other)
	_, stop := tail(s)
	if _, err := s.Append(t.Context(), entries("other", n, 0)); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s, err := open(path, quick(lockTimeout, 10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	s.Retain(hub.Options{MaxEvents: 10 * n}, 10*n)
	h, stop := tail(s)
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), entries("refused", 1, 0)); !errors.Is(err, hub.ErrNotStored) {
		t.Errorf("a publish was answered with %v", err)
	}
	h.await(t, false)
	for h.await(t, true); ; time.Sleep(time.Millisecond) {
		if _, err := s.Append(t.Context(), entries("next", 1, 0)); err == nil {
			break
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if len(h.records) != n+1 {
		t.Errorf("delivered records: got %d, want %d", len(h.records), n+1)
	}
}

// The store does not change a file of another kind at the history's path. It refuses publishes
// until the file is removed.
func TestOtherFileInItsPlaceIsNotChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s, err := open(path, quick(lockTimeout, 10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	h, stop := tail(s)
	text := []byte(strings.Repeat("no history\n", 1000))
	if err := os.WriteFile(path+".text", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".text", path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := s.Append(t.Context(), entries("refused", 1, 0))
		if !errors.Is(err, hub.ErrNotStored) {
			t.Errorf("a publish is answered with %v", err)
		}
	}
	h.await(t, false)
	if got, err := os.ReadFile(path); err != nil || string(got) != string(text) {
		t.Errorf("the other file: got a change or %v, want its text", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	h.await(t, true)
	if _, err := s.Append(t.Context(), entries("stored", 1, 0)); err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// The store notices an older copy that is written into the file during a transaction. The
// transaction overwrites one of the copy's headers.
func TestHeaderRewrittenInATransaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	sample(t, path)
	f, err := openFile(path, quick(time.Second, 0))
	if err != nil {
		t.Fatal(err)
	}
	put := func(tx *bbolt.Tx) error { return tx.Bucket(bucketState).Put([]byte("x"), []byte("y")) }
	older, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := f.update(put); err != nil {
			t.Fatal(err)
		}
	}
	err = f.update(func(tx *bbolt.Tx) error {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.WriteAt(older[:2*f.headers.pageSize], 0)
		return errors.Join(err, file.Close(), put(tx))
	})
	if !errors.Is(err, errChanged) {
		t.Errorf("error of the transaction: got %v, want %v", err, errChanged)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

// noteState does not read the mapping, whose pages may be missing.
func TestNoteStateReadsNoMapping(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	sample(t, path)
	f, err := openFile(path, quick(time.Second, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.noteState(); err == nil {
		t.Error("noteState of a file without headers: got no error, want one")
	}
	f.broken = true // otherwise close would let bbolt read the mapping
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

// Reading a missing page gives an error instead of a crash. Afterwards the file can be
// closed, and the lock is released.
func TestFaultIsAnError(t *testing.T) {
	for name, use := range map[string]func(*file) error{
		"read": func(f *file) error {
			return f.db.View(func(tx *bbolt.Tx) error { return tx.ForEach(func([]byte, *bbolt.Bucket) error { return nil }) })
		},
		"write": func(f *file) error {
			return f.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketState).Put([]byte("x"), nil) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "history.db")
			sample(t, path)
			f, err := openFile(path, quick(time.Second, 0))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			if err := f.guard(func() error { return use(f) }); err == nil || !strings.Contains(err.Error(), "cannot read") {
				t.Errorf("error of the access: got %v, want \"cannot read\"", err)
			}
			closed := make(chan error, 1)
			go func() { closed <- f.close() }()
			select {
			case err := <-closed:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(time.Minute):
				t.Fatal("close: not done after a minute")
			}
			if err := mustOpen(t, path).Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// After another history was put in the place of the file, the store drops nothing of it before it is
// loaded. Until then the hub has the history before, and may call Retain for that at any time.
func TestOtherHistoryIsNotDroppedBeforeItIsLoaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	other := path + ".other"
	s := mustOpen(t, other)
	_, stop := tail(s)
	const n = 2 * minDrop
	if _, err := s.Append(t.Context(), entries("other", n, 0)); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	s, err := open(path, quick(lockTimeout, 200*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	opts := hub.Options{MaxEvents: 10 * n}
	s.Retain(opts, 1)
	h, stop := tail(s)
	retained := make(chan struct{})
	h.beforeBegin = func() { <-retained } // so that it is not loaded before
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), entries("refused", 1, 0)); !errors.Is(err, hub.ErrNotStored) {
		t.Errorf("error of a publish: got %v, want ErrNotStored", err)
	}
	for resolved := false; !resolved; time.Sleep(time.Millisecond) {
		s.retainMu.Lock()
		if resolved = s.oldest == 0; resolved {
			s.oldest = 10 * n // as by Retain
		}
		s.retainMu.Unlock()
	}
	close(retained)
	h.await(t, false)
	h.await(t, true)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if want := (span{1, n + 1}); s.file.span != want {
		t.Errorf("records of the other history: got %v, want %v", s.file.span, want)
	}
}

// A slow probe of the disk does not open the history before it is loaded.
func TestSlowProbeDoesNotOpenTheHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	cfg := quick(lockTimeout, 10*time.Millisecond)
	cfg.slow = time.Nanosecond
	s, err := open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil { // then it cannot be loaded at first
		t.Fatal(err)
	}
	h, stop := tail(s)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if h.early {
		t.Error("history before Begin: got open, want not open")
	}
}
