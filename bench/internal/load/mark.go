// Package load opens thousands of event streams, publishes to them, and checks and times the events. It uses
// little CPU: it parses a stream only to find the ends of events and the [Mark] in each.
package load

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Mark is the content of an event: its run, lane and number, and when it was published. The events of a
// lane are numbered from 1 without gaps. A connection must get each event of its lanes once and in order.
type Mark struct {
	Run  uint16
	Lane uint16
	Seq  uint32
	At   time.Duration // [Now] when it was published
}

const (
	markSign = "@@"
	markLen  = len(markSign) + 32
)

// began is where [Now] counts from.
var began = time.Now()

// Now returns the monotonic time since the process began, which marks use. It costs no system call.
func Now() time.Duration { return time.Since(began) }

// Data returns the JSON payload of an event: m, padded to size bytes.
func (m Mark) Data(size int) []byte {
	const frame = len(`{"k":"","p":""}`)
	pad := strings.Repeat("x", max(size-frame-markLen, 0))
	return fmt.Appendf(nil, `{"k":"%s%04x%04x%08x%016x","p":"%s"}`, markSign, m.Run, m.Lane, m.Seq, int64(m.At), pad)
}

// appendMarks appends the marks in an event block.
func appendMarks(marks []Mark, block []byte) []Mark {
	for {
		i := bytes.Index(block, []byte(markSign))
		if i < 0 || len(block) < i+markLen {
			return marks
		}
		var b [16]byte
		if _, err := hex.Decode(b[:], block[i+len(markSign):i+markLen]); err == nil {
			marks = append(marks, Mark{
				Run:  uint16(b[0])<<8 | uint16(b[1]),
				Lane: uint16(b[2])<<8 | uint16(b[3]),
				Seq:  uint32(b[4])<<24 | uint32(b[5])<<16 | uint32(b[6])<<8 | uint32(b[7]),
				At: time.Duration(int64(b[8])<<56 | int64(b[9])<<48 | int64(b[10])<<40 | int64(b[11])<<32 |
					int64(b[12])<<24 | int64(b[13])<<16 | int64(b[14])<<8 | int64(b[15])),
			})
		}
		block = block[i+markLen:]
	}
}
