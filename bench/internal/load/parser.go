package load

import (
	"bytes"
	"fmt"
	"strconv"
)

// found is the result of one read. It is reused.
type found struct {
	ready bool // the response header is complete, and the status is 200
	marks []Mark
	gaps  int
	ended bool // the last chunk of the body was read
}

func (f *found) reset() { *f = found{marks: f.marks[:0]} }

// parser parses one stream. The zero value expects an HTTP/1.1 response. With body set it starts in the body
// (HTTP/2).
type parser struct {
	body    bool
	chunked bool
	inChunk bool
	left    int    // of the current chunk, including its line end
	line    []byte // unfinished header, or line with the chunk size
	block   []byte // unfinished event
}

var headerEnd = []byte("\r\n\r\n")

// feed parses the next bytes of the connection.
func (p *parser) feed(b []byte, f *found) error {
	if !p.body {
		p.line = append(p.line, b...)
		header, rest, ok := bytes.Cut(p.line, headerEnd)
		if !ok {
			return nil
		}
		if !bytes.HasPrefix(header, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("stream refused: %.200q", p.line)
		}
		p.body, p.line = true, nil
		p.chunked = bytes.Contains(bytes.ToLower(header), []byte("transfer-encoding: chunked"))
		f.ready = true
		b = rest
	}
	if !p.chunked {
		p.events(b, f)
		return nil
	}
	for len(b) > 0 {
		if !p.inChunk {
			size, rest, ok := bytes.Cut(b, []byte("\n"))
			if !ok {
				p.line = append(p.line, b...)
				return nil
			}
			if len(p.line) > 0 {
				size = append(p.line, size...)
				p.line = nil
			}
			n, err := strconv.ParseUint(string(bytes.TrimRight(size, "\r")), 16, 31)
			if err != nil {
				return fmt.Errorf("chunk size %.40q: %w", size, err)
			}
			f.ended = f.ended || n == 0
			p.left, p.inChunk = int(n)+len("\r\n"), true
			b = rest
		}
		n := min(p.left, len(b))
		// The last two bytes of left are the line end of the chunk.
		if payload := min(n, p.left-len("\r\n")); payload > 0 {
			p.events(b[:payload], f)
		}
		p.left -= n
		p.inChunk = p.left > 0
		b = b[n:]
	}
	return nil
}

// events parses the next bytes of the event stream.
func (p *parser) events(b []byte, f *found) {
	if len(p.block) > 0 {
		p.block = append(p.block, b...)
		b = p.block
	}
	for {
		end := blockEnd(b)
		if end < 0 {
			break
		}
		f.block(b[:end])
		b = b[end:]
	}
	// Free the buffer, so that an idle connection needs no memory in the client.
	if len(b) == 0 {
		p.block = nil
		return
	}
	p.block = append([]byte(nil), b...)
}

// blockEnd returns the index after the first empty line in b, or -1.
func blockEnd(b []byte) int {
	for off := 0; ; {
		i := bytes.IndexByte(b[off:], '\n')
		if i < 0 {
			return -1
		}
		off += i + 1
		switch {
		case off < len(b) && b[off] == '\n':
			return off + 1
		case off+1 < len(b) && b[off] == '\r' && b[off+1] == '\n':
			return off + 2
		}
	}
}

func (f *found) block(b []byte) {
	marks := len(f.marks)
	f.marks = appendMarks(f.marks, b)
	if len(f.marks) == marks && bytes.Contains(b, []byte("event: sse.gap\n")) {
		f.gaps++
	}
}
