package disk_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/store/disk"
)

func TestCaddyfile(t *testing.T) {
	for input, want := range map[string]string{
		"disk":           `{}`,
		"disk /a/b.db":   `{"path":"/a/b.db"}`,
		"disk /a /b":     "",
		"disk {\n\tx\n}": "",
	} {
		var d disk.Disk
		dispenser := caddyfile.NewTestDispenser(input)
		err := d.UnmarshalCaddyfile(dispenser)
		got, _ := json.Marshal(d)
		if want == "" && err == nil || want != "" && (err != nil || string(got) != want) {
			t.Errorf("%q: got %s, %v, want %s", input, got, err, want)
		}
	}
}

// Provisioning opens no file, because caddy validate provisions, too.
func TestProvisionOpensNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HISTORY_DIR", dir)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	d := disk.Disk{Path: "{env.HISTORY_DIR}/sub/../x.db"}
	if err := d.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	var store caddysse.StoreModule = &d
	if got, want := store.Identity("default"), filepath.Join(dir, "x.db"); got != want {
		t.Errorf("identity: got %s, want %s", got, want)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("files after provisioning: got %v, %v, want none", names, err)
	}
	if err := (&disk.Disk{Path: "{no.such.placeholder}/x.db"}).Provision(ctx); err == nil {
		t.Error("an unknown placeholder: got accepted, want refused")
	}
}

func TestDefaultPathIsInTheDataDirectory(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	got := new(disk.Disk).Identity("chat")
	if want := filepath.Join(os.Getenv("XDG_DATA_HOME"), "caddy", "sse", "chat.db"); got != want {
		t.Errorf("default path: got %s, want %s", got, want)
	}
}
