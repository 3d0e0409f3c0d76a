// Package natsstore keeps the history of hubs in NATS JetStream. All nodes with the same
// config share one history: an event that is published on any node reaches the clients of
// all nodes, and a client can resume on any node.
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

// Store is a store on a NATS server or cluster with JetStream. The node also starts and
// serves while NATS is not reachable. Meanwhile publishes are refused and streams stay
// open. The history catches up when NATS is back.
//
// When a config reload changes an option, the node connects again with the new options.
// As long as the name of the stream is the same, open streams and the history continue.
type Store struct {
	// The servers, as nats://, tls://, ws:// or wss:// URLs. The node learns the other
	// servers of the same cluster from these. A URL may have a user and password, or a
	// token. The placeholders {env.*} and {file.*} are replaced.
	// Default: nats://127.0.0.1:4222.
	URLs []string `json:"urls,omitempty"`

	// The name of the JetStream stream that keeps the history. The stream is created if
	// it does not exist. All nodes of a NATS account with the same stream name share one
	// history, so staging and production need different names. Default: SSE_ followed
	// by the name of the hub.
	Stream string `json:"stream,omitempty"`

	// The number of servers that keep a copy of the stream, 1 to 5. With 3 the stream
	// survives the loss of one server. Default: 1.
	Replicas int `json:"replicas,omitempty"`

	// A file with the credentials of a NATS user, as written by nsc. Default: none.
	Credentials string `json:"credentials,omitempty"`

	// The certificates to verify the servers with, and of this node. Default: TLS if a
	// URL asks for it, with the certificate authorities of the system.
	TLS *TLS `json:"tls,omitempty"`
}

// TLS names the files for TLS with NATS.
type TLS struct {
	// A PEM file with the certificate authorities of the servers. Default: those of the
	// system.
	CA string `json:"ca,omitempty"`

	// PEM files with the certificate of this node and its key. Default: none.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
}

// maxReplicas is the most replicas that JetStream allows.
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

// Validate returns an error for options that can never work.
func (s *Store) Validate() error {
	for i, raw := range s.URLs {
		u, err := url.Parse(raw)
		if err != nil {
			// Without the URL, which may have a password.
			return errors.New("a NATS URL cannot be parsed: percent-encode all characters of its password but letters and digits")
		}
		if !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Host == "" {
			// Without the URL: a text that is no URL may have a password anywhere.
			return fmt.Errorf("URL %d is not the URL of a NATS server (its scheme must be nats, tls, ws or wss; example: nats://127.0.0.1:4222)", i+1)
		}
	}
	if s.Stream != "" && !streamName.MatchString(s.Stream) {
		return fmt.Errorf("stream %q is not a valid name: use 1 to 200 of the characters A-Z, a-z, 0-9, - and _", s.Stream)
	}
	if s.Replicas < 1 || s.Replicas > maxReplicas {
		return fmt.Errorf("replicas must be a number from 1 to %d (got %d)", maxReplicas, s.Replicas)
	}
	if s.TLS != nil && (s.TLS.Certificate == "") != (s.TLS.Key == "") {
		return errors.New("tls has a certificate without its key, or a key without its certificate: give both or none")
	}
	return nil
}

func (s *Store) stream(hubName string) string { return cmp.Or(s.Stream, "SSE_"+hubName) }

// Identity returns the servers and the stream, without passwords.
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

// Connection returns all options. The node connects again when they change.
func (s *Store) Connection() string {
	all, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(all)
}

// Open starts to connect. It does not wait for NATS.
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
		servers:  s.URLs,
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
				return d.Errf("replicas must be a number from 1 to %d (got %q)", maxReplicas, args[0])
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
			return d.Errf("unknown option %q of store nats (available: url, stream, replicas, credentials, tls)", option)
		}
	}
	return nil
}

// Settings of a connection that are not configurable.
const (
	reconnectWait = 250 * time.Millisecond // plus as much jitter
	pingInterval  = 2 * time.Second
	pingsMissed   = 2 // unanswered pings before a connection is closed
)

// Interface guards.
var (
	_ caddysse.StoreModule  = (*Store)(nil)
	_ caddysse.Remote       = (*Store)(nil)
	_ caddy.Provisioner     = (*Store)(nil)
	_ caddy.Validator       = (*Store)(nil)
	_ caddyfile.Unmarshaler = (*Store)(nil)
)
