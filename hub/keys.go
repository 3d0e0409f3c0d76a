package hub

import "time"

// KeyLifetime is how long an idempotency key is remembered after its event was
// stored.
const KeyLifetime = 2 * time.Minute

// Keys remembers, for a store, which event an idempotency key stands for. It is
// used by one goroutine at a time.
type Keys struct {
	seqs  map[string]uint64
	queue []usedKey // oldest first
}

type usedKey struct {
	key string
	at  time.Time
}

// Find returns the event that the key stands for. The empty key stands for none.
func (k *Keys) Find(key string) (seq uint64, known bool) {
	seq, known = k.seqs[key]
	return seq, known
}

// Add remembers a key, unless it is empty. Keys are added in the order in which
// their events were stored.
func (k *Keys) Add(key string, seq uint64, at time.Time) {
	if key == "" {
		return
	}
	if k.seqs == nil {
		k.seqs = make(map[string]uint64)
	}
	k.seqs[key] = seq
	k.queue = append(k.queue, usedKey{key, at})
}

// Expire forgets the keys whose time is over.
func (k *Keys) Expire(now time.Time) {
	for len(k.queue) > 0 && now.Sub(k.queue[0].at) >= KeyLifetime {
		delete(k.seqs, k.queue[0].key)
		k.queue[0] = usedKey{}
		k.queue = k.queue[1:]
	}
}
