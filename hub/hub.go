package hub

import (
	"cmp"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// Defaults of [Options].
const (
	DefaultMaxEvents    = 10_000
	DefaultMaxAge       = 24 * time.Hour
	DefaultMaxBytes     = 64 << 20
	DefaultMaxEventSize = 1 << 20
)

// earlyHeartbeatEvery is the shortest time between two early heartbeats.
const earlyHeartbeatEvery = 5 * time.Second

// Options bound the history of a hub. A field that is zero has its default.
// [Hub.SetOptions] changes them while the hub runs.
type Options struct {
	MaxEvents    int           // number of retained events. Default: 10,000
	MaxAge       time.Duration // age of a retained event. Default: 24 hours
	MaxBytes     int64         // bytes of heap that the history takes. Default: 64 MiB
	MaxEventSize int           // bytes of the type and the payload of one event. Default: 1 MiB
}

// withDefaults returns the options with the default for each field that is zero.
func (o Options) withDefaults() Options {
	return Options{
		MaxEvents:    cmp.Or(o.MaxEvents, DefaultMaxEvents),
		MaxAge:       cmp.Or(o.MaxAge, DefaultMaxAge),
		MaxBytes:     cmp.Or(o.MaxBytes, DefaultMaxBytes),
		MaxEventSize: cmp.Or(o.MaxEventSize, DefaultMaxEventSize),
	}
}

// Hub is a history with its connections. Its methods may be called from any
// goroutine.
type Hub struct {
	// Static after New.
	wakerSignal chan struct{} // one slot; filled: there are dirty lanes
	done        chan struct{} // closed by Close when it begins
	stopped     chan struct{} // closed by Close when no connection is left
	closed      sync.Once
	waker       sync.WaitGroup

	// Guarded by storeSwitch, which is held while one store replaces another.
	storeSwitch sync.Mutex
	stopTail    func()

	learning sync.Mutex // held while a shape is learned; locked before mu

	muQueue sync.Mutex // locked before mu; see lockQueued

	// mu is never held during a write to a client, nor for work that grows with the
	// number of connections, topics, targets or records.
	mu             timedMutex
	history        *history
	pendingCommand uint64     // seq of the command that is being executed; no connection passes it. 0: none
	oldHistory     *history   // connections move from here to history; nil: all have moved
	moves          uint64     // number of times that some have moved, see betweenMoves
	endedHistories []Position // the last position of each of the last histories, oldest first
	source         source
	rightsChanges  rightsChanges
	networks       map[netip.Addr]int // number of connections by network
	users          int
	dirty          []*lane // lanes with news for their subscribers
	pinned         pinned
	endReason      Reason        // not empty: no connection is admitted any more, for this reason
	isClosing      bool          // Close was called
	changed        chan struct{} // closed and replaced when the history changes and somebody waits for that

	// Early heartbeats. A client that is sent nothing keeps an old position, which the
	// history may evict. So every connection is sent its position early when a
	// quarter of the history is new, but at most once in earlyHeartbeatEvery, because that is
	// one write to every client. See [earlyHeartbeat].
	earlyHeartbeatSeq   uint64
	earlyHeartbeatBytes int64
	earlyHeartbeatTime  time.Time

	// A look-up for a replay occupies a slot. There are as many slots as CPUs. A
	// publisher waits for all who have mu for reading, or came before it: the slots
	// bound how many these are.
	replaySlots chan struct{}

	waiters atomic.Int64 // number of goroutines that wait for changed
	replays atomic.Int64 // number of connections that are sent more than one batch

	stats         stats
	traces        traces
	uncertainKeys uncertainKeys

	// Memory for [Hub.Why]. These have locks of their own, which are locked after mu.
	began        time.Time
	endedConns   endedConns // connections that have ended
	refusedConns endedConns // connections that were not admitted
	repeats      repeats    // events that were published again

	takenOver sync.WaitGroup // counts connections that no goroutine of the server waits for

	// The writers of the connections of [Pending.TakeOver].
	sweepers   []*sweeper
	sweeping   sync.WaitGroup // counts sweepers
	writers    sync.WaitGroup // counts goroutines that help the sweepers
	departures departures

	stacks stackPool // the writers of the other connections
}

// New starts a hub. The hub serves once [Hub.Use] has given it a store. It must be closed
// with [Hub.Close], which ends its goroutines.
func New(opts Options) *Hub {
	h := &Hub{
		wakerSignal:  make(chan struct{}, 1),
		done:         make(chan struct{}),
		stopped:      make(chan struct{}),
		source:       source{problem: errOpening},
		networks:     make(map[netip.Addr]int),
		changed:      make(chan struct{}),
		replaySlots:  make(chan struct{}, runtime.GOMAXPROCS(0)),
		began:        time.Now(),
		endedConns:   endedConns{max: maxEndedConns},
		refusedConns: endedConns{max: maxRefusedConns},
		stacks:       stackPool{yielder: netyield.Yielder{Even: true}},
	}
	h.source.since = time.Now()
	h.stats.init()
	h.history = newHistory(opts.withDefaults(), "", 1, &h.pinned)
	h.waker.Go(h.wakeSubscribers)
	for range runtime.GOMAXPROCS(0) {
		s := newSweeper(h)
		h.sweepers = append(h.sweepers, s)
		h.sweeping.Go(s.run)
	}
	return h
}

// SetOptions changes the bounds of the history. Smaller bounds evict at once. Connections
// that had not received an evicted event are sent sse.gap. Any goroutine may call it.
func (h *Hub) SetOptions(opts Options) {
	h.mu.Lock()
	h.history.opts = opts.withDefaults()
	h.history.trimmed = false
	h.mu.Unlock()
	h.trimAll(time.Now())
}

// lockQueued locks Hub.mu for writing, for callers of which there may be thousands at once:
// connections that begin, end or stall. They queue for muQueue first. So a publisher waits
// for one of them, not for all. The caller must not hold Hub.mu or muQueue. It unlocks with
// unlockQueued.
func (h *Hub) lockQueued() {
	h.muQueue.Lock()
	h.mu.Lock()
}

// unlockQueued ends lockQueued. It must not be used after Hub.mu.Lock.
func (h *Hub) unlockQueued() {
	h.mu.Unlock()
	h.muQueue.Unlock()
}

// trimAll evicts everything that exceeds the bounds. Any goroutine may call it. The caller
// must not hold Hub.mu.
func (h *Hub) trimAll(now time.Time) {
	for h.check(func() bool { return !h.history.trimmed || h.history.isStale(now) }) {
		h.trim(now)
	}
}

// trim evicts a part of what exceeds the bounds. It returns true if nothing is left to
// evict; false: call it again. Any goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) trim(now time.Time) bool {
	h.mu.Lock()
	trimmed := h.history.evict(now)
	h.source.retain(h.history)
	h.signalWaker() // streams may have stalled in events that are evicted now
	h.mu.Unlock()
	if !trimmed {
		runtime.Gosched() // other goroutines wait for the lock
	}
	return trimmed
}

