package recipes

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// TestPages: each page with blocks of code that run is read by a test here.
func TestPages(t *testing.T) {
	var tests strings.Builder
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(text)
	}
	root := os.DirFS("../../docs")
	err = fs.WalkDir(root, ".", func(page string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(page, ".md") {
			return err
		}
		text, err := fs.ReadFile(root, page)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "<!-- run: ") && !strings.Contains(tests.String(), `"`+page+`"`) {
			t.Errorf("no test here reads the recipes of %s", page)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	fence  = regexp.MustCompile("(?ms)^(?:<!-- (run|not run): ([^>]+) -->\n)?```(\\w*)\n(.*?)^```$")
	sites  = regexp.MustCompile(`(?m)^((?:\w+\.)?example\.com) \{$`)
	global = regexp.MustCompile(`(?s)^\{\n(.*?)\n\}\n`)
)

// recipes are the blocks of code of a page, by the names in the comments before
// them. There is no block without a name, as it would not be tested, but for those
// that say why they cannot run here.
func recipes(t *testing.T, page string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		kind, name, language, code := m[1], m[2], m[3], m[4]
		if kind == "not run" {
			checkSyntax(t, page, language, code)
			continue
		}
		if name == "" || found[name] != "" {
			t.Errorf("%s: a block of %s needs a comment with a name of its own before it: <!-- run: name -->, or <!-- not run: reason -->\n%s", page, language, code)
		}
		found[name] = code
	}
	return found
}

// parsers check the syntax of a file.
var parsers = map[string]struct {
	file string
	run  []string
}{
	"php":  {"x.php", []string{"php", "-l"}},
	"ruby": {"x.rb", []string{"ruby", "-c"}},
	"js":   {"x.mjs", []string{"node", "--check"}},
	"sh":   {"x.sh", []string{"sh", "-n"}},
}

// checkSyntax checks what can be checked of code that is not run.
func checkSyntax(t *testing.T, page, language, code string) {
	t.Helper()
	parser, ok := parsers[language]
	if !ok {
		return
	}
	if language == "php" {
		code = "<?php\n" + code
	}
	file := write(t, t.TempDir(), parser.file, code)
	if out, err := exec.Command(parser.run[0], append(parser.run[1:], file)...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s\n%s", page, err, out, code)
	}
}

// done checks that every recipe of a page was taken.
func done(t *testing.T, left map[string]string) {
	t.Helper()
	for name := range left {
		t.Errorf("the recipe %s is not tested", name)
	}
}

// take removes a recipe from those that are left, so that in the end none is.
func take(t *testing.T, left map[string]string, name string) string {
	t.Helper()
	text, ok := left[name]
	if !ok {
		t.Fatalf("the page has no recipe %s", name)
	}
	delete(left, name)
	return text
}

// place puts a Caddyfile of the docs on this machine: its app is at this address, its
// sites are on this port, and its files in this folder.
func place(text, app string, port int, files string) string {
	text = sites.ReplaceAllString(text, fmt.Sprintf("https://$1:%d {", port))
	text = strings.ReplaceAll(text, "localhost:3000", app)
	if files != "" {
		text = strings.ReplaceAll(text, "/srv", files)
	}
	return text
}

// visitor is a browser with a cookie, or none.
type visitor struct {
	t      *testing.T
	base   string // of the site
	cookie string
	from   string // its address; any, if it is empty
}

// client reaches 127.0.0.1, whatever the host in the URL.
func (v visitor) client() *http.Client {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // a certificate of the test's Caddy
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			d := new(net.Dialer)
			if v.from != "" {
				d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(v.from)}
			}
			return d.DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}
	v.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get asks for a path, with headers given as names and values. What is read of the
// answer must be there within a while.
func (v visitor) get(path string, header ...string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*e2e.Patience)
	v.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+path, nil)
	if err != nil {
		return nil, err
	}
	if v.cookie != "" {
		req.Header.Set("Cookie", v.cookie)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return v.client().Do(req)
}

// answer is get for an answer that ends.
func (v visitor) answer(path string, header ...string) (resp *http.Response, body string) {
	v.t.Helper()
	resp, err := v.get(path, header...)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp, string(text)
}

// refused checks that there is no stream.
func (v visitor) refused(path string, status int, header ...string) (body string) {
	v.t.Helper()
	resp, body := v.answer(path, header...)
	if resp.StatusCode != status {
		v.t.Errorf("%s%s: status %d, want %d: %s", v.base, path, resp.StatusCode, status, body)
	}
	return body
}

// stream is an open stream.
type stream struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Scanner
	last  string // the last id
}

func newStream(t *testing.T, resp *http.Response) *stream {
	return &stream{t: t, resp: resp, lines: bufio.NewScanner(resp.Body)}
}

// open opens a stream and checks whose it is.
func (v visitor) open(path, user string, header ...string) *stream {
	v.t.Helper()
	resp, err := v.get(path, header...)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(resp.Body)
		v.t.Fatalf("%s%s: no stream: %s %s %s", v.base, path, resp.Status, resp.Header, body)
	}
	s := newStream(v.t, resp)
	event, data := s.next()
	var connected struct{ User string }
	if err := json.Unmarshal([]byte(data), &connected); err != nil || event != "sse.connected" || connected.User != user {
		v.t.Fatalf("the stream begins with %s %s, not as %q", event, data, user)
	}
	return s
}

// id is that of the next event.
func (s *stream) id() string {
	s.t.Helper()
	s.next()
	return s.last
}

