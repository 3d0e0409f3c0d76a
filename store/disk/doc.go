// Package disk keeps a hub's history in a file. Events whose publish was answered
// survive the end of the process, also by kill -9 or a power cut.
//
// # The file
//
// The file is a bbolt database with three buckets. Numbers are big-endian. "sum" is
// a CRC-32C checksum: bbolt itself checks nothing but its two headers.
//
//	state   format -> 1 byte: 1, sum
//	        epoch  -> the history's epoch, sum
//	        span   -> seq of the oldest event, seq of the next event, sum
//	        stamp  -> written by each commit with events: seq of the next event, seq
//	                  of the oldest event whose key was remembered, time of storing,
//	                  nanoseconds since boot, name of the boot, sum
//	        probe  -> without meaning; only there if a process ended while it tried
//	                  a disk that had failed
//	events  seq    -> time of storing, hub.KeySum, data, sum (covers seq too)
//	keys    seq    -> seq, time and hub.KeySum of events that were dropped together
//	                  and whose keys are still remembered, sum; filed under the
//	                  first seq
//
// Every seq of the span has a record. The file never shrinks: it grows to the most
// that the history needs, and free pages are reused.
//
// # Opening
//
// The store locks the file and reads all of it without bbolt, because bbolt trusts
// what it reads. Then bbolt gets the open file, under the same lock. A damaged file
// is renamed, and an empty one is created.
//
// The file continues the hub's history if it contains the hub's last record.
// Otherwise the store starts a new epoch.
//
// # Writing
//
// The goroutine of [Store.Tail] commits. During a commit, new publishes queue. The
// next transaction takes the whole queue. So a single publisher waits for nobody,
// and many publishers share one fsync.
//
// Before each transaction the store checks that the file is as it left it. If it is
// not, or if a commit fails, the store opens the file again before it answers: a
// failed commit may be in the file all the same.
package disk
