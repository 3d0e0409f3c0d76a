package chaos

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
	engine "github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/disk"
)

// files returns the hub whose file is changed.
func (w *world) files() *hub { return w.hubs[len(w.hubs)-1] }

// older is the name of a copy of the file.
const older = "older.db"

// duplicate copies a file like cp: an existing file keeps its inode.
func duplicate(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// copyFile copies the file in use. The copy may be damaged.
func (w *world) copyFile() {
	if err := duplicate(w.server.Path(w.files().changes.file), w.server.Path(older)); err != nil {
		w.t.Error(err)
	}
}

// needCopy makes a copy if there is none.
func (w *world) needCopy() {
	if _, err := os.Stat(w.server.Path(older)); errors.Is(err, fs.ErrNotExist) {
		w.copyFile()
	}
}

// touchFile changes the file while the server runs, with a copy that is not much older. It waits
// for the new epoch: if the process were killed before it noticed the change, the next process
// would find an intact file.
func (w *world) touchFile(touch func(path, older string) error) func(*rand.Rand) {
	return func(*rand.Rand) {
		h := w.files()
		w.copyFile()
		for n := h.ledger.Len(); h.ledger.Len() < n+5; {
			<-time.After(10 * time.Millisecond)
		}
		before := w.epochOfFiles()
		if err := touch(w.server.Path(h.changes.file), w.server.Path(older)); err != nil {
			w.t.Error(err)
		}
		h.changes.touches++
		e2e.Wait(w.t, e2e.Patience, "a new epoch to begin", func() error {
			if after := w.epochOfFiles(); after == before || after == "" {
				return fmt.Errorf("epoch: got %q, want another than %q", after, before)
			}
			return nil
		})
	}
}

func (w *world) epochOfFiles() string {
	epoch, _, _ := strings.Cut(w.server.StatusOf(w.files().name).Head, "-")
	return epoch
}

// changeFile reloads the server with the other file, which may be a copy of this one or an older
// file. If the hub does not know the events of that file, a new epoch must begin.
func (w *world) changeFile(random *rand.Rand) {
	l := w.files().changes
	from, epoch := l.file, w.epochOfFiles()
	l.file = l.other()
	if random.IntN(2) == 0 {
		if err := duplicate(w.server.Path(from), w.server.Path(l.file)); err != nil {
			w.t.Error(err)
		}
		l.copied = epoch
	} else {
		if l.copied != "" && l.copied != epoch {
			w.remove(l.file)
		}
		l.copied = ""
	}
	l.touches++
	if err := w.server.Reload(w.config(random)); err != nil {
		w.t.Fatal(err) // it is unknown which file is in use
	}
}

func (w *world) remove(file string) {
	if err := os.Remove(w.server.Path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Error(err)
	}
}

// restoreFile kills the server and restores a copy before the next start. It removes the other
// file, since it may have events that are undone now.
func (w *world) restoreFile(*rand.Rand) {
	w.needCopy()
	h := w.files()
	w.server.Kill()
	w.awaitRefusals(h)
	head := w.headOf(w.server.Path(older))
	h.changes.restores = append(h.changes.restores, restore{acknowledged: h.ledger.Len(), head: head})
	h.changes.touches++
	if err := duplicate(w.server.Path(older), w.server.Path(h.changes.file)); err != nil {
		w.t.Error(err)
	}
	w.remove(h.changes.other())
	w.run()
}

// awaitRefusals waits until all publishers have recorded their answers. No server runs meanwhile.
func (w *world) awaitRefusals(h *hub) {
	var before []int64
	for _, p := range h.publishers {
		before = append(before, p.Retried.Load())
	}
	e2e.Wait(w.t, e2e.Patience, "publishers to be refused", func() error {
		for i, p := range h.publishers {
			if p.Retried.Load() < before[i]+2 {
				return fmt.Errorf("publisher %d is not yet", i)
			}
		}
		return nil
	})
}

// headOf opens a copy as the server will, and returns its head. A damaged copy is replaced by an
// empty history.
func (w *world) headOf(path string) e2e.Position {
	store, err := disk.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	h := engine.New(engine.Options{MaxEvents: 10_000_000, MaxBytes: 4 << 30})
	if err := h.Use(store); err != nil {
		w.t.Fatal(err)
	}
	var head engine.Position
	e2e.Wait(w.t, e2e.Patience, "the copy to be read", func() error {
		stats := h.Stats()
		if stats.Problem != nil || stats.Behind > 0 {
			return fmt.Errorf("%v, %d to come", stats.Problem, stats.Behind)
		}
		head = stats.Head
		return nil
	})
	if err := h.Close(); err != nil {
		w.t.Error(err)
	}
	return e2e.Position{Epoch: head.Epoch, Seq: head.Seq}
}

// contendForFiles starts other processes that wait for the files when the server dies, hold them
// for a moment, and release them.
func (w *world) contendForFiles(random *rand.Rand) {
	wait := func() { <-time.After(time.Duration(random.Int64N(int64(time.Second)))) }
	for _, r := range w.others {
		r.Configure(w.config(random))
		r.Launch()
	}
	wait()
	w.server.Kill()
	wait()
	w.launched = append(w.launched, time.Now())
	w.server.Launch()
	wait()
	for _, r := range w.others {
		r.Kill()
	}
	w.server.Await()
}
