package disk

import (
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

	"github.com/ea766355/caddy-sse/hub"
)

// history is what a file holds, as a feed gets it.
type history struct {
	epoch   string
	oldest  uint64
	records []hub.Record
	open    chan struct{}
	opened  bool
	status  chan bool // what Status says after the history was open
}

func (h *history) Begin(epoch string, oldest uint64) {
	h.epoch, h.oldest, h.records = epoch, oldest, nil
}
func (h *history) Deliver(records []hub.Record) { h.records = append(h.records, records...) }
func (h *history) Status(connected bool, behind uint64) {
	if h.opened {
		select {
		case h.status <- connected:
		default:
		}
	}
	if connected && behind == 0 && !h.opened {
		h.opened = true
		close(h.open)
	}
}

// tail runs a store. What it fed may be read after stop.
func tail(s *Store) (h *history, stop func() error) {
	h = &history{open: make(chan struct{}), status: make(chan bool, 100)}
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
		fmt.Fprintf(&out, "\n%d %s %s", r.Seq, r.Event.Key, r.Event.Data)
	}
	return out.String()
}

// events makes n events whose data says which they are.
func events(name string, n, size int) []hub.Event {
	out := make([]hub.Event, n)
	for i := range out {
		id := fmt.Sprintf("%s-%d", name, i)
		out[i] = hub.Event{
			Data: []byte(id + strings.Repeat(".", size)), Key: id, At: time.Now(),
			Targets: []hub.Target{{Kind: hub.All}},
		}
	}
	return out
}

// sample makes a file with dropped events, branch pages and overflow pages, and
// returns what is in it.
func sample(t *testing.T, path string) string {
	s := mustOpen(t, path)
	s.Retain(hub.Options{MaxEvents: 1_000_000}, 0)
	_, stop := tail(s)
	put := func(batch []hub.Event) {
		if _, err := s.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	put(events("dropped", minDrop, 0))
	s.Retain(hub.Options{MaxEvents: 1_000_000}, minDrop+1)
	put(events("first", 300, 30))
	put(events("large", 2, 9_000))
	for i := range 20 {
		put(events(fmt.Sprint("last", i), 1, 100))
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

// refused checks that the file cannot be opened, and that the error names it and
// what to do.
func refused(t *testing.T, path string, words ...string) {
	t.Helper()
	s, err := open(path, 60*time.Millisecond, retryAfter)
	if err == nil {
		_ = s.Close()
		t.Errorf("%s was opened", path)
		return
	}
	for _, word := range append(words, path) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error %q does not say %q", err, word)
		}
	}
}

// A file with any byte changed is refused, or has the same history.
func TestDamagedFileIsNoHistory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	want := sample(t, path)
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(dir, "damaged.db")
	pageSize := os.Getpagesize()
	refusals := 0
	check := func(offset int, mask byte) {
		content := []byte(string(intact))
		content[offset] ^= mask
		if err := os.WriteFile(damaged, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(damaged)
		if err != nil {
			refusals++
			if !errors.Is(err, errDamaged) && !errors.Is(err, errLater) {
				t.Errorf("offset %d: %v", offset, err)
			}
			return
		}
		h, stop := tail(s)
		if err := stop(); err != nil {
			t.Error(err)
		}
		got := h.String()
		if offset < 2*pageSize && got != want && h.epoch != strings.Fields(want)[0] {
			return // a header that is lost begins a new life
		}
		if got != want {
			t.Errorf("offset %d: another history: %.300q", offset, got)
		}
	}
	for offset := rand.IntN(200); offset < len(intact); offset += 1 + rand.IntN(1000) {
		check(offset, 1<<(offset%8))
	}
	for page := range len(intact) / pageSize {
		for offset := range 64 { // the page's header, and its first elements
			if (offset+page)%16 == 0 || offset == 8 {
				check(page*pageSize+offset, 1<<(page%4))
			}
		}
	}
	t.Logf("%d refused", refusals)
	if refusals < 50 {
		t.Errorf("only %d of them were refused", refusals)
	}
}

func TestTruncatedFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	sample(t, path)
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var used int64
	db, err := bbolt.Open(path, 0o600, options(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	_ = db.View(func(tx *bbolt.Tx) error { used = tx.Size(); return nil })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.db")
	for size := int64(0); size < used; size += 1 + size%29*100 {
		if err := os.WriteFile(cut, intact[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, cut, "restore it from a backup", "move it away")
	}
}

func TestLaterFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	sample(t, path)
	db, err := bbolt.Open(path, 0o600, options(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketState).Put(keyFormat, []byte{format + 1})
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
	refused(t, path, "move it away")

	path = filepath.Join(dir, "other.db")
	db, err := bbolt.Open(path, 0o600, options(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, path, "move it away")
	refused(t, dir, "writable")
}

func TestSecondOpenerIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s := mustOpen(t, path)
	refused(t, path, "in use", "path of its own")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := open(path, time.Second, retryAfter); err != nil {
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
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("beside the file there is %v, %v", names, err)
	}
}

// loadWithin is how soon a hundred thousand events must be there.
var loadWithin = 2 * time.Second

func TestLongHistoryLoadsQuickly(t *testing.T) {
	const n = 100_000
	path := filepath.Join(t.TempDir(), "history.db")
	s := mustOpen(t, path)
	_, stop := tail(s)
	for i := 0; i < n; i += 10_000 {
		if _, err := s.Append(t.Context(), events(fmt.Sprint(i), 10_000, 200)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	h := hub.New(hub.Options{MaxEvents: n})
	if err := h.Use(mustOpen(t, path)); err != nil {
		t.Fatal(err)
	}
	for h.Stats().Events < n && time.Since(began) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	t.Logf("%d events after %v", h.Stats().Events, took)
	if h.Stats().Events != n || took > loadWithin {
		t.Errorf("%d of %d events after %v", h.Stats().Events, n, took)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}
