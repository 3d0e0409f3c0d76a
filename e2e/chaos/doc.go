// Package chaos tries to lose events. Around the real server, with its history on
// disk, it puts publishers that retry until each event is acknowledged, and
// clients that come, go, stop reading and are cut off at any byte. Meanwhile it
// kills the server, restarts it, reloads it, and has it reload what fails. In the
// end every acknowledged event must have reached every client that it was for,
// once and in order, or the client was told of a gap where there was one; nobody
// may have received anything else; and the server must not have grown.
//
// There are four hubs. The first two retain everything, so on them any gap is a
// failure. The third retains so little that clients which stay away, or are slow,
// do miss events. The file of the fourth is copied, restored, cut, removed and
// changed for another: there a gap is due, and silence means that nothing was
// lost since the file was last touched. Other processes wait for all the files,
// and have them for a moment.
//
// The clock of the servers is set forward by hours, back by minutes, and back to right,
// while they run and while they do not. That is no reason for anything.
//
// The topics of some users change while they have streams. From a change on they get
// what they have the right to, and nothing else.
//
// A stream that was open when a disconnect was asked for gets nothing that was
// sent after the answer, and no stream is told that its hub is closed.
//
// The seed that is printed makes the same choices again. Their timing is the
// machine's, so what a seed found once it finds again with luck.
//
// # Clients
//
// The follower of package e2e checks every byte, and curl is made to fetch
// streams for it. Two clients are other people's, and keep and send their position
// by themselves. What they promise, and are held to:
//
//   - github.com/tmaxmax/go-sse 0.12 and github.com/launchdarkly/eventsource 1.11
//     move their position when the blank line that ends a block has come, and
//     dispatch that block next. So nothing may be missing or doubled. (A client
//     that moves it when it has read the line with the id loses the event whose
//     blank line alone was cut off. As the id is the last line of a block, that is
//     one byte. Before 0.12, go-sse dispatched what a cut had left of a block.)
//   - Both dispatch blocks without data, which only move the position, as empty
//     events.
//   - go-sse gives up for ever on any answer but 200 with an event stream, and an
//     event must not be larger than its buffer, 64 KiB. It cannot begin with a
//     position that survives its first reconnection without an event, so here it
//     always begins at the head.
//   - eventsource is ended by its request's context. Its Close may wait for ever
//     while an event is under way.
package chaos
