package hub

import (
	"encoding/json"
	"strconv"
	"time"
)

// The blocks that only the hub sends. In every block the id is the last line,
// since there are clients that store it when they read the line.

// gapReason says why it is not certain that a client has missed nothing.
type gapReason uint8

const (
	noGap      gapReason = iota
	gapEvicted           // something for the client left history before it was sent
	gapEpoch             // the position is of another life of the history
	gapInvalid           // the position is not one of ours
	gapReasons
)

var gapNames = [gapReasons]string{gapEvicted: "evicted", gapEpoch: "epoch", gapInvalid: "invalid"}

// appendOpening writes the first block. When a gap is to be told it has no id:
// a client that is cut off between the two keeps its old position, and so is
// told again. It has none either where p has no epoch.
func (c *Conn) appendOpening(buf []byte, gap gapReason, p Position) []byte {
	buf = appendRetry(buf, between(c.settings.RetryMin, c.settings.RetryMax))
	buf = appendControl(buf, "sse.connected", struct {
		ConnectionID string `json:"connectionId"`
		User         string `json:"user"`
		Heartbeat    int64  `json:"heartbeat"`
		Protocol     string `json:"protocol"`
		Resumed      bool   `json:"resumed"`
	}{c.id, c.identity.User, c.settings.Heartbeat.Milliseconds(), c.protocol, c.resumed && gap == noGap})
	if gap != noGap || p.Epoch == "" {
		return append(buf, '\n')
	}
	return appendID(buf, p)
}

// appendGap tells a gap, and the position from which the stream goes on.
func appendGap(buf []byte, reason gapReason, p Position) []byte {
	buf = appendControl(buf, "sse.gap", struct {
		Reason string `json:"reason"`
	}{gapNames[reason]})
	return appendID(buf, p)
}

// EventTopics is the type of the block by which the hub tells a connection that its
// topics have changed.
const EventTopics = ReservedPrefix + "topics"

// topicsData is the data of sse.topics.
func topicsData(c *TopicChange) []byte {
	data, err := json.Marshal(struct {
		Added   []string `json:"added"`
		Removed []string `json:"removed"`
	}{append([]string{}, c.Add...), append([]string{}, c.Remove...)})
	if err != nil {
		panic(err) // strings
	}
	return data
}

// goodbye is the data of sse.closing and sse.rejected.
type closingData struct {
	Reason  Reason `json:"reason"`
	RetryMs int64  `json:"retryMs"`
}

func appendClosing(buf []byte, reason Reason, retry time.Duration) []byte {
	buf = appendRetry(buf, retry)
	return append(appendControl(buf, "sse.closing", closingData{reason, retry.Milliseconds()}), '\n')
}

// Block is the whole answer to a client that is refused: it is sent with status
// 200, because a native EventSource gives up for ever on any other.
// [HTML spec 9.2.3]
func (r *Refusal) Block() []byte {
	if r.Reason == Shutdown || r.Reason == HubClosed {
		return appendClosing(nil, r.Reason, r.Retry)
	}
	buf := appendRetry(nil, r.Retry)
	return append(appendControl(buf, "sse.rejected", closingData{r.Reason, r.Retry.Milliseconds()}), '\n')
}

func appendRetry(buf []byte, d time.Duration) []byte {
	buf = append(buf, "retry: "...)
	buf = strconv.AppendInt(buf, d.Milliseconds(), 10)
	return append(buf, '\n')
}

func appendControl(buf []byte, name string, data any) []byte {
	buf = append(buf, "event: "...)
	buf = append(buf, name...)
	buf = append(buf, "\ndata: "...)
	encoded, err := json.Marshal(data)
	if err != nil {
		panic(err) // structs of strings, numbers and booleans
	}
	buf = append(buf, encoded...)
	return append(buf, '\n')
}

// appendID ends a block with its position. A block with nothing else dispatches
// no event, but moves the client's last event id. [HTML spec 9.2.6]
func appendID(buf []byte, p Position) []byte {
	buf = p.append(append(buf, "id: "...))
	return append(buf, "\n\n"...)
}
