package hub

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// recordVersion begins every encoded event, so that a later format is refused
// rather than misread.
const recordVersion = 1

// ErrRecord is returned for bytes that are not an encoded event.
var ErrRecord = errors.New("not an encoded event of a version that is known")

// AppendBinary appends the event as stores keep it: a version byte, then the
// times, as Unix nanoseconds with 0 for none, and every string behind its length.
func (e *Event) AppendBinary(buf []byte) []byte {
	buf = append(buf, recordVersion)
	buf = binary.AppendVarint(buf, unixNano(e.At))
	buf = binary.AppendVarint(buf, unixNano(e.Expires))
	buf = appendString(buf, e.Key)
	buf = appendString(buf, e.Type)
	buf = binary.AppendUvarint(buf, uint64(len(e.Targets)))
	for _, t := range e.Targets {
		buf = append(buf, byte(t.Kind))
		buf = appendString(buf, t.Name)
	}
	return append(buf, e.Data...)
}

// ParseBinary reads what AppendBinary wrote. The event's Data is a part of buf.
func (e *Event) ParseBinary(buf []byte) error {
	r := recordReader{buf: buf}
	if r.byte() != recordVersion {
		return ErrRecord
	}
	*e = Event{At: fromUnixNano(r.varint()), Expires: fromUnixNano(r.varint()), Key: r.string(), Type: r.string()}
	n := r.uvarint()
	if n > MaxTargets {
		return ErrRecord
	}
	e.Targets = make([]Target, n)
	for i := range e.Targets {
		e.Targets[i] = Target{Kind(r.byte()), r.string()}
	}
	e.Data = r.buf
	if r.failed {
		return ErrRecord
	}
	return nil
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

func appendString(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// recordReader reads from the front of buf, and remembers that it failed.
type recordReader struct {
	buf    []byte
	failed bool
}

func (r *recordReader) take(n uint64) []byte {
	if n > uint64(len(r.buf)) {
		r.failed, r.buf = true, nil
		return nil
	}
	taken := r.buf[:n]
	r.buf = r.buf[n:]
	return taken
}

func (r *recordReader) byte() byte {
	b := r.take(1)
	if len(b) == 0 {
		return math.MaxUint8
	}
	return b[0]
}

func (r *recordReader) varint() int64 {
	v, n := binary.Varint(r.buf)
	if n <= 0 {
		n, r.failed = 0, true
	}
	r.take(uint64(n))
	return v
}

func (r *recordReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		n, r.failed = 0, true
	}
	r.take(uint64(n))
	return v
}

func (r *recordReader) string() string { return string(r.take(r.uvarint())) }
