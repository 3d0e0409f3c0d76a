package e2e

import (
	"testing"
	"time"
)

// TestJudgeOfMembers: the judge finds each kind of fault. The member always has news/a, gets
// sport/a at position 5, and loses news/b at position 9.
func TestJudgeOfMembers(t *testing.T) {
	began := time.Now()
	after := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	at := func(seq uint64) Position { return Position{Epoch: "abc", Seq: seq} }
	var entries []Entry
	for seq, name := range map[uint64]string{
		1: "news/a", 2: "news/b", 3: "sport/a", 4: "news/b", 6: "sport/a", 7: "news/b", 8: "news/b", 10: "news/b", 11: "news/a", 12: "sport/a",
	} {
		entries = append(entries, Entry{Position: at(seq), N: int64(seq), To: To("topic", name), Sent: after(float64(seq))})
	}
	added, removed := TopicChange{Added: []string{"sport/a"}}, TopicChange{Removed: []string{"news/b"}}
	m := &Member{Name: "alice", changes: []memberChange{
		{TopicChange: added, before: 4, at: at(5), sent: after(4.5), answered: after(5.5)},
		{TopicChange: removed, before: 8, at: at(9), sent: after(8.5), answered: after(9.5)},
	}}
	both := []reportedChange{{TopicChange: added, position: at(5)}, {TopicChange: removed, position: at(9)}}
	for name, test := range map[string]struct {
		topics    []string // news/a, news/b
		requested float64
		start     uint64
		last      uint64 // 12
		got       []uint64
		reported  []reportedChange
		want      Rights
	}{
		"all events":                              {reported: both, got: []uint64{1, 2, 4, 6, 7, 8, 11, 12}},
		"pending events were dropped":             {reported: both, got: []uint64{1, 2, 4, 6, 11, 12}},
		"it left before it reported the change":   {reported: both[:1], got: []uint64{1, 2, 4, 6, 7}, last: 8},
		"an event from before a topic was added":  {reported: both, got: []uint64{1, 2, 3, 4, 6, 7, 8, 11, 12}, want: Rights{Unlawful: 1}},
		"an event from after a topic was removed": {reported: both, got: []uint64{1, 2, 4, 6, 7, 8, 10, 11, 12}, want: Rights{Unlawful: 1}},
		"an event from after a topic was removed, and the change was not reported": {reported: both[:1], got: []uint64{1, 2, 4, 6, 7, 8, 10, 11, 12}, want: Rights{Unlawful: 1, Misreported: 1}},
		"without the first event of an added topic":                                {reported: both, got: []uint64{1, 2, 4, 7, 8, 11, 12}, want: Rights{Withheld: 1}},
		"without an event of a topic that it always has":                           {reported: both, got: []uint64{1, 2, 4, 6, 7, 8, 12}, want: Rights{Withheld: 1}},
		"without an event between others of its topic":                             {reported: both, got: []uint64{1, 2, 4, 6, 8, 11, 12}, want: Rights{Withheld: 1}},
		"never acknowledged": {reported: both, got: []uint64{1, 2, 4, 6, 7, 8, 11, 12, 13}, last: 13, want: Rights{Unlawful: 1}},
		"reported another topic": {
			reported: []reportedChange{{TopicChange: TopicChange{Added: []string{"sport/b"}}, position: at(5)}, both[1]},
			got:      []uint64{1, 2, 4, 7, 8, 11}, want: Rights{Misreported: 1},
		},
		"reported a change that was never requested": {
			reported: []reportedChange{both[0], both[1], {TopicChange: added, position: at(10)}},
			got:      []uint64{1, 2, 4, 6, 7, 8, 11, 12}, want: Rights{Misreported: 1},
		},
		"a new stream": {topics: []string{"news/a", "sport/a"}, requested: 10, start: 3, got: []uint64{6, 11, 12}},
		"a new stream has an earlier event of its topic": {topics: []string{"news/a", "sport/a"}, requested: 10, start: 2, got: []uint64{3, 6, 11, 12}},
		"reported again on a new stream": {
			topics: []string{"news/a", "sport/a"}, requested: 10, start: 3, reported: both[1:], got: []uint64{6, 11, 12}, want: Rights{Misreported: 1},
		},
		"requested during a change":                  {requested: 8.6, start: 6, got: []uint64{7, 8, 10, 11}},
		"requested during a change, and reported it": {requested: 8.6, start: 6, reported: both[1:], got: []uint64{7, 8, 11}},
	} {
		t.Run(name, func(t *testing.T) {
			v := &MemberStream{
				topics: test.topics, requested: after(test.requested), opened: after(test.requested + 0.3), ended: after(20),
				start: at(test.start), last: at(max(test.last, 12)), reported: test.reported,
			}
			if test.last > 0 {
				v.last = at(test.last)
				v.ended = after(float64(test.last) + 0.7)
			}
			if v.topics == nil {
				v.topics = []string{"news/a", "news/b"}
			}
			for _, seq := range test.got {
				v.got = append(v.got, Received{Position: at(seq), N: int64(seq)})
			}
			m.streams = []*MemberStream{v}
			var got Rights
			m.Judge(entries, &got)
			if got.Unlawful != test.want.Unlawful || got.Withheld != test.want.Withheld || got.Misreported != test.want.Misreported {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
