package caddysse

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// These words slow a reader down. Plain words for them are beside them. CONTRIBUTING.md has the
// rules.
var (
	wordsNowhere = map[string]string{
		"thereof": "its", "whereof": "of which", "whence": "from which", "thence": "from there", "wherein": "in which",
		"whoever": "the client", "whomever": "the client", "anew": "again", "farewell": "close", "in vain": "without success", "aught": "anything",
		"thereby": "by this", "hereby": "with this", "lest": "so that not", "forthwith": "at once",
	}
)

// TestPlainWords: code and pages do not use words that slow a reader down.
func TestPlainWords(t *testing.T) {
	skipped := []string{".git", "node_modules", "dist", "CHANGELOG.md", "CONTRIBUTING.md", "words_test.go"} // the last two quote them
	checked := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(skipped, entry.Name()) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if entry.IsDir() || !slices.Contains([]string{".go", ".ts", ".tsx", ".md"}, filepath.Ext(path)) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		checked++
		checkWords(t, path, string(text), wordsNowhere)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 200 {
		t.Errorf("only %d files were checked", checked)
	}
}

func checkWords(t *testing.T, path, text string, words map[string]string) {
	t.Helper()
	for word, plain := range words {
		for _, at := range regexp.MustCompile(`(?i)\b`+word+`\b`).FindAllStringIndex(text, -1) {
			t.Errorf("%s:%d: write %q, or another sentence, for %q", path, 1+strings.Count(text[:at[0]], "\n"), plain, word)
		}
	}
}