// MaxEventSize returns [Options].MaxEventSize as it is now, in bytes.
func (h *Hub) MaxEventSize() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.history.opts.MaxEventSize
}

// Shutdown ends all connections with the reason [Shutdown] and admits no more. It is for
// the end of the process. Publishing goes on until Close.
func (h *Hub) Shutdown() { h.end(Shutdown, true) }

// EndStreams ends all connections with the reason [HubClosed], because no route serves
// the hub any more. The history stays, and new connections are admitted.
func (h *Hub) EndStreams() { h.end(HubClosed, false) }

// EndOf ends the connections that were opened with one of the settings, for the reason. New
// connections with them are admitted. Any goroutine may call it.
func (h *Hub) EndOf(settings []*Settings, reason Reason) {
	h.detachAll(reason, func(c *Conn) bool { return slices.Contains(settings, c.settings) })
}

// EndOthers ends the connections that were not opened with one of the settings, for the
// reason. New connections are admitted. Any goroutine may call it.
func (h *Hub) EndOthers(settings []*Settings, reason Reason) {
	h.detachAll(reason, func(c *Conn) bool { return !slices.Contains(settings, c.settings) })
}

// Close ends the connections that are still open, the store and the hub, and waits for all
// goroutines that the hub has started. The reason of the connections is [HubClosed], or
// [Shutdown] after [Hub.Shutdown]. It returns the error of closing the store. A second call
// returns nil when the first one is through. Any goroutine may call it, but Settings.Closed
// must not: Close waits for that.
func (h *Hub) Close() error {
	var err error
	h.closed.Do(func() {
		h.mu.Lock()
		h.isClosing = true
		h.mu.Unlock()
		h.end(HubClosed, true)
		close(h.done)
		h.waker.Wait()
		h.takenOver.Wait()
		close(h.stopped)
		h.sweeping.Wait()
		h.departures.close()
		h.writers.Wait()
		h.stacks.close()
		h.traces.close()
		h.storeSwitch.Lock()
		defer h.storeSwitch.Unlock()
		err = h.replaceStore(nil)
	})
	return err
}

// end ends all connections. If forGood, it also refuses new ones, and the first such reason
// stays: connections then end for that. Any goroutine may call it. The caller must not hold
// Hub.mu.
func (h *Hub) end(reason Reason, forGood bool) {
	h.mu.Lock()
	if forGood {
		h.endReason = cmp.Or(h.endReason, reason)
	}
	reason = cmp.Or(h.endReason, reason)
	h.notifyChange()
	h.mu.Unlock()
	h.detachAll(reason, func(*Conn) bool { return true })
}

// detachAll ends all connections that match. One that is admitted meanwhile may stay. match
// runs without the lock. Any goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) detachAll(reason Reason, match func(*Conn) bool) {
	conns := slices.DeleteFunc(h.matching(Filter{}), func(c *Conn) bool { return !match(c) })
	for len(conns) > 0 {
		h.mu.Lock()
		for removed := 0; removed < subscriptionsAtOnce && len(conns) > 0; conns = conns[1:] {
			removed += len(conns[0].subscriptions)
			h.detach(conns[0], reason)
		}
		h.mu.Unlock()
	}
}
