// Package natsstore keeps the history of hubs in NATS JetStream: one history for
// all nodes that are configured alike, so that an event pushed to any node reaches
// clients on all of them, and a client resumes on whichever it comes back to.
package natsstore

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/nats-io/nats.go"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/hub"
)

func init() {
	caddy.RegisterModule(Store{})
}

// Store is a store on a NATS server or cluster with JetStream. The node starts
// and serves also while NATS is away: publishing is refused then, streams stay
// open, and all catches up when it is back.
//
// When a config reload changes an option, the node connects anew, as it says now.
// As long as the stream is the same, streams and history go on.
type Store struct {
	// The servers, as nats://, tls://, ws:// or wss:// URLs; those of the same
	// cluster that are not listed are learned from the others. A user and password
	// or a token may be in them. Placeholders of {env.*} and {file.*} are replaced.
	// Default: nats://127.0.0.1:4222.
	URLs []string `json:"urls,omitempty"`

	// The name of the JetStream stream that keeps the history. It is made if it is
	// not there. All nodes in a NATS account whose stream has the same name share
	// its history, so staging and production need two names. Default: SSE_ and the
	// name of the hub.
	Stream string `json:"stream,omitempty"`

	// On how many servers the stream is kept, 1 to 5; 3 survives the loss of one.
	// Default: 1.
	Replicas int `json:"replicas,omitempty"`

	// A file with the credentials of a NATS user, as nsc writes it. Default: none.
	Credentials string `json:"credentials,omitempty"`

	// How the servers are authenticated, and this node to them. Default: as the
	// URLs say, with the certificate authorities of the system.
	TLS *TLS `json:"tls,omitempty"`
}

// TLS names the files for TLS with NATS.
type TLS struct {
	// A PEM file with the certificate authorities of the servers. Default: those
	// of the system.
	CA string `json:"ca,omitempty"`

	// PEM files with the certificate of this node and its key. Default: none.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
}

// maxReplicas is what JetStream allows.
const maxReplicas = 5

var streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// CaddyModule returns the Caddy module information.
func (Store) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sse.stores.nats",
		New: func() caddy.Module { return new(Store) },
	}
}

// Provision replaces placeholders and fills in the defaults.
func (s *Store) Provision(caddy.Context) error {
	repl := caddy.NewReplacer()
	for i, u := range s.URLs {
		s.URLs[i] = repl.ReplaceKnown(u, "")
	}
	s.Credentials = repl.ReplaceKnown(s.Credentials, "")
	if len(s.URLs) == 0 {
		s.URLs = []string{nats.DefaultURL}
	}
	s.Replicas = cmp.Or(s.Replicas, 1)
	return nil
}

// Validate refuses what could never connect.
func (s *Store) Validate() error {
	for _, raw := range s.URLs {
		u, err := url.Parse(raw)
		if err != nil {
			return errors.New("a NATS URL cannot be parsed: percent-encode what its password has beside letters and digits")
		}
		if !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Host == "" {
			return fmt.Errorf("%q is not the URL of a NATS server, such as nats://127.0.0.1:4222", u.Redacted())
		}
	}
	if s.Stream != "" && !streamName.MatchString(s.Stream) {
		return fmt.Errorf("stream %q: 1 to 200 of A-Z, a-z, 0-9, - and _ are allowed", s.Stream)
	}
	if s.Replicas < 1 || s.Replicas > maxReplicas {
		return fmt.Errorf("replicas must be a number from 1 to %d, not %d", maxReplicas, s.Replicas)
	}
	if s.TLS != nil && (s.TLS.Certificate == "") != (s.TLS.Key == "") {
		return errors.New("tls: a certificate needs its key, and a key its certificate")
	}
	return nil
}

func (s *Store) stream(hubName string) string { return cmp.Or(s.Stream, "SSE_"+hubName) }

// Identity names the servers and the stream, without passwords.
func (s *Store) Identity(hubName string) string {
	hosts := make([]string, len(s.URLs))
	for i, raw := range s.URLs {
		if u, err := url.Parse(raw); err == nil {
			hosts[i] = u.Scheme + "://" + u.Host
		}
	}
	slices.Sort(hosts)
	return strings.Join(hosts, ",") + " stream " + s.stream(hubName)
}

// Connection is all that is configured.
func (s *Store) Connection() string {
	all, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(all)
}

// Open begins to connect; it does not wait for NATS.
func (s *Store) Open(hubName string) (hub.Store, error) {
	var options []nats.Option
	if s.Credentials != "" {
		options = append(options, nats.UserCredentials(s.Credentials))
	}
	if t := s.TLS; t != nil {
		options = append(options, nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12}))
		if t.CA != "" {
			options = append(options, nats.RootCAs(t.CA))
		}
		if t.Certificate != "" {
			options = append(options, nats.ClientCert(t.Certificate, t.Key))
		}
	}
	return open(config{
		servers:  strings.Join(s.URLs, ","),
		stream:   s.stream(hubName),
		replicas: s.Replicas,
		hub:      hubName,
		options:  options,
	})
}

// UnmarshalCaddyfile reads the store of a hub:
//
//	store nats {
//		url         <url...>
//		stream      <name>
//		replicas    <number>
//		credentials <file>
//		tls [<ca-file> [<certificate-file> <key-file>]]
//	}
func (s *Store) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option, args := d.Val(), d.RemainingArgs()
		one := len(args) == 1
		switch {
		case option == "url" && len(args) > 0:
			s.URLs = append(s.URLs, args...)
		case option == "stream" && one:
			s.Stream = args[0]
		case option == "replicas" && one:
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n > maxReplicas {
				return d.Errf("replicas must be a number from 1 to %d, not %q", maxReplicas, args[0])
			}
			s.Replicas = n
		case option == "credentials" && one:
			s.Credentials = args[0]
		case option == "tls" && (len(args) < 2 || len(args) == 3):
			args = append(args, "", "", "")
			s.TLS = &TLS{CA: args[0], Certificate: args[1], Key: args[2]}
		case slices.Contains([]string{"url", "stream", "replicas", "credentials", "tls"}, option):
			return d.ArgErr()
		default:
			return d.Errf("unrecognized option of store nats: %s", option)
		}
	}
	return nil
}

// How a connection behaves, besides what the user configures.
const (
	reconnectWait = 250 * time.Millisecond // and as much again of jitter
	pingInterval  = 2 * time.Second
	pingsMissed   = 2 // after which a connection is given up
)

// Interface guards.
var (
	_ caddysse.StoreModule  = (*Store)(nil)
	_ caddysse.Remote       = (*Store)(nil)
	_ caddy.Provisioner     = (*Store)(nil)
	_ caddy.Validator       = (*Store)(nil)
	_ caddyfile.Unmarshaler = (*Store)(nil)
)
