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
//	events  seq    -> time of storing, hub.KeySum, the data; sum of that and of seq
//	keys    seq    -> seq, time and hub.KeySum of each event that was dropped with
//	                  this one and whose key is still remembered; sum of that
//
// Between the two seqs of span no event is missing. The file grows to what the
// history needs at most and is reused from then on; it never shrinks.
//
// # Writing
//
// One goroutine, that of Tail, commits. While it does, publishers queue; what is
// in the queue when it is done goes into the next transaction. So a publisher
// that is alone waits for nobody, and many share one fsync.
//
// A commit that failed may be in the file all the same. The store then reads the
// file anew before it answers.
package disk
