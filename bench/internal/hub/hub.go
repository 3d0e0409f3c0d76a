// Package hub starts the servers that are measured, each the way its users run it,
// and knows how each is subscribed and published to.
package hub

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/ea766355/caddy-sse/bench/internal/load"
)

// Hub is a server to measure.
type Hub interface {
	Name() string
	// Prepare builds or finds the server. Its error says why the hub is missing.
	Prepare(ctx context.Context, w Workshop) (version string, err error)
	Abilities() Abilities
	Start(ctx context.Context, s Site) (*Server, error)
	// Stream is the request for a stream: of everyone's events, or of one user's; from
	// now on, or after a position.
	Stream(user, position string) load.Request
	// Publish is the request that sends an event to everyone, or to one user.
	Publish(user string, data []byte) load.Request
	// Position is the position of the event that was answered with this receipt.
	Position(receipt []byte) (string, error)
}

// Abilities says which modes a hub takes part in.
type Abilities struct {
	Publish bool // has something to publish through
	TLS     bool // h1 over TLS
	H2      bool
	H3      bool
	Users   bool // can send to one user
	Resume  bool // can go on after a position
	Keep    bool // is measured with its history on disk
}

// Workshop is where servers are built.
type Workshop struct {
	Module string // this module's directory, where servers/ is
	Bin    string // built here
	CPU    int    // servers run on this CPU alone
}

func (w Workshop) server(name string) string { return filepath.Join(w.Module, "servers", name) }

// Site is what a server is started with.
type Site struct {
	Dir       string // its own and empty
	CPU       int
	Cert, Key string
	// Users makes the header X-User the identity of a stream; else all are anonymous.
	Users bool
	// Options of the hub itself, if it has any.
	Options string
}

// Heartbeat is how often an idle stream is written to, by the hubs that do so at all:
// so rarely that it is not in the figures.
const Heartbeat = 5 * time.Minute

var errNone = errors.New("not supported by this hub")

// All is every hub, in the order in which they are shown.
func All() []Hub {
	return []Hub{
		&module{name: "caddy-sse", takeover: true},
		&module{name: "caddy-sse, takeover off"},
		&raw{},
		&nchan{},
		&centrifuge{},
		&empty{},
	}
}
