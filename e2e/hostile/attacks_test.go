//go:build linux

package hostile

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// attack is one kind of attack, by clients or by publishers.
type attack struct {
	name    string
	hub     string   // options of the hub
	stream  string   // options of the route
	files   uint64   // open files that the server may have; 0: many
	size    int64    // bytes of the history
	held    int64    // most bytes of the server's heap for its streams
	does    []string // actions that must have happened, else the attack proves nothing
	floor   bool     // the target is a page without streams: the part of the attack above that is due to Caddy
	prepare func(a *attacker)
	strike  func(ctx context.Context, a *attacker) // runs until ctx ends
}

const (
	mib = 1 << 20

	// prefilled is a hub for the events of prefill.
	prefilled = "history 100000\n history_size 64MiB"
)

var attacks = []attack{
	{
		name: "lag and leave", hub: prefilled, size: 64 * mib, held: 4 * mib, does: []string{"streams"},
		prepare: prefill, strike: lagAndLeave,
	},
	{
		name: "replay of all", hub: prefilled, size: 64 * mib, held: 64 * mib, does: []string{"streams", "MiB read"},
		prepare: fillUp, strike: replayAll,
	},
	{
		name: "subscribers of 100 topics", hub: prefilled, size: 64 * mib, held: 64 * mib, does: []string{"streams", "events published"},
		strike: subscribe,
	},
	{
		name: "stalled readers", hub: "history_size 32MiB", size: 32 * mib, held: 16 * mib, does: []string{"streams", "events published"},
		strike: stall,
	},
	{
		name: "huge names", hub: prefilled, size: 64 * mib, held: 64 * mib, does: []string{"events published"},
		strike: publishHugeNames,
	},
	{
		name: "huge batches", hub: "history 1000000\n history_size 256MiB", size: 256 * mib, held: 64 * mib, does: []string{"events published"},
		strike: publishHugeBatches,
	},
	{
		name: "file descriptors", files: 256, held: 8 * mib, size: 64 * mib, does: []string{"streams", "rejected"},
		strike: takeFiles,
	},
	{
		name: "reload storm", size: 64 * mib, held: 32 * mib, does: []string{"reloads"},
		strike: reload,
	},
	{
		name: "h2, many streams", size: 64 * mib, held: 256 * mib, does: []string{"streams", "streams answered"},
		strike: func(ctx context.Context, a *attacker) { a.floodH2(ctx, scale(2, 10), streamPath, manyStreams) },
	},
	{
		name: "h2, many requests of a page", size: 64 * mib, held: 64 * mib, does: []string{"streams", "streams answered"}, floor: true,
		strike: func(ctx context.Context, a *attacker) { a.floodH2(ctx, scale(2, 10), pagePath, manyStreams) },
	},
	{
		name: "h2, rapid resets", size: 64 * mib, held: 64 * mib, does: []string{"streams"},
		strike: func(ctx context.Context, a *attacker) { a.floodH2(ctx, 4, streamPath, rapidResets) },
	},
	{
		name: "h2, rapid resets of a page", size: 64 * mib, held: 64 * mib, does: []string{"streams"}, floor: true,
		strike: func(ctx context.Context, a *attacker) { a.floodH2(ctx, 4, pagePath, rapidResets) },
	},
	{
		name: "h3, many streams", size: 64 * mib, held: 128 * mib, does: []string{"streams", "connections"},
		strike: func(ctx context.Context, a *attacker) { a.floodH3(ctx, streamPath) },
	},
	{
		name: "h3, many requests of a page", size: 64 * mib, held: 128 * mib, does: []string{"streams", "connections"}, floor: true,
		strike: func(ctx context.Context, a *attacker) { a.floodH3(ctx, pagePath) },
	},
}

// prefill publishes events for 20 topics each.
func prefill(a *attacker) {
	topics := names(100)
	pad := strings.Repeat("x", 500)
	for n := 0; n < scale(1000, 4000); n += 100 {
		lines := make([]string, 100)
		for i := range lines {
			from := (n + i) % 5 * 20
			lines[i] = fmt.Sprintf(`{"topic":%s,"data":"%s"}`, list(topics[from:from+20]), pad)
		}
		a.publish(context.Background(), lines...)
	}
}

