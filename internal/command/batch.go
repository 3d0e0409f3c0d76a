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

// batcher reads events from lines and completes them with the fields of the flags.
type batcher struct {
	in     *bufio.Reader
	fields []field
	key    string // prefix of the generated keys

	line int    // number of the last line that was read
	next []byte // an event that did not fit into the batch before
}

// batch is events that are published with one request.
type batch struct {
	body  []byte
	lines []int // line numbers of the events
}

// publishLines publishes the events of in, in batches.
func publishLines(c *call, path string, in io.Reader, fields []field) error {
	b := &batcher{in: bufio.NewReaderSize(in, 1<<20), fields: fields, key: stringFlag(c.Command, "key")}
	if b.key == "" {
		b.key = rand.Text()
	}
	progress := &progress{printer: c.err, began: time.Now()}
	defer progress.end()
	for {
		events, err := b.read()
		if len(events.lines) > 0 {
			if err := c.publishBatch(path, events, progress); err != nil {
				return b.withProgress(progress, c.client.sent, err)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return b.withProgress(progress, c.client.sent, err)
		}
	}
	progress.end()
	if progress.events == 0 {
		return c.usage("the payload has no event: with --ndjson it must have one JSON object per line")
	}
	if !c.json {
		c.out.printf("%s in %s\n", progress, count(progress.batches, "batch", "batches"))
	}
	return nil
}

func (c *call) publishBatch(path string, events batch, progress *progress) error {
	answer, err := c.client.do(c.Context(), "POST", path, nil, "application/x-ndjson", events.body)
	if err != nil {
		return events.locate(err)
	}
	if c.json {
		if err := c.raw(answer, nil); err != nil {
			return err
		}
	}
	if err := progress.add(answer); err != nil {
		return fmt.Errorf("the answer of %s is not JSON: %w", c.client.address, err)
	}
	return nil
}

// read waits for an event, and adds the events that are already buffered. The batch is
// valid also with an error, which is about the event after it.
func (b *batcher) read() (events batch, err error) {
	for len(events.lines) < maxBatch {
		if b.next == nil {
			if len(events.lines) > 0 && !b.ready() {
				break
			}
			if b.next, err = b.event(); err != nil {
				break
			}
		}
		if len(events.body)+len(b.next) > maxBatchBytes && len(events.lines) > 0 {
			break
		}
		events.body = append(events.body, b.next...)
		events.lines = append(events.lines, b.line)
		b.next = nil
	}
	return events, err
}

// ready reports whether a whole event is buffered.
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
			return nil, fmt.Errorf("line %d is longer than %d bytes, the most that an event may have", b.line, maxBatchBytes)
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

// readLine reads a line with its line break, or up to the end of the input.
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

// complete adds the fields of the flags that the event does not have, and a key. The
// result ends with a line break.
func (b *batcher) complete(line []byte) ([]byte, error) {
	var has map[string]json.RawMessage
	if err := json.Unmarshal(line, &has); err != nil || has == nil {
		return nil, fmt.Errorf("line %d is not a JSON object: %.100q; with --ndjson each line must be an event, for example {\"user\":\"alice\",\"data\":1}", b.line, bytes.TrimSpace(line))
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

// withProgress adds to an error how many events were published before it, and how to
// repeat the command. Events that were sent may be stored, also without an answer.
func (b *batcher) withProgress(p *progress, sent bool, err error) error {
	failure, isExit := errors.AsType[*exitError](err)
	switch {
	case p.events > 0:
		err = fmt.Errorf("%w; before it %s published; repeat the command with --key %s within two minutes: then these are not published twice",
			err, count(p.events, "event was", "events were"), b.key)
	case isExit && failure.code == exitUnreachable && sent:
		err = fmt.Errorf("%w; repeat the command with --key %s within two minutes: then no event is published twice", err, b.key)
	}
	if isExit {
		return &exitError{failure.code, err}
	}
	return err
}

var linePrefix = regexp.MustCompile(`^line (\d+): `)

// locate replaces the line number of the batch in an error by that of the input.
func (s batch) locate(err error) error {
	failure, ok := errors.AsType[*refusal](err)
	if !ok || failure.Status == 503 {
		return err
	}
	if m := linePrefix.FindStringSubmatch(failure.Message); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n >= 1 && n <= len(s.lines) {
			return fmt.Errorf("line %d: %s", s.lines[n-1], failure.Message[len(m[0]):])
		}
	}
	return err
}

// progress counts published events, and shows the count on a terminal.
type progress struct {
	*printer
	began                       time.Time
	events, batches, duplicates int
	shown                       time.Time
	open                        bool // the terminal shows a line that is not finished
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
