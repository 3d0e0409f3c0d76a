package hub

import "time"

// KeyLifetime is how long an idempotency key is remembered after its event was
// stored.
const KeyLifetime = 2 * time.Minute

// keys remembers which event an idempotency key stands for. Guarded by Hub.mu.
type keys struct {
	seqs  map[string]uint64
	queue []usedKey // oldest first
}

type usedKey struct {
	key string
	at  time.Time
}

func (k *keys) add(key string, seq uint64, now time.Time) {
	if k.seqs == nil {
		k.seqs = make(map[string]uint64)
	}
	k.seqs[key] = seq
	k.queue = append(k.queue, usedKey{key, now})
}

// expire forgets the keys whose time is over.
func (k *keys) expire(now time.Time) {
	for len(k.queue) > 0 && now.Sub(k.queue[0].at) >= KeyLifetime {
		delete(k.seqs, k.queue[0].key)
		k.queue[0] = usedKey{}
		k.queue = k.queue[1:]
	}
}
