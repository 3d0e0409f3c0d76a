package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ea766355/caddy-sse/hub"
)

// history is a feed that keeps the delivered records.
type history struct {
	epoch   string
	oldest  uint64
	records []hub.Record
	open    chan struct{}
	opened  bool
	early   bool       // opened before Begin
	status  chan error // calls of Status after the history was open

	beforeBegin func() // not nil: Begin calls it first
}

func (h *history) Begin(epoch string, oldest uint64) (have hub.Position) {
	if h.beforeBegin != nil {
		h.beforeBegin()
	}
	if n := len(h.records); epoch == h.epoch && n > 0 {
		last := h.records[n-1]
		return hub.Position{Epoch: epoch, Seq: last.Seq, Tag: hub.TagOf(last.Data)}
	}
	h.epoch, h.oldest, h.records = epoch, oldest, nil
	return hub.Position{}
}
func (h *history) Deliver(records []hub.Record) { h.records = append(h.records, records...) }
func (h *history) Status(problem error, behind uint64) {
	if h.opened {
		select {
		case h.status <- problem:
		default:
		}
	}
	if problem == nil && behind == 0 && !h.opened {
		h.opened, h.early = true, h.epoch == ""
		close(h.open)
	}
}

// await waits until the store reports that it can be used, or that it cannot. It returns
// the problem.
func (h *history) await(t *testing.T, usable bool) (problem error) {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case problem = <-h.status:
			if usable == (problem == nil) {
				return problem
			}
		case <-timeout:
			t.Fatalf("timed out waiting for a status with usable = %v", usable)
		}
	}
}

// tail runs Tail of the store with a history as feed. Read the history after stop.
func tail(s *Store) (h *history, stop func() error) {
	h = &history{open: make(chan struct{}), status: make(chan error, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		s.Tail(ctx, h)
		close(ended)
	}()
	<-h.open
	return h, func() error {
		cancel()
		<-ended
		return s.Close()
	}
}

func (h *history) String() string {
	var out strings.Builder
	fmt.Fprint(&out, h.epoch, " from ", h.oldest)
	for _, r := range h.records {
		fmt.Fprintf(&out, "\n%d %s", r.Seq, r.Data)
	}
	return out.String()
}

// entries returns n entries. Their data has the name and a number.
func entries(name string, n, size int) []hub.Entry {
	out := make([]hub.Entry, n)
	for i := range out {
		id := fmt.Sprintf("%s-%d", name, i)
		out[i] = hub.Entry{Data: []byte(id + strings.Repeat(".", size)), Key: id}
	}
	return out
}

// sample creates a file with dropped events, branch pages and overflow pages. It returns
// the contents.
func sample(t *testing.T, path string) string {
	s := mustOpen(t, path)
	s.Retain(hub.Options{MaxEvents: 1_000_000}, 0)
	_, stop := tail(s)
	put := func(batch []hub.Entry) {
		if _, err := s.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	put(entries("dropped", minDrop, 0))
	s.Retain(hub.Options{MaxEvents: 1_000_000}, minDrop+1)
	put(entries("first", 300, 30))
	put(entries("large", 2, 9_000))
	for i := range 20 {
		put(entries(fmt.Sprint("last", i), 1, 100))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	return contentsOf(t, path)
}

func contentsOf(t testing.TB, path string) string {
	t.Helper()
	s := mustOpen(t, path)
	h, stop := tail(s)
	if err := stop(); err != nil {
		t.Error(err)
	}
	return h.String()
}

// refused checks that opening the file fails, and that the error has the file's name and
// the words.
func refused(t *testing.T, path string, words ...string) {
	t.Helper()
	s, err := open(path, quick(60*time.Millisecond, retryAfter))
	if err == nil {
		_ = s.Close()
		t.Errorf("%s: got opened, want refused", path)
		return
	}
	for _, word := range append(words, path) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error: got %q, want one with %q", err, word)
		}
	}
}

// openDamaged opens a file with this content and returns its history. It returns nil if
// the file was quarantined and an empty history was started.
func openDamaged(t *testing.T, content []byte) (h *history) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	h, stop := tail(mustOpen(t, path))
	if err := stop(); err != nil {
		t.Error(err)
	}
	names := quarantined(path)
	if len(names) == 0 {
		return h
	}
	if kept, err := os.ReadFile(names[0]); err != nil || !bytes.Equal(kept, content) {
		t.Errorf("quarantined file: got another content or %v, want the damaged file", err)
	}
	if h.oldest != 1 || len(h.records) != 0 {
		t.Errorf("history beside the damaged file: got one from %d on, want an empty one", h.oldest)
	}
	return nil
}

// A file with any one byte changed is quarantined, or has the same history.
func TestDamagedFileIsQuarantined(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	want := sample(t, path)
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pageSize := os.Getpagesize()
	quarantinedCount := 0
	check := func(offset int, mask byte) {
		content := []byte(string(intact))
		content[offset] ^= mask
		h := openDamaged(t, content)
		if h == nil {
			quarantinedCount++
			return
		}
		got := h.String()
		if offset < 2*pageSize && got != want && h.epoch != strings.Fields(want)[0] {
			return // a lost header starts a new epoch
		}
		if got != want {
			t.Errorf("history after a change at offset %d: got %.300q, want that of the intact file", offset, got)
		}
	}
	for offset := rand.IntN(200); offset < len(intact); offset += 1 + rand.IntN(1000) {
		check(offset, 1<<(offset%8))
	}
	for page := range len(intact) / pageSize {
		for offset := range 64 { // the page's header and its first elements
			if (offset+page)%16 == 0 || offset == 8 {
				check(page*pageSize+offset, 1<<(page%4))
			}
		}
	}
	t.Logf("%d quarantined", quarantinedCount)
	if quarantinedCount < 50 {
		t.Errorf("quarantined files: got %d, want at least 50", quarantinedCount)
	}
}

