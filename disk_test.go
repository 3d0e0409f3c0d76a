package caddysse_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// onDisk returns the global options for a history in a file.
func onDisk(file string) string { return "sse {\n store disk " + file + "\n}" }

// TestDamagedHistoryIsSetAside: Caddy starts with a damaged history. The log and the status report
// it, and the damaged file is kept.
func TestDamagedHistoryIsSetAside(t *testing.T) {
	dir := t.TempDir() // removed after Caddy has stopped
	file := filepath.Join(dir, "history.db")
	if err := os.WriteFile(file, make([]byte, 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, onDisk(file), anonymousSite)
	st := s.open("/events")
	s.send(`{"text":"1"}`)
	st.expect("1")
	names, err := filepath.Glob(file + ".damaged-*")
	if err != nil || len(names) != 1 {
		t.Fatalf("set aside was %v, %v", names, err)
	}
	if note, _ := s.status("default").Store["note"].(string); !strings.Contains(note, names[0]) {
		t.Errorf("the status says %q", note)
	}
	logged := false
	for _, line := range logs.with(t, "the history file is damaged: renamed it and started an empty history; clients are told of the gap") {
		logged = logged || line["level"] == "error" && line["file"] == file && line["set_aside"] == names[0]
	}
	if !logged {
		t.Error("that was not logged")
	}
}

// TestHistoryThatIsNone: if the file is not a history, the status and the answers to publishes
// have the error. No client gets the events.
func TestHistoryThatIsNone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "history.db")
	s := start(t, onDisk(file), anonymousSite)
	st := s.open("/events")
	s.send(`{"text":"1"}`)
	if err := os.WriteFile(file+".text", []byte(strings.Repeat("no history\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".text", file); err != nil {
		t.Fatal(err)
	}
	a := s.api("POST", "/sse/broadcast", `{"text":"2"}`)
	if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"stored":"no"`) {
		t.Errorf("publishing: %d %s", a.status, a.body)
	}
	eventually(t, "the problem", func() bool {
		store := s.status("default").Store
		problem, _ := store["problem"].(string)
		return store["connected"] == false && strings.Contains(problem, file+" is not a history")
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "publishing to go on", func() bool {
		return s.api("POST", "/sse/broadcast", `{"text":"3"}`).status == http.StatusOK
	})
	st.expect("1")
	if b := st.event(); b.event != "sse.gap" || b.data != `{"reason":"epoch"}` {
		t.Errorf("%+v is not the gap of another history", b)
	}
	st.expect("3")
}

// TestPromise2ReloadToACopy: a copy with all events of the hub continues the history. A shorter
// copy becomes another history.
func TestPromise2ReloadToACopy(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db")
	s := start(t, onDisk(a), anonymousSite)
	st := s.open("/events")
	epochOf := func(id string) string {
		epoch, _, _ := strings.Cut(id, "-")
		return epoch
	}
	first := s.send(`{"text":"1"}`).ID
	content, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b, content, 0o600); err != nil {
		t.Fatal(err)
	}
	change := func(file string) {
		t.Helper()
		s.global = onDisk(file)
		s.mustLoad(s.site(anonymousSite))
	}
	change(b)
	second := s.send(`{"text":"2"}`).ID
	if epochOf(second) != epochOf(first) {
		t.Errorf("after %s comes %s, though the copy has that", first, second)
	}
	st.expect("1", "2")

	change(a)
	third := s.send(`{"text":"3"}`).ID
	if epochOf(third) == epochOf(first) {
		t.Errorf("%s comes after %s, which the file does not have", third, second)
	}
	told := st.event()
	if told.event != "sse.gap" || told.data != `{"reason":"epoch"}` {
		t.Errorf("%+v is not the gap of another history", told)
	}
	st.expect("1", "3")
	for id, want := range map[string]string{first: "epoch", second: "epoch", third: ""} {
		again := s.open("/events", "Last-Event-ID", id)
		if want != "" {
			checkGap(t, again, want)
		} else if !strings.Contains(again.connected.data, `"resumed":true`) {
			t.Errorf("with %s: %+v", id, again.connected)
		}
	}

	change(b)
	if told := st.event(); told.event != "sse.gap" || told.data != `{"reason":"epoch"}` {
		t.Errorf("%+v is not the gap of another history", told)
	}
	s.send(`{"text":"4"}`)
	st.expect("1", "2", "4")
}

// TestStoreLogsToTheLogOfItsName: a log that includes `sse` gets the lines of the store,
// also while the config that opens the store is not in force yet, and after reloads. So
// does another log after a reload to it, and not the one before.
func TestStoreLogsToTheLogOfItsName(t *testing.T) {
	dir := t.TempDir() // removed after Caddy has stopped
	file := filepath.Join(dir, "history.db")
	if err := os.WriteFile(file, make([]byte, 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	config := func(log, include string) string {
		return onDisk(file) + "\nlog streams {\n output file " + filepath.Join(dir, log) + "\n format json\n include " + include + "\n}\n"
	}
	count := func(log, line string) int {
		text, err := os.ReadFile(filepath.Join(dir, log))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.Count(string(text), `"logger":"sse.stores.disk","msg":"`+line)
	}
	const damaged, broken, works = "the history file is damaged", "cannot use the history file", "the history file can be used again"
	s := start(t, config("first.log", "sse"), anonymousSite)
	if count("first.log", damaged) != 1 {
		t.Error("the log that includes sse does not have that the file is damaged")
	}
	if logs.with(t, damaged+": renamed it and started an empty history; clients are told of the gap") != nil {
		t.Error("the default log, which excludes sse, has that the file is damaged")
	}

	s.global = config("second.log", "sse.stores")
	s.mustLoad(s.site(anonymousSite))
	s.global = config("failed.log", "sse")
	if err := s.load(s.site(anonymousSite) + "http://" + taken.Addr().String() + " {\n respond hello\n}\n"); err == nil {
		t.Fatal("a config with an address that is taken came into force")
	}
	if err := os.WriteFile(file+".text", []byte(strings.Repeat("no history\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".text", file); err != nil {
		t.Fatal(err)
	}
	if a := s.api("POST", "/sse/broadcast", `{"text":"1"}`); a.status != http.StatusServiceUnavailable {
		t.Errorf("publishing: %d %s", a.status, a.body)
	}
	eventually(t, "the line of the log in force", func() bool { return count("second.log", broken) > 0 })
	if count("first.log", broken)+count("failed.log", broken) > 0 {
		t.Error("the log of another config has a line of the store")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the problem in the log", func() bool { return count("second.log", works) == 1 })
}
