package caddysse

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// These tests compare the OpenAPI document with the code: the document has everything that the
// code has, and nothing else. The module checks compares it with a running server.

// answers has the types of successful responses by operation. An operation without JSON, such as a
// stream, has nil.
var answers = map[string]any{
	"send":              receipt{},
	"broadcast":         receipt{},
	"listConnections":   ConnectionPage{},
	"disconnect":        disconnectAnswer{},
	"disconnectOne":     disconnectAnswer{},
	"changeTopics":      changeAnswer{},
	"changeTopicsOfOne": changeAnswer{},
	"listUsers":         userPage{},
	"showStatus":        status{},
	"showReady":         readiness{},
	"showWhy":           whyAnswer{},
	"watchEvents":       nil,
}

type object = map[string]any

// openAPI is the OpenAPI document.
type openAPI struct{ root object }

func readOpenAPI(t *testing.T) openAPI {
	t.Helper()
	text, err := os.ReadFile("docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d openAPI
	if err := yaml.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// at returns the value at a path of names. It follows references.
func (d openAPI) at(value any, names ...string) object {
	found, _ := value.(object)
	if ref, ok := found["$ref"].(string); ok {
		own := found
		found = maps.Clone(d.at(d.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...))
		maps.Copy(found, own)
		delete(found, "$ref")
	}
	if len(names) == 0 || found == nil {
		return found
	}
	return d.at(found[names[0]], names[1:]...)
}

// source parses a file of this package.
func source(t *testing.T, name string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// function returns a function or a method of a file.
func function(t *testing.T, file, name string) *ast.FuncDecl {
	t.Helper()
	for _, d := range source(t, file).Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == name {
			return f
		}
	}
	t.Fatalf("there is no %s in %s any more", name, file)
	return nil
}

// clauses calls see for each case of the switches in a function.
func clauses(f *ast.FuncDecl, see func(*ast.CaseClause)) {
	ast.Inspect(f, func(n ast.Node) bool {
		if c, ok := n.(*ast.CaseClause); ok {
			see(c)
		}
		return true
	})
}

// texts returns the string literals below some nodes.
func texts[N ast.Node](nodes ...N) (found []string) {
	for _, n := range nodes {
		ast.Inspect(n, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && s != "" {
					found = append(found, s)
				}
			}
			return true
		})
	}
	return found
}

