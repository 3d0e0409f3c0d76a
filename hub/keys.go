package hub

import (
	"hash/maphash"
	"time"
)

// KeyLifetime is how long an idempotency key is remembered after its event was
// stored.
const KeyLifetime = 2 * time.Minute

// Keys remembers, for a store, which event an idempotency key stands for. It is
// used by one goroutine at a time. There may be millions of keys, so it keeps 128
// bits of each.
type Keys struct {
	seeds [2]maphash.Seed
	seqs  map[keySum]uint64
	queue []usedKey // oldest first
}

type keySum [2]uint64

type usedKey struct {
	sum keySum
	at  int64 // Unix nanoseconds
}

func (k *Keys) sum(key string) keySum {
	return keySum{maphash.String(k.seeds[0], key), maphash.String(k.seeds[1], key)}
}

// Find returns the event that the key stands for. The empty key stands for none.
func (k *Keys) Find(key string) (seq uint64, known bool) {
	if key == "" || len(k.seqs) == 0 {
		return 0, false
	}
	seq, known = k.seqs[k.sum(key)]
	return seq, known
}

// Add remembers a key, unless it is empty. Keys are added in the order in which
// their events were stored.
func (k *Keys) Add(key string, seq uint64, at time.Time) {
	if key == "" {
		return
	}
	if k.seqs == nil {
		k.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
		k.seqs = make(map[keySum]uint64)
	}
	sum := k.sum(key)
	k.seqs[sum] = seq
	k.queue = append(k.queue, usedKey{sum, at.UnixNano()})
}

// Expire forgets the keys whose time is over.
func (k *Keys) Expire(now time.Time) {
	over := now.Add(-KeyLifetime).UnixNano()
	for len(k.queue) > 0 && k.queue[0].at <= over {
		delete(k.seqs, k.queue[0].sum)
		k.queue = k.queue[1:]
	}
}
