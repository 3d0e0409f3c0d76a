package command

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
)

// The API's limits of a batch.
const (
	maxBatch      = 1000
	maxBatchBytes = 8 << 20
)

// batcher reads events from lines, and fills in what they leave out.
type batcher struct {
	in     *bufio.Reader
	fields []field
	key    string // what the keys begin with

	line int    // number of the last one that was read
	next []byte // an event that had no room in the batch before
}

// batch is what is published at once.
type batch struct {
	body  []byte
	lines []int // of the events
}

// publishLines publishes the events of in, a batch at a time.
func publishLines(c *call, path string, in io.Reader, fields []field) error {
	b := &batcher{in: bufio.NewReaderSize(in, 1<<20), fields: fields, key: stringFlag(c.Command, "key")}
	if b.key == "" {
		b.key = rand.Text()
	}
	progress := &progress{printer: c.err, began: time.Now()}
	defer progress.end()
	for {
		some, err := b.read()
		if len(some.lines) > 0 {
			if err := c.publishBatch(path, some, progress); err != nil {
				return b.failed(progress, err)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return b.failed(progress, err)
		}
	}
	progress.end()
	if progress.events == 0 {
		return c.usage("the payload has no event: --ndjson takes one JSON object a line")
	}
	if !c.json {
		c.out.printf("%s in %s\n", progress, count(progress.batches, "batch", "batches"))
	}
	return nil
}

func (c *call) publishBatch(path string, some batch, progress *progress) error {
	answer, err := c.client.do(c.Context(), "POST", path, nil, "application/x-ndjson", some.body)
	if err != nil {
		return some.locate(err)
	}
	if c.json {
		if err := c.raw(answer, nil); err != nil {
			return err
		}
	}
	if err := progress.add(answer); err != nil {
		return fmt.Errorf("%s answered with what is no JSON: %w", c.client.address, err)
	}
	return nil
}

// read waits for an event, and takes those with it that are there already. Its error
// concerns what comes after the batch.
func (b *batcher) read() (some batch, err error) {
	for len(some.lines) < maxBatch {
		if b.next == nil {
			if len(some.lines) > 0 && !b.ready() {
				break
			}
			if b.next, err = b.event(); err != nil {
				break
			}
		}
		if len(some.body)+len(b.next) > maxBatchBytes && len(some.lines) > 0 {
			break
		}
		some.body = append(some.body, b.next...)
		some.lines = append(some.lines, b.line)
		b.next = nil
	}
	return some, err
}

// ready reports whether there is an event for which nobody has to wait.
func (b *batcher) ready() bool {
	for {
		buffered, err := b.in.Peek(b.in.Buffered())
		if err != nil {
			return false
		}
		end := bytes.IndexByte(buffered, '\n')
		if end < 0 || len(bytes.TrimSpace(buffered[:end])) > 0 {
			return end >= 0
		}
		b.line++
		_, _ = b.in.Discard(end + 1) // it is buffered
	}
}

// event reads the next line that is not blank.
func (b *batcher) event() ([]byte, error) {
	for {
		line, err := readLine(b.in, maxBatchBytes)
		if len(line) > 0 {
			b.line++
		}
		switch {
		case err == errLong:
			return nil, fmt.Errorf("line %d is longer than %d bytes, which no event may be", b.line, maxBatchBytes)
		case err != nil && err != io.EOF:
			return nil, fmt.Errorf("reading line %d: %w", b.line+1, err)
		}
		if len(bytes.TrimSpace(line)) > 0 {
			return b.complete(line)
		}
		if err == io.EOF {
			return nil, io.EOF
		}
	}
}

var errLong = errors.New("the line is too long")

// readLine reads up to a line break, or to the end.
func readLine(in *bufio.Reader, limit int) (line []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return line, errLong
		case err != bufio.ErrBufferFull:
			return line, err
		}
	}
}

// complete adds to an event what its line leaves out, and ends it with a line break.
func (b *batcher) complete(line []byte) ([]byte, error) {
	var has map[string]json.RawMessage
	if err := json.Unmarshal(line, &has); err != nil || has == nil {
		return nil, fmt.Errorf("line %d is no JSON object: %.100q; with --ndjson each line is an event, such as {\"user\":\"alice\",\"data\":1}", b.line, bytes.TrimSpace(line))
	}
	targeted := slices.ContainsFunc(targetFields, func(name string) bool { return has[name] != nil })
	var add []field
	for _, f := range b.fields {
		if has[f.name] == nil && !(targeted && slices.Contains(targetFields, f.name)) {
			add = append(add, f)
		}
	}
	if has["key"] == nil {
		add = append(add, field{"key", quote(b.key + "-" + strconv.Itoa(b.line))})
	}
	return append(inject(line, add), '\n'), nil
}

// failed says what was published before an error, and how to go on.
func (b *batcher) failed(p *progress, err error) error {
	if p.events == 0 {
		return err
	}
	said := fmt.Errorf("%w; before it %s published; repeat the command with --key %s within two minutes and they are not doubled",
		err, count(p.events, "event was", "events were"), b.key)
	if failure, ok := errors.AsType[*exitError](err); ok {
		return &exitError{failure.code, said}
	}
	return said
}

var ofLine = regexp.MustCompile(`^line (\d+): `)

// locate puts the number of the line in the input in place of that in the batch.
func (s batch) locate(err error) error {
	failure, ok := errors.AsType[*refusal](err)
	if !ok || failure.Status == 503 {
		return err
	}
	if m := ofLine.FindStringSubmatch(failure.Message); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n >= 1 && n <= len(s.lines) {
			return fmt.Errorf("line %d: %s", s.lines[n-1], failure.Message[len(m[0]):])
		}
	}
	return err
}

// progress counts what was published, and shows it on a terminal.
type progress struct {
	*printer
	began                       time.Time
	events, batches, duplicates int
	shown                       time.Time
	open                        bool // there is a line without an end
}

// add counts the receipts of a batch.
func (p *progress) add(receipts []byte) error {
	for line := range bytes.Lines(receipts) {
		var r receipt
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		p.events++
		if r.Duplicate {
			p.duplicates++
		}
	}
	p.batches++
	if p.terminal && time.Since(p.shown) > 100*time.Millisecond {
		rate := float64(p.events) / time.Since(p.began).Seconds()
		p.printf("\r\x1b[K%s, %s a second", p, humanize.Comma(int64(rate)))
		p.shown, p.open = time.Now(), true
	}
	return nil
}

func (p *progress) end() {
	if p.open {
		p.printf("\r\x1b[K")
		p.open = false
	}
}

func (p *progress) String() string {
	text := count(p.events, "event", "events")
	if p.duplicates > 0 {
		text += fmt.Sprintf(" (%s of them published before)", humanize.Comma(int64(p.duplicates)))
	}
	return text
}
