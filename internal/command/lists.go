package command

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Shows the hubs, their histories and their stores",
		Args:  cobra.NoArgs,
		RunE:  run(status),
	}
}

func status(c *call) error {
	var answer struct {
		Version, Node string
		Hubs          map[string]struct {
			Connections, Users int
			Head               string
			Events             int
			Bytes              uint64
			Store              struct {
				Kind      string
				Connected bool
				Lag       int
				Problem   string
				Note      string
			}
		}
	}
	text, err := c.client.get(c.Context(), http.MethodGet, "/sse/status", nil, &answer)
	if err != nil || c.json {
		return c.raw(text, err)
	}
	c.out.printf("caddy-sse %s on %s\n\n", printable(answer.Version), printable(answer.Node))
	rows := [][]string{{"HUB", "CONNECTIONS", "USERS", "EVENTS", "SIZE", "HEAD", "STORE"}}
	for _, name := range slices.Sorted(maps.Keys(answer.Hubs)) {
		h := answer.Hubs[name]
		store := printable(h.Store.Kind)
		if h.Store.Lag > 0 {
			store += ", " + count(h.Store.Lag, "event", "events") + " behind"
		}
		if h.Store.Note != "" {
			store += c.out.paint(yellow, "; "+printable(h.Store.Note))
		}
		switch {
		case !h.Store.Connected:
			store += c.out.paint(red, ": "+orElse(h.Store.Problem, "not connected"))
		case h.Store.Problem != "":
			store += c.out.paint(red, ", not writable: "+printable(h.Store.Problem))
		}
		rows = append(rows, []string{
			printable(name), humanize.Comma(int64(h.Connections)), humanize.Comma(int64(h.Users)),
			humanize.Comma(int64(h.Events)), humanize.IBytes(h.Bytes), orElse(h.Head, "-"), store,
		})
	}
	return c.out.table(rows)
}

// raw prints an answer unchanged.
func (c *call) raw(text []byte, err error) error {
	if err == nil {
		_, err = c.out.Write(text)
	}
	return err
}

// warnMissing warns about nodes that did not answer.
func (c *call) warnMissing(missing []string, what string) {
	if len(missing) > 0 {
		c.err.printf("%s\n", c.err.paint(yellow, count(len(missing), "node", "nodes")+" did not answer, and "+what+": "+shortList(missing)))
	}
}

// addFilters adds the flags that select connections.
func addFilters(cmd *cobra.Command, names ...string) *cobra.Command {
	for name, usage := range map[string]string{
		"user":    "Of this user; repeatable",
		"session": "Of this session, by its hash as listed; repeatable",
		"topic":   "That receive this topic; repeatable",
	} {
		if slices.Contains(names, name) {
			cmd.Flags().StringArray(name, nil, usage)
		}
	}
	return cmd
}

// addPaging adds the flags for a part of a list.
func addPaging(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Int("limit", 100, "List at most this many, up to 1000")
	cmd.Flags().String("after", "", "Continue after this entry, as the list before says")
	return cmd
}

// queryOf returns the flags that were given, as parameters of the API with the same names.
func queryOf(cmd *cobra.Command, names ...string) url.Values {
	q := url.Values{}
	for _, name := range names {
		flag := cmd.Flags().Lookup(name)
		switch {
		case flag == nil || !flag.Changed:
		case flag.Value.Type() == "stringArray":
			q[name] = listFlag(cmd, name)
		default:
			q.Set(name, flag.Value.String())
		}
	}
	return q
}

func connectionsCommand() *cobra.Command {
	return addPaging(addFilters(&cobra.Command{
		Use:   "connections",
		Short: "Lists open connections, of all nodes",
		Long:  "Lists open connections, of all nodes, in the order in which they were opened. The exit code is 4 if none matches.",
		Args:  cobra.NoArgs,
		RunE:  run(connections),
	}, "user", "session", "topic"))
}

func connections(c *call) error {
	var answer struct {
		Count       int
		Connections []struct {
			ID, Node, User, Session, Protocol, Remote string
			Topics                                    []string
			Since                                     time.Time
			Lag                                       int
		}
		Next    string
		Missing []string
	}
	text, err := c.client.get(c.Context(), http.MethodGet, "/sse/connections", queryOf(c.Command, "user", "session", "topic", "limit", "after"), &answer)
	if err != nil {
		return err
	}
	c.warnMissing(answer.Missing, "their connections are not listed")
	if c.json {
		if err := c.raw(text, nil); err != nil {
			return err
		}
	} else if len(answer.Connections) > 0 {
		rows := [][]string{{"CONNECTION", "USER", "SESSION", "TOPICS", "PROTOCOL", "REMOTE", "SINCE", "LAG"}}
		several := false // nodes share the store
		for _, conn := range answer.Connections {
			rows = append(rows, []string{
				printable(conn.ID), orElse(conn.User, "-"), orElse(conn.Session, "-"), orElse(shortList(conn.Topics), "-"),
				printable(conn.Protocol), orElse(conn.Remote, "-"), ago(conn.Since), strconv.Itoa(conn.Lag),
			})
			several = several || conn.Node != ""
		}
		if several {
			rows[0] = append(rows[0], "NODE")
			for i, conn := range answer.Connections {
				rows[i+1] = append(rows[i+1], orElse(conn.Node, "-"))
			}
		}
		if err := c.out.table(rows); err != nil {
			return err
		}
	}
	return c.finishList(len(answer.Connections), count(answer.Count, "connection", "connections"), answer.Next)
}

