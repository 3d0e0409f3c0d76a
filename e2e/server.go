package e2e

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Config is the changeable part of a server's config. The zero Config serves anonymous streams
// at /events over every protocol.
type Config struct {
	Global string // options of the global block
	Hub    string // options of the global sse block, for the default hub
	Stream string // options of the sse directive at /events
	Routes string // more directives, for the cleartext and the TLS site
	Sites  string // more sites
	NoSSE  bool   // there is no route for streams
	Plain  bool   // build without the race detector, which needs many times the memory
}

// takeover is the mode of streams whose config does not set it, so that the same tests run
// in both modes.
var takeover = flag.String("takeover", "on", "whether streams are taken over: on or off")

// caddyfile takes users, sessions and topics from headers. These tests are not about
// authentication.
func (s *Server) caddyfile(c Config) string {
	if !strings.Contains(c.Stream, "takeover") {
		c.Stream += "\n takeover " + *takeover
	}
	stream := `sse /events {
		user {http.request.header.X-User}
		session {http.request.header.X-Session}
		anonymous
		topics news/* sport/*
		` + c.Stream + `
	}`
	if c.NoSSE {
		stream = "respond /events 404"
	}
	return fmt.Sprintf(`{
	admin 127.0.0.1:%d
	default_bind 127.0.0.1
	auto_https disable_redirects
	skip_install_trust
	log default {
		exclude admin.api
	}
	%s
	sse {
		%s
	}
}
(site) {
	respond /ready ok
	%s
	%s
}
http://127.0.0.1:%d {
	import site
}
https://localhost:%d {
	tls internal
	import site
}
%s
`, s.Admin, c.Global, c.Hub, stream, c.Routes, s.HTTP, s.HTTPS, c.Sites)
}

// Server is a Caddy process. Its ports and data stay the same when it is started again. Only
// the goroutine of the test may use it; its fields do not change.
type Server struct {
	Admin, HTTP, HTTPS int

	t       testing.TB
	binary  string
	dir     string
	file    string // the current config
	log     *os.File
	roots   *x509.CertPool
	process *exec.Cmd
	exited  chan struct{} // closed when process has ended
}

// Start starts a server and returns when it serves. At the end of the test it stops the server.
// It fails the test if the stop took too long, or after a data race or a panic.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	if binary == "" {
		t.Fatal("got no binary of Caddy: call e2e.Main in TestMain")
	}
	s := &Server{t: t, binary: binary, dir: t.TempDir(), roots: x509.NewCertPool()}
	if c.Plain {
		s.binary = command
	}
	s.Admin, s.HTTP, s.HTTPS = FreePort(t), FreePort(t), FreePort(t)
	s.file = filepath.Join(s.dir, "Caddyfile")
	var err error
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.cleanup)
	s.write(s.file, c)
	s.writeClock(0)
	s.Run()
	return s
}

// Sibling returns another server with the same data and its own ports. It is not running. It
// has the streams of the config, and no other site.
func (s *Server) Sibling(c Config) *Server {
	s.t.Helper()
	other := &Server{t: s.t, binary: s.binary, dir: s.dir, roots: s.roots}
	other.Admin, other.HTTP, other.HTTPS = FreePort(s.t), FreePort(s.t), FreePort(s.t)
	other.file = filepath.Join(s.dir, fmt.Sprintf("Caddyfile.%d", other.Admin))
	var err error
	if other.log, err = os.Create(filepath.Join(s.dir, fmt.Sprintf("log.%d", other.Admin))); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(other.cleanup)
	other.Configure(c)
	return other
}

// Configure sets the config of the next process.
func (s *Server) Configure(c Config) { s.write(s.file, c) }

// lastPort is the port that FreePort returned last.
var lastPort atomic.Int32

func init() { lastPort.Store(10_000 + rand.Int32N(8_000)) }

// FreePort returns a port that is free for TCP and UDP. It returns each port once, and only
// ports below those that the system uses for outgoing connections. One of those may be used
// again before a server listens.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := int(lastPort.Add(1))
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
		l.Close()
		if err == nil {
			u.Close()
			return port
		}
	}
	t.Fatal("no port is free for both TCP and UDP")
	return 0
}

func (s *Server) write(file string, c Config) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(s.caddyfile(c)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// command returns a Caddy command with a config and the server's data.
func (s *Server) command(binary, name, config string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{name, "--config", config, "--adapter", "caddyfile"}, args...)...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "HOME="+s.dir,
		"XDG_DATA_HOME="+filepath.Join(s.dir, "data"), "XDG_CONFIG_HOME="+filepath.Join(s.dir, "config"),
		clockVariable+"="+s.clockFile())
	return cmd
}

// Run starts the process with the current config, and returns when it serves. No process may
// be running.
func (s *Server) Run() {
	s.t.Helper()
	s.Launch()
	s.Await()
}

// Launch is like Run, but does not wait until the process serves.
func (s *Server) Launch() {
	s.t.Helper()
	s.process = s.command(s.binary, "run", s.file)
	s.process.Stdout, s.process.Stderr = s.log, s.log
	s.exited = make(chan struct{})
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func(p *exec.Cmd, exited chan struct{}) {
		_ = p.Wait() // ProcessState has the result
		close(exited)
	}(s.process, s.exited)
}

// Await waits until a launched process serves.
func (s *Server) Await() {
	s.t.Helper()
	s.awaitReady(H1)
	root, err := os.ReadFile(s.RootFile())
	if err != nil {
		s.t.Fatal(err)
	}
	s.roots.AppendCertsFromPEM(root)
	s.awaitReady(H2)
	s.awaitReady(H3)
}

func (s *Server) awaitReady(p Protocol) {
	s.t.Helper()
	within := time.Second
	Wait(s.t, Patience, "the server to serve over "+string(p), func() error {
		err := s.ready(p, within)
		if errors.Is(err, context.DeadlineExceeded) { // a handshake may take long on a busy machine
			within = min(2*within, Patience/4)
		}
		return err
	})
}

func (s *Server) ready(p Protocol, within time.Duration) error {
	select {
	case <-s.exited:
		s.t.Fatalf("the server has ended: %s\n%s", s.process.ProcessState, s.Tail())
	default:
	}
	c := s.Client(p)
	defer c.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/ready", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// Reload runs `caddy reload` with another config. The error is that of the command: the config
// was refused.
func (s *Server) Reload(c Config) error {
	s.t.Helper()
	next := filepath.Join(s.dir, "Caddyfile.next")
	s.write(next, c)
	out, err := s.command(command, "reload", next, "--force").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.Rename(next, s.file)
}

// Validate runs `caddy validate` with the current config.
func (s *Server) Validate() error {
	out, err := s.command(command, "validate", s.file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// SSE returns the command `caddy sse` with these arguments, for the admin endpoint of the
// current config.
func (s *Server) SSE(args ...string) *exec.Cmd {
	return s.command(command, "sse", s.file, args...)
}

// Path returns the path of a file that a config names relatively.
func (s *Server) Path(name string) string { return filepath.Join(s.dir, name) }

// Tail returns the end of the log, for messages.
func (s *Server) Tail() string { return s.tail(60) }

func (s *Server) tail(n int) string {
	log, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(log), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// PID returns the process id.
func (s *Server) PID() int { return s.process.Process.Pid }

// ConfigFile returns the path of the current config.
func (s *Server) ConfigFile() string { return s.file }

// RootFile returns the path of the certificate that clients must trust.
func (s *Server) RootFile() string {
	return filepath.Join(s.dir, "data/caddy/pki/authorities/local/root.crt")
}
