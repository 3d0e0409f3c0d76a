package caddysse_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	caddysse "github.com/ea766355/caddy-sse"
)

// The tests run Caddy in this process, so that the race detector sees all of it. A process has one
// Caddy, so the tests run one after another.

// waitLimit is how long a test waits for something that should happen at once. On a busy machine
// it may take a hundred times as long.
const waitLimit = time.Minute

// takeover is the mode of streams whose config does not set it, so that the same tests run in both
// modes.
var takeover = flag.String("takeover", "on", "whether streams are taken over: on or off")

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "caddysse")
	if err != nil {
		panic(err)
	}
	// The go command of a test keeps its caches.
	for _, name := range []string{"GOMODCACHE", "GOCACHE"} {
		if out, err := exec.Command("go", "env", name).Output(); err == nil {
			os.Setenv(name, strings.TrimSpace(string(out)))
		}
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"} {
		os.Setenv(name, dir)
	}
	storage, certificate = dir+"/storage", dir+"/localhost.pem"
	if err := writeCertificate(certificate); err != nil {
		panic(err)
	}
	caddysse.SetRouteGrace(100 * time.Millisecond)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// storage is the storage of Caddy. certificate is a file with a certificate for localhost and its
// key. (With "tls internal" Caddy obtains one while it starts, and races with itself.)
var storage, certificate string

func writeCertificate(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"localhost"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	return os.WriteFile(file, text, 0o600)
}

// server is a running Caddy.
type server struct {
	testing.TB
	http, https, admin string // addresses
	global             string
}

// bothWays serves anonymous streams, at /events in the default mode and at /kept without taking
// over connections, both with further options.
func bothWays(options string) string {
	return "sse /events {\n anonymous\n" + options + "\n}\nsse /kept {\n anonymous\n takeover off\n" + options + "\n}\n"
}

// start runs a Caddy with these global options and this site, which is served over cleartext.
func start(t testing.TB, global, site string) *server {
	t.Helper()
	s := prepare(t, global)
	s.mustLoad(s.site(site))
	return s
}

// startTLS is like start, for a site that is also served over TLS and QUIC.
func startTLS(t testing.TB, global, site string) *server {
	t.Helper()
	s := prepare(t, global)
	s.mustLoad(s.site(site) + "https://localhost:" + port(s.https) + " {\n\ttls " + certificate + " " + certificate + "\n" + site + "\n}\n")
	return s
}

// in returns the same server for a subtest.
func (s *server) in(t testing.TB) *server {
	sub := *s
	sub.TB = t
	return &sub
}

// prepare chooses addresses, and stops Caddy at the end of the test.
func prepare(t testing.TB, global string) *server {
	s := &server{TB: t, http: freeAddr(t), https: freeAddr(t), admin: freeAddr(t), global: global}
	logs.reset()
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		caddysse.EndGraces()
		if strings.Contains(logs.tail(math.MaxInt), "panic") {
			t.Error("a handler panicked")
		}
		if t.Failed() {
			t.Logf("the end of Caddy's log:\n%s", logs.tail(8<<10))
		}
	})
	return s
}

func (s *server) site(body string) string {
	return "http://:" + port(s.http) + " {\n" + body + "\n}\n"
}

// freeAddr returns an address with a port below those that the system uses for outgoing
// connections. One of those may be used again before Caddy listens.
func freeAddr(t testing.TB) string {
	for range 1000 {
		lastPort++
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", lastPort))
		if err != nil {
			continue
		}
		l.Close()
		return fmt.Sprintf("127.0.0.1:%d", lastPort)
	}
	t.Fatal("there is no free port")
	return ""
}

var lastPort = 20_000 + mathrand.IntN(10_000)

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// load loads a config. Without sites it keeps the current ones.
func (s *server) load(sites string) error {
	config := fmt.Sprintf(`{
	admin %s
	http_port %s
	https_port %s
	auto_https disable_redirects
	local_certs
	skip_install_trust
	persist_config off
	storage file_system %s
	log default {
		output test
		format json
		level DEBUG
	}
	%s
}
%s`, s.admin, port(s.http), port(s.https), storage, s.global, sites)
	adapted, _, err := adapt(config)
	if err != nil {
		return err
	}
	const handler = `"handler":"sse"`
	adapted = bytes.ReplaceAll(adapted, []byte(handler), []byte(`"takeover":"`+*takeover+`",`+handler))
	return caddy.Load(adapted, true)
}

func (s *server) mustLoad(sites string) {
	s.Helper()
	if err := s.load(sites); err != nil {
		s.Fatalf("load: %v", err)
	}
}

func adapt(config string) ([]byte, []caddyconfig.Warning, error) {
	return caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
}

// answer is the response to a request that ends.
type answer struct {
	status int
	header http.Header
	body   string
}

// do makes a request that ends. The headers are names and values in turn.
func do(t testing.TB, method, url, body string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	resp := request(ctx, t, plain, method, url, body, headers)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

// request repeats a request if the connection was closed: when Caddy reloads, the listener of the
// old config may accept a connection that it does not serve.
func request(ctx context.Context, t testing.TB, c *http.Client, method, url, body string, headers []string) *http.Response {
	t.Helper()
	for {
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		setHeaders(req, headers)
		resp, err := c.Do(req)
		if err == nil {
			return resp
		}
		// net/http has no name for the error of a connection that is closed before it is used.
		closed := strings.Contains(err.Error(), "server closed idle connection")
		if !closed && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("%s %s: %v", method, url, err)
		}
		t.Logf("%s %s: %v", method, url, err)
	}
}

func setHeaders(req *http.Request, headers []string) {
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
}

// plain is a client for HTTP/1.1 with a connection for each request.
var plain = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}

// api calls the admin API with a body of JSON, or of the given Content-Type.
func (s *server) api(method, path, body string, contentType ...string) answer {
	s.Helper()
	return do(s, method, "http://"+s.admin+path, body, "Content-Type", append(contentType, "application/json")[0])
}

type receipt struct {
	ID          string
	Connections int
	Duplicate   bool
}

// send publishes an event, which must be accepted. Without a target it is for everybody.
func (s *server) send(event string, query ...string) receipt {
	s.Helper()
	path := "/sse/broadcast"
	for _, target := range []string{`"user"`, `"connection"`, `"session"`, `"topic"`} {
		if strings.Contains(event, target) {
			path = "/sse/send"
		}
	}
	a := s.api("POST", path+strings.Join(query, ""), event)
	if a.status != http.StatusOK {
		s.Fatalf("POST %s %s: %d %s", path, event, a.status, a.body)
	}
	return decode[receipt](s, a.body)
}

func decode[T any](t testing.TB, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

type hubStatus struct {
	Connections, Users, Events, Bytes int
	Head, Oldest                      string
	Store                             map[string]any
}

// status returns the status of a hub, once its history is open.
func (s *server) status(hub string) (h hubStatus) {
	s.Helper()
	eventually(s, "hub "+hub+" in the status", func() bool {
		status := decode[struct{ Hubs map[string]hubStatus }](s, s.api("GET", "/sse/status", "").body)
		h = status.Hubs[hub]
		return h.Head != "" && !strings.HasPrefix(h.Head, "-")
	})
	return h
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(waitLimit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("timed out waiting for: %s", what)
		case <-tick.C:
		}
	}
}

// stacks returns the stacks of all goroutines.
func stacks() string {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return string(buf[:n])
		}
	}
}
