package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Readings of the running server.

func (s *Server) admin(path string) []byte {
	s.t.Helper()
	var body []byte
	// The endpoint of the config before, which a reload replaces, may accept a connection and close it.
	Wait(s.t, Patience, path, func() error {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", s.Admin, path))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
			s.t.Fatalf("%s: %s: %s", path, resp.Status, body)
		}
		return err
	})
	return body
}

// Metric returns the value of a series of /metrics. The labels must be as printed. It is 0 if
// the series does not exist.
func (s *Server) Metric(series string) float64 {
	s.t.Helper()
	for line := range strings.Lines(string(s.admin("/metrics"))) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.t.Fatalf("%s: %v", line, err)
			}
			return n
		}
	}
	return 0
}

// AwaitMetric waits until a series has a value: a client may receive bytes before the server counts them.
func (s *Server) AwaitMetric(series string, want int) {
	s.t.Helper()
	Wait(s.t, Patience, series, func() error {
		if got := s.Metric(series); got != float64(want) {
			return fmt.Errorf("got %v, want %d", got, want)
		}
		return nil
	})
}

// Connections returns the gauge of open connections of a protocol.
func (s *Server) Connections(p Protocol) int {
	s.t.Helper()
	return int(s.Metric(fmt.Sprintf(`caddy_sse_connections{hub="default",protocol=%q}`, p.label())))
}

// Status is the answer of GET /sse/status for one hub.
type Status struct {
	Connections int
	Users       int
	Head        string
	Oldest      string
	Events      int
	Bytes       int64
}

// Status returns the status of the default hub.
func (s *Server) Status() Status { return s.StatusOf("default") }

// StatusOf returns the status of a hub.
func (s *Server) StatusOf(hub string) Status {
	s.t.Helper()
	var status struct{ Hubs map[string]Status }
	if err := json.Unmarshal(s.admin("/sse/status"), &status); err != nil {
		s.t.Fatal(err)
	}
	return status.Hubs[hub]
}

// Lag returns how many events the first open connection of a user is behind, and whether there
// is such a connection.
func (s *Server) Lag(user string) (lag int, open bool) {
	s.t.Helper()
	var page struct{ Connections []struct{ Lag int } }
	if err := json.Unmarshal(s.admin("/sse/connections?user="+url.QueryEscape(user)), &page); err != nil {
		s.t.Fatal(err)
	}
	if len(page.Connections) == 0 {
		return 0, false
	}
	return page.Connections[0].Lag, true
}

// Goroutines returns the number of goroutines of the server.
func (s *Server) Goroutines() int {
	s.t.Helper()
	return int(s.Metric("go_goroutines"))
}

// Heap returns the size in bytes of the live heap of the server.
func (s *Server) Heap() int64 {
	s.t.Helper()
	// The second collection frees the objects that the first one found in pools. The text of
	// the heap profile has the size right after it. A binary profile and /metrics allocate
	// megabytes themselves.
	s.admin("/debug/pprof/heap?gc=1")
	for line := range strings.Lines(string(s.admin("/debug/pprof/heap?gc=1&debug=1"))) {
		if value, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				s.t.Fatalf("%s: %v", line, err)
			}
			return n
		}
	}
	s.t.Fatal("the heap profile does not say how large the heap is")
	return 0
}

// HeapProfile returns the heap profile of the server.
func (s *Server) HeapProfile() []byte {
	s.t.Helper()
	return s.admin("/debug/pprof/heap")
}

// Files returns the number of open files and sockets of the server. Linux only.
func (s *Server) Files() int {
	s.t.Helper()
	return len(s.OpenFiles())
}

// OpenFiles names the files and sockets that the server has open. Linux only.
func (s *Server) OpenFiles() (names []string) {
	s.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.process.Process.Pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		name, _ := os.Readlink(filepath.Join(dir, f.Name())) // empty: it has just been closed
		names = append(names, name)
	}
	return names
}

// CPU returns the CPU time that the server has used. Linux only.
func (s *Server) CPU() time.Duration {
	s.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.process.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	// utime and stime, in hundredths of a second; the name before may hold spaces.
	// [proc_pid_stat(5)]
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var used time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		used += time.Duration(ticks) * time.Second / 100
	}
	return used
}

// Resident returns the resident memory of the server in bytes. Linux only.
func (s *Server) Resident() int64 { return s.memory("VmRSS:") }

// Peak returns the highest resident memory that the server has had, in bytes. Linux only.
func (s *Server) Peak() int64 { return s.memory("VmHWM:") }

func (s *Server) memory(name string) int64 {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == name {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return kb << 10
		}
	}
	s.t.Fatalf("the process has no %s", name)
	return 0
}
