package hub

import (
	"crypto/sha256"
	"slices"
	"time"
)

// KeyLifetime is how long an idempotency key is remembered after its event was
// stored.
const KeyLifetime = 2 * time.Minute

// KeySum stands for an idempotency key: the first bytes of its SHA-256, since
// there may be millions of keys. Two keys that have the same would lose an event.
// With 6 million remembered, as after two minutes at 50,000 a second, that
// happens to a new key with a probability of 8e-23.
type KeySum [12]byte

// SumKey returns the sum of a key. That of the empty key, which is none, is zero.
func SumKey(key string) (sum KeySum) {
	if key != "" {
		full := sha256.Sum256([]byte(key))
		copy(sum[:], full[:])
	}
	return sum
}

// Keys remembers, for a store, which event an idempotency key stands for. It is
// used by one goroutine at a time.
//
// Maps do not shrink, and to delete key by key takes a list of them. So keys are
// kept by generation, and go with their generation when the last of it is over.
type Keys struct {
	generations []*keyGeneration // in the order in which they began to be filled
}

// keyGeneration is the keys of a quarter of KeyLifetime. What is known of each is
// relative to the first, so that it takes 20 bytes with its sum.
type keyGeneration struct {
	seq         uint64
	began, last time.Time
	keys        map[KeySum]usedKey
}

type usedKey struct {
	after uint32 // the generation's seq
	at    int32  // microseconds since the generation began, rounded up
}

// Find returns the event that the key stands for now. The zero sum stands for
// none.
func (k *Keys) Find(sum KeySum, now time.Time) (seq uint64, known bool) {
	for _, g := range slices.Backward(k.generations) {
		if used, found := g.keys[sum]; found {
			at := g.began.Add(time.Duration(used.at) * time.Microsecond)
			return g.seq + uint64(used.after), now.Sub(at) < KeyLifetime
		}
	}
	return 0, false
}

// Add remembers a key, unless its sum is zero. Keys are added in the order in which
// their events were stored.
func (k *Keys) Add(sum KeySum, seq uint64, at time.Time) {
	if sum == (KeySum{}) {
		return
	}
	var g *keyGeneration
	if n := len(k.generations); n > 0 {
		g = k.generations[n-1]
	}
	// Keys of an earlier process come with its clock, which may have been set since.
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

// First is the seq of the first event whose key is remembered, if there is one.
func (k *Keys) First() (seq uint64, any bool) {
	if len(k.generations) == 0 {
		return 0, false
	}
	return k.generations[0].seq, true
}

// Expire forgets keys whose time is over, and may be late for some.
func (k *Keys) Expire(now time.Time) {
	k.generations = slices.DeleteFunc(k.generations, func(g *keyGeneration) bool { return now.Sub(g.last) >= KeyLifetime })
}
