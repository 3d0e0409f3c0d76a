package natsstore

import (
	"cmp"
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
	// moreBytes is how many bytes a stream keeps beyond the history: two batches of the
	// largest size. So nodes can still read a burst before it is dropped.
	moreBytes = 16 << 20

	// lifeKey is a key of the stream's metadata. Its value is a part of the epoch. Each
	// stream that the store creates has a random value. The store sets a new value when
	// positions of the same stream stand for other events than before.
	lifeKey = "caddy-sse-life"
)

// errUnfit means that the config of the stream does not allow a history.
var errUnfit = errors.New("the stream cannot keep a history")

// streamConfig returns the config of a new stream. Its subject has a random part, so that
// a late publish to a deleted stream does not reach its successor.
//
// The number of messages is not bounded: a server that restarts knows only the keys of
// messages that are still in the stream.
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
		// The server requires that Duplicates is at most MaxAge.
		MaxAge:             max(opts.MaxAge, hub.KeyLifetime),
		Duplicates:         hub.KeyLifetime,
		Replicas:           s.replicas,
		AllowAtomicPublish: true,
		Metadata:           map[string]string{lifeKey: rand.Text()},
	}
}

// find looks the stream up, checks that it can keep the history, and raises limits that are
// too low.
func (s *store) find(ctx context.Context) (jetstream.Stream, error) {
	if !s.conn.IsConnected() {
		return nil, s.awayError()
	}
	asking, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	asked := time.Now()
	found, err := s.js.Stream(asking, s.config.stream)
	if err != nil {
		return nil, fmt.Errorf("finding stream %s: %w", s.config.stream, err)
	}
	s.setSkew(asked.Add(time.Since(asked) / 2).Sub(found.CachedInfo().TimeStamp))
	raised, changes := s.raiseLimits(found.CachedInfo().Config)
	if err := checkConfig(raised); err != nil {
		return found, err // it may be a stream of another program: it is not changed
	}
	if changes != "" {
		ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
		defer cancel()
		if _, err = s.js.UpdateStream(ctx, raised); err == nil {
			found, err := s.js.Stream(ctx, s.config.stream)
			if err != nil {
				return nil, fmt.Errorf("finding stream %s: %w", s.config.stream, err)
			}
			return found, checkConfig(found.CachedInfo().Config)
		}
	}
	s.reportShortfall(changes, err)
	return found, checkConfig(found.CachedInfo().Config)
}

// reportShortfall logs limits of the stream that are too low and could not be raised. It
// logs the same limits once.
func (s *store) reportShortfall(changes string, err error) {
	s.mu.Lock()
	said := s.shortfall == changes
	s.shortfall = changes
	s.mu.Unlock()
	if !said && changes != "" {
		s.log().Error("the stream keeps less than the configuration asks for, and its limits could not be raised: "+
			"change them with `nats stream edit`, or lower history_size, history or replicas",
			zap.String("needed", changes), zap.Error(err))
	}
}

// make creates the stream, unless another node has just created it.
func (s *store) make(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	_, err := s.js.CreateStream(ctx, s.streamConfig())
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("creating stream %s: %w", s.config.stream, err)
	}
	return nil
}

// raiseLimits returns the config with all limits that are too low raised, and a list of
// the changes. It lowers no limit, since another node may need it.
func (s *store) raiseLimits(c jetstream.StreamConfig) (raised jetstream.StreamConfig, changes string) {
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

// checkConfig returns errUnfit if the stream cannot keep a history.
func checkConfig(c jetstream.StreamConfig) error {
	unfit := func(format string, args ...any) error {
		return fmt.Errorf("%w: stream %s %s: change it with `nats stream edit %s`, or give the hub another stream with the option stream",
			errUnfit, c.Name, fmt.Sprintf(format, args...), c.Name)
	}
	switch {
	case c.Retention != jetstream.LimitsPolicy:
		return unfit("has retention %v (required: limits)", c.Retention)
	case c.Discard != jetstream.DiscardOld:
		return unfit("discards new messages when it is full (required: discard old)")
	case c.Mirror != nil || len(c.Sources) > 0 || c.SubjectTransform != nil:
		return unfit("is filled from other streams (required: no mirror, source or subject transform)")
	case len(c.Subjects) != 1 || strings.ContainsAny(c.Subjects[0], "*>"):
		return unfit("has the subjects %q (required: exactly one, without wildcards)", c.Subjects)
	case c.Sealed || c.NoAck:
		return unfit("is sealed or does not acknowledge messages")
	case c.MaxMsgsPerSubject > 0:
		return unfit("keeps at most %d messages a subject (required: no such limit)", c.MaxMsgsPerSubject)
	case c.Duplicates < hub.KeyLifetime:
		return unfit("knows duplicates for %s (required: at least %s)", c.Duplicates, hub.KeyLifetime)
	}
	return nil
}

// termsOf returns the settings that matter for publishing.
func termsOf(c jetstream.StreamConfig) terms {
	return terms{subject: c.Subjects[0], atomic: c.AllowAtomicPublish, maxSize: int64(max(c.MaxMsgSize, 0))}
}

// epochOf returns the epoch of a stream. Another stream of the same name has another epoch,
// because it has another value of lifeKey. A stream that an operator created has no such
// value, and the time of its creation is used. That time alone would not do, because the
// servers of a cluster disagree about it after a backup is restored.
func epochOf(c jetstream.StreamConfig, created time.Time) string {
	life := cmp.Or(c.Metadata[lifeKey], created.UTC().Format(time.RFC3339Nano))
	sum := sha256.Sum256([]byte(c.Name + "\n" + life))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
}

// startEpoch gives the stream a new epoch, for all nodes, because some of its positions
// stand for other events now.
func (s *store) startEpoch(ctx context.Context, found jetstream.Stream) error {
	c := found.CachedInfo().Config
	c.Metadata = maps.Clone(c.Metadata)
	if c.Metadata == nil {
		c.Metadata = make(map[string]string)
	}
	c.Metadata[lifeKey] = rand.Text()
	_, err := s.js.UpdateStream(ctx, c)
	return err
}
