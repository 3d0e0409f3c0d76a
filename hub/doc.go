// Package hub is the engine of caddy-sse: one bounded history of encoded
// events, and connections that are cursors into it. It serves Server-Sent Events
// [HTML spec 9.2] to many clients. It does not import Caddy and logs nothing: it
// returns errors and counts. See the package example for a server with net/http.
//
// There is no queue per connection. Connecting sets a cursor, to the client's last
// position or to the head. Publishing appends an event once and wakes the connections
// that the event is for. A writer that wakes up writes everything between its cursor and
// the head. Replay and live delivery are therefore the same loop, and a slow client is
// a cursor that lags.
//
// # The way of an event
//
//	[Hub.Publish]          validate, encode as a record
//	    |
//	[Store.Append]         the record gets its seq, and is as durable as the store makes it
//	    |
//	[Store.Tail]           calls [Feed.Deliver], on every node that shares the store
//	    |
//	encode                 record -> SSE block in an HTTP chunk: the bytes that all clients get
//	    |
//	history.append         entry in the ring; its seq in the lane of each target
//	    |                  (under Hub.mu; evicts what exceeds the bounds)
//	    |
//	Hub.wakeSubscribers    one goroutine: wakes the subscribers of every lane with news
//	    |
//	Conn.wake              the connection queues for its turn, unless it is queued
//	    |
//	    +-- sweeper        for sockets that were taken over; as many as CPUs
//	    +-- stackPool      for the others: a few goroutines, more while clients are slow
//	         |
//	    Conn.compose       look up (cursor, head] in the lanes of the connection,
//	         |             add gaps, heartbeats and the end, into one batch
//	         |
//	    one write          to the socket or the sink
//	         |
//	    Conn.account       move the cursor, count
//
// Publish returns when the history has the event. It does not wait for any client. It waits for
// a moment while more is published than the sweepers can write.
//
// # The way of a position
//
//	Last-Event-ID "<epoch>-<seq>-<tag>"
//	    |
//	[Hub.Connect]          awaitPosition: a node that shares its store may have to catch up
//	    |
//	Hub.setCursor          empty: the head. "earliest": the oldest retained event.
//	    |                  Otherwise history.resume decides:
//	    |                    another epoch, or another tag       -> gap "epoch"
//	    |                    malformed, or beyond the head       -> gap "invalid"
//	    |                    an event for this client is evicted -> gap "evicted"
//	    |                    everything is retained              -> the cursor is seq
//	    |
//	Hub.lookUp             repeats the test for "evicted" on every look-up, because the
//	    |                  history moves on while a client is slow, and calls
//	    |                  history.resume again when a new history has begun
//	    |
//	sse.connected          with sse.gap after it if there is a gap; [Pending.Greet] may have
//	                       written it with the header of the response
//
// # Who writes
//
// One goroutine at a time has the turn of a connection: it looks up and writes. The
// scheduling state says who (turn.go):
//
//	        wake                     takeTurn
//	idle ---------> queued -----------------------------> taken
//	 ^                ^                                   |   ^  |
//	 |                |  requeue (releaseTurn failed,     |   |  | wake
//	 |                |  or there is another batch)       |   |  v
//	 |                +-----------------------------------+--- taken and news
//	 |                                                    |
//	 +----------------------------------------------------+
//	        releaseTurn: only from taken, so that no news is lost
//
// A new connection is in the state taken, by its creator.
//
// Three writers drive the same four steps (take the turn, compose, write, account). They
// are three because they wait in different ways:
//
//   - Conn.catchUp (serve.go) writes through a [Sink] and may block in every write. It
//     runs on a goroutine of a pool (stack.go), so that the one that waits keeps a small
//     stack.
//   - Conn.step (socket.go) never blocks. A sweeper calls it for thousands of
//     connections in turn, so it must return when a socket is full and remember the
//     unsent bytes.
//   - Conn.writeBlocking (socket.go) takes the turn over from step while a socket is full
//     or a client replays. It waits on a goroutine of its own, and then calls step.
//
// # Locks
//
// In this order. A goroutine that has one of them takes only locks that are below it.
//
//	Hub.storeSwitch        one store replaces another
//	the store's own        a store calls its Feed while it has them
//	Hub.learning           the history is indexed for a new shape of pattern
//	Hub.muQueue            connections that begin, end or stall queue here for mu
//	Hub.mu                 history, lanes, subscriptions, and the fields of Conn that say so
//	sweeper.mu, stackPool.mu, endedConns.mu, repeats.mu, labelCounts.mu,
//	departures.mu, traces.mu, uncertainKeys.mu
//
// Hub.mu is never held during a write to a client, nor for work that grows with the
// number of connections, topics, targets or records: such work is cut into slices
// (the constants named ...AtOnce). The store is not called while it is held, except for
// [Store.Retain] and [Store.Shared], which must not block.
//
// Comments say it in these forms. "The caller holds Hub.mu": for reading or for writing.
// "The caller holds Hub.mu for writing". "The caller must not hold Hub.mu": the function
// locks it, or takes long. "Any goroutine may call it": it locks what it needs. If a method
// says none of these, the comment of its type does. A function that says none uses its
// arguments alone.
//
// # Words
//
//   - Head: the last position of the history.
//   - Retained: a record that the history has. Evicted: one that it had. Hole: a position
//     whose record is lost, or cannot be read. See [history].
//   - Epoch: the name of a history. Tag: a hash of a record. See [Position] and [Tag].
//   - Lane: a target with its events and its subscribers. Dirty: with news of which the
//     subscribers must still be told. See [lane].
//   - Shape: a pattern without its names. See [shape].
//   - Turn: the right to look up and write for a connection. See [Conn.takeTurn].
//   - Waker: the goroutine of [Hub.wakeSubscribers].
//   - Feed's goroutine: the one that the store calls its [Feed] on.
//   - Ended: a connection with a reason. The hub does not count it any more, but its writer
//     may still write what is pending. See [Hub.detach].
//   - Stalled in an event: the socket was full in the middle of it, or the write of a large
//     one has not returned. Pinned: an event that a stream may have stalled in. See [pinned].
//   - Uncertain: an event that may or may not have been stored. See [Uncertain] and
//     [uncertainKeys].
//   - Early heartbeat: a position that clients are sent before their heartbeat is due, so
//     that the history does not evict the position that they have. See [Hub].
//
// # Promises
//
// Each has a test with its number in the name, here or beside the Caddy module.
//
//  1. Once, in order. On one connection events arrive in position order, none
//     twice. Over reconnects with a position none is missing and none is
//     repeated, as long as history reaches back. An event for a connection ends
//     with that connection.
//  2. A client is always told of a gap. As far back as the floor, only the clients
//     that it concerns are told. A gap is a position of another epoch or with
//     another tag, one that is not ours, or something evicted that was addressed
//     to this client.
//  3. An acknowledged event is kept. A publish that returned without error is in
//     history; one that was refused is never seen by anyone.
//  4. Encoded once. One event is one set of bytes, however many connections.
//  5. No client waits for a slow one. No lock is held during a write to a client,
//     and a client that stalls costs no growing memory.
//  6. An event reaches only its targets. Replay is filtered by the identity of the
//     connection that asks. An empty user matches no user target.
//  7. Reload keeps streams. Options change under open connections.
//  8. Exit is quick, and clients are told. Shutdown tells each client when to come
//     back and cuts off those that take no bytes. Nothing later changes the reason.
//  9. The engine never imports Caddy.
//  10. Hubs are separate. Nothing crosses from one Hub to another.
//  11. Rights change at a position. Once Disconnect or ChangeTopics has returned, nothing
//     that is published afterwards reaches a connection that lost the right, on any
//     node, nor a client that was authenticated before the call and connects after it.
package hub
