package command

import (
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
		if !h.Store.Connected {
			store += c.out.paint(red, ": "+or(h.Store.Problem, "not connected"))
		}
		rows = append(rows, []string{
			printable(name), humanize.Comma(int64(h.Connections)), humanize.Comma(int64(h.Users)),
			humanize.Comma(int64(h.Events)), humanize.IBytes(h.Bytes), or(h.Head, "-"), store,
		})
	}
	return c.out.table(rows)
}

// raw prints an answer as it is.
func (c *call) raw(text []byte, err error) error {
	if err == nil {
		_, err = c.out.Write(text)
	}
	return err
}

// warnMissing tells of nodes that are not in the answer.
func (c *call) warnMissing(missing []string, what string) {
	if len(missing) > 0 {
		c.err.printf("%s\n", c.err.paint(yellow, count(len(missing), "node", "nodes")+" did not answer, and "+what+": "+some(missing)))
	}
}

// filters adds the flags that choose connections.
func filters(cmd *cobra.Command, names ...string) *cobra.Command {
	for name, usage := range map[string]string{
		"user":    "Of this user; repeatable",
		"session": "Of this session, by its hash as it is listed; repeatable",
		"topic":   "That receive this topic; repeatable",
	} {
		if slices.Contains(names, name) {
			cmd.Flags().StringArray(name, nil, usage)
		}
	}
	return cmd
}

// paged adds the flags of a listing.
func paged(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Int("limit", 100, "How many at most, up to 1000")
	cmd.Flags().String("after", "", "Go on after this one, as the listing before says")
	return cmd
}

// query is what the flags say of those that the API takes by the same name.
func query(cmd *cobra.Command, names ...string) url.Values {
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
	return paged(filters(&cobra.Command{
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
			ID, User, Session, Protocol, Remote string
			Topics                              []string
			Since                               time.Time
			Lag                                 int
		}
		Next    string
		Missing []string
	}
	text, err := c.client.get(c.Context(), http.MethodGet, "/sse/connections", query(c.Command, "user", "session", "topic", "limit", "after"), &answer)
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
		for _, conn := range answer.Connections {
			rows = append(rows, []string{
				printable(conn.ID), or(conn.User, "-"), or(conn.Session, "-"), or(some(conn.Topics), "-"),
				printable(conn.Protocol), or(conn.Remote, "-"), ago(conn.Since), strconv.Itoa(conn.Lag),
			})
		}
		if err := c.out.table(rows); err != nil {
			return err
		}
	}
	return c.listed(len(answer.Connections), count(answer.Count, "connection", "connections"), answer.Next)
}

// listed tells how a list goes on.
func (c *call) listed(n int, all, next string) error {
	if n == 0 {
		return fail(exitNothing, "nothing matched: hub %s has none of these", c.client.hubName())
	}
	if next != "" && !c.json {
		c.err.printf("%d of %s; go on with --after %s\n", n, all, printable(next))
	}
	return nil
}

func usersCommand() *cobra.Command {
	return paged(filters(&cobra.Command{
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
	text, err := c.client.get(c.Context(), http.MethodGet, "/sse/users", query(c.Command, "topic", "limit", "after"), &answer)
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
	return c.listed(len(answer.Users), "all users", answer.Next)
}

func disconnectCommand() *cobra.Command {
	cmd := filters(&cobra.Command{
		Use:   "disconnect [<connection>]",
		Short: "Ends connections, on all nodes",
		Long: `
Ends one connection, those that the flags choose, or all of them, on all nodes. Several flags
choose what fits each of them. Clients come back once; keep them away by what authenticates
them. The exit code is 4 if there was none to end.`,
		Args: cobra.MaximumNArgs(1),
		RunE: run(disconnect),
	}, "user", "session", "topic")
	cmd.Flags().String("connection", "", "This one; the same as the argument")
	cmd.Flags().Bool("all", false, "All connections of the hub")
	return cmd
}

func disconnect(c *call) error {
	q := query(c.Command, "user", "session", "topic")
	path, id := "/sse/connections", strings.Join(append(c.args, stringFlag(c.Command, "connection")), "")
	switch {
	case len(c.args) == 1 && c.Flags().Changed("connection"):
		return c.usage("the argument %q and --connection name the same thing: give one", c.args[0])
	case id != "" && (len(q) > 0 || boolFlag(c.Command, "all")):
		return c.usage("connection %q and other flags: give either one connection, or flags that choose", id)
	case id != "":
		path += "/" + url.PathEscape(id)
	case boolFlag(c.Command, "all") == (len(q) > 0):
		return c.usage("say which connections end: one by its id, with --user, --session or --topic, or all of them with --all")
	case boolFlag(c.Command, "all"):
		q.Set("all", "true")
	}
	var answer struct {
		Disconnected int
		Missing      []string
	}
	text, err := c.client.get(c.Context(), http.MethodDelete, path, q, &answer)
	if isNothing(err) {
		return fail(exitNothing, "nothing matched: %w; `caddy sse connections` lists them", err)
	}
	if err != nil {
		return err
	}
	c.warnMissing(answer.Missing, "they end theirs when they reach the command in the history")
	if c.json {
		if err := c.raw(text, nil); err != nil {
			return err
		}
	} else {
		c.out.printf("%s ended\n", count(answer.Disconnected, "connection", "connections"))
	}
	if answer.Disconnected == 0 && len(answer.Missing) == 0 {
		return fail(exitNothing, "nothing matched: there was no such connection in hub %s", c.client.hubName())
	}
	return nil
}
