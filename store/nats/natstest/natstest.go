// Package natstest runs NATS servers with JetStream as processes, so that tests can kill and stop them.
package natstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/template"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/e2e"
)

// Servers is a server or a cluster of servers. One goroutine at a time may use it.
type Servers struct {
	t    testing.TB
	dir  string
	each []*one
}

// one is a server. Its ports and files stay the same when it is started again.
type one struct {
	name   string
	client int // port
	route  int // port
	config string
	log    string
	cmd    *exec.Cmd // nil while it is stopped
}

const configuration = `
server_name: {{.Name}}
listen: 127.0.0.1:{{.Client}}
jetstream { store_dir: {{printf "%q" .Store}}, max_memory_store: 1GB, max_file_store: 1TB }
{{if .Routes}}cluster { name: sse, listen: 127.0.0.1:{{.Route}}, routes: [{{.Routes}}], no_advertise: true }{{end}}
{{.More}}
`

// built reports whether build was called.
var built atomic.Bool

// build compiles the server once per test process. It is always built without the race detector, so that
// it is as fast as in production.
var build = sync.OnceValues(func() (string, error) {
	built.Store(true)
	dir, err := os.MkdirTemp("", "natstest")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "server")
	cmd := exec.Command("go", "build", "-o", binary, "./server")
	_, source, _, _ := runtime.Caller(0) // the module of this file has the server
	cmd.Dir = filepath.Dir(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

// Clean removes the compiled server, if there is one. Call it from TestMain.
func Clean() {
	if built.Load() {
		if binary, err := build(); err == nil {
			_ = os.RemoveAll(filepath.Dir(binary)) // in the system's folder for temporary files
		}
	}
}

// New prepares n servers, which are a cluster if n > 1. They are removed at the end of the test. more is added
// to the configuration of each.
func New(t testing.TB, n int, more string) *Servers {
	t.Helper()
	s := &Servers{t: t, dir: t.TempDir()}
	ports := make([]int, 2*n)
	for i := range ports {
		ports[i] = e2e.FreePort(t)
	}
	var routes []string
	for i := range n {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[2*i+1]))
	}
	if n == 1 {
		routes = nil
	}
	parsed := template.Must(template.New("").Parse(configuration))
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		server := &one{
			name: name, client: ports[2*i], route: ports[2*i+1],
			config: filepath.Join(s.dir, name+".conf"), log: filepath.Join(s.dir, name+".log"),
		}
		s.each = append(s.each, server)
		var text bytes.Buffer
		if err := parsed.Execute(&text, map[string]any{
			"Name": name, "Client": server.client, "Route": server.route,
			"Routes": strings.Join(routes, ", "), "Store": s.Files(i), "More": more,
		}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(server.config, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for i := range s.each {
			s.Kill(i)
		}
		if t.Failed() {
			s.showLogs()
		}
	})
	return s
}

// Start prepares and starts n servers, and waits until JetStream answers.
func Start(t testing.TB, n int) *Servers {
	t.Helper()
	s := New(t, n, "")
	for i := range n {
		s.Start(i)
	}
	s.Ready()
	return s
}

// URLs returns the URLs of all servers.
func (s *Servers) URLs() []string {
	urls := make([]string, len(s.each))
	for i, server := range s.each {
		urls[i] = fmt.Sprintf("nats://127.0.0.1:%d", server.client)
	}
	return urls
}

// Files returns the data folder of a server.
func (s *Servers) Files(i int) string { return filepath.Join(s.dir, s.each[i].name) }

