// Package e2e holds the whole-system tests: the real binary, built with the race
// detector, between real clients and a real publisher.
//
// A [Server] is one Caddy process with its own ports and data. A [Client]
// speaks one protocol to it, a [Stream] reads one response and refuses every
// byte that is not what the wire promises, and a [Follower] keeps a stream going
// as a browser would, with its last position. A [Publisher] pushes through the
// admin API until each event is acknowledged and notes it in a [Ledger]; in the
// end the ledger says what each follower must have received.
package e2e
