package natsstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// deletions says which messages are no longer in the stream, as of the last refresh.
type deletions struct {
	first   uint64   // first message that exists
	deleted []uint64 // deleted messages between first and last, in order
	last    uint64   // last message that exists; 0: there is none
	end     uint64   // last seq that was given to a message
}

// refresh asks the leader of the stream.
func (g *deletions) refresh(ctx context.Context, found *stream) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := found.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return fmt.Errorf("reading the state of stream %s: %w", found.CachedInfo().Config.Name, err)
	}
	g.first, g.deleted, g.last, g.end = info.State.FirstSeq, info.State.Deleted, info.State.LastSeq, info.State.LastSeq
	slices.Sort(g.deleted)
	for i := len(g.deleted) - 1; i >= 0 && g.deleted[i] == g.last; i-- {
		g.last--
	}
	if info.State.Msgs == 0 {
		g.last = 0
	}
	return nil
}

// cover reports whether all messages in [from, to) were deleted.
func (g *deletions) cover(from, to uint64) bool {
	from = max(from, g.first)
	if from >= to {
		return true
	}
	i, found := slices.BinarySearch(g.deleted, from)
	rest := g.deleted[i:]
	return found && to-from <= uint64(len(rest)) && rest[to-from-1] == to-1
}
