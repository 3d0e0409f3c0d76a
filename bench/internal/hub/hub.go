// Package hub starts the measured servers as their users run them, and builds the requests to subscribe
// and publish.
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
	// Prepare builds or finds the server. The error says why the hub cannot be measured.
	Prepare(ctx context.Context, w Workshop) (version string, err error)
	Abilities() Abilities
	Start(ctx context.Context, s Site) (*Server, error)
	// Stream returns the request for a stream: of the events for all, or of one user; from now on, or after
	// a position.
	Stream(user, position string) load.Request
	// Publish returns the request that sends an event to all, or to one user.
	Publish(user string, data []byte) load.Request
	// Position returns the position of the event with this receipt.
	Position(receipt []byte) (string, error)
}

// Abilities says which modes a hub takes part in.
type Abilities struct {
	Publish bool // can publish
	TLS     bool // h1 over TLS
	H2      bool
	H3      bool
	Users   bool // can send to one user
	Resume  bool // can resume at a position
	Keep    bool // is measured with its history on disk
}

// Workshop is where servers are built.
type Workshop struct {
	Module string // this module's directory, where servers/ is
	Bin    string // directory of the built servers
	CPU    int    // the only CPU for servers
}

func (w Workshop) server(name string) string { return filepath.Join(w.Module, "servers", name) }

// Site is the environment of a server.
type Site struct {
	Dir       string // empty, for this server alone
	CPU       int
	Cert, Key string
	// Users makes the header X-User the identity of a stream; otherwise all are anonymous.
	Users bool
	// Options of the hub, if it has any.
	Options string
}

// Heartbeat is the heartbeat interval of hubs that have one: so long that it does not affect the figures.
const Heartbeat = 5 * time.Minute

var errNone = errors.New("not supported by this hub")

// All is all hubs, in the order of the tables.
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
