package natsstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

const (
	// A stream keeps this much more than the history, so that nodes receive what
	// is stored in a burst before it is gone: two batches of the largest size.
	moreBytes = 16 << 20

	// lifeKey is in the stream's metadata once its positions mean other events
	// than before, though it is the same stream. Whoever restores a stream from a
	// backup may set it to any new value.
	lifeKey = "caddy-sse-life"
)

// errUnfit is what a stream is refused for that cannot keep a history.
var errUnfit = errors.New("the stream cannot keep a history")

// streamConfig is that of a stream that is made for the history. Its subject holds
// a random part, so that what is published for a stream that was deleted does not
// get into the one that took its place.
//
// The number of messages is not bounded: a server that restarts knows the keys of
// those messages that are still there.
func (s *store) streamConfig() jetstream.StreamConfig {
	opts := s.options()
	return jetstream.StreamConfig{
		Name:        s.config.stream,
		Description: "History of the hub " + s.hub + " of caddy-sse",
		Subjects:    []string{"sse." + s.config.stream + ".events." + strings.ToLower(rand.Text()[:8])},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		Storage:     jetstream.FileStorage,
		MaxMsgs:     -1,
		MaxBytes:    opts.MaxBytes + moreBytes,
		// The server allows no window for duplicates beyond the age.
		MaxAge:             max(opts.MaxAge, hub.KeyLifetime),
		Duplicates:         hub.KeyLifetime,
		Replicas:           s.replicas,
		AllowAtomicPublish: true,
	}
}

// find finds the stream, and checks that it can keep the history.
func (s *store) find(ctx context.Context) (jetstream.Stream, error) {
	if !s.conn.IsConnected() {
		return nil, errAway
	}
	asking, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	asked := time.Now()
	found, err := s.js.Stream(asking, s.config.stream)
	if err != nil {
		return nil, fmt.Errorf("finding stream %s: %w", s.config.stream, err)
	}
	s.setSkew(asked.Add(time.Since(asked) / 2).Sub(found.CachedInfo().TimeStamp))
	raised, changes := s.raise(found.CachedInfo().Config)
	err = nil
	if changes != "" {
		ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
		defer cancel()
		if _, err = s.js.UpdateStream(ctx, raised); err == nil {
			found, err := s.js.Stream(ctx, s.config.stream)
			if err != nil {
				return nil, fmt.Errorf("finding stream %s: %w", s.config.stream, err)
			}
			return found, check(found.CachedInfo().Config)
		}
	}
	s.lacks(changes, err)
	return found, check(found.CachedInfo().Config)
}

// lacks logs, once, that the stream keeps less than it should.
func (s *store) lacks(changes string, err error) {
	s.mu.Lock()
	said := s.lacking == changes
	s.lacking = changes
	s.mu.Unlock()
	if !said && changes != "" {
		s.log().Error("the stream keeps less than the configuration asks for, and that cannot be changed from here; "+
			"change it with `nats stream edit`, or lower history_size, history or replicas",
			zap.String("needed", changes), zap.Error(err))
	}
}

// make makes the stream, unless another node has just done so.
func (s *store) make(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	_, err := s.js.CreateStream(ctx, s.streamConfig())
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("making stream %s: %w", s.config.stream, err)
	}
	return nil
}

// raise returns the config with what is lower than ours raised, and says what
// that is. Nothing is ever lowered, since another node may need it.
func (s *store) raise(c jetstream.StreamConfig) (raised jetstream.StreamConfig, changes string) {
	want := s.streamConfig()
	var what []string
	note := func(format string, args ...any) { what = append(what, fmt.Sprintf(format, args...)) }
	if c.MaxMsgs > 0 {
		note("--max-msgs=%d instead of %d", want.MaxMsgs, c.MaxMsgs)
		c.MaxMsgs = want.MaxMsgs
	}
	if c.MaxBytes > 0 && c.MaxBytes < want.MaxBytes {
		note("--max-bytes=%d instead of %d", want.MaxBytes, c.MaxBytes)
		c.MaxBytes = want.MaxBytes
	}
	if c.MaxAge > 0 && c.MaxAge < want.MaxAge {
		note("--max-age=%s instead of %s", want.MaxAge, c.MaxAge)
		c.MaxAge = want.MaxAge
	}
	if c.Duplicates < want.Duplicates {
		note("--dupe-window=%s instead of %s", want.Duplicates, c.Duplicates)
		c.Duplicates = want.Duplicates
	}
	if c.Replicas < want.Replicas {
		note("--replicas=%d instead of %d", want.Replicas, c.Replicas)
		c.Replicas = want.Replicas
	}
	if !c.AllowAtomicPublish {
		note("--allow-batch")
		c.AllowAtomicPublish = true
	}
	return c, strings.Join(what, ", ")
}

// check refuses a stream that cannot keep a history.
func check(c jetstream.StreamConfig) error {
	unfit := func(format string, args ...any) error {
		return fmt.Errorf("%w: stream %s %s; mend it with `nats stream edit %s`, or give the hub another stream with the option stream",
			errUnfit, c.Name, fmt.Sprintf(format, args...), c.Name)
	}
	switch {
	case c.Retention != jetstream.LimitsPolicy:
		return unfit("has retention %v, and needs limits", c.Retention)
	case c.Discard != jetstream.DiscardOld:
		return unfit("discards new messages when it is full, and must discard old ones")
	case c.Mirror != nil || len(c.Sources) > 0 || c.SubjectTransform != nil:
		return unfit("is filled from other streams, and must have only what hubs publish")
	case len(c.Subjects) != 1 || strings.ContainsAny(c.Subjects[0], "*>"):
		return unfit("has the subjects %q, and needs exactly one without wildcards", c.Subjects)
	case c.Sealed || c.NoAck:
		return unfit("is sealed or does not acknowledge")
	case c.MaxMsgsPerSubject > 0:
		return unfit("keeps %d messages a subject, and must not limit that", c.MaxMsgsPerSubject)
	case c.Duplicates < hub.KeyLifetime:
		return unfit("knows duplicates for %s, and needs %s", c.Duplicates, hub.KeyLifetime)
	}
	return nil
}

// termsOf is what must be known of the stream to publish to it.
func termsOf(c jetstream.StreamConfig) terms {
	return terms{subject: c.Subjects[0], atomic: c.AllowAtomicPublish, maxSize: int64(max(c.MaxMsgSize, 0))}
}

// epochOf names one life of a stream: another stream of the same name was made at
// another time.
func epochOf(c jetstream.StreamConfig, created time.Time) string {
	sum := sha256.Sum256([]byte(c.Name + "\n" + created.UTC().Format(time.RFC3339Nano) + "\n" + c.Metadata[lifeKey]))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
}

// newLife makes all nodes take the stream's positions for those of another epoch,
// because some of them mean other events now.
func (s *store) newLife(ctx context.Context, found jetstream.Stream) error {
	c := found.CachedInfo().Config
	c.Metadata = maps.Clone(c.Metadata)
	if c.Metadata == nil {
		c.Metadata = make(map[string]string)
	}
	c.Metadata[lifeKey] = rand.Text()
	_, err := s.js.UpdateStream(ctx, c)
	return err
}
