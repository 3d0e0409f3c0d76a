package recipes

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// TestPages: a test here reads each page that has blocks of code to run.
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
			t.Errorf("%s: got no test that reads its blocks, want one", page)
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

// recipes returns the blocks of code of a page by name. The name is in the comment before the
// block. Each block has a name, or a reason why it cannot run here.
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

// parsers are the programs that check the syntax of a file.
var parsers = map[string]struct {
	file string
	run  []string
}{
	"php":  {"x.php", []string{"php", "-l"}},
	"ruby": {"x.rb", []string{"ruby", "-c"}},
	"js":   {"x.mjs", []string{"node", "--check"}},
	"sh":   {"x.sh", []string{"sh", "-n"}},
}

// checkSyntax checks the syntax of code that is not run, if its language has a parser.
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

// wantAllTaken checks that the tests took every recipe of a page.
func wantAllTaken(t *testing.T, left map[string]string) {
	t.Helper()
	for name := range left {
		t.Errorf("recipe %s: got no test, want one", name)
	}
}

// take returns a recipe and removes it from the recipes of the page that are left.
func take(t *testing.T, left map[string]string, name string) string {
	t.Helper()
	text, ok := left[name]
	if !ok {
		t.Fatalf("recipe %s: got none on the page, want one", name)
	}
	delete(left, name)
	return text
}

// localize changes a Caddyfile of the docs to run on this machine: with the address of its app,
// the port of its sites, and the folder of its files.
func localize(text, app string, port int, files string) string {
	text = sites.ReplaceAllString(text, fmt.Sprintf("https://$1:%d {", port))
	text = strings.ReplaceAll(text, "localhost:3000", app)
	if files != "" {
		text = strings.NewReplacer("/srv", files, "/var/log/caddy", files).Replace(text)
	}
	return text
}

// frame returns a file of testdata with code of the docs in it. The pairs are texts of the file and
// their replacements.
func frame(t *testing.T, name string, pairs ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return replace(t, string(text), pairs...)
}

// replace replaces texts that must be there. The pairs are texts and their replacements.
func replace(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("got no %q in this text, want it:\n%s", pairs[i], text)
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// splitGlobals splits a Caddyfile into its global options, which must be there, and its sites.
func splitGlobals(t *testing.T, caddyfile string) (globals, sites string) {
	t.Helper()
	m := global.FindStringSubmatch(caddyfile)
	if m == nil {
		t.Fatalf("got no global options in this Caddyfile, want some:\n%s", caddyfile)
	}
	return m[1], strings.TrimPrefix(caddyfile, m[0])
}

// write writes a file and returns its path.
func write(t *testing.T, dir, name, text string) (file string) {
	t.Helper()
	file = filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
