package caddysse_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// unlisted has the texts that the file cannot have, with the reasons.
var unlisted = map[string]string{
	"no hubs yet, because Caddy is starting: try again": "there is a config while this test runs; see TestReady",
	"Caddy is shutting down":                            "the same",
	"the history is not open yet: ":                     "needs a store that does not open; see TestReady",
	"the history of hub ":                               "the same",
	" of a handler before sse cannot flush: keep that handler away from the path of sse":         "needs a handler of another module; see TestStreamThatCannotBe",
	" of a handler before sse buffers the response: keep that handler away from the path of sse": "the same",
	" of a handler before the API cannot flush: keep that handler away from /sse/events":         "the same",
	" of a handler before the API buffers the response: keep that handler away from /sse/events": "needs a handler that buffers; see TestEventsBehindABufferingHandler",
	" is no store: it does not implement caddysse.StoreModule":                                   "needs another module",
	"reading the body: ":         "needs a client that leaves in the middle of a body",
	"the hub is closed":          "no client sees it",
	"} is no segment of a topic": "no client sees it: the pattern matches nothing",
}

// TestRefusalTextsAreComplete: the text of each error in the source of this package is in the file
// or in unlisted.
func TestRefusalTextsAreComplete(t *testing.T) {
	listed, err := os.ReadFile(refusalTexts)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, text := range errorTexts(t, name) {
			if used[text] = true; unlisted[text] == "" && !strings.Contains(string(listed), text) {
				t.Errorf("%s: got no refusal with the text %q in %s, want one", name, text, refusalTexts)
			}
		}
	}
	for text := range unlisted {
		if !used[text] {
			t.Errorf("unlisted text %q: got no error with it, want one", text)
		}
	}
}

// errorTexts returns the longest constant part of each error that the file makes.
func errorTexts(t *testing.T, name string) (found []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	makers := []string{"apiErrorf", "errors.New", "fmt.Errorf", "d.Errf"}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name := ""
		switch f := call.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			if pkg, ok := f.X.(*ast.Ident); ok {
				name = pkg.Name + "." + f.Sel.Name
			}
		}
		if !slices.Contains(makers, name) {
			return true
		}
		for _, arg := range call.Args {
			if text := constant(arg); text != "" {
				if part := longestPart(text); len(part) > 3 {
					found = append(found, part)
				}
				break
			}
		}
		return true
	})
	return found
}

// constant returns the value of a string literal or of a sum of them.
func constant(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s
		}
	case *ast.BinaryExpr:
		return constant(e.X) + constant(e.Y)
	}
	return ""
}

var verb = regexp.MustCompile(`%[.\d\[\]]*[a-zA-Z]`)

// longestPart returns the longest part of a format without verbs.
func longestPart(format string) string {
	parts := verb.Split(format, -1)
	return slices.MaxFunc(parts, func(a, b string) int { return len(a) - len(b) })
}
