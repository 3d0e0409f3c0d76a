package load

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"
)

func block(m Mark) string {
	return fmt.Sprintf("event: b\ndata: %s\nid: x-%d\n\n", m.Data(200), m.Seq)
}

func TestDataHasItsSize(t *testing.T) {
	if n := len(Mark{}.Data(200)); n != 200 {
		t.Errorf("payload of %d bytes, want 200", n)
	}
}

// TestParserFindsEveryMark splits the same answer at every position, with chunks that end inside events.
func TestParserFindsEveryMark(t *testing.T) {
	var want []Mark
	var body, chunked bytes.Buffer
	body.WriteString("retry: 10\nevent: sse.connected\ndata: {}\nid: x-0\n\nevent: sse.gap\ndata: {}\nid: x-0\n\n:\n\n\r\n")
	for seq := range uint32(5) {
		m := Mark{Run: 7, Lane: 2, Seq: seq + 1, At: 123456789 * time.Nanosecond}
		want = append(want, m)
		body.WriteString(block(m))
	}
	// Two marks in one event, with carriage returns, as one of the peers replays them.
	fmt.Fprintf(&body, "data: [%s,%s]\r\n\r\n", want[0].Data(60), want[1].Data(60))
	want = append(want, want[0], want[1])

	chunked.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	for part := range slices.Chunk(body.Bytes(), 77) {
		fmt.Fprintf(&chunked, "%x\r\n%s\r\n", len(part), part)
	}
	for name, answer := range map[string]string{
		"chunked": chunked.String() + "0\r\n\r\n",
		"plain":   "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body.String(),
	} {
		for size := 1; size <= len(answer); size++ {
			var p parser
			var f, all found
			for part := range slices.Chunk([]byte(answer), size) {
				f.reset()
				if err := p.feed(part, &f); err != nil {
					t.Fatalf("%s cut into %d: %v", name, size, err)
				}
				all.marks = append(all.marks, f.marks...)
				all.gaps += f.gaps
				all.ready = all.ready || f.ready
				all.ended = all.ended || f.ended
			}
			if !slices.Equal(all.marks, want) || all.gaps != 1 || !all.ready || all.ended != (name == "chunked") {
				t.Fatalf("%s cut into %d: found %+v", name, size, all)
			}
		}
	}
}

func TestParserRefusesAnErrorAnswer(t *testing.T) {
	var p parser
	if err := p.feed([]byte("HTTP/1.1 401 Unauthorized\r\n\r\n"), &found{}); err == nil {
		t.Error("a 401 was taken for a stream")
	}
}

func TestRecorderCountsLostDoubledAndDisordered(t *testing.T) {
	for _, tc := range []struct {
		name string
		seqs []uint32
		want Result
	}{
		{"all is well", []uint32{1, 2, 3, 4}, Result{Deliveries: 4}},
		{"one lost", []uint32{1, 3, 4}, Result{Deliveries: 3, Lost: 1}},
		{"the last lost", []uint32{1, 2, 3}, Result{Deliveries: 3, Lost: 1}},
		{"all lost", nil, Result{Lost: 4}},
		{"one doubled", []uint32{1, 2, 2, 3, 4}, Result{Deliveries: 4, Doubled: 1}},
		{"one late", []uint32{1, 3, 2, 4}, Result{Deliveries: 4, Disordered: 1}},
		{"one late and doubled", []uint32{1, 3, 2, 2, 4}, Result{Deliveries: 4, Disordered: 1, Doubled: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r Recorder
			run := r.Begin(2, 2)
			for lane := range uint16(2) {
				for _, seq := range []uint32{1, 2, 3, 4} { // connection 0 misses nothing
					r.receive(0, 0, &found{marks: []Mark{{Run: run, Lane: lane, Seq: seq}}})
				}
			}
			for _, seq := range tc.seqs {
				r.receive(1, 0, &found{marks: []Mark{{Run: run, Lane: 1, Seq: seq}, {Run: run + 1, Seq: seq}}})
			}
			got := r.End(func(conn, lane int) uint32 {
				if conn == 1 && lane == 0 {
					return 0
				}
				return 4
			})
			tc.want.Deliveries += 8
			tc.want.Stray = int64(len(tc.seqs))
			got.Latency, got.LastAt = nil, 0
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}
