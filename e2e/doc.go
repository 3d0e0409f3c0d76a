// Package e2e has the whole-system tests: real clients and a real publisher against the real
// binary, built with the race detector.
//
// A [Server] is a Caddy process with its own ports and data. A [Client] connects to it over
// one protocol. A [Stream] reads one response and rejects every byte that breaks the wire
// format. A [Follower] reconnects with its last position, as a browser does. A [Publisher]
// publishes through the admin API, repeats each request until it is acknowledged, and records
// the events in a [Ledger]. At the end the ledger tells what each follower must have received.
package e2e
