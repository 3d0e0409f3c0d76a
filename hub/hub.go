package hub

import (
	"cmp"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Options.
const (
	DefaultMaxEvents    = 10_000
	DefaultMaxAge       = 24 * time.Hour
	DefaultMaxBytes     = 64 << 20
	DefaultMaxEventSize = 1 << 20
)

// nudgeEvery is how often at most heartbeats come early.
const earlyHeartbeatEvery = 5 * time.Second

// Options bound a hub's history. A field that is zero has its default. They may
// change while the hub runs.
type Options struct {
	MaxEvents    int           // retained events
	MaxAge       time.Duration // of a retained event
	MaxBytes     int64         // of the heap that the history takes
	MaxEventSize int           // bytes of one event's type and payload
}

func (o Options) withDefaults() Options {
	return Options{
		MaxEvents:    cmp.Or(o.MaxEvents, DefaultMaxEvents),
		MaxAge:       cmp.Or(o.MaxAge, DefaultMaxAge),
		MaxBytes:     cmp.Or(o.MaxBytes, DefaultMaxBytes),
		MaxEventSize: cmp.Or(o.MaxEventSize, DefaultMaxEventSize),
	}
}

// Hub is a history with its connections. All its methods may be called from
// any goroutine.
type Hub struct {
	// Static after New.
	wakerSignal chan struct{} // one slot: there are dirty lanes
	done        chan struct{} // closed by Close, at first
	stopped     chan struct{} // closed by Close, when no connection is left
	closed      sync.Once
	waker       sync.WaitGroup

	// Guarded by using, which is held while one store takes another's place.
	storeSwitch sync.Mutex
	stopTail    func()

	learning sync.Mutex // held while a shape is learned; before mu

	muQueue sync.Mutex // before mu: see lock

	// mu is never held during a write to a client, nor for work that grows with the
	// number of connections, topics, targets or records.
	mu             timedMutex
	history        *history
	pendingCommand uint64     // seq of the command that is being carried out, which nobody passes; 0: none is
	oldHistory     *history   // from which connections move over to history, or nil
	endedHistories []Position // the ends of the last histories, oldest first
	source         source
	networks       map[netip.Addr]int // connections of each
	users          int
	dirty          []*lane // with news for their listeners
	pinned         pinned
	endReason      Reason        // not empty: no connection is admitted any more, for this reason
	isClosing      bool          // Close was called
	changed        chan struct{} // closed, and made anew, when the history has changed and somebody waits for that

	// Clients must not fall far behind history while nothing is sent to them, so
	// each quarter of it all are nudged to move their position; but not more often
	// than nudgeEvery, since what few are sent must not cost a write to all.
	earlyHeartbeatSeq   uint64
	earlyHeartbeatBytes int64
	earlyHeartbeatTime  time.Time

	// Looking up what to replay takes a place in here, of which there are as many as
	// CPUs. A publisher waits for all who have mu for reading, and for those who have
	// come before it: no more than these.
	replaySlots chan struct{}

	waiters atomic.Int64 // goroutines that wait for changed
	replays atomic.Int64 // connections that get more than one batch

	stats stats

	// What is remembered for Why. They have locks of their own, which come after mu.
	began        time.Time
	endedConns   endedConns // connections that have ended
	refusedConns endedConns // and those that were not admitted
	repeats      repeats    // what was published again

	// What writes for connections that were taken over.
	sweepers   []*sweeper
	sweeping   sync.WaitGroup // the sweepers
	writers    sync.WaitGroup // goroutines beside them
	takenOver  sync.WaitGroup // connections
	departures departures
}

// New starts a hub. It serves once Use has given it a store, and must be closed.
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

// SetOptions changes the bounds. A smaller history evicts at once; connections
// that had not got there yet are told.
func (h *Hub) SetOptions(opts Options) {
	h.mu.Lock()
	h.history.opts = opts.withDefaults()
	h.history.trimmed = false
	h.mu.Unlock()
	h.trimAll(time.Now())
}

// lock locks mu for those who may come in any number: connections that begin, end or
// get stuck. They wait for each other before they wait for mu, and so a publisher
// waits for one of them, and not for all.
func (h *Hub) lockQueued() {
	h.muQueue.Lock()
	h.mu.Lock()
}

func (h *Hub) unlockQueued() {
	h.mu.Unlock()
	h.muQueue.Unlock()
}

// trimAll evicts what exceeds the bounds.
func (h *Hub) trimAll(now time.Time) {
	for h.check(func() bool { return !h.history.trimmed || h.history.isStale(now) }) {
		h.trim(now)
	}
}

// trim evicts some of what exceeds the bounds, and reports whether that was all.
func (h *Hub) trim(now time.Time) bool {
	h.mu.Lock()
	trimmed := h.history.evict(now)
	h.source.retain(h.history)
	h.mu.Unlock()
	if !trimmed {
		runtime.Gosched() // others wait for the lock
	}
	return trimmed
}

// MaxEventSize is the option that is in force.
func (h *Hub) MaxEventSize() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.history.opts.MaxEventSize
}

// Shutdown ends all connections and admits no more, since the process is about
// to end. Publishing goes on until Close.
func (h *Hub) Shutdown() { h.end(Shutdown, true) }

// EndStreams ends all connections because nothing serves the hub any more. The
// history stays, and others may connect later.
func (h *Hub) EndStreams() { h.end(HubClosed, false) }

// EndOf ends the connections that were opened with one of these settings.
func (h *Hub) EndOf(settings []*Settings, reason Reason) {
	h.detachAll(reason, func(c *Conn) bool { return slices.Contains(settings, c.settings) })
}

// Close ends the hub, its store, and the connections that are still open. After
// Shutdown they, and those who come later, are told of that. To close it once more
// does nothing.
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
		h.storeSwitch.Lock()
		defer h.storeSwitch.Unlock()
		err = h.replaceStore(nil)
	})
	return err
}

// endAtOnce is how many connections are ended before others have mu.
const endAtOnce = 64

// end ends the connections that there are. Once it has ended them for good, the
// reason stays the same.
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

// detachAll ends the connections that there are and that match.
func (h *Hub) detachAll(reason Reason, match func(*Conn) bool) {
	lanes, _ := h.lanesWithSubscribers([]Target{{}})
	var conns []*Conn
	for _, all := range lanes {
		h.eachSubscriber(all.lane, nil, func(c *Conn) {
			if match(c) {
				conns = append(conns, c)
			}
		})
	}
	for some := range slices.Chunk(conns, endAtOnce) {
		h.mu.Lock()
		for _, c := range some {
			h.detach(c, reason)
		}
		h.mu.Unlock()
	}
}
