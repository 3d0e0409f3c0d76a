package disk

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// uptime returns the time since the machine booted, including sleep, and an id of this
// boot. The id is empty if the system does not tell.
type uptime func() (boot string, up time.Duration)

// stamp records when the last events were stored, by a clock that cannot be set, and
// which keys were remembered then. The wall clock alone is not enough: if it is set
// between two processes, a key is forgotten too early and an event is stored twice.
type stamp struct {
	next  uint64 // seq of the next record
	since uint64 // seq of the oldest record whose key was remembered
	wall  time.Time
	up    time.Duration
	boot  string
}

// stamp returns the stamp of a group that is being stored.
func (s *Store) stamp(g *group, next uint64) stamp {
	since, any := s.file.keys.First()
	if !any {
		since = g.first
	}
	boot, up := s.uptime()
	return stamp{next, since, g.records[0].At, up, boot}
}

func (s stamp) encode() []byte {
	var buf []byte
	for _, n := range []uint64{s.next, s.since, uint64(s.wall.UnixNano()), uint64(s.up)} {
		buf = binary.BigEndian.AppendUint64(buf, n)
	}
	return seal(append(buf, s.boot...), nil)
}

// decodeStamp decodes a stamp. It is zero if buf is nil: earlier versions wrote none.
func decodeStamp(buf []byte) (s stamp, err error) {
	if buf == nil {
		return s, nil
	}
	buf, ok := unseal(buf, nil)
	if !ok || len(buf) < 32 {
		return s, fmt.Errorf("%w: the stamp of its last commit has a wrong checksum", errDamaged)
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(buf[8*i:]) }
	return stamp{n(0), n(1), time.Unix(0, int64(n(2))), time.Duration(n(3)), string(buf[32:])}, nil
}

// ageFunc returns a function that tells how old the key of a record is. If the machine
// has booted since, or the last record has no stamp, it can only use the wall clock.
// A wall clock that was set back cannot make an age negative.
func (s stamp) ageFunc(now time.Time, next uint64, uptime uptime) func(seq uint64, at time.Time) time.Duration {
	boot, up := uptime()
	if s.boot == "" || s.boot != boot || s.next != next || up < s.up {
		return func(_ uint64, at time.Time) time.Duration { return max(now.Sub(at), 0) }
	}
	return func(seq uint64, at time.Time) time.Duration {
		if seq < s.since {
			return hub.KeyLifetime
		}
		age := s.wall.Sub(at) // when the stamp was made
		if age < 0 || age > hub.KeyLifetime*3/2 {
			age = 0 // the wall clock was set in between, and the key was still remembered
		}
		return up - s.up + age
	}
}
