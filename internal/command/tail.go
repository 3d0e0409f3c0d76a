package command

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

func tailCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follows all events of a hub",
		Long: `
Prints all events of a hub as they are stored, for all targets, until it is interrupted. When
Caddy reloads or restarts, or the connection is lost, it resumes at its position. No event is
missing or printed twice, as long as the history has the position. Otherwise a line says that
events may be missing.

Payloads are printed with --data only. Sessions are printed as hashes. Without a filter,
commands that end connections or change their topics are printed too. With --user and --topic
it prints the events for any of them, but not those for everybody.`,
		Example: `  $ caddy sse tail --after earliest --data
  $ caddy sse tail --topic 'room/*' --type message --json | jq .id`,
		Args: cobra.NoArgs,
		RunE: run(tail),
	}
	flags := cmd.Flags()
	flags.StringArray("user", nil, "For this user; repeatable")
	flags.StringArray("topic", nil, "For this topic, or for the topics of a pattern such as room/*; repeatable")
	flags.StringArray("type", nil, "Of this type; repeatable")
	flags.String("after", "", "Start after this position, or at the \"earliest\" event of the history (default: from now on)")
	flags.Bool("data", false, "Show the payloads")
	return cmd
}

// follower is the state of a tail over all its connections.
type follower struct {
	*call
	query     url.Values
	position  string // of the last event that was printed
	retry     time.Duration
	heartbeat time.Duration
	lost      bool // a message said that the connection is lost
}

// missedHeartbeats is the number of missing heartbeats after which a connection is closed.
const missedHeartbeats = 3

func tail(c *call) error {
	f := &follower{call: c, query: queryOf(c.Command, "user", "topic", "type"), position: stringFlag(c.Command, "after"), heartbeat: 15 * time.Second}
	if boolFlag(c.Command, "data") {
		f.query.Set("data", "true")
	}
	began := time.Now()
	for {
		begun, err := f.follow()
		if err != nil && !f.shouldRetry(err, began) {
			return err
		}
		if !begun && f.client.reached && !f.lost {
			f.lost = true
			c.err.printf("%s\n", c.err.paint(yellow, fmt.Sprintf("waiting for Caddy at %s: %v", c.client.address, cmp.Or(err, errors.New("it ends")))))
		}
		select {
		case <-c.Context().Done():
			return c.Context().Err()
		case <-time.After(cmp.Or(f.retry, time.Second)):
		}
	}
}

// shouldRetry reports whether the tail tries again after an error. Once the tail has begun,
// it waits for Caddy for ever, also for a hub that is gone: a reload may bring it back.
func (f *follower) shouldRetry(err error, began time.Time) bool {
	if _, ok := errors.AsType[*printError](err); ok {
		return false
	}
	failure, refused := errors.AsType[*refusal](err)
	switch {
	case f.retry > 0:
		return !refused || failure.Status == http.StatusServiceUnavailable || failure.Status == http.StatusNotFound
	case refused:
		return failure.Status == http.StatusServiceUnavailable && time.Since(began) < f.client.timeout
	}
	return f.client.reached && time.Since(began) < f.client.timeout
}

// printError is an error of printing. It ends the tail.
type printError struct{ err error }

func (e *printError) Error() string { return e.err.Error() }
func (e *printError) Unwrap() error { return e.err }

// follow opens the stream and prints its events until it ends. begun reports whether the
// stream was open.
func (f *follower) follow() (begun bool, err error) {
	ctx, cancel := context.WithCancel(f.Context())
	defer cancel()
	// The stream ends when nothing arrives, not even a heartbeat.
	silence := time.AfterFunc(answerWithin, cancel)
	defer silence.Stop()
	if f.position != "" {
		f.query.Set("after", f.position)
	}
	resp, err := f.client.open(ctx, http.MethodGet, "/sse/events", f.query, "", nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	blocks := &blockReader{in: bufio.NewReader(resp.Body)}
	for {
		silence.Reset(missedHeartbeats * f.heartbeat)
		b, err := blocks.next()
		if err != nil {
			return begun, nil // the tail opens it again
		}
		if b.retry > 0 {
			f.retry = b.retry
		}
		if b.event == "sse.connected" {
			begun, f.lost = true, false
			var opening struct{ Heartbeat int }
			if json.Unmarshal([]byte(b.data), &opening) == nil && opening.Heartbeat > 0 {
				f.heartbeat = time.Duration(opening.Heartbeat) * time.Millisecond
			}
		} else if err := f.show(b); err != nil {
			return begun, &printError{err}
		}
		if b.id != "" {
			f.position = b.id
		}
	}
}

// show prints one block.
func (f *follower) show(b block) error {
	switch {
	case b.data == "" || b.event == "sse.closing":
		return nil
	case b.event == "sse.gap":
		var gap struct{ Reason string }
		_ = json.Unmarshal([]byte(b.data), &gap) // the reason is optional
		if f.json {
			_, err := fmt.Fprintf(f.out, "{\"gap\":%s,\"id\":%s}\n", quote(gap.Reason), quote(b.id))
			return err
		}
		_, err := fmt.Fprintln(f.out, f.out.paint(yellow, "-- events may be missing here: "+gapReason(gap.Reason)))
		return err
	case f.json:
		_, err := fmt.Fprintln(f.out, b.data)
		return err
	}
	var e event
	if err := json.Unmarshal([]byte(b.data), &e); err != nil {
		return fmt.Errorf("an event of %s is not JSON: %w", f.client.address, err)
	}
	_, err := fmt.Fprintln(f.out, e.line(f.out))
	return err
}

// gapReason describes the reason of a gap.
func gapReason(reason string) string {
	switch reason {
	case "evicted":
		return "the history no longer has them"
	case "epoch":
		return "a new history has begun"
	case "invalid":
		return "the position is not one of this history"
	}
	return printable(reason)
}

// event is an event of GET /sse/events.
type event struct {
	ID         string
	Stored     time.Time
	All        bool
	Connection []string
	User       []string
	Session    []string
	Topic      []string
	Type       string
	Size       uint64
	Replaced   bool
	Data       json.RawMessage
	Text       *string
	Command    json.RawMessage
}

// line formats an event: time, id, type, target, and the payload if there is one.
func (e *event) line(p *printer) string {
	what, rest := cmp.Or(e.Type, "message"), ""
	switch {
	case e.Command != nil:
		what, rest = "(command)", printable(string(e.Command))
	case e.Replaced:
		what, rest = "(replaced)", e.to()
	default:
		rest = fmt.Sprintf("%s, %d B", e.to(), e.Size)
	}
	line := fmt.Sprintf("%s  %s  %s  %s",
		p.paint(dim, e.Stored.Local().Format("15:04:05.000")), p.paint(dim, printable(e.ID)),
		p.paint(cyan, fmt.Sprintf("%-16s", printable(what))), rest)
	switch {
	case e.Data != nil:
		line += "  " + printable(string(e.Data))
	case e.Text != nil:
		line += "  " + string(quote(*e.Text))
	}
	return line
}

// to describes the target of an event.
func (e *event) to() string {
	for _, t := range []struct {
		kind  string
		names []string
	}{{"user", e.User}, {"topic", e.Topic}, {"session", e.Session}, {"connection", e.Connection}} {
		if len(t.names) > 0 {
			return t.kind + " " + shortList(t.names)
		}
	}
	return "all"
}
