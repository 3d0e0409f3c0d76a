package recipes

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The limits for a page: half of its sentences have at most medianWords words, and no sentence has
// more than longestWords.
const (
	medianWords  = 15
	longestWords = 35
)

// TestProseIsShort: the sentences of docs/ and of the pages beside it are short enough to be read once.
func TestProseIsShort(t *testing.T) {
	pages := []string{"../../README.md", "../../client/README.md", "../../SECURITY.md", "../../CONTRIBUTING.md"}
	err := filepath.WalkDir("../../docs", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(page, "../../")
		var lengths []int
		for _, s := range sentences(string(text)) {
			n := len(strings.Fields(s))
			lengths = append(lengths, n)
			if n > longestWords {
				t.Errorf("%s: words of a sentence: got %d, want at most %d: %s", name, n, longestWords, s)
			}
		}
		slices.Sort(lengths)
		// An index has links and hardly any sentence.
		if len(lengths) < 5 {
			continue
		}
		if median := lengths[len(lengths)/2]; median > medianWords {
			t.Errorf("%s: median of the words of %d sentences: got %d, want at most %d", name, len(lengths), median, medianWords)
		}
	}
}

// TestSentences: sentences finds the sentences of a page.
func TestSentences(t *testing.T) {
	const page = "# Not this one.\n\n[Nor](#this) ·\n[row](#row)\n\nOne has `code. And` more\nlines, e.g. `x`. `y` is two! [Is](x.md#y) it three?\n\n" +
		"```sh\nnot this. Nor this.\n```\n\n- Four\n- Five: see 2.11.9\n  goes on.\n\n| not | this. Nor |\n|---|---|\n<!-- not: this -->\n1. **Six.** Seven"
	want := []string{"One has Code more lines, eg Code.", "Code is two!", "Is it three?", "Four", "Five: see 2.11.9 goes on.", "Six.", "Seven"}
	if got := sentences(page); !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

var (
	noProse = regexp.MustCompile("(?ms)^ *```.*?^ *```$|<!--.*?-->|^#.*?$|^\\|.*?$")
	inCode  = regexp.MustCompile("(?s)`[^`]+`")
	links   = regexp.MustCompile(`(?s)!?\[([^\]]*)\]\([^)]*\)`)
	listed  = regexp.MustCompile(`(?m)^ *(?:[-*]|\d+\.) `)
	blank   = regexp.MustCompile(`\n\s*\n`)
	ends    = regexp.MustCompile(`([.?!])\s+(\p{Lu}|\d)`)
)

// sentences returns the sentences of the paragraphs and lists of a page. It leaves out headings,
// tables and blocks of code. A text in backquotes counts as one word.
func sentences(page string) (list []string) {
	page = noProse.ReplaceAllString(page, "\n\n")
	page = inCode.ReplaceAllString(page, "Code") // it may begin a sentence
	page = links.ReplaceAllString(page, "$1")
	page = listed.ReplaceAllString(page, "\n\n")
	page = strings.NewReplacer("*", "", "e.g.", "eg", "i.e.", "ie").Replace(page)
	for _, paragraph := range blank.Split(page, -1) {
		for s := range strings.SplitSeq(ends.ReplaceAllString(paragraph, "$1\x00$2"), "\x00") {
			if s = strings.Join(strings.Fields(s), " "); s != "" && !strings.Contains(s, " · ") {
				list = append(list, s)
			}
		}
	}
	return list
}
