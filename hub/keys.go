package hub

import (
	"crypto/sha256"
	"slices"
	"time"
)

// KeyLifetime is how long an idempotency key is remembered after its event was stored.
const KeyLifetime = 2 * time.Minute

// KeySum is the first 12 bytes of the SHA-256 of an idempotency key. It saves memory,
// because there may be millions of keys. If two keys collided, the second event would be
// dropped as a duplicate. With 6 million keys (two minutes at 50,000 a second) the
// probability is 8e-23 for each new key.
type KeySum [12]byte

// SumKey returns the sum of a key. The sum of the empty key is zero: no key.
func SumKey(key string) (sum KeySum) {
	if key != "" {
		full := sha256.Sum256([]byte(key))
		copy(sum[:], full[:])
	}
	return sum
}

// Keys remembers the idempotency keys of a store, and the events that they stand for.
// One goroutine at a time uses it.
//
// Go maps do not shrink, and deleting single keys would need a list of them. So keys are
// kept in generations, and a generation is dropped when its last key has expired.
type Keys struct {
	generations []*keyGeneration // oldest first
}

// keyGeneration has the keys of a quarter of KeyLifetime. A key takes 20 bytes, because its
// seq and its time are relative to those of the generation.
type keyGeneration struct {
	seq         uint64
	began, last time.Time
	keys        map[KeySum]usedKey
}

type usedKey struct {
	after uint32 // seq, relative to the generation's
	at    int32  // microseconds since the generation began, rounded up
}

// Find returns the seq of the event that was published with the idempotency key of this
// sum. known is false if the key was not added, or is older than [KeyLifetime]: then seq has
// no meaning. The zero sum stands for no key, and is never known. See [Keys] for who may
// call it.
func (k *Keys) Find(sum KeySum, now time.Time) (seq uint64, known bool) {
	for _, g := range slices.Backward(k.generations) {
		if used, found := g.keys[sum]; found {
			at := g.began.Add(time.Duration(used.at) * time.Microsecond)
			return g.seq + uint64(used.after), now.Sub(at) < KeyLifetime
		}
	}
	return 0, false
}

// Add remembers a key. It ignores the zero sum. Keys must be added in the order in which
// their events were stored. A key that is known must not be added again before it has
// expired.
func (k *Keys) Add(sum KeySum, seq uint64, at time.Time) {
	if sum == (KeySum{}) {
		return
	}
	var g *keyGeneration
	if n := len(k.generations); n > 0 {
		g = k.generations[n-1]
	}
	// Keys of an earlier process have its clock, which may have been set since.
	if g == nil || at.Sub(g.began).Abs() >= KeyLifetime/4 {
		g = &keyGeneration{seq: seq, began: at, last: at, keys: make(map[KeySum]usedKey)}
		k.generations = append(k.generations, g)
	}
	if at.After(g.last) {
		g.last = at
	}
	since := at.Sub(g.began) + time.Microsecond - 1
	g.keys[sum] = usedKey{uint32(seq - g.seq), int32(since / time.Microsecond)}
}

// First returns the seq of the first event whose key is remembered. any is false if none
// is.
func (k *Keys) First() (seq uint64, any bool) {
	if len(k.generations) == 0 {
		return 0, false
	}
	return k.generations[0].seq, true
}

// Expire forgets keys that have expired. It may forget some of them later.
func (k *Keys) Expire(now time.Time) {
	k.generations = slices.DeleteFunc(k.generations, func(g *keyGeneration) bool { return now.Sub(g.last) >= KeyLifetime })
}
