// Package storetest checks that a store fulfils the contract of [hub.Store].
package storetest

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// Kind describes a kind of store to test.
type Kind struct {
	// New creates an empty place for data, and returns a function that opens a store
	// there. Each store is closed before the next is opened, unless it is Shared.
	New func(t *testing.T) (open func(t *testing.T) hub.Store)

	// Durable means that a store that is opened again has the same history.
	Durable bool

	// Local means that the store uses no network, so it can run in a synctest bubble.
	Local bool

	// Faulty is like New for a durable store, and also returns ways to break the place.
	// Default: none; the clauses about faults are not checked.
	Faulty func(t *testing.T) (open func(t *testing.T) hub.Store, faults Faults)
}

// Faults are ways to break a place where records are stored.
type Faults struct {
	// Snapshot copies the stored data, and returns a function that restores it. No store
	// is open when either is called.
	Snapshot func() (restore func())

	// LoseAnswers makes Append store entries but get no answer, until restore is called.
	// A store is open. Default: none; this clause is not checked.
	LoseAnswers func() (restore func())
}

// Run checks each clause of the contract in a subtest with its name.
func Run(t *testing.T, kind Kind) {
	clauses := []struct {
		name  string
		check func(*testing.T, Kind)
		needs bool
	}{
		{"positions increase by one", positions, true},
		{"a record is delivered as it was stored", roundTrip, true},
		{"append can be called before tail", appendBeforeTail, true},
		{"many publishers share one order", concurrency, true},
		{"the same key is answered with the first position", keys, true},
		{"of many concurrent entries with one key one is stored", keyInFlight, true},
		{"a key is forgotten after its lifetime", bubble(keyExpires), kind.Local},
		{"a key outlives the process", keyReopened, kind.Durable},
		{"a key outlives its event", keyOutlivesEvent, kind.Durable},
		{"a context that has ended stores nothing", endedContext, true},
		{"a batch is stored as a whole or not at all", allOrNone, true},
		{"tail delivers the whole history first", wholeHistory, kind.Durable},
		{"each history has its own epoch", epoch, true},
		{"retained events stay and others are dropped", retention, kind.Durable},
		{"events that are too old are not delivered", bubble(retainAge), kind.Durable && kind.Local},
		{"close waits for append", closing, true},
		{"after close nothing is stored", closed, true},
		{"two stores share one history", shared, true},
		{"a store with the hub's last record continues the history", continues, kind.Faulty != nil},
		{"a store that ends before the hub starts a new epoch", endsBefore, kind.Faulty != nil},
		{"a store with another record starts a new epoch", otherRecord, kind.Faulty != nil},
		{"a lost answer is recovered by the key", lostAnswer, kind.Faulty != nil},
	}
	for _, c := range clauses {
		if c.needs {
			t.Run(c.name, func(t *testing.T) { c.check(t, kind) })
		}
	}
}

// bubble runs a check in a bubble of testing/synctest.
func bubble(check func(*testing.T, Kind)) func(*testing.T, Kind) {
	return func(t *testing.T, kind Kind) {
		synctest.Test(t, func(t *testing.T) { check(t, kind) })
	}
}

// roomy has bounds that these tests do not reach.
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

// publish appends entries, which must be stored.
func publish(t *testing.T, store hub.Store, entries ...hub.Entry) []hub.Stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeLimit)
	defer cancel()
	stored, err := store.Append(ctx, entries)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	if len(stored) != len(entries) {
		t.Fatalf("positions from Append: got %d, want %d", len(stored), len(entries))
	}
	return stored
}
