package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ea766355/caddy-sse/hub"
)

// stuckWriter is a log whose disk does not answer.
type stuckWriter struct {
	writing chan struct{} // one slot
	release chan struct{}
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	select {
	case w.writing <- struct{}{}:
	default:
	}
	<-w.release
	return len(p), nil
}

// While the log does not answer, calls of Retain and Note return, and so does an Append that is
// abandoned. The log may be on the disk that fails.
func TestStuckLogBlocksNobody(t *testing.T) {
	log := &stuckWriter{make(chan struct{}, 1), make(chan struct{})}
	path := filepath.Join(t.TempDir(), "history.db")
	cfg := quick(lockTimeout, 10*time.Millisecond)
	cfg.log = func() *zap.Logger {
		return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(log), zap.InfoLevel))
	}
	s, err := open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, stop := tail(s)
	defer func() {
		close(log.release)
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := s.Append(ctx, entries("waiting", 1, 0))
		waiting <- err
	}()
	<-log.writing
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Retain(hub.Options{MaxEvents: 1}, 1)
		_ = s.Note()
		cancel()
		if err := <-waiting; !errors.Is(err, hub.ErrNotStored) && !errors.Is(err, hub.ErrUncertain) {
			t.Errorf("error of Append: got %v, want ErrNotStored or ErrUncertain", err)
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("Retain, Note and Append: got no answer while the log is stuck, want one")
	}
}

// A commit has no answer, and the header of the transaction before it is damaged, so the file gets a new
// epoch. The events are in the file: their publish succeeds.
func TestUncertainCommitIsFoundInANewEpoch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s := mustOpen(t, path)
	h := &history{open: make(chan struct{})}
	if err := s.load(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	before := h.epoch
	r := s.encode(entries("event", 3, 10))
	if err := s.enqueue(r); err != nil {
		t.Fatal(err)
	}
	g := s.takeGroup()
	if err := s.write(g, false, h); err != nil {
		t.Fatal(err)
	}
	older := int64(0)
	if headers := s.file.headers; txOf(headers.raw[1][:]) < txOf(headers.raw[0][:]) {
		older = headers.pageSize
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(make([]byte, headerSize), older); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	s.fail(g, errors.New("no answer"), h)
	<-r.done
	if r.err != nil || len(h.records) != 3 {
		t.Errorf("answer: got %v, with %d records delivered, want success and 3", r.err, len(h.records))
	}
	if err := s.load(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if h.epoch == before || len(h.records) != 3 {
		t.Errorf("history after that: got %d records in epoch %s, want 3 in another epoch than %s", len(h.records), h.epoch, before)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
