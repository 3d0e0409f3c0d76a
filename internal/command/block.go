package command

import (
	"bufio"
	"strconv"
	"strings"
	"time"
)

// block is one block of an event stream. [HTML spec 9.2.6]
type block struct {
	event, data, id string
	retry           time.Duration // 0: none
}

// blockReader reads a stream of this module, whose lines end in LF.
type blockReader struct{ in *bufio.Reader }

// next reads a block, which ends with an empty line or a comment. It returns no block that
// was cut off.
func (r *blockReader) next() (b block, err error) {
	var data []string
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			return block{}, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == ':' {
			b.data = strings.Join(data, "\n")
			return b, nil
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			b.event = value
		case "data":
			data = append(data, value)
		case "id":
			b.id = value
		case "retry":
			if ms, err := strconv.Atoi(value); err == nil {
				b.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}
