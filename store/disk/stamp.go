package disk

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// uptime says how long the machine has been up, asleep or not, and names this time of
// its being up. The name is empty if that is not known.
type uptime func() (boot string, up time.Duration)

// stamp says when the last records were stored, by a clock that nobody sets, and
// which keys were remembered then. The wall clock may be set between two processes: by
// that alone a key would be forgotten too early, and an event be stored twice.
type stamp struct {
	next  uint64 // seq of the next record
	since uint64 // keys of records before this one were forgotten
	wall  time.Time
	up    time.Duration
	boot  string
}

// stamp is that of a group that is being stored.
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

// decodeStamp reads a stamp. Earlier versions wrote none.
func decodeStamp(buf []byte) (s stamp, err error) {
	if buf == nil {
		return s, nil
	}
	buf, ok := unseal(buf, nil)
	if !ok || len(buf) < 32 {
		return s, fmt.Errorf("%w: it does not say when it was last written", errDamaged)
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(buf[8*i:]) }
	return stamp{n(0), n(1), time.Unix(0, int64(n(2))), time.Duration(n(3)), string(buf[32:])}, nil
}

// ages returns how old the keys of records are now. If the machine was started since,
// or the last record has no stamp, only the wall clock says so. It may have been set:
// not more than hub.KeyLifetime is left.
func (s stamp) ages(now time.Time, next uint64, uptime uptime) func(seq uint64, at time.Time) time.Duration {
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
			age = 0 // the clock was set between the two: the key was remembered
		}
		return up - s.up + age
	}
}
