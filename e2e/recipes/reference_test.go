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

// TestReferenceCaddyfiles: Caddy takes the Caddyfiles of docs/reference, and adapts the
// one on JSON to what the page shows.
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
				t.Errorf("%s: %s is not formatted, as\n%s", page, name, formatted)
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
				t.Errorf("the Caddyfile is adapted to %v, not %v", got, want)
			}
		}
		wantAllTaken(t, blocks)
	}
}

// TestReferenceAPI runs the commands of docs/reference/api.md, and compares the fields
// of what is answered with the fields that the page shows.
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
			t.Errorf("%s answers the fields %q, and the page shows %q\n%s", command, g, w, got)
		}
	}
	shown("send", "receipt")
	alice.expect("order_update", `{"orderId":"123","status":"shipped"}`)
	if got := b.run(take(t, page, "batch")); strings.Count(got, `"id"`) != 2 {
		t.Errorf("a batch is answered with %s", got)
	}
	os.Remove("events.ndjson")
	alice.expect("", "1")
	b.run(take(t, page, "broadcast"))
	alice.expect("maintenance", `{"at":"22:00"}`)
	shown("connections", "connections_answer")
	shown("status", "status_answer")
	if got := b.run(take(t, page, "users")); !strings.Contains(got, `"user":"alice"`) {
		t.Errorf("users: %s", got)
	}
	if got := b.run(take(t, page, "why")); !strings.Contains(got, `"state":"`) {
		t.Errorf("why: %s", got)
	}
	alice.expect("", "1")
	b.run(take(t, page, "patch"))
	alice.expect("sse.topics", `{"added":["room/2"],"removed":["room/1"]}`)
	if got := b.run(take(t, page, "disconnect")); got != "{\"disconnected\":1}\n" {
		t.Errorf("disconnect: %s", got)
	}
	wantAllTaken(t, page)
}

// fieldsOf are the paths of all fields of a JSON object, in order. The names of hubs
// are left out.
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
