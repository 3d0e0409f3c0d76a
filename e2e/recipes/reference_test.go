package recipes

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestReferenceCaddyfiles: Caddy accepts the Caddyfiles of docs/reference, and adapts the one of
// json.md to the JSON of that page.
func TestReferenceCaddyfiles(t *testing.T) {
	dir := t.TempDir()
	caddy := e2e.Start(t, e2e.Config{}).SSE()
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command(caddy.Path, args...)
		cmd.Dir, cmd.Env = dir, append(caddy.Env, "HOME="+dir)
		var out, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &log
		if err := cmd.Run(); err != nil {
			t.Errorf("caddy %s: %v\n%s", strings.Join(args, " "), err, log.String())
		}
		return out.Bytes()
	}
	for page, names := range map[string][]string{
		"reference/directives.md": {"typical", "all", "api", "test", "cors"},
		"reference/hubs.md":       {"hubs"},
		"reference/stores.md":     {"disk"},
		"reference/json.md":       {"caddyfile"},
	} {
		blocks := recipes(t, page)
		for _, name := range names {
			text := take(t, blocks, name)
			write(t, dir, "Caddyfile", text)
			run("validate")
			if formatted := run("fmt"); string(formatted) != text {
				t.Errorf("%s: got %s not formatted, want\n%s", page, name, formatted)
			}
		}
		if page == "reference/json.md" {
			var got, want any
			for text, to := range map[string]*any{string(run(strings.Fields(take(t, blocks, "adapt"))[1:]...)): &got, take(t, blocks, "json"): &want} {
				if err := json.Unmarshal([]byte(text), to); err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("adapted Caddyfile: got %v, want %v", got, want)
			}
		}
		wantAllTaken(t, blocks)
	}
}

// TestReferenceAPI runs the commands of docs/reference/api.md, and compares the fields of the
// responses with those of the page.
func TestReferenceAPI(t *testing.T) {
	page := recipes(t, "reference/api.md")
	s := e2e.Start(t, e2e.Config{Stream: "topics news room/*"})
	b := backendOf(t, s)
	v := visitorOf(t, s)
	alice := v.open("/events?topic=room/1&topic=news", "alice", "X-User", "alice", "X-Session", "secret")
	defer alice.close()

	shown := func(command, answer string) {
		t.Helper()
		got, want := b.run(take(t, page, command)), take(t, page, answer)
		if g, w := fieldsOf(t, got), fieldsOf(t, want); !slices.Equal(g, w) {
			t.Errorf("fields of the response to %s: got %q, want those of the page, %q\n%s", command, g, w, got)
		}
	}
	shown("send", "receipt")
	alice.expect("order_update", `{"orderId":"123","status":"shipped"}`)
	if got := b.run(take(t, page, "batch")); strings.Count(got, `"id"`) != 2 {
		t.Errorf("response to a batch: got %s, want 2 receipts", got)
	}
	os.Remove("events.ndjson")
	alice.expect("", "1")
	b.run(take(t, page, "broadcast"))
	alice.expect("maintenance", `{"at":"22:00"}`)
	shown("connections", "connections_answer")
	shown("status", "status_answer")
	if got := b.run(take(t, page, "users")); !strings.Contains(got, `"user":"alice"`) {
		t.Errorf("users: got %s, want alice", got)
	}
	if got := b.run(take(t, page, "why")); !strings.Contains(got, `"state":"`) {
		t.Errorf("why: got %s, want a state", got)
	}
	alice.expect("", "1")
	b.run(take(t, page, "patch"))
	alice.expect("sse.topics", `{"added":["room/2"],"removed":["room/1"]}`)
	if got := b.run(take(t, page, "disconnect")); got != "{\"disconnected\":1}\n" {
		t.Errorf("disconnect: got %s, want 1 disconnected", got)
	}
	wantAllTaken(t, page)
}

// fieldsOf returns the paths of all fields of a JSON object, in order.
func fieldsOf(t *testing.T, text string) (fields []string) {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for name, of := range value {
				fields = append(fields, path+"."+name)
				walk(path+"."+name, of)
			}
		case []any:
			for _, of := range value {
				walk(path, of)
			}
		}
	}
	walk("", value)
	slices.Sort(fields)
	return slices.Compact(fields)
}
