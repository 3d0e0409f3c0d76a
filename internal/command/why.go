package command

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why",
		Short: "Says whether and why a client got an event or not",
		Long: `
Says what happened to an event for a user, a session or a connection: delivered, pending, for
others, missed, expired, replaced, evicted, or never published.`,
		Example: `  $ caddy sse why --user alice --id 3kq9x2mf-1042-x7d2`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unexpected argument %q; give the id with --id: caddy sse why --user alice --id %[1]s", args[0])
			}
			return nil
		},
		RunE: run(why),
	}
	flags := cmd.Flags()
	flags.String("id", "", "The id of the event, which is its position")
	flags.String("user", "", "For this user")
	flags.String("session", "", "For this session, by its hash as listed")
	flags.String("connection", "", "For this connection")
	flags.Bool("data", false, "Show the payload")
	return cmd
}

func why(c *call) error {
	q := queryOf(c.Command, "user", "session", "connection")
	if id := stringFlag(c.Command, "id"); id == "" || len(q) != 1 {
		return c.usage("why needs --id and exactly one of --user, --session and --connection (got %d of these)", len(q))
	}
	q.Set("id", stringFlag(c.Command, "id"))
	if boolFlag(c.Command, "data") {
		q.Set("data", "true")
	}
	var answer struct {
		Summary string
		Event   map[string]any
		Answers []map[string]any
		Missing []string
	}
	text, err := c.client.get(c.Context(), http.MethodGet, "/sse/why", q, &answer)
	if err != nil || c.json {
		return c.raw(text, err)
	}
	c.warnMissing(answer.Missing, "the answer is without their part")
	c.out.printf("%s\n", printable(answer.Summary))
	if payload, ok := answer.Event["data"]; ok {
		c.out.printf("%s\n", shownValue(payload))
	}
	for _, a := range answer.Answers {
		c.out.printf("\n%s\n", c.out.paint(cyan, shownValue(a["summary"])))
		delete(a, "summary")
		var rows [][]string
		for _, name := range slices.Sorted(maps.Keys(a)) {
			if value := shownValue(a[name]); value != "" {
				rows = append(rows, []string{"  " + printable(name), value})
			}
		}
		if err := c.out.table(rows); err != nil {
			return err
		}
	}
	return nil
}

// shownValue formats a value of an answer in one line.
func shownValue(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return printable(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		var list []string
		for _, item := range v {
			list = append(list, shownValue(item))
		}
		return strings.Join(list, ", ")
	case map[string]any:
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // it was decoded from JSON
		}
		return printable(string(text))
	}
	return fmt.Sprint(v)
}
