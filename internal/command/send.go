package command

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

const payloadHelp = `
The payload is an argument, a file (@file) or standard input (-). It must be JSON. With
--text it is any text.

With --ndjson each line is an event for the API: a JSON object with data or text, optionally
with ` + "`type`, `ttl`, `slot`, `key`" + ` and targets. The flags apply to lines without these fields.
Lines are published in batches as they come. A batch is stored as a whole or not at all.

Every event has a key, so that it is stored only once: that of the event or of --key, or a
random one. With --ndjson the keys are that of --key with the line number. While Caddy
answers 503, cannot be reached or loses the connection, the command sends the event again
with the same key, until --timeout. Caddy knows a key for two minutes.`

func sendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send [<payload>]",
		Short: "Publishes to users, topics, sessions or connections",
		Long: `
Publishes an event to exactly one of --user, --topic, --session and --connection, each
repeatable.
` + payloadHelp,
		Example: `  $ caddy sse send --user alice --type order_update '{"orderId":"123"}'
  $ caddy sse send --topic room/1 --text @fragment.html
  $ caddy sse send --topic prices --ndjson - < prices.ndjson`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("send takes one payload (got %d arguments); if %q is the receiver, give it as --user %[2]s", len(args), args[0])
			}
			return nil
		},
		RunE: run(func(c *call) error { return publish(c, "/sse/send") }),
	}
	for name, usage := range map[string]string{
		"user":       "All connections of this user; repeatable",
		"topic":      "All connections that have this topic; repeatable",
		"session":    "All connections of this session, by its value, not by its hash; repeatable",
		"connection": "This connection; repeatable",
	} {
		cmd.Flags().StringArray(name, nil, usage)
	}
	return eventFlags(cmd)
}

func broadcastCommand() *cobra.Command {
	return eventFlags(&cobra.Command{
		Use:     "broadcast [<payload>]",
		Short:   "Publishes to all clients of the hub",
		Long:    "\nPublishes an event to all clients of the hub.\n" + payloadHelp,
		Example: `  $ caddy sse broadcast --type maintenance '{"at":"22:00"}'`,
		Args:    cobra.MaximumNArgs(1),
		RunE:    run(func(c *call) error { return publish(c, "/sse/broadcast") }),
	})
}

// Fields of an event that have flags with the same names.
var (
	targetFields = []string{"user", "topic", "session", "connection"}
	valueFields  = []string{"type", "ttl", "slot"}
)

func eventFlags(cmd *cobra.Command) *cobra.Command {
	flags := cmd.Flags()
	flags.String("type", "", "The event's name (default none: a browser dispatches \"message\")")
	flags.String("ttl", "", "How long the event may be delivered, for example 10m (default: as long as the history has it)")
	flags.String("slot", "", "Replaces the earlier event with this slot and the same targets")
	flags.String("key", "", "Idempotency key; with --ndjson the prefix of the keys of the lines (default: random)")
	flags.Bool("text", false, "The payload is text, not JSON")
	flags.Bool("ndjson", false, "The payload has one event per line")
	return cmd
}

// usage returns the error of a mistake in the command line.
func (c *call) usage(format string, args ...any) error { return fmt.Errorf(format, args...) }

// receipt is the API's answer to an event.
type receipt struct {
	ID          string `json:"id"`
	Connections int    `json:"connections"`
	Duplicate   bool   `json:"duplicate"`
}

func publish(c *call, path string) error {
	ndjson := boolFlag(c.Command, "ndjson")
	if ndjson && boolFlag(c.Command, "text") {
		return c.usage("--ndjson and --text exclude each other: use the field \"text\" of a line")
	}
	if err := c.checkFlags(); err != nil {
		return err
	}
	fields, err := c.fields(path)
	if err != nil {
		return err
	}
	in, err := c.payload()
	if err != nil {
		return err
	}
	defer in.Close()
	if ndjson {
		return publishLines(c, path, in, fields)
	}
	payload, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("reading the payload: %w", err)
	}
	name := "data"
	if boolFlag(c.Command, "text") {
		name = "text"
		if !utf8.Valid(payload) {
			return c.usage("the payload is not valid UTF-8: convert it, for example with iconv -t UTF-8")
		}
		if payload, err = json.Marshal(string(payload)); err != nil {
			panic(err) // a string
		}
	} else if err := checkJSON(payload); err != nil {
		return c.usage("the payload is not JSON: %w; use --text to send a text", err)
	}
	key := stringFlag(c.Command, "key")
	if key == "" {
		key = rand.Text()
	}
	event := inject([]byte("{}"), append(fields, field{"key", quote(key)}, field{name, payload}))
	answer, err := c.client.do(c.Context(), "POST", path, nil, "application/json", event)
	if failure, ok := errors.AsType[*exitError](err); ok && failure.code == exitUnreachable && !c.Flags().Changed("key") && c.client.sent {
		return fail(exitUnreachable, "%w; repeat the command with --key %s within two minutes: then the event is not published twice", err, key)
	}
	if err != nil || c.json {
		return c.raw(answer, err)
	}
	var r receipt
	if err := json.Unmarshal(answer, &r); err != nil {
		return fmt.Errorf("the answer of %s is not JSON: %w", c.client.address, err)
	}
	c.out.printf("%s  %s\n", printable(r.ID), r.to())
	return nil
}

