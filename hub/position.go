package hub

import (
	"crypto/rand"
	"hash/crc32"
	"strconv"
	"strings"
)

// Position is a place in a history. It is the SSE id of an event.
type Position struct {
	Epoch string // names one life of a history
	Seq   uint64 // counts records, up by one, from 1; 0 is before the first
	Tag   Tag    // of the record; zero: not known, and not checked
}

// String is the form that goes over the wire: <epoch>-<seq>-<tag>, or
// <epoch>-<seq> without a tag.
func (p Position) String() string { return string(p.append(make([]byte, 0, 64))) }

func (p Position) append(buf []byte) []byte {
	buf = append(buf, p.Epoch...)
	buf = append(buf, '-')
	buf = strconv.AppendUint(buf, p.Seq, 10)
	return p.Tag.append(buf)
}

// ParsePosition reads what String wrote, and nothing else: no sign, no leading
// zero, no space.
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

// NewEpoch names one life of a history: 40 random bits in eight characters.
func NewEpoch() string {
	return strings.ToLower(rand.Text()[:8])
}

// Tag is 20 bits of a hash of a stored record, in four characters. It tells two
// records with the same epoch and seq from each other: those of a history and of
// an older copy of it that went another way.
type Tag [4]byte

// tagAlphabet has no letters that are easily mistaken for digits.
const tagAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// TagOf returns the tag of a record's bytes.
func TagOf(data []byte) (t Tag) {
	sum := crc32.Checksum(data, castagnoli)
	for i := range t {
		t[i] = tagAlphabet[sum>>(5*i)&31]
	}
	return t
}

func (t Tag) append(buf []byte) []byte {
	if t == (Tag{}) {
		return buf
	}
	return append(append(buf, '-'), t[:]...)
}

func (t *Tag) parse(s string) bool {
	for i := range len(s) {
		if !strings.Contains(tagAlphabet, s[i:i+1]) {
			return false
		}
	}
	return copy(t[:], s) == len(t) && len(s) == len(t)
}
