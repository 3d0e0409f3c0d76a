// Package chaos tries to lose events. It runs the real server with its history on disk, publishers
// that retry until each event is acknowledged, and clients that connect, leave, stop reading and
// are cut off at any byte. Meanwhile it kills, restarts and reloads the server, also with configs
// that fail. In the end every client must have received every acknowledged event for it, once and
// in order, or a real gap. No client may have received other events, and the server must not have
// grown.
//
// There are four hubs. The first two retain everything, so any gap on them is a fault. The third
// retains so little that clients that are slow or stay disconnected miss events. The file of the
// fourth is copied, restored, truncated, removed and replaced: then a gap is required, and without
// a gap no event may be missing since the last change of the file. Other processes wait for all
// the files and hold them for a moment.
//
// The clocks of the servers are set forward by hours, back by minutes, and right again, while the
// servers run and while they do not. This must have no effect.
//
// The topics of some users change while they have streams. From a change on they get only the
// events of their new topics.
//
// A stream that was open when a disconnect was requested gets no event that was sent after the
// answer. No stream gets the reason hub_closed.
//
// The printed seed reproduces the random choices but not the timing, which depends on the
// machine. So a seed that found a fault may not find it again.
//
// # Clients
//
// The follower of package e2e checks every byte. It also reads streams that curl fetches. Two
// clients are third-party libraries that keep and send their positions themselves. This is
// what the test expects of them:
//
//   - github.com/tmaxmax/go-sse 0.12 and github.com/launchdarkly/eventsource 1.11
//     move their position at the blank line that ends a block, and then dispatch
//     the block. So no event may be missing or doubled. (A client that moves it at
//     the line with the id loses the event if the connection is cut before the
//     blank line. The id is the last line of a block, so this is one byte.
//     go-sse before 0.12 dispatched blocks that were cut off.)
//   - Both dispatch blocks without data, which only move the position, as empty
//     events.
//   - go-sse gives up for ever after any answer but 200 with an event stream. An
//     event must fit into its buffer of 64 KiB. It loses a position that it began
//     with at its first reconnection without an event, so here it always begins at
//     the head.
//   - eventsource ends with the context of its request. Its Close may wait for
//     ever during an event.
package chaos
