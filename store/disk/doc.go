// Package disk keeps a hub's history in a file, so that what was answered
// survives the end of the process, also by kill -9 or a power cut.
//
// # The file
//
// It is a bbolt database with three buckets. Numbers are big-endian, sums are
// CRC-32C, since bbolt has sums of its own for nothing but its two headers.
//
//	state   format -> 1 byte: 1, sum
//	        epoch  -> the history's epoch, sum
//	        span   -> seq of the oldest event, seq of the next one, sum
//	        stamp  -> of the last commit with events: seq of the next one, seq of
//	                  the first one whose key was remembered, time of storing,
//	                  nanoseconds since boot, the boot's name; sum
//	events  seq    -> time of storing, hub.KeySum, the data; sum of that and of seq
//	keys    seq    -> seq, time and hub.KeySum of each event that was dropped with
//	                  this one and whose key is still remembered; sum of that
//
// Between the two seqs of span no record is missing. The file grows to what the
// history needs at most and is reused from then on; it never shrinks.
//
// # Opening
//
// The file is locked, and read from end to end without bbolt, which trusts what it
// finds. Then bbolt gets the open file, so that what was read is used under the
// same lock. A damaged file is set aside, and an empty one created.
//
// A history continues the one that the hub has if the file has the hub's last
// record. Else it begins a new epoch.
//
// # Writing
//
// One goroutine, that of Tail, commits. While it does, publishers queue; what is
// in the queue when it is done goes into the next transaction. So a publisher
// that is alone waits for nobody, and many share one fsync.
//
// Before each transaction the store looks whether the file is as it left it. If
// not, or if a commit fails, it opens the file anew before it answers: a commit
// that failed may be in the file all the same.
package disk
