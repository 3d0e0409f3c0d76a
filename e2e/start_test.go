package e2e

import (
	"context"
	"sync"
	"testing"
)

// TestPublishWhileStarting publishes from the moment in which the process starts:
// as long as there is no config, and no hub, nothing is refused for good.
func TestPublishWhileStarting(t *testing.T) {
	s := Start(t, Config{})
	p := s.Publisher()
	for range 5 {
		s.Kill()
		s.Launch()
		var publishers sync.WaitGroup
		for range 50 {
			publishers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), Patience)
				defer cancel()
				if err := p.Publish(ctx, Event{}); err != nil {
					t.Errorf("publishing: %v", err)
				}
			})
		}
		publishers.Wait()
	}
}
