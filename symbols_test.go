package caddysse

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsNameGoSymbols: each Go symbol that a page names exists.
func TestDocsNameGoSymbols(t *testing.T) {
	symbols := make(map[string]bool)
	for name, folder := range map[string]string{"caddysse": ".", "hub": "hub", "storetest": "hub/storetest"} {
		for symbol := range exported(t, folder) {
			symbols[name+"."+symbol] = true
		}
	}
	named := regexp.MustCompile(`\b(?:caddysse|hub|storetest)\.[A-Z]\w*`)
	found := 0
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "client/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			for _, symbol := range named.FindAllString(read(t, page), -1) {
				found++
				if !symbols[symbol] {
					t.Errorf("%s: got %s, want a symbol that exists", page, symbol)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("symbols in the docs: got %d, want at least 20", found)
	}
}

// exported returns the exported symbols of the package in a folder.
func exported(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	symbols := make(map[string]bool)
	add := func(id *ast.Ident) {
		if id.IsExported() {
			symbols[id.Name] = true
		}
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil {
					add(decl.Name)
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						add(spec.Name)
					case *ast.ValueSpec:
						for _, id := range spec.Names {
							add(id)
						}
					}
				}
			}
		}
	}
	return symbols
}