// finishList returns an error for an empty list, and else says how to list the rest.
func (c *call) finishList(n int, all, next string) error {
	if n == 0 {
		return fail(exitNothing, "nothing matched in hub %s", c.client.hubName())
	}
	if next != "" && !c.json {
		c.err.printf("%d of %s; continue with --after %s\n", n, all, printable(next))
	}
	return nil
}

func usersCommand() *cobra.Command {
	return addPaging(addFilters(&cobra.Command{
		Use:   "users",
		Short: "Lists the users of open connections, of all nodes",
		Long:  "Lists the users of open connections, each once over all nodes, by name. The exit code is 4 if none matches.",
		Args:  cobra.NoArgs,
		RunE:  run(users),
	}, "topic"))
}

func users(c *call) error {
	var answer struct {
		Users []struct {
			User        string
			Connections int
			Since       time.Time
		}
		Next    string
		Missing []string
	}
	text, err := c.client.get(c.Context(), http.MethodGet, "/sse/users", queryOf(c.Command, "topic", "limit", "after"), &answer)
	if err != nil {
		return err
	}
	c.warnMissing(answer.Missing, "their users are not listed")
	if c.json {
		if err := c.raw(text, nil); err != nil {
			return err
		}
	} else if len(answer.Users) > 0 {
		rows := [][]string{{"USER", "CONNECTIONS", "SINCE"}}
		for _, u := range answer.Users {
			rows = append(rows, []string{printable(u.User), humanize.Comma(int64(u.Connections)), ago(u.Since)})
		}
		if err := c.out.table(rows); err != nil {
			return err
		}
	}
	return c.finishList(len(answer.Users), "all users", answer.Next)
}

func disconnectCommand() *cobra.Command {
	cmd := addFilters(&cobra.Command{
		Use:   "disconnect [<connection>]",
		Short: "Ends connections, on all nodes",
		Long: `
Ends one connection, the connections that match all flags, or all connections, on all nodes.
Clients reconnect once: to keep a client away, revoke its login. The exit code is 4 if nothing
matched.`,
		Args: cobra.MaximumNArgs(1),
		RunE: run(disconnect),
	}, "user", "session", "topic")
	cmd.Flags().String("connection", "", "This connection; the same as the argument")
	cmd.Flags().Bool("all", false, "All connections of the hub")
	return cmd
}

func disconnect(c *call) error {
	q := queryOf(c.Command, "user", "session", "topic")
	path, id := "/sse/connections", strings.Join(append(c.args, stringFlag(c.Command, "connection")), "")
	switch {
	case len(c.args) == 1 && c.Flags().Changed("connection"):
		return c.usage("the argument %q and --connection mean the same: give one of them", c.args[0])
	case id == "" && (len(c.args) == 1 || c.Flags().Changed("connection")): // a variable of a script was empty
		return c.usage("the id of the connection is empty: give an id, or --user, --session and --topic, or --all")
	case id != "" && (len(q) > 0 || boolFlag(c.Command, "all")):
		return c.usage("connection %q excludes --user, --session, --topic and --all: give either one connection or these flags", id)
	case id != "":
		path += "/" + url.PathEscape(id)
	case boolFlag(c.Command, "all") == (len(q) > 0):
		return c.usage("say which connections end: an id, or --user, --session and --topic, or --all")
	case boolFlag(c.Command, "all"):
		q.Set("all", "true")
	}
	var answer struct {
		Disconnected int      `json:"disconnected"`
		Missing      []string `json:"missing,omitempty"`
	}
	text, err := c.client.get(c.Context(), http.MethodDelete, path, q, &answer)
	before := c.client.ended // by requests that were repeated
	if isNothing(err) && before == 0 {
		return fail(exitNothing, "nothing matched: %w; `caddy sse connections` lists the open ones", err)
	}
	if err != nil && !isNothing(err) {
		if before > 0 {
			err = fmt.Errorf("%w; %s ended so far", err, count(before, "connection", "connections"))
		}
		return err
	}
	if answer.Disconnected += before; before > 0 {
		if text, err = json.Marshal(answer); err != nil {
			panic(err) // a number and strings
		}
		text = append(text, '\n')
	}
	c.warnMissing(answer.Missing, "their connections end when they read the command in the history")
	if c.json {
		if err := c.raw(text, nil); err != nil {
			return err
		}
	} else {
		c.out.printf("%s ended\n", count(answer.Disconnected, "connection", "connections"))
	}
	if answer.Disconnected == 0 && len(answer.Missing) == 0 {
		return fail(exitNothing, "nothing matched in hub %s", c.client.hubName())
	}
	return nil
}
