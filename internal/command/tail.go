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
Prints all events of a hub as they are stored, to whomever they are, until it is interrupted. When
Caddy reloads or restarts, or the connection is lost, it comes back with its position: nothing
is missing and nothing comes twice, as long as history reaches back. If something may be
missing, that is said in its place.

Payloads are left out, unless --data is given. Sessions are shown by their hash. Commands that
end connections or change their topics are shown too, if there is no filter. With --user and
--topic it shows what is for any of them; what is for everybody is not.`,
		Example: `  $ caddy sse tail --after earliest --data
  $ caddy sse tail --topic 'room/*' --type message --json | jq .id`,
		Args: cobra.NoArgs,
		RunE: run(tail),
	}
	flags := cmd.Flags()
	flags.StringArray("user", nil, "For this user; repeatable")
	flags.StringArray("topic", nil, "For this topic, or for those of a pattern such as room/*; repeatable")
	flags.StringArray("type", nil, "Of this type; repeatable")
	flags.String("after", "", "Begin after this position, or with the \"earliest\" that history has (default from now on)")
	flags.Bool("data", false, "Show the payloads")
	return cmd
}

// follower is a tail that outlives its connections.
type follower struct {
	*call
	query    url.Values
	position string // of the last event that was shown
	retry    time.Duration
	beat     time.Duration
	lost     bool // it is said that the connection is lost
}

// silences is after how many heartbeats that did not come a connection is given up.
const silences = 3

func tail(c *call) error {
	f := &follower{call: c, query: query(c.Command, "user", "topic", "type"), position: stringFlag(c.Command, "after"), beat: 15 * time.Second}
	if boolFlag(c.Command, "data") {
		f.query.Set("data", "true")
	}
	began := time.Now()
	for {
		begun, err := f.follow()
		if err != nil && !f.goesOn(err, began) {
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

// goesOn reports whether the tail tries again after an error. Once it has begun it
// waits for ever for a Caddy, and for a hub that is gone: a reload may bring it back.
func (f *follower) goesOn(err error, began time.Time) bool {
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

// printError says that nobody reads what is printed.
type printError struct{ err error }

func (e *printError) Error() string { return e.err.Error() }
func (e *printError) Unwrap() error { return e.err }

// follow opens the stream, and shows what comes until it ends. It reports whether it
// has begun.
func (f *follower) follow() (begun bool, err error) {
	ctx, cancel := context.WithCancel(f.Context())
	defer cancel()
	// It ends when nothing comes, not even a heartbeat.
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
		silence.Reset(silences * f.beat)
		b, err := blocks.next()
		if err != nil {
			return begun, nil // it comes again
		}
		if b.retry > 0 {
			f.retry = b.retry
		}
		if b.event == "sse.connected" {
			begun, f.lost = true, false
			var opening struct{ Heartbeat int }
			if json.Unmarshal([]byte(b.data), &opening) == nil && opening.Heartbeat > 0 {
				f.beat = time.Duration(opening.Heartbeat) * time.Millisecond
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
		_ = json.Unmarshal([]byte(b.data), &gap) // without a reason it is a gap as well
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
		return fmt.Errorf("%s sent an event that is no JSON: %w", f.client.address, err)
	}
	_, err := fmt.Fprintln(f.out, e.line(f.out))
	return err
}

// gapReason says it in words.
func gapReason(reason string) string {
	switch reason {
	case "evicted":
		return "history no longer has them"
	case "epoch":
		return "the history has begun anew"
	case "invalid":
		return "the position is not one of this history"
	}
	return printable(reason)
}

// event is one of the stream of all events.
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

// line shows an event: when, where, what, to whom, and the payload if there is one.
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

// to says whom an event is for.
func (e *event) to() string {
	for _, t := range []struct {
		kind  string
		names []string
	}{{"user", e.User}, {"topic", e.Topic}, {"session", e.Session}, {"connection", e.Connection}} {
		if len(t.names) > 0 {
			return t.kind + " " + some(t.names)
		}
	}
	return "all"
}