// next is the next event.
func (s *stream) next() (event, data string) {
	s.t.Helper()
	for s.lines.Scan() {
		line := s.lines.Text()
		if value, ok := strings.CutPrefix(line, "event: "); ok {
			event = value
		}
		if value, ok := strings.CutPrefix(line, "data: "); ok {
			data = value
		}
		if value, ok := strings.CutPrefix(line, "id: "); ok {
			s.last = value
		}
		if line == "" && data != "" {
			return event, data
		}
	}
	s.t.Fatalf("the stream has ended: %v", s.lines.Err())
	return "", ""
}

// expect checks what the next event is.
func (s *stream) expect(event, data string) {
	s.t.Helper()
	if e, d := s.next(); e != event || d != data {
		s.t.Errorf("got %s %s, want %s %s", e, d, event, data)
	}
}

func (s *stream) close() { s.resp.Body.Close() }

// back is the back end.
type back struct {
	t     *testing.T
	admin string
}

// run runs a command of the docs, to the admin endpoint of this server.
func (b back) run(command string, env ...string) (answer string) {
	b.t.Helper()
	cmd := exec.Command("sh", "-ec", strings.ReplaceAll(command, "curl ", "curl -sS --fail-with-body "))
	if !strings.Contains(command, "localhost:2019") {
		b.t.Fatalf("it is no command to the admin endpoint: %s", command)
	}
	cmd.Args[2] = strings.ReplaceAll(cmd.Args[2], "localhost:2019", b.admin)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// send publishes an event with a text to a target, as in "topic":"room/1".
func (b back) send(target, text string) {
	b.t.Helper()
	b.post("send", fmt.Sprintf(`{%s,"text":%q}`, target, text))
}

// broadcast publishes an event for everybody.
func (b back) broadcast(text string) {
	b.t.Helper()
	b.post("broadcast", fmt.Sprintf(`{"text":%q}`, text))
}

func (b back) post(call, event string) {
	b.t.Helper()
	resp, err := http.Post("http://"+b.admin+"/sse/"+call, "application/json", strings.NewReader(event))
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s %s: %s %s", call, event, resp.Status, body)
	}
}

type connection struct {
	User, Remote, Protocol string
	Topics                 []string
}

// connections are those that are open, of a user unless that is empty.
func (b back) connections(user string) (list []connection, err error) {
	query := "?limit=1000"
	if user != "" {
		query += "&user=" + user
	}
	resp, err := http.Get("http://" + b.admin + "/sse/connections" + query)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var page struct{ Connections []connection }
	err = json.NewDecoder(resp.Body).Decode(&page)
	return page.Connections, err
}

// wait waits until there are n connections.
func (b back) wait(n int) {
	b.t.Helper()
	e2e.Wait(b.t, e2e.Patience, fmt.Sprintf("%d open connections", n), func() error {
		list, err := b.connections("")
		if err == nil && len(list) != n {
			err = fmt.Errorf("there are %d", len(list))
		}
		return err
	})
}

// served are the sites that place has made.
var served = regexp.MustCompile(`(?m)^(https://(?:\w+\.)?example\.com:\d+) \{$`)

// defaultHub are the options of the default hub in global options.
var defaultHub = regexp.MustCompile(`(?ms)^\tsse \{\n(.*?)^\t\}`)

// serve starts a Caddy with these sites, and waits until each of them has its certificate.
func serve(t *testing.T, globals, text string) back {
	t.Helper()
	config := e2e.Config{Global: "local_certs\n" + globals, Sites: text}
	if m := defaultHub.FindStringSubmatch(globals); m != nil { // the server has options of it already
		config.Global, config.Hub = strings.Replace(config.Global, m[0], "", 1), m[1]
	}
	s := e2e.Start(t, config)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of Caddy's log:\n%s", s.Tail())
		}
	})
	for _, m := range served.FindAllStringSubmatch(text, -1) {
		e2e.Wait(t, e2e.Patience, m[1]+" to answer", func() error {
			resp, err := visitor{t: t, base: m[1]}.get("/nothing")
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
	}
	return back{t, fmt.Sprintf("localhost:%d", s.Admin)}
}

// terminal runs the commands of a page as on the machine of this server, with pairs of
// what is to be replaced in them.
func terminal(t *testing.T, s *e2e.Server, left map[string]string, pairs ...string) (shell func(name string) *exec.Cmd) {
	t.Helper()
	bin := t.TempDir()
	if err := os.Symlink(s.SSE().Path, filepath.Join(bin, "caddy")); err != nil {
		t.Fatal(err)
	}
	admin := fmt.Sprintf("localhost:%d", s.Admin)
	replace := strings.NewReplacer(append(pairs, "localhost:2019", admin)...)
	return func(name string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("sh", "-ec", replace.Replace(take(t, left, name)))
		cmd.Dir = t.TempDir()
		cmd.Env = append(s.SSE().Env, "PATH="+bin+":"+os.Getenv("PATH"), "CADDY_ADMIN="+admin)
		cmd.Stderr = os.Stderr
		return cmd
	}
}

// launch starts a program that listens on a port, and waits until it does.
func launch(t *testing.T, port int, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: make test installs what these tests need", err)
	}
	cmd := exec.Command(path, args...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.String())
		}
	})
	e2e.Wait(t, e2e.Patience, name+" to listen", func() error {
		select {
		case <-exited:
			t.Fatalf("%s has ended: %s", name, log.String())
		default:
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// login gives the cookie of a user at an app.
func login(t *testing.T, app, user string) (cookie string) {
	t.Helper()
	e2e.Wait(t, e2e.Patience, "a login", func() error {
		resp, err := http.Get("http://" + app + "/login?user=" + user)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || len(resp.Cookies()) == 0 {
			return errors.New(resp.Status)
		}
		cookie = resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value
		return nil
	})
	return cookie
}