// to describes how many connections an event matched.
func (r receipt) to() string {
	to := "to " + count(r.Connections, "connection", "connections")
	if r.Connections == 0 {
		to = "to no open connection"
	}
	if r.Duplicate {
		to += "; published before, with the same key"
	}
	return to
}

// field is a field of a JSON object. Its value is JSON.
type field struct {
	name  string
	value []byte
}

// checkFlags rejects values that are not UTF-8. As JSON they would become other values.
func (c *call) checkFlags() error {
	for _, name := range slices.Concat(targetFields, valueFields, []string{"key"}) {
		var values []string
		switch flag := c.Flags().Lookup(name); {
		case flag == nil: // broadcast has no targets
		case slices.Contains(targetFields, name):
			values = listFlag(c.Command, name)
		default:
			values = []string{flag.Value.String()}
		}
		for _, value := range values {
			if !utf8.ValidString(value) {
				return c.usage("--%s %q is not valid UTF-8: convert it, for example with iconv -t UTF-8", name, value)
			}
		}
	}
	return nil
}

// fields returns the fields of an event that the flags give.
func (c *call) fields(path string) (fields []field, err error) {
	targets := 0
	for _, name := range targetFields {
		if flag := c.Flags().Lookup(name); flag == nil || !flag.Changed {
			continue
		}
		names := listFlag(c.Command, name)
		value, err := json.Marshal(names)
		if len(names) == 1 {
			value, err = json.Marshal(names[0])
		}
		if err != nil {
			panic(err) // strings
		}
		fields = append(fields, field{name, value})
		targets++
	}
	if path == "/sse/send" && (targets > 1 || targets == 0 && !boolFlag(c.Command, "ndjson")) {
		return nil, c.usage("send needs exactly one of --user, --topic, --session and --connection (got %d); use `caddy sse broadcast` to reach all clients", targets)
	}
	for _, name := range valueFields {
		if c.Flags().Changed(name) {
			fields = append(fields, field{name, quote(stringFlag(c.Command, name))})
		}
	}
	return fields, nil
}

// payload opens the payload: an argument, a file or standard input.
func (c *call) payload() (io.ReadCloser, error) {
	switch {
	case len(c.args) == 0:
		return nil, c.usage("no payload given: give it as an argument, as @file, or as - for standard input")
	case c.args[0] == "-":
		return io.NopCloser(c.InOrStdin()), nil
	case strings.HasPrefix(c.args[0], "@"):
		f, err := os.Open(c.args[0][1:])
		if err != nil {
			return nil, fmt.Errorf("opening the payload %s: %w", c.args[0], err)
		}
		return f, nil
	}
	return io.NopCloser(strings.NewReader(c.args[0])), nil
}

func checkJSON(text []byte) error {
	var value json.RawMessage
	return json.Unmarshal(text, &value)
}

// quote returns a string as JSON. It does not escape HTML, so that people can read it.
func quote(s string) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		panic(err) // a string
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// inject inserts fields at the beginning of a JSON object. It does not check the rest: the
// API does.
func inject(object []byte, fields []field) []byte {
	rest := bytes.TrimSpace(object[bytes.IndexByte(object, '{')+1:])
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quote(f.name))
		b.WriteByte(':')
		b.Write(f.value)
	}
	if len(fields) > 0 && rest[0] != '}' {
		b.WriteByte(',')
	}
	b.Write(rest)
	return b.Bytes()
}