// TestOpenAPIHasAllEndpoints: the document has each path and method that the API serves,
// and no other.
func TestOpenAPIHasAllEndpoints(t *testing.T) {
	var served []string
	for _, e := range endpoints {
		for method := range e.methods {
			served = append(served, method+" "+e.path)
		}
	}
	var documented []string
	d := readOpenAPI(t)
	paths := d.at(d.root, "paths")
	for path := range paths {
		for method := range d.at(paths, path) {
			if method != "parameters" {
				documented = append(documented, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(served)
	slices.Sort(documented)
	if !slices.Equal(served, documented) {
		t.Errorf("the API serves\n%s\nand docs/openapi.yaml has\n%s", strings.Join(served, "\n"), strings.Join(documented, "\n"))
	}
}

// TestOpenAPINamesAreUnique: no two components have the same name, in any case of letters. Code
// generators make a type of each.
func TestOpenAPINamesAreUnique(t *testing.T) {
	d := readOpenAPI(t)
	seen := make(map[string]string)
	for kind := range d.at(d.root, "components") {
		for name := range d.at(d.root, "components", kind) {
			component := kind + "/" + name
			if other := seen[strings.ToLower(name)]; other != "" {
				t.Errorf("%s and %s: got one name, want two", component, other)
			}
			seen[strings.ToLower(name)] = component
		}
	}
	if len(seen) < 40 {
		t.Errorf("components: got %d, want at least 40", len(seen))
	}
}

// TestOpenAPIHasAllFieldsOfAnEvent: the document has the fields that the API reads.
func TestOpenAPIHasAllFieldsOfAnEvent(t *testing.T) {
	d := readOpenAPI(t)
	var read []string
	clauses(function(t, "payload.go", "set"), func(c *ast.CaseClause) { read = append(read, texts(c.List...)...) })
	slices.Sort(read)
	documented := slices.Sorted(maps.Keys(d.at(d.root, "components", "schemas", "Event", "properties")))
	if len(read) < 10 || !slices.Equal(read, documented) {
		t.Errorf("an event has the fields %q, and in docs/openapi.yaml %q", read, documented)
	}
}

// TestOpenAPIHasAllFieldsOfAnswers: each response in the document has the fields of the Go type
// that is encoded, with the same types.
func TestOpenAPIHasAllFieldsOfAnswers(t *testing.T) {
	d := readOpenAPI(t)
	seen := make(map[string]bool)
	paths := d.at(d.root, "paths")
	for path := range paths {
		for method := range d.at(paths, path) {
			if method == "parameters" {
				continue
			}
			operation := d.at(paths, path, method)
			id, _ := operation["operationId"].(string)
			answer, ok := answers[id]
			if !ok {
				t.Errorf("%s %s: say in answers of which Go type the answer to %q is", method, path, id)
				continue
			}
			seen[id] = true
			content := d.at(operation, "responses", "200", "content", typeJSON, "schema")
			if (answer == nil) != (content == nil) {
				t.Errorf("%s: the document has the answer %v, the code %T", id, content, answer)
			} else if answer != nil {
				d.compare(t, id, content, reflect.TypeOf(answer))
			}
			for code := range d.at(operation, "responses") {
				if code != "200" {
					d.compareError(t, id+" "+code, d.at(operation, "responses", code, "content", typeJSON, "schema"))
				}
			}
		}
	}
	for id := range answers {
		if !seen[id] {
			t.Errorf("docs/openapi.yaml has no operation %s", id)
		}
	}
}

// compareError checks that the schema of a refusal has only fields of apiError, and that of 503
// has all of them.
func (d openAPI) compareError(t *testing.T, where string, schema object) {
	t.Helper()
	fields := make(map[string]bool)
	for name := range jsonFields(reflect.TypeFor[apiError]()) {
		fields[name] = true
	}
	properties := d.at(schema, "properties")
	for name := range properties {
		if !fields[name] {
			t.Errorf("%s: no refusal has the field %s", where, name)
		}
	}
	if strings.HasSuffix(where, " 503") && len(properties) != len(fields) {
		t.Errorf("%s: a refusal may have %q", where, slices.Sorted(maps.Keys(fields)))
	}
}

// jsonFields returns the encoded fields of a type, and whether they are always encoded.
func jsonFields(of reflect.Type) map[string]jsonField {
	fields := make(map[string]jsonField)
	for f := range of.Fields() {
		name, options, ok := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			maps.Copy(fields, jsonFields(f.Type))
			continue
		}
		if name != "-" && (ok || name != "") {
			fields[name] = jsonField{f.Type, !strings.Contains(options, "omit")}
		}
	}
	return fields
}

type jsonField struct {
	of     reflect.Type
	always bool
}

// kinds are the types of JSON.
var kinds = map[reflect.Kind]string{
	reflect.String: "string", reflect.Bool: "boolean", reflect.Int: "integer", reflect.Int64: "integer", reflect.Uint64: "integer", reflect.Float64: "number",
	reflect.Slice: "array", reflect.Map: "object", reflect.Struct: "object",
}

// compare compares a schema with a type.
func (d openAPI) compare(t *testing.T, where string, given any, of reflect.Type) {
	t.Helper()
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	schema := d.at(given)
	want := kinds[of.Kind()]
	if of.PkgPath() == "time" && of.Name() == "Time" {
		want = "string"
	}
	if schema["type"] != want {
		t.Errorf("%s is %v in the document, and %s in the code", where, schema["type"], want)
		return
	}
	switch {
	case want == "array":
		d.compare(t, where+"[]", schema["items"], of.Elem())
	case of.Kind() == reflect.Map:
		d.compare(t, where+"{}", schema["additionalProperties"], of.Elem())
	case want == "object":
		fields := jsonFields(of)
		properties := d.at(schema, "properties")
		if code, document := slices.Sorted(maps.Keys(fields)), slices.Sorted(maps.Keys(properties)); !slices.Equal(code, document) {
			t.Errorf("%s has the fields %q in the code, and %q in the document", where, code, document)
			return
		}
		// A later version may add fields, and a generated client must not refuse them.
		if _, given := schema["additionalProperties"]; given {
			t.Errorf("%s: got additionalProperties in an answer, want none", where)
		}
		required, _ := schema["required"].([]any)
		for name, field := range fields {
			if slices.Contains(required, any(name)) != field.always {
				t.Errorf("%s.%s: required must be %t", where, name, field.always)
			}
			d.compare(t, where+"."+name, properties[name], field.of)
		}
	}
}
