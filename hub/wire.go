package hub

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"
)

// This file has the blocks that only the hub sends. The id is the last line of every
// block, because some clients store it as soon as they have read the line.

// gapReason says why a client may have missed something.
type gapReason uint8

const (
	noGap      gapReason = iota
	gapEvicted           // an event for the client was evicted before it was sent
	gapEpoch             // the position belongs to another history
	gapInvalid           // the position is malformed, or beyond the head
	gapReasons
)

var gapNames = [gapReasons]string{gapEvicted: "evicted", gapEpoch: "epoch", gapInvalid: "invalid"}

// appendOpening appends sse.connected, with a delay for reconnecting that is drawn at
// random. It has no id when a gap follows: a client that loses the connection in between
// keeps its old position, and is told again. It has no id either if p has no epoch. It
// needs no lock.
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

// appendGap appends sse.gap, with the position from which the stream continues.
func appendGap(buf []byte, reason gapReason, p Position) []byte {
	buf = appendControl(buf, "sse.gap", struct {
		Reason string `json:"reason"`
	}{gapNames[reason]})
	return appendID(buf, p)
}

// EventTopics is the type of the block that tells a connection that its topics have
// changed.
const EventTopics = ReservedPrefix + "topics"

// topicsData returns the data of sse.topics, as JSON.
func topicsData(c *TopicChange) []byte {
	data, err := json.Marshal(struct {
		Added   []string `json:"added"`
		Removed []string `json:"removed"`
	}{append([]string{}, c.Add...), append([]string{}, c.Remove...)})
	if err != nil {
		panic(err) // impossible: it has only strings
	}
	return data
}

// closingData is the data of sse.closing and sse.rejected.
type closingData struct {
	Reason  Reason `json:"reason"`
	RetryMs int64  `json:"retryMs"`
}

// appendClosing appends sse.closing. It has no id: the client keeps its position.
func appendClosing(buf []byte, reason Reason, retry time.Duration) []byte {
	buf = appendRetry(buf, retry)
	return append(appendControl(buf, "sse.closing", closingData{reason, retry.Milliseconds()}), '\n')
}

// Block returns the SSE block for a client that is refused: sse.rejected, or sse.closing if
// the hub ends. It is the whole body of the response. The status of the response must be
// 200, because a native EventSource gives up for ever after any other status. [HTML spec
// 9.2.3]
func (r *Refusal) Block() []byte {
	if slices.Contains(closeReasons, r.Reason) {
		return appendClosing(nil, r.Reason, r.Retry)
	}
	buf := appendRetry(nil, r.Retry)
	return append(appendControl(buf, "sse.rejected", closingData{r.Reason, r.Retry.Milliseconds()}), '\n')
}

// appendRetry appends a retry line: how long a client waits before it reconnects.
func appendRetry(buf []byte, d time.Duration) []byte {
	buf = append(buf, "retry: "...)
	buf = strconv.AppendInt(buf, d.Milliseconds(), 10)
	return append(buf, '\n')
}

// appendControl appends an event and its data as JSON, without the end of the block: the
// caller adds an empty line, or [appendID]. data must be a struct of strings, numbers and
// booleans.
func appendControl(buf []byte, name string, data any) []byte {
	buf = append(buf, "event: "...)
	buf = append(buf, name...)
	buf = append(buf, "\ndata: "...)
	encoded, err := json.Marshal(data)
	if err != nil {
		panic(err) // impossible: structs of strings, numbers and booleans
	}
	buf = append(buf, encoded...)
	return append(buf, '\n')
}

// appendID ends a block with its position. A block with nothing else dispatches no
// event, but sets the client's last event id. [HTML spec 9.2.6]
func appendID(buf []byte, p Position) []byte {
	buf = p.append(append(buf, "id: "...))
	return append(buf, "\n\n"...)
}
