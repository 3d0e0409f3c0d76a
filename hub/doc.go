// Package hub is the engine of caddy-sse: one bounded history of encoded
// events, and connections that are cursors into it.
//
// There is no queue per connection. Connecting takes a cursor, from the
// client's last position or from the head. Publishing appends once and wakes
// whom the event is for. A writer that wakes writes everything between its
// cursor and the head. Replay and live delivery are therefore the same loop,
// and a slow client is only a cursor that lags.
//
// # Promises
//
// Each has a test that bears its name, here or beside the Caddy module.
//
//  1. Once, in order. On one connection events arrive in position order, none
//     twice. Over reconnects with a position none is missing and none is
//     repeated, as long as history reaches back. An event for a connection ends
//     with that connection.
//  2. A gap is always told, and, as far back as the floor, only to whom it
//     concerns: a position of another epoch or with another tag, one that is not
//     ours, or something evicted that was addressed to this client.
//  3. Acknowledged means kept. A publish that returned without error is in
//     history; one that was refused is never seen by anyone.
//  4. Encoded once. One event is one set of bytes, however many connections.
//  5. Nobody waits for the slow. No lock is held during a write to a client,
//     and a client that stalls costs no growing memory.
//  6. Only the addressed. Replay is filtered by the identity of the connection
//     that asks. An empty user matches no user target.
//  7. Reload keeps streams. Options change under open connections.
//  8. Exit is quick, and is called exit. Shutdown tells each client when to come
//     back and cuts off those that take no bytes. Nothing later changes the reason.
//  9. The engine never imports Caddy.
//  10. Hubs are islands. Nothing crosses from one Hub to another.
//  11. Rights change at a position. Once Disconnect has returned, nothing that is
//     published afterwards reaches a connection that it ended, on any node.
package hub
