package natsstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/e2e"
	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

func adapt(t *testing.T, option string) (string, error) {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("{\n\tsse {\n\t\t"+option+"\n\t}\n}\n"), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "", err
	}
	var config struct {
		Apps struct {
			SSE struct {
				Hubs struct {
					Default struct {
						Store json.RawMessage `json:"store"`
					} `json:"default"`
				} `json:"hubs"`
			} `json:"sse"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	return string(config.Apps.SSE.Hubs.Default.Store), nil
}

func TestCaddyfile(t *testing.T) {
	for option, want := range map[string]string{
		"store nats": `{"kind":"nats"}`,
		`store nats {
			url nats://a:4222 nats://b:4222
			url nats://c:4222
			stream EVENTS
			replicas 3
			credentials /etc/nats.creds
			tls /etc/ca.pem /etc/me.pem /etc/me.key
		}`: `{"credentials":"/etc/nats.creds","kind":"nats","replicas":3,"stream":"EVENTS",` +
			`"tls":{"ca":"/etc/ca.pem","certificate":"/etc/me.pem","key":"/etc/me.key"},"urls":["nats://a:4222","nats://b:4222","nats://c:4222"]}`,
		"store nats {\n tls\n }": `{"kind":"nats","tls":{}}`,
	} {
		if got, err := adapt(t, option); err != nil || got != want {
			t.Errorf("%s\ngot %s, %v\nwant %s", option, got, err, want)
		}
	}
	for option, want := range map[string]string{
		"store nats here":                     "wrong argument count",
		"store nats {\n url\n }":              "wrong argument count",
		"store nats {\n replicas 6\n }":       "1 to 5",
		"store nats {\n replicas three\n }":   "1 to 5",
		"store nats {\n tls ca.pem me.pem\n}": "wrong argument count",
		"store nats {\n urls a\n }":           `unknown option "urls" of store nats`,
	} {
		if _, err := adapt(t, option); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%s\ngot error %v, want %q and the line", option, err, want)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Setenv("NATS_PASSWORD", "secret")
	for want, s := range map[string]Store{
		"":                              {URLs: []string{"nats://me:{env.NATS_PASSWORD}@a:4222", "tls://b"}},
		"is not the URL":                {URLs: []string{"http://me:secret@a"}},
		"not the URL of":                {URLs: []string{"http://secret@a:4222"}},
		"the URL of a NATS":             {URLs: []string{"me:secret@a:4222"}},
		"cannot be parsed":              {URLs: []string{"nats://me:sec%ret@a"}},
		"1 to 200":                      {Stream: "a.b"},
		"replicas must be":              {Replicas: 7},
		"a key without its certificate": {TLS: &TLS{Key: "k"}},
	} {
		err := s.Provision(caddy.Context{})
		if err == nil {
			err = s.Validate()
		}
		if got := ""; err != nil {
			got = err.Error()
			if want == "" || !strings.Contains(got, want) || strings.Contains(got, "secret") {
				t.Errorf("%+v: got error %q, want %q", s, got, want)
			}
		} else if want != "" {
			t.Errorf("%+v: got no error, want %q", s, want)
		}
	}
}

// TestPasswordWithAComma: a comma in a password does not end the URL.
func TestPasswordWithAComma(t *testing.T) {
	servers := natstest.New(t, 1, `authorization { user: me, password: "sec,ret" }`)
	servers.Start(0)
	opened, err := (&Store{URLs: []string{strings.Replace(servers.URLs()[0], "//", "//me:sec,ret@", 1)}, Stream: newStream(), Replicas: 1}).Open("test")
	if err != nil {
		t.Fatal(err)
	}
	n := tailNode(t, opened.(*store), someOptions, hub.Position{})
	n.upTo(n.publish("a"))
}

// certificate creates a self-signed certificate for 127.0.0.1. It returns the files of the certificate
// and of its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TestTLSAndPassword connects to a server that requires a certificate and a password.
func TestTLSAndPassword(t *testing.T) {
	cert, key := certificate(t)
	servers := natstest.New(t, 1, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\n"+
		"authorization { user: me, password: %q }", cert, key, cert, "s3cret/"))
	servers.Start(0)
	t.Setenv("NATS_PASSWORD", "s3cret%2F")
	module := Store{
		URLs: []string{strings.Replace(servers.URLs()[0], "//", "//me:{env.NATS_PASSWORD}@", 1)},
		TLS:  &TLS{CA: cert, Certificate: cert, Key: key},
	}
	if err := errors.Join(module.Provision(caddy.Context{}), module.Validate()); err != nil {
		t.Fatal(err)
	}
	opened, err := module.Open("default")
	if err != nil {
		t.Fatal(err)
	}
	h := hub.New(hub.Options{})
	if err := h.Use(opened); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Publish(t.Context(), hub.Event{Data: []byte("a"), Targets: []hub.Target{{}}}); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}

	module.TLS.CA = "missing.pem"
	if _, err := module.Open("default"); err == nil || !strings.Contains(err.Error(), "missing.pem") {
		t.Errorf("error without its files: got %v, want one with missing.pem", err)
	}
}

// freeAddr returns an address without a listener.
func freeAddr(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", e2e.FreePort(t))
}

// firstReceipt matches the receipt of the first event of a history.
var firstReceipt = regexp.MustCompile(`"id":"[a-z0-9]{8}-1-[a-z0-9]{4}","connections":0[,}]`)

// TestCaddyStartsWithoutNATS starts Caddy with a hub on NATS, and starts NATS later.
func TestCaddyStartsWithoutNATS(t *testing.T) {
	servers := natstest.New(t, 1, "")
	admin := freeAddr(t)
	name := strings.ToLower(newStream()) // no other test has this hub open
	config := fmt.Sprintf("{\n admin %s\n persist_config off\n sse %s {\n store nats {\n url %s\n }\n }\n }\nhttp://%s {\n sse /events {\n hub %s\n }\n }\n",
		admin, name, servers.URLs()[0], freeAddr(t), name)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	call := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+admin+path+"?hub="+name, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	const unreachable = `"store":{"kind":"nats","connected":false,"lag":0,"writable":false,"problem":"NATS is not reachable`
	e2e.Wait(t, 4*e2e.Patience, "the status to say that NATS is not reachable", func() error {
		if _, status := call(http.MethodGet, "/sse/status", ""); !strings.Contains(status, unreachable) {
			return errors.New(status)
		}
		return nil
	})
	servers.Start(0)
	e2e.Wait(t, 4*e2e.Patience, "the first receipt as the response to a publish", func() error { // a busy server may start for longer than a publish waits
		if code, answer := call(http.MethodPost, "/sse/broadcast", `{"data":1,"key":"k"}`); code != http.StatusOK || !firstReceipt.MatchString(answer) {
			return fmt.Errorf("%d %s", code, answer)
		}
		return nil
	})
	if _, answer := call(http.MethodPost, "/sse/broadcast", `{"data":1,"key":"k"}`); !firstReceipt.MatchString(answer) || !strings.Contains(answer, `"duplicate":true`) {
		t.Errorf("response to a repeated publish: got %s, want the first receipt as a duplicate", answer)
	}
	e2e.Wait(t, 4*e2e.Patience, "the status to say that the store is connected and writable", func() error {
		if _, status := call(http.MethodGet, "/sse/status", ""); !strings.Contains(status, `"store":{"kind":"nats","connected":true,"lag":0,"writable":true}`) {
			return errors.New(status)
		}
		return nil
	})
	if code, answer := call(http.MethodGet, "/sse/connections", ""); code != http.StatusOK || answer != "{\"count\":0,\"connections\":[]}\n" {
		t.Errorf("connections: got %d %s, want none", code, answer)
	}
}

// TestLowLimitsAreLoggedOnce: limits that are too low and cannot be raised are logged once.
func TestLowLimitsAreLoggedOnce(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	config := fmt.Sprintf(`{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"writer":{"output":"file","filename":%q}}}}}`, log)
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	servers := natstest.New(t, 1, "accounts { A { jetstream { max_file: 4MB, max_mem: 1MB }, users: [ { user: a, password: p } ] } }\nno_auth_user: a")
	servers.Start(0)
	servers.Ready()
	js, done := servers.JetStream()
	defer done()
	stream := newStream()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: stream, Subjects: []string{stream}, MaxBytes: 1 << 20, AllowAtomicPublish: true, Duplicates: hub.KeyLifetime,
	}); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, stream, 1, someOptions, servers.URLs()...)
	n.publish("a")
	for range 3 {
		if _, err := n.find(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if count := strings.Count(string(text), "keeps less than"); count != 1 || !strings.Contains(string(text), "--max-bytes") {
		t.Errorf("log lines: got %d, want 1: %s", count, text)
	}
}

func TestIdentityIsServersAndStream(t *testing.T) {
	a := Store{URLs: []string{"nats://me:secret@a:4222", "nats://b:4222"}, Replicas: 1}
	b := Store{URLs: []string{"nats://b:4222", "nats://me:other@a:4222"}, Replicas: 3}
	if a.Identity("chat") != b.Identity("chat") || a.Identity("chat") == a.Identity("default") {
		t.Errorf("identities: got %q, %q, %q, want the first two the same", a.Identity("chat"), b.Identity("chat"), a.Identity("default"))
	}
	if got := a.Identity("chat"); got != "nats://a:4222,nats://b:4222 stream SSE_chat" {
		t.Errorf("identity: got %q, want one without passwords", got)
	}
}
