package hub

import (
	"runtime"
	"strconv"
	"testing"
	"time"
)

// A key is known for exactly its lifetime, for any keys added before and after it, and at any
// distance in time.
func TestKeysLiveForTheirTime(t *testing.T) {
	var keys Keys
	began := time.Now()
	at := func(n int) time.Time { return began.Add(time.Duration(n*n) * 7 * time.Millisecond) }
	sum := func(n int) KeySum { return SumKey(strconv.Itoa(n)) }
	for n := range 300 {
		keys.Add(sum(n), uint64(2*n), at(n))
		for _, now := range []time.Time{at(n), at(n + 1).Add(-1)} {
			for old := range n + 1 {
				seq, known := keys.Find(sum(old), now)
				if want := now.Sub(at(old)) < KeyLifetime; known != want || known && seq != uint64(2*old) {
					t.Fatalf("key %d, %s after it was added: got known %v with seq %d, want known %v with seq %d", old, now.Sub(at(old)), known, seq, want, 2*old)
				}
			}
			if _, known := keys.Find(sum(n+1), now); known {
				t.Fatalf("key %d before it was added: got known true, want false", n+1)
			}
			keys.Expire(now)
		}
	}
	// A key that is used again belongs to the newer event.
	keys.Add(sum(0), 1000, at(300))
	if seq, known := keys.Find(sum(0), at(300)); seq != 1000 || !known {
		t.Errorf("a key that was used again: got known %v with seq %d, want true with 1000", known, seq)
	}
	keys.Add(SumKey(""), 1001, at(300))
	if _, known := keys.Find(SumKey(""), at(300)); known {
		t.Error("the empty key: got known true, want false")
	}
	keys.Expire(at(300).Add(KeyLifetime))
	if n := len(keys.generations); n != 0 {
		t.Errorf("generations after all keys expired: got %d, want 0", n)
	}
}

// Keys of an earlier process may have times in the future, if the clock was set back since. They
// do not affect the keys that are added now.
func TestKeysAfterTheClockWasSetBack(t *testing.T) {
	var keys Keys
	now := time.Now()
	keys.Add(SumKey("earlier"), 1, now.Add(time.Hour).Round(0))
	keys.Add(SumKey("later"), 2, now)
	for _, after := range []time.Duration{0, KeyLifetime - 1, KeyLifetime} {
		keys.Expire(now.Add(after))
		if seq, known := keys.Find(SumKey("later"), now.Add(after)); known != (after < KeyLifetime) || known && seq != 2 {
			t.Errorf("the key after %s: got known %v with seq %d, want known %v with seq 2", after, known, seq, after < KeyLifetime)
		}
		if seq, known := keys.Find(SumKey("earlier"), now.Add(after)); seq != 1 || !known {
			t.Errorf("the key of the earlier process after %s: got known %v with seq %d, want true with 1", after, known, seq)
		}
	}
	if n := len(keys.generations); n != 1 {
		t.Errorf("generations: got %d, want the one that has not expired", n)
	}
}

// BenchmarkKeys adds keys like a publisher that never stops. It also reports the bytes that a key
// of the last two minutes takes.
func BenchmarkKeys(b *testing.B) {
	const perSecond = 20_000
	var keys Keys
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, began := heap(), time.Now()
	var now time.Time
	n := 0
	add := func() {
		now = began.Add(time.Duration(n) * time.Second / perSecond)
		sum := SumKey("0192f0c4-7e4f-7c1a-b5b2-" + strconv.Itoa(100_000_000_000+n))
		if _, known := keys.Find(sum, now); known {
			b.Fatalf("key %d is known", n)
		}
		keys.Add(sum, uint64(n), now)
		keys.Expire(now)
		n++
	}
	remembered := int(perSecond * KeyLifetime / time.Second)
	for n < remembered {
		add()
	}
	for b.Loop() {
		add()
	}
	b.ReportMetric(float64(heap()-before)/float64(remembered), "B/key")
	runtime.KeepAlive(&keys)
}