// Start starts a stopped server. It does not wait until it serves.
func (s *Servers) Start(i int) {
	s.t.Helper()
	binary, err := build()
	if err != nil {
		s.t.Fatal(err)
	}
	server := s.each[i]
	log, err := os.OpenFile(server.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	server.cmd = exec.Command(binary, server.config)
	server.cmd.Stdout, server.cmd.Stderr = log, log
	if _, err := server.cmd.StdinPipe(); err != nil { // the server ends when it is closed
		s.t.Fatal(err)
	}
	if err := server.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill kills a server, if it runs.
func (s *Servers) Kill(i int) {
	server := s.each[i]
	if server.cmd == nil {
		return
	}
	_ = server.cmd.Process.Kill() // it may have ended by itself
	_ = server.cmd.Wait()         // it was killed
	server.cmd = nil
}

// Snapshot copies the files of all servers, and returns a function that restores them. Both restart the
// servers.
func (s *Servers) Snapshot() (restore func()) {
	s.t.Helper()
	backup := s.t.TempDir()
	s.stopped(func(i int) error {
		return os.CopyFS(filepath.Join(backup, s.each[i].name), os.DirFS(s.Files(i)))
	})
	return func() {
		s.t.Helper()
		s.stopped(func(i int) error {
			return errors.Join(os.RemoveAll(s.Files(i)), os.CopyFS(s.Files(i), os.DirFS(filepath.Join(backup, s.each[i].name))))
		})
	}
}

// stopped calls do for each server while all are stopped.
func (s *Servers) stopped(do func(i int) error) {
	s.t.Helper()
	for i := range s.each {
		s.Kill(i)
	}
	for i := range s.each {
		if err := do(i); err != nil {
			s.t.Fatal(err)
		}
	}
	for i := range s.each {
		s.Start(i)
	}
}

// Ready waits until JetStream answers.
func (s *Servers) Ready() {
	s.t.Helper()
	js, done := s.JetStream()
	defer done()
	s.Eventually("JetStream does not answer", func(ctx context.Context) bool {
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
}

// Leader returns the server that leads the stream, or a negative number if there is none.
func (s *Servers) Leader(stream string) int {
	js, done := s.JetStream()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	found, err := js.Stream(ctx, stream)
	if err != nil || found.CachedInfo().Cluster == nil {
		return -1
	}
	for i, server := range s.each {
		if server.name == found.CachedInfo().Cluster.Leader {
			return i
		}
	}
	return -1
}

// AwaitLeader waits until there is a leader.
func (s *Servers) AwaitLeader(stream string) (leader int) {
	s.t.Helper()
	s.Eventually("stream "+stream+" has no leader", func(context.Context) bool {
		leader = s.Leader(stream)
		return leader >= 0
	})
	return leader
}

// AwaitReplicas waits until all replicas of the stream have caught up.
func (s *Servers) AwaitReplicas(stream string) {
	s.t.Helper()
	js, done := s.JetStream()
	defer done()
	s.Eventually("the replicas of "+stream+" do not catch up", func(ctx context.Context) bool {
		found, err := js.Stream(ctx, stream)
		if err != nil || found.CachedInfo().Cluster == nil || found.CachedInfo().Cluster.Leader == "" {
			return false
		}
		for _, r := range found.CachedInfo().Cluster.Replicas {
			if !r.Current || r.Offline {
				return false
			}
		}
		return true
	})
}

// JetStream connects to any of the servers.
func (s *Servers) JetStream() (js jetstream.JetStream, done func()) {
	s.t.Helper()
	conn, err := nats.Connect(strings.Join(s.URLs(), ","), nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		s.t.Fatal(err)
	}
	js, err = jetstream.New(conn, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		s.t.Fatal(err)
	}
	return js, conn.Close
}

// Eventually retries for two minutes. A try may take five seconds.
func (s *Servers) Eventually(complaint string, ok func(context.Context) bool) {
	s.t.Helper()
	end, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		ctx, cancel := context.WithTimeout(end, 5*time.Second)
		done := ok(ctx)
		cancel()
		if done {
			return
		}
		select {
		case <-ticker.C:
		case <-end.Done():
			s.t.Fatal(complaint)
		}
	}
}

// showLogs prints the end of each server's log.
func (s *Servers) showLogs() {
	const lines = 30
	for _, server := range s.each {
		text, err := os.ReadFile(server.log)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		s.t.Logf("%s:\n%s", server.name, strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
}
