package hub

import (
	"crypto/rand"
	"hash/crc32"
	"strconv"
	"strings"
)

// Position is a place in a history. Its String is the SSE id of an event.
type Position struct {
	Epoch string // name of the history
	Seq   uint64 // number of the record, from 1; 0: before the first
	Tag   Tag    // of the record; zero: not known, and not compared
}

// String returns the form that clients see: <epoch>-<seq>-<tag>, or <epoch>-<seq> if
// the tag is zero.
func (p Position) String() string { return string(p.append(make([]byte, 0, 64))) }

// append appends String to buf.
func (p Position) append(buf []byte) []byte {
	buf = append(buf, p.Epoch...)
	buf = append(buf, '-')
	buf = strconv.AppendUint(buf, p.Seq, 10)
	return p.Tag.append(buf)
}

// ParsePosition parses what [Position.String] returns, and nothing else: no sign, no
// leading zero, no space. It returns false, and the zero Position, for anything else.
func ParsePosition(s string) (Position, bool) {
	epoch, rest, ok := strings.Cut(s, "-")
	digits, tag, tagged := strings.Cut(rest, "-")
	if !ok || epoch == "" || len(digits) > 1 && digits[0] == '0' || strings.HasPrefix(digits, "+") {
		return Position{}, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return Position{}, false
	}
	p := Position{Epoch: epoch, Seq: seq}
	if tagged && !p.Tag.parse(tag) {
		return Position{}, false
	}
	return p, true
}

// NewEpoch returns a name for a new history: 40 random bits in eight characters.
func NewEpoch() string {
	return strings.ToLower(rand.Text()[:8])
}

// Tag is 20 bits of a hash of a stored record, in four characters. Two records with the
// same epoch and seq have different tags. That happens when a store is restored from an
// older copy and continues differently.
type Tag [4]byte

// tagAlphabet leaves out letters that look like digits.
const tagAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// TagOf returns the tag of a record's bytes. It is never zero.
func TagOf(data []byte) (t Tag) {
	sum := crc32.Checksum(data, castagnoli)
	for i := range t {
		t[i] = tagAlphabet[sum>>(5*i)&31]
	}
	return t
}

// append appends a hyphen and the tag; nothing if the tag is zero.
func (t Tag) append(buf []byte) []byte {
	if t == (Tag{}) {
		return buf
	}
	return append(append(buf, '-'), t[:]...)
}

// parse sets t to the tag in s, without hyphen, and reports whether s is a tag. If it
// returns false, t has no meaning.
func (t *Tag) parse(s string) bool {
	for i := range len(s) {
		if !strings.Contains(tagAlphabet, s[i:i+1]) {
			return false
		}
	}
	return copy(t[:], s) == len(t) && len(s) == len(t)
}
