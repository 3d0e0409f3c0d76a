// Package command is `caddy sse`: the API on the admin endpoint, for people and for
// scripts.
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

// The exit codes beside 0. 2 and 3 are Caddy's own.
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

// build makes cmd the command sse.
func build(cmd *cobra.Command) {
	cmd.Long = `
Publishes events to the clients of the sse directive, lists their connections, and
follows what is published.

It speaks with a running Caddy by its admin endpoint, at ` + caddy.DefaultAdminListen + `, at
--address, or at the address in the file that --config names.

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
	flags.Bool("json", false, "Print JSON, as the API answers it")
	flags.Duration("timeout", 30*time.Second, "How long to try again while Caddy answers that it cannot store or serve")
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

// run makes f what a subcommand does.
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
		err = f(c)
		failure, ok := errors.AsType[*exitError](err)
		if !ok {
			return err
		}
		// Caddy prints no error with an exit code of its own, but for its log.
		cmd.SilenceErrors = true
		c.err.printf("Error: %s\n", err)
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return failure.code, nil })(cmd, args)
	}
}

// The flags of a command exist, so these cannot fail.

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
