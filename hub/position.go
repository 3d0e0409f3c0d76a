package hub

import (
	"crypto/rand"
	"strconv"
	"strings"
)

// Position is a place in a history: what the SSE id of an event says. Seq
// counts events, up by one, from 1; 0 is before the first.
type Position struct {
	Epoch string
	Seq   uint64
}

// String is the form that goes over the wire: <epoch>-<seq>.
func (p Position) String() string {
	return p.Epoch + "-" + strconv.FormatUint(p.Seq, 10)
}

// ParsePosition reads what String wrote, and nothing else: no sign, no leading
// zero, no space.
func ParsePosition(s string) (Position, bool) {
	epoch, digits, ok := strings.Cut(s, "-")
	if !ok || epoch == "" || len(digits) > 1 && digits[0] == '0' || strings.HasPrefix(digits, "+") {
		return Position{}, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return Position{epoch, seq}, err == nil
}

// NewEpoch names one life of a history: 40 random bits in eight characters.
func NewEpoch() string {
	return strings.ToLower(rand.Text()[:8])
}
