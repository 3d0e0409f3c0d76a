package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteResultsKeepsOtherSections(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	for _, section := range [][2]string{{"A", "a"}, {"B", "b\n\n## more"}, {"A", "other a\n"}, {"C", "c"}, {"B", "other b"}, {"C", "other c"}} {
		if err := WriteResults(file, section[0], section[1]); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := "# A\n\nother a\n\n# B\n\nother b\n\n# C\n\nother c\n"; string(got) != want {
		t.Errorf("file: got\n%s\nwant\n%s", got, want)
	}
}
