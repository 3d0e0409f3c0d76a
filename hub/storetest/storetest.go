// Package storetest checks that a store keeps the contract of hub.Store.
package storetest

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// Kind is a kind of store, and what may be expected of it.
type Kind struct {
	// New makes a place for data that holds none yet, and returns what opens a
	// store there. Each store is closed before the next is opened, unless it is
	// Shared.
	New func(t *testing.T) (open func(t *testing.T) hub.Store)

	// Durable: what is opened again holds what was there when it was closed.
	Durable bool

	// Local: it needs no network, so that it can run in a synctest bubble.
	Local bool

	// Faulty is New for a durable store, with ways to break the place. Default:
	// none, and the clauses about faults are not checked.
	Faulty func(t *testing.T) (open func(t *testing.T) hub.Store, faults Faults)
}

// Faults are what can happen to a place where records are stored.
type Faults struct {
	// Snapshot keeps what is stored, and returns a function that puts it back. No
	// store is open when either is called.
	Snapshot func() (restore func())

	// LoseAnswers lets what is appended be stored, and the answers be lost, until
	// restore is called. A store is open. Default: this clause is not checked.
	LoseAnswers func() (restore func())
}

// Run checks every clause of the contract in a sub-test of its name.
func Run(t *testing.T, kind Kind) {
	clauses := []struct {
		name  string
		check func(*testing.T, Kind)
		needs bool
	}{
		{"positions count up by one", positions, true},
		{"a record comes back as it was", roundTrip, true},
		{"append may come before tail", appendBeforeTail, true},
		{"many publishers share one order", concurrency, true},
		{"the same key is answered with the first position", keys, true},
		{"of many with one key in flight one is stored", keyInFlight, true},
		{"a key is forgotten after its lifetime", bubble(keyExpires), kind.Local},
		{"a key outlives the process", keyReopened, kind.Durable},
		{"a key outlives its event", keyOutlivesEvent, kind.Durable},
		{"a context that has ended stores nothing", endedContext, true},
		{"a batch is stored whole or not at all", allOrNone, true},
		{"tail brings the whole history first", wholeHistory, kind.Durable},
		{"the epoch names one life of the history", epoch, true},
		{"what is retained stays and what is not goes", retention, kind.Durable},
		{"what is too old is not delivered", bubble(retainAge), kind.Durable && kind.Local},
		{"close ends what append is doing", closing, true},
		{"after close nothing is stored", closed, true},
		{"two stores share one history", shared, true},
		{"a store that has what the hub has goes on", goesOn, kind.Faulty != nil},
		{"a store that ends before the hub begins a new epoch", endsBefore, kind.Faulty != nil},
		{"a store with another record begins a new epoch", otherRecord, kind.Faulty != nil},
		{"a lost answer is told by the key", lostAnswer, kind.Faulty != nil},
	}
	for _, c := range clauses {
		if c.needs {
			t.Run(c.name, func(t *testing.T) { c.check(t, kind) })
		}
	}
}

func bubble(check func(*testing.T, Kind)) func(*testing.T, Kind) {
	return func(t *testing.T, kind Kind) {
		synctest.Test(t, func(t *testing.T) { check(t, kind) })
	}
}

// roomy bounds no history of these tests.
var roomy = hub.Options{MaxEvents: 1_000_000, MaxAge: 24 * time.Hour, MaxBytes: 1 << 30, MaxEventSize: 1 << 20}

// start opens a store and tails it.
func start(t *testing.T, open func(*testing.T) hub.Store, opts hub.Options) *tail {
	t.Helper()
	store := open(t)
	store.Retain(opts, 0)
	return follow(t, store, opts)
}

func entry(data, key string) hub.Entry { return hub.Entry{Key: key, Data: []byte(data)} }

func number(prefix string, i int) string { return prefix + strconv.Itoa(i) }

// publish appends what must be stored.
func publish(t *testing.T, store hub.Store, entries ...hub.Entry) []hub.Stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stored, err := store.Append(ctx, entries)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	if len(stored) != len(entries) {
		t.Fatalf("Append answered %d entries with %d positions", len(entries), len(stored))
	}
	return stored
}
