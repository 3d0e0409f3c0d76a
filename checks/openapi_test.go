package checks

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"go.yaml.in/yaml/v3"
)

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
	typeStream = "text/event-stream"
)

// object is a JSON object of the document.
type object = map[string]any

// document is the parsed OpenAPI document.
type document struct {
	validator.Validator
	root object
}

func readDocument(t *testing.T) document {
	t.Helper()
	text, err := os.ReadFile("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(parsed)
	for _, err := range errs {
		t.Error(err)
	}
	d := document{Validator: v}
	if err := yaml.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// at follows names and references.
func (d document) at(value any, names ...string) object {
	found, _ := value.(object)
	for {
		ref, ok := found["$ref"].(string)
		if !ok {
			break
		}
		found = d.at(d.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	if len(names) == 0 || found == nil {
		return found
	}
	return d.at(found[names[0]], names[1:]...)
}

// operation is one method of one path.
type operation struct {
	method, path string
	object
}

func (o operation) String() string { return o.method + " " + o.path }

func (d document) operations() (all []operation) {
	paths := d.at(d.root, "paths")
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := d.at(paths, path)
		for _, method := range slices.Sorted(maps.Keys(item)) {
			if method != "parameters" {
				all = append(all, operation{strings.ToUpper(method), path, d.at(item, method)})
			}
		}
	}
	return all
}

// request is the field x-request of an example of an answer: the request that leads to it. Missing fields are
// taken from the request example with the same name, or from the first one.
type request struct {
	ContentType string            `json:"contentType"`
	Body        any               `json:"body"`
	Query       string            `json:"query"`
	Header      map[string]string `json:"header"`
	Door        string            `json:"door"`   // the only endpoint that answers so
	Filter      bool              `json:"filter"` // add parameters that select connections, where they are required
}

// example is an example of an answer, with its request.
type example struct {
	operation
	request
	name        string
	status      int
	contentType string // of the answer
	answer      any
}

// examples returns all examples of answers.
func (d document) examples(t *testing.T) (all []example) {
	t.Helper()
	for _, o := range d.operations() {
		asked := make(map[string]bool) // request examples that have an answer
		answered := 0
		for status := range d.at(o.object, "responses") {
			code, err := strconv.Atoi(status)
			if err != nil {
				t.Fatalf("%s: the status %q is no number", o, status)
			}
			content := d.at(o.object, "responses", status, "content")
			for contentType := range content {
				for name := range d.at(content, contentType, "examples") {
					given := d.at(content, contentType, "examples", name)
					e := example{operation: o, name: name, status: code, contentType: contentType, answer: given["value"]}
					d.readRequest(t, &e, given["x-request"])
					all = append(all, e)
					asked[e.ContentType+" "+name] = true
					answered++
				}
			}
		}
		if answered == 0 {
			t.Errorf("%s has no example of an answer", o)
		}
		for contentType := range d.at(o.object, "requestBody", "content") {
			for name := range d.at(o.object, "requestBody", "content", contentType, "examples") {
				if !asked[contentType+" "+name] {
					t.Errorf("%s: what is the answer to the example %s of %s?", o, name, contentType)
				}
			}
		}
	}
	return all
}

func (d document) readRequest(t *testing.T, e *example, given any) {
	t.Helper()
	text, err := json.Marshal(given)
	if err == nil {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		err = decoder.Decode(&e.request)
	}
	if err != nil {
		t.Fatalf("%s: x-request of %s: %v", e.operation, e.name, err)
	}
	content := d.at(e.object, "requestBody", "content")
	if content == nil || e.Body != nil {
		if e.Body != nil {
			e.ContentType = cmp.Or(e.ContentType, typeJSON)
		}
		return
	}
	for _, contentType := range []string{typeJSON, typeNDJSON} {
		if body, ok := d.at(content, contentType, "examples", e.name)["value"]; ok && (e.status != 200 || contentType == e.contentType) {
			e.ContentType, e.Body = contentType, body
			return
		}
	}
	if given == nil {
		t.Fatalf("%s: nothing says what has the answer %s", e.operation, e.name)
	}
	// Any example with a status of success.
	e.ContentType = cmp.Or(e.ContentType, typeJSON)
	for _, name := range slices.Sorted(maps.Keys(d.at(e.object, "responses", "200", "content", e.ContentType, "examples"))) {
		if body, ok := d.at(content, e.ContentType, "examples", name)["value"]; ok {
			e.Body = body
			return
		}
	}
	t.Fatalf("%s: there is no %s for the answer %s", e.operation, e.ContentType, e.name)
}

var keys = regexp.MustCompile(`"key":"([^"]*)"`)

// send sends the request to one of the endpoints. connection replaces {id}.
func (e *example) send(t *testing.T, base, connection string) (req *http.Request, resp *http.Response, body []byte) {
	t.Helper()
	var sent []byte
	switch body := e.Body.(type) {
	case nil:
	case string:
		sent = []byte(body)
	default:
		sent = mustMarshal(t, body)
	}
	// Examples share keys, but each test needs its own.
	sent = keys.ReplaceAll(sent, []byte(`"key":"$1 `+t.Name()+`"`))
	if e.status == http.StatusNotFound {
		connection = "0192f0c4-0000-4000-8000-000000000000"
	}
	query := e.Query
	if e.Filter && e.path == "/sse/connections" && e.method != http.MethodGet {
		query = strings.TrimPrefix(query+"&user=alice", "&")
	}
	path := strings.ReplaceAll(e.path, "{id}", connection)
	build := func(base string) *http.Request {
		req, err := http.NewRequest(e.method, base+path+"?"+query, bytes.NewReader(sent))
		if err != nil {
			t.Fatal(err)
		}
		if e.ContentType != "" {
			req.Header.Set("Content-Type", e.ContentType)
		}
		for name, value := range e.Header {
			req.Header.Set(name, value)
		}
		return req
	}
	resp, err := http.DefaultClient.Do(build(base))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") == typeStream { // only its first block, since it does not end
		for lines := bufio.NewReader(resp.Body); err == nil && !bytes.HasSuffix(body, []byte("\n\n")); {
			var line []byte
			line, err = lines.ReadBytes('\n')
			body = append(body, line...)
		}
	} else {
		body, err = io.ReadAll(resp.Body)
	}
	if err != nil {
		t.Fatal(err)
	}
	// The validator knows the first server of the document only.
	return build("http://localhost:2019"), resp, body
}

func mustMarshal(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestOpenAPIDocument: the file is a valid OpenAPI document.
func TestOpenAPIDocument(t *testing.T) {
	d := readDocument(t)
	_, errs := d.ValidateDocument()
	for _, err := range errs {
		t.Errorf("%s: %v", err, err.SchemaValidationErrors)
	}
}

// TestOpenAPIExamples sends the request of each example to both endpoints. It compares the answer with the
// document: the status, the schema and the example.
func TestOpenAPIExamples(t *testing.T) {
	d := readDocument(t)
	s := startCaddy(t)
	doors := map[string]string{"admin": "http://" + s.admin, "sse_api": "http://" + s.site + "/internal"}
	for _, e := range d.examples(t) {
		for door, base := range doors {
			if e.Door != "" && e.Door != door {
				continue
			}
			t.Run(fmt.Sprintf("%s %s %d %s", door, e.operation, e.status, e.name), func(t *testing.T) {
				hub := "default"
				if query, err := url.ParseQuery(e.Query); err == nil && e.status != http.StatusNotFound {
					hub = cmp.Or(query.Get("hub"), hub)
				}
				t.Cleanup(func() { s.wait(t, hub, 0) }) // after the streams of this test are closed
				connection := ""
				if hub != "closed" { // it has no streams
					connection = s.open(t, hub)
					s.open(t, hub)
				}
				if e.name == "again" {
					_, _, _ = e.send(t, base, connection)
				}
				req, resp, body := e.send(t, base, connection)
				if resp.StatusCode != e.status {
					t.Fatalf("%s: %s", resp.Status, body)
				}
				d.checkRequest(t, &e, req)
				d.checkAnswer(t, req, resp, body)
				checkExample(t, &e, body)
			})
		}
	}
}

// checkRequest: a request that succeeds must be valid by the document.
func (d document) checkRequest(t *testing.T, e *example, req *http.Request) {
	t.Helper()
	if e.status >= 300 {
		return
	}
	for _, one := range lines(t, req.Header, req.Body) {
		line := req.Clone(t.Context())
		line.Header = http.Header{"Content-Type": {typeJSON}}
		line.Body = io.NopCloser(bytes.NewReader(one))
		if len(one) == 0 {
			line.Header, line.Body = nil, http.NoBody
		}
		_, errs := d.ValidateHttpRequestSync(line)
		for _, err := range errs {
			t.Errorf("the request %s: %s: %v", one, err, err.SchemaValidationErrors)
		}
	}
}

// checkAnswer: the answer must be valid by the document.
func (d document) checkAnswer(t *testing.T, req *http.Request, resp *http.Response, body []byte) {
	t.Helper()
	if got := resp.Header.Get("Retry-After"); (got != "") != (resp.StatusCode == http.StatusServiceUnavailable) {
		t.Errorf("Retry-After is %q", got)
	}
	req.Header = http.Header{}
	if resp.Header.Get("Content-Type") == typeStream {
		return
	}
	for _, one := range lines(t, resp.Header, io.NopCloser(bytes.NewReader(body))) {
		part := &http.Response{StatusCode: resp.StatusCode, Header: http.Header{"Content-Type": {typeJSON}}, Body: io.NopCloser(bytes.NewReader(one)), Request: req}
		part.Header.Set("Retry-After", cmp.Or(resp.Header.Get("Retry-After"), "0"))
		_, errs := d.ValidateHttpResponse(req, part)
		for _, err := range errs {
			t.Errorf("the answer %s: %s: %v", one, err, err.SchemaValidationErrors)
		}
	}
}

// lines returns the lines of NDJSON, or the whole text of other types.
func lines(t *testing.T, header http.Header, body io.Reader) [][]byte {
	t.Helper()
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if header.Get("Content-Type") != typeNDJSON {
		return [][]byte{text}
	}
	return bytes.Split(bytes.TrimSpace(text), []byte("\n"))
}

// varying matches the parts of an answer that differ by time and machine.
var varying = regexp.MustCompile(`"(id|head|oldest|position|next|since|remote|session|protocol|version|node|key|events|bytes|lag|disconnected|summary|began)":("[^"]*"|\d+)|"(keys)":\[[^]]*\]`)

var sizes = regexp.MustCompile(`payload are \d+ bytes`)

// checkExample: the answer is the example, except for the varying parts.
func checkExample(t *testing.T, e *example, body []byte) {
	t.Helper()
	shape := func(text []byte) (list []any) {
		for line := range bytes.Lines(varying.ReplaceAll(text, []byte(`"$1$3":"*"`))) {
			var value any
			if err := json.Unmarshal(line, &value); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			list = append(list, value)
		}
		return list
	}
	want, ok := e.answer.(string)
	if e.contentType == typeStream {
		names := regexp.MustCompile(`(?m)^\w*:`)
		first, _, _ := strings.Cut(want, "\n\n")
		if got, want := names.FindAllString(string(body), -1), names.FindAllString(first, -1); !slices.Equal(got, want) {
			t.Errorf("the stream begins with\n%s\nand the example with\n%s", body, first)
		}
		return
	}
	if !ok {
		want = string(mustMarshal(t, e.answer))
	}
	// The hubs and events are those of the test.
	body = sizes.ReplaceAll(body, []byte("payload are 40 bytes"))
	body = bytes.ReplaceAll(body, []byte("available: away, closed, default, doubt, small"), []byte("available: chat, default"))
	if !reflect.DeepEqual(shape(body), shape([]byte(want))) {
		t.Errorf("the answer is\n%s\nand the example says\n%s", body, want)
	}
}

var errParameters = regexp.MustCompile(`available: ([\w, ]+)\)`)

// TestOpenAPIParameters: the document has all parameters and methods that the server accepts.
func TestOpenAPIParameters(t *testing.T) {
	d := readDocument(t)
	s := startCaddy(t)
	methods := make(map[string][]string)
	for _, o := range d.operations() {
		methods[o.path] = append(methods[o.path], o.method)
		var documented []string
		listed, _ := o.object["parameters"].([]any)
		for _, p := range listed {
			if p := d.at(p); p["in"] == "query" {
				documented = append(documented, p["name"].(string))
			}
		}
		e := example{operation: o, request: request{Query: "nonsense=1", ContentType: typeJSON}}
		_, resp, body := e.send(t, "http://"+s.admin, "x")
		found := errParameters.FindSubmatch(body)
		if resp.StatusCode != http.StatusBadRequest || found == nil {
			t.Errorf("%s: an unknown parameter: %s %s", o, resp.Status, body)
			continue
		}
		known := strings.Split(string(found[1]), ", ")
		slices.Sort(known)
		slices.Sort(documented)
		if !slices.Equal(known, documented) {
			t.Errorf("%s: the server knows the parameters %q, the document has %q", o, known, documented)
		}
	}
	for path, documented := range methods {
		e := example{operation: operation{method: "TRACE", path: path}}
		_, resp, _ := e.send(t, "http://"+s.admin, "x")
		allowed := slices.DeleteFunc(strings.Split(resp.Header.Get("Allow"), ", "), func(m string) bool { return m == http.MethodHead })
		slices.Sort(documented)
		if !slices.Equal(allowed, documented) {
			t.Errorf("%s: the server allows %q, the document has %q", path, allowed, documented)
		}
	}
}
