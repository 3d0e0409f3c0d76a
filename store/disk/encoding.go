package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

const format = 1

var (
	bucketState  = []byte("state")
	bucketEvents = []byte("events")
	bucketKeys   = []byte("keys")

	keyFormat = []byte("format")
	keyEpoch  = []byte("epoch")
	keySpan   = []byte("span")
	keyStamp  = []byte("stamp")
	keyProbe  = []byte("probe")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// valueOverhead is the size of a value without its data: the time of storing, the
// key's sum, and the checksum. In bytes.
const valueOverhead = 8 + len(hub.KeySum{}) + crc32.Size

func encodeSeq(seq uint64) [8]byte {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], seq)
	return key
}

// decodeRecord decodes a value of the bucket events. The record's Data shares memory
// with value.
func decodeRecord(key, value []byte) (r hub.Record, sum hub.KeySum, err error) {
	value, ok := unseal(value, key)
	if !ok || len(key) != 8 || len(value) < 8+len(sum) {
		return r, sum, fmt.Errorf("%w: record %x has a wrong checksum", errDamaged, key)
	}
	r.Seq = binary.BigEndian.Uint64(key)
	r.At = time.Unix(0, int64(binary.BigEndian.Uint64(value)))
	r.Data = value[8+copy(sum[:], value[8:]):]
	return r, sum, nil
}

func (s span) encode() []byte {
	buf := binary.BigEndian.AppendUint64(nil, s.oldest)
	return seal(binary.BigEndian.AppendUint64(buf, s.next), nil)
}

func (s *span) decode(buf []byte) error {
	buf, ok := unseal(buf, nil)
	if !ok || len(buf) != 16 {
		return fmt.Errorf("%w: the span of its events is missing or has a wrong checksum", errDamaged)
	}
	s.oldest, s.next = binary.BigEndian.Uint64(buf), binary.BigEndian.Uint64(buf[8:])
	return nil
}

// seal appends a checksum of buf and key.
func seal(buf, key []byte) []byte {
	return binary.BigEndian.AppendUint32(buf, checksum(buf, key))
}

func checksum(buf, key []byte) uint32 {
	return crc32.Update(crc32.Checksum(buf, castagnoli), castagnoli, key)
}

// unseal removes the checksum from buf and reports whether it is right.
func unseal(buf, key []byte) ([]byte, bool) {
	n := len(buf) - crc32.Size
	if n < 0 {
		return nil, false
	}
	return buf[:n], checksum(buf[:n], key) == binary.BigEndian.Uint32(buf[n:])
}

// chunkEntry is the size in bytes of one key in a chunk. A chunk has the keys of events
// that were dropped together, in order. Of each it has the seq, the time of storing,
// and the key's sum.
const chunkEntry = 16 + len(hub.KeySum{})

func appendKey(chunk []byte, sum hub.KeySum, seq uint64, at time.Time) []byte {
	chunk = binary.BigEndian.AppendUint64(chunk, seq)
	chunk = binary.BigEndian.AppendUint64(chunk, uint64(at.UnixNano()))
	return append(chunk, sum[:]...)
}

// eachKey calls add for each key of a chunk.
func eachKey(chunk []byte, add func(sum hub.KeySum, seq uint64, at time.Time)) error {
	chunk, ok := unseal(chunk, nil)
	if !ok || len(chunk)%chunkEntry != 0 {
		return fmt.Errorf("%w: a chunk of keys has a wrong checksum", errDamaged)
	}
	for entry := range slices.Chunk(chunk, chunkEntry) {
		seq, at := binary.BigEndian.Uint64(entry), binary.BigEndian.Uint64(entry[8:])
		add(hub.KeySum(entry[16:]), seq, time.Unix(0, int64(at)))
	}
	return nil
}
