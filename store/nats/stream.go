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
	moreEvents = 2_000
	moreBytes  = 16 << 20

	// lifeKey is in the stream's metadata once its positions mean other events
	// than before, though it is the same stream. Whoever restores a stream from a
	// backup may set it to any new value.
	lifeKey = "caddy-sse-life"
)

// config is that of a stream that is made for the history. Its subject holds a
// random part, so that what is published for a stream that was deleted does not
// get into the one that took its place.
func (s *store) streamConfig() jetstream.StreamConfig {
	opts := s.options()
	return jetstream.StreamConfig{
		Name:        s.config.stream,
		Description: "History of the hub " + s.hub + " of caddy-sse",
		Subjects:    []string{"sse." + s.config.stream + ".events." + strings.ToLower(rand.Text()[:8])},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		Storage:     jetstream.FileStorage,
		MaxMsgs:     int64(opts.MaxEvents) + moreEvents,
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
	found, err := s.js.Stream(asking, s.config.stream)
	if err != nil {
		return nil, fmt.Errorf("finding stream %s: %w", s.config.stream, err)
	}
	if raised, changes := s.raise(found.CachedInfo().Config); changes != "" {
		ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
		defer cancel()
		if _, err := s.js.UpdateStream(ctx, raised); err != nil {
			s.log().Error("the stream keeps less than the configuration asks for, and that cannot be changed from here; "+
				"change it with `nats stream edit`, or lower history, history_size or replicas",
				zap.String("needed", changes), zap.Error(err))
		} else if found, err = s.js.Stream(ctx, s.config.stream); err != nil {
			return nil, err
		}
	}
	return found, check(found.CachedInfo().Config)
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
	if c.MaxMsgs > 0 && c.MaxMsgs < want.MaxMsgs {
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
	mend := fmt.Sprintf("; mend it with `nats stream edit %s`, or give the hub another stream with the option stream", c.Name)
	switch {
	case c.Retention != jetstream.LimitsPolicy:
		return fmt.Errorf("stream %s has retention %v, and needs limits%s", c.Name, c.Retention, mend)
	case c.Discard != jetstream.DiscardOld:
		return fmt.Errorf("stream %s discards new messages when it is full, and must discard old ones%s", c.Name, mend)
	case c.Mirror != nil || len(c.Sources) > 0 || c.SubjectTransform != nil:
		return fmt.Errorf("stream %s is filled from other streams, and must have only what hubs publish%s", c.Name, mend)
	case len(c.Subjects) != 1 || strings.ContainsAny(c.Subjects[0], "*>"):
		return fmt.Errorf("stream %s has the subjects %q, and needs exactly one without wildcards%s", c.Name, c.Subjects, mend)
	case c.Sealed || c.NoAck:
		return fmt.Errorf("stream %s is sealed or does not acknowledge%s", c.Name, mend)
	case c.MaxMsgsPerSubject > 0:
		return fmt.Errorf("stream %s keeps %d messages a subject, and must not limit that%s", c.Name, c.MaxMsgsPerSubject, mend)
	case c.Duplicates < hub.KeyLifetime:
		return fmt.Errorf("stream %s knows duplicates for %s, and needs %s%s", c.Name, c.Duplicates, hub.KeyLifetime, mend)
	}
	return nil
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