// fillUp publishes events of 1 KB until the history is full.
func fillUp(a *attacker) {
	pad := strings.Repeat("x", 1000)
	lines := make([]string, 1000)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"topic":"news/1","data":"%s"}`, pad)
	}
	for range scale(8, 60) {
		a.publish(context.Background(), lines...)
	}
}

// lagAndLeave opens streams with many events to replay, reads nothing, and leaves.
func lagAndLeave(ctx context.Context, a *attacker) {
	var clients sync.WaitGroup
	for range 40 {
		clients.Go(func() {
			for n := 0; n < 10_000 && ctx.Err() == nil; n++ {
				c, _, err := a.begin(ctx, opening{topics: names(100), all: true, small: true})
				if err == nil {
					a.count("streams", 1)
					abort(c)
				}
			}
		})
	}
	clients.Wait()
}

// lagBehind opens streams with many events to replay, and reads nothing.
func lagBehind(ctx context.Context, a *attacker) {
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			for range lagging() / 20 {
				if c, err := a.dial(ctx, opening{topics: names(100), all: true, small: true}); err == nil {
					defer c.Close()
				}
			}
			<-ctx.Done()
		})
	}
	clients.Wait()
}

// replayAll has many clients that read the whole history at full speed.
func replayAll(ctx context.Context, a *attacker) {
	var clients sync.WaitGroup
	for range scale(40, 500) {
		clients.Go(func() {
			for ctx.Err() == nil {
				c, err := a.dial(ctx, opening{all: true})
				if err != nil {
					continue
				}
				a.count("streams", 1)
				a.count("MiB read", int(gulp(ctx, c, int64(scale(6, 60))*mib)>>20))
				c.Close()
			}
		})
	}
	clients.Wait()
}

// subscribe opens many streams with the same topics, each in another order, and publishes to lists
// of these topics.
func subscribe(ctx context.Context, a *attacker) {
	topics := names(100)
	var clients sync.WaitGroup
	for range scale(100, 1000) {
		clients.Go(func() {
			c, _, err := a.begin(ctx, opening{topics: names(100)})
			if err != nil {
				return
			}
			a.count("streams", 1)
			gulp(ctx, c, 1<<40)
			c.Close()
		})
	}
	event := fmt.Sprintf(`{"topic":%s,"data":1}`, list(reversed(topics)))
	batch := make([]string, 100)
	for i := range batch {
		batch[i] = event
	}
	for n := 0; sleep(ctx, 100*time.Millisecond); n++ {
		if n%20 == 0 {
			a.publish(ctx, batch...)
		} else {
			a.publish(ctx, event)
		}
	}
	clients.Wait()
}

// stall opens streams that read nothing, and sends each of them an event that does not fit into the
// socket.
func stall(ctx context.Context, a *attacker) {
	pad := strings.Repeat("x", 900_000)
	var open []net.Conn
	for n := range scale(60, 400) {
		user := fmt.Sprintf("stalled-%d", n)
		c, _, err := a.begin(ctx, opening{user: user, topics: names(1), small: true})
		if err != nil {
			continue
		}
		a.count("streams", 1)
		open = append(open, c)
		a.publish(ctx, fmt.Sprintf(`{"user":"%s","data":"%s"}`, user, pad))
	}
	<-ctx.Done()
	for _, c := range open {
		abort(c)
	}
}

// publishHugeNames publishes to names of megabytes, and to lists of the longest allowed names.
func publishHugeNames(ctx context.Context, a *attacker) {
	huge := fmt.Sprintf(`{"user":"%s","data":1}`, strings.Repeat("n", 7_000_000))
	var publishers sync.WaitGroup
	for p := range 4 {
		publishers.Go(func() {
			for n := 0; sleep(ctx, 200*time.Millisecond); n++ {
				if p%2 == 0 {
					a.publish(ctx, huge)
					continue
				}
				long := make([]string, 1000)
				for i := range long {
					long[i] = fmt.Sprintf("%0500d-%d-%d-%d", 0, p, n, i)
				}
				a.publish(ctx, fmt.Sprintf(`{"user":%s,"data":1}`, list(long)))
			}
		})
	}
	publishers.Wait()
}

// publishHugeBatches publishes batches of a million targets, one after the other.
func publishHugeBatches(ctx context.Context, a *attacker) {
	lines := make([]string, scale(100, 1000))
	for i := range lines {
		users := make([]string, 1000)
		for n := range users {
			users[n] = fmt.Sprintf("%05d", (i*1000+n)%20_000)
		}
		lines[i] = fmt.Sprintf(`{"user":%s,"data":1}`, list(users))
	}
	for ctx.Err() == nil {
		a.publish(ctx, lines...)
	}
}

// takeFiles opens as many streams as possible, and keeps those that the server accepts.
func takeFiles(ctx context.Context, a *attacker) {
	var mu sync.Mutex
	var open []net.Conn
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			for range 200 {
				c, admitted, err := a.begin(ctx, opening{})
				if err == nil {
					mu.Lock()
					open = append(open, c)
					mu.Unlock()
					a.count(map[bool]string{true: "streams", false: "rejected"}[admitted], 1)
				}
				if !sleep(ctx, 10*time.Millisecond) {
					return
				}
			}
		})
	}
	clients.Wait()
	<-ctx.Done()
	for _, c := range open {
		c.Close()
	}
}

// reload loads the same config repeatedly.
func reload(ctx context.Context, a *attacker) {
	config := a.config()
	for sleep(ctx, 50*time.Millisecond) {
		if status, err := a.post(ctx, "/load", "text/caddyfile", config); err == nil && status == 200 {
			a.count("reloads", 1)
		}
	}
}
