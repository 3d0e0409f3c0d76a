package natsstore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/nats-io/nats-server/v2/server"
)

// TestConfigsInTheDocs: Caddy and nats-server accept the configs of docs/scaling.md and
// docs/reference/stores.md, and those of compose.cluster.yaml.
func TestConfigsInTheDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	stores, err := os.ReadFile("../../docs/reference/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, stores...)
	for file, kind := range map[string]string{"nats.conf": "nats", "Caddyfile": "caddyfile", "balancer.Caddyfile": "caddyfile"} {
		config, err := os.ReadFile("../../deploy/cluster/" + file)
		if err != nil {
			t.Fatal(err)
		}
		text = fmt.Appendf(text, "```%s\n%s```\n", kind, config)
	}
	// Validation may already connect to other servers.
	doc := regexp.MustCompile(`\b(?:10\.0\.0\.|nats|node)(\d+:\d)`).ReplaceAllString(string(text), "127.0.0.$1")
	t.Setenv("NATS_NAME", "nats1")
	t.Setenv("NATS_PASSWORD", "secret")
	t.Setenv("BACKEND_HASH", "$2a$10$BQMoUgL/8U3y28ywqMBGDeddGnVYdbv2dxObymwe4lLjXH16apCxa")
	count := map[string]int{}
	for _, block := range regexp.MustCompile("(?s)```(caddyfile|nats)\n(.*?)```").FindAllStringSubmatch(doc, -1) {
		kind, config := block[1], block[2]
		count[kind]++
		if kind == "nats" {
			file := filepath.Join(t.TempDir(), "nats.conf")
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			options, err := server.ProcessConfigFile(file)
			if err == nil {
				_, err = server.NewServer(options)
			}
			if err != nil {
				t.Errorf("nats-server: got error %v, want none, for\n%s", err, config)
			}
			continue
		}
		adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
		for _, w := range warnings {
			if !strings.Contains(w.Message, "not formatted") {
				t.Errorf("%s\n%s", config, w)
			}
		}
		var parsed caddy.Config
		if err == nil {
			err = caddy.StrictUnmarshalJSON(adapted, &parsed)
		}
		if err == nil {
			err = caddy.Validate(&parsed)
		}
		if err != nil {
			t.Errorf("Caddy: got error %v, want none, for\n%s", err, config)
		}
	}
	checkPasswords(t, doc)
	if count["caddyfile"] != 6 || count["nats"] != 2 {
		t.Errorf("configs: got %v, want 6 of Caddy and 2 of nats-server", count)
	}
}

// checkPasswords checks that nats-server takes the password that the command of the page
// makes, and refuses one of digits alone, as the page says.
func checkPasswords(t *testing.T, page string) {
	t.Helper()
	config := regexp.MustCompile("(?s)```nats\n(.*?)```").FindStringSubmatch(page)
	command := regexp.MustCompile("(?m)^echo \"NATS_PASSWORD=.*$").FindString(page)
	line, err := exec.Command("sh", "-c", command).Output()
	password, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "NATS_PASSWORD=")
	if config == nil || err != nil || !ok {
		t.Fatalf("%q makes %q: %v", command, line, err)
	}
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(config[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NATS_PASSWORD", password)
	if options, err := server.ProcessConfigFile(file); err != nil || options.Password != password {
		t.Errorf("the password %s: %v", password, err)
	}
	t.Setenv("NATS_PASSWORD", "20261127")
	if options, err := server.ProcessConfigFile(file); err == nil && options.Password == "20261127" {
		t.Error("a password of digits alone works without quotes")
	}
}
