// Package command implements `caddy sse`. It uses the API on the admin endpoint.
package command

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "sse",
		Usage:     "<command>",
		Short:     "Publishes, lists and follows Server-Sent Events",
		CobraFunc: build,
	})
}

// Exit codes other than 0. Caddy itself uses 2 and 3.
const (
	exitRefused     = caddy.ExitCodeFailedStartup
	exitNothing     = 4
	exitUnreachable = 5
)

// exitError is an error with an exit code other than exitRefused.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func fail(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

// build adds the subcommands and flags to the command sse.
func build(cmd *cobra.Command) {
	cmd.Long = `
Publishes events to the clients of the sse directive, lists their connections, and
follows what is published.

It uses the admin endpoint of a running Caddy: at ` + caddy.DefaultAdminListen + `, at the address
of --address, or at that of the config file of --config.

Exit codes:

  0  done
  1  refused by Caddy, or a mistake in the command
  4  nothing matched
  5  Caddy cannot be reached, or could not store an event within --timeout`
	cmd.Example = `  $ caddy sse status
  $ caddy sse send --user alice --type order_update '{"orderId":"123"}'
  $ caddy sse tail --topic 'room/*' --data
  $ caddy sse why --user alice --id 3kq9x2mf-1042-x7d2`
	cmd.SilenceUsage = true
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		return fmt.Errorf("unknown command %q (available: %s)", args[0], strings.Join(names, ", "))
	}
	flags := cmd.PersistentFlags()
	flags.String("address", "", "Address of the administration API listener (if --config is not used)")
	flags.StringP("config", "c", "", "Configuration file (if --address is not used)")
	flags.StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
	flags.String("hub", "", "Name of the hub (default \"default\")")
	flags.Bool("json", false, "Print the JSON answer of the API")
	flags.Duration("timeout", 30*time.Second, "How long to retry while Caddy cannot store or serve")
	cmd.AddCommand(statusCommand(), sendCommand(), broadcastCommand(), connectionsCommand(),
		usersCommand(), disconnectCommand(), tailCommand(), whyCommand())
}

// call is one run of a subcommand.
type call struct {
	*cobra.Command
	args   []string
	client *client
	out    *printer
	err    *printer
	json   bool
}

// run returns a function of a cobra command that calls f.
func run(f func(*call) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := newClient(cmd.Flags())
		if err != nil {
			return err
		}
		defer client.close()
		c := &call{
			Command: cmd, args: args, client: client,
			out: newPrinter(cmd.OutOrStdout()), err: newPrinter(cmd.ErrOrStderr()),
			json: boolFlag(cmd, "json"),
		}
		client.onWait = func(err error) {
			c.err.printf("%s\n", c.err.paint(yellow, fmt.Sprintf("waiting for Caddy, for %s: %v", client.timeout, err)))
		}
		err = f(c)
		failure, ok := errors.AsType[*exitError](err)
		if !ok {
			return err
		}
		// Caddy does not print an error that has an exit code.
		cmd.SilenceErrors = true
		c.err.printf("Error: %s\n", err)
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return failure.code, nil })(cmd, args)
	}
}

// boolFlag, stringFlag and listFlag panic if the command does not have the flag.
func boolFlag(cmd *cobra.Command, name string) bool {
	v, err := cmd.Flags().GetBool(name)
	if err != nil {
		panic(err)
	}
	return v
}

func stringFlag(cmd *cobra.Command, name string) string {
	v, err := cmd.Flags().GetString(name)
	if err != nil {
		panic(err)
	}
	return v
}

func listFlag(cmd *cobra.Command, name string) []string {
	v, err := cmd.Flags().GetStringArray(name)
	if err != nil {
		panic(err)
	}
	return v
}