func TestTruncatedFileIsQuarantined(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	want := sample(t, path)
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := readHeaders(bytes.NewReader(intact))
	if err != nil {
		t.Fatal(err)
	}
	current, err := h.current()
	if err != nil {
		t.Fatal(err)
	}
	used := int(current.end * h.pageSize)
	for size := 1; size < used; size += 1 + size%29*100 {
		if h := openDamaged(t, intact[:size]); h != nil {
			t.Errorf("a file with %d of its bytes: got a history from %d on, want it quarantined", size, h.oldest)
		}
	}
	if h := openDamaged(t, nil); h == nil || h.oldest != 1 || len(h.records) > 0 || h.epoch == strings.Fields(want)[0] {
		t.Errorf("an empty file: got %v, want an empty history with a new epoch", h)
	}
}

// Each damaged file gets its own name. The oldest ones are removed. The log and the note name the
// newest one.
func TestDamagedFilesAreKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	core, logged := observer.New(zap.InfoLevel)
	cfg := quick(time.Second, retryAfter)
	cfg.log = func() *zap.Logger { return zap.New(core) }
	const damages = maxQuarantined + 2
	for i := range damages {
		if err := os.WriteFile(path, fmt.Append(make([]byte, 10_000), i), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := open(path, cfg)
		if err != nil {
			t.Fatal(err)
		}
		names := quarantined(path)
		last := names[len(names)-1]
		if note := s.Note(); !strings.Contains(note, last) {
			t.Errorf("note: got %q, want one with %s", note, last)
		}
		if got := logged.FilterField(zap.String("set_aside", last)).FilterLevelExact(zap.ErrorLevel).Len(); got != 1 {
			t.Errorf("errors with %s in the log: got %d, want 1", last, got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	names := quarantined(path)
	if len(names) != maxQuarantined {
		t.Fatalf("kept files: got %v, want %d", names, maxQuarantined)
	}
	for i, name := range names {
		want := fmt.Append(make([]byte, 10_000), damages-maxQuarantined+i)
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got another content or %v, want damaged file %d", name, err, damages-maxQuarantined+i)
		}
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
	s := mustOpen(t, path)
	if note := s.Note(); note != "" {
		t.Errorf("note without damaged files: got %q, want none", note)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// If the path of the history is a symbolic link, the note names the damaged file, which is beside the
// file that the link names.
func TestNoteOfALinkedFile(t *testing.T) {
	path, link := filepath.Join(t.TempDir(), "history.db"), filepath.Join(t.TempDir(), "link.db")
	damage(t, path)
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, link)
	if names := quarantined(path); len(names) != 1 || !strings.Contains(s.Note(), names[0]) {
		t.Errorf("note: got %q, want one with the name in %v", s.Note(), names)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestLaterFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	sample(t, path)
	db, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketState).Put(keyFormat, seal([]byte{format + 1}, nil))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	refused(t, path, "later version", "another path")
}

func TestOtherFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "text.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no history\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, path, "another path")

	// Other programs write a list of free pages, or do not.
	for name, opts := range map[string]*bbolt.Options{"listed.db": nil, "unlisted.db": options()} {
		path = filepath.Join(dir, name)
		db, err := bbolt.Open(path, 0o600, opts)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("accounts"))
			return err
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		refused(t, path, "another path")
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 3 {
		t.Errorf("files: got %v, %v, want the 3 of other programs, not quarantined", names, err)
	}
	refused(t, dir, "able to write")
}

// If a process died while it created the file, the file becomes an empty history.
func TestUnfinishedFileIsFinished(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	db, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	h, stop := tail(mustOpen(t, path))
	if err := stop(); err != nil {
		t.Error(err)
	}
	if h.oldest != 1 || len(h.records) > 0 {
		t.Errorf("history: got one from %d on, want an empty one", h.oldest)
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s := mustOpen(t, path)
	refused(t, path, "in use", "path of its own")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := open(path, quick(time.Second, retryAfter)); err != nil {
		t.Error(err)
	} else if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "history.db")
	if err := mustOpen(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): fs.ModeDir | 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("mode of %s: got %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("files in the directory: got %v, %v, want only the history", names, err)
	}
}

// e2e bounds the CPU time of such a start.
func TestLongHistoryIsLoaded(t *testing.T) {
	const n = 100_000
	path := filepath.Join(t.TempDir(), "history.db")
	s := mustOpen(t, path)
	_, stop := tail(s)
	for i := 0; i < n; i += 10_000 {
		if _, err := s.Append(t.Context(), entries(fmt.Sprint(i), 10_000, 200)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	h := hub.New(hub.Options{MaxEvents: n})
	if err := h.Use(mustOpen(t, path)); err != nil {
		t.Fatal(err)
	}
	for tick := time.Tick(5 * time.Millisecond); h.Stats().Events < n; { // the test's own time limit ends it
		<-tick
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}
