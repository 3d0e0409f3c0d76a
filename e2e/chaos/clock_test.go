package chaos

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// serverTime is what the server takes for the time.
func serverTime(t *testing.T, s *e2e.Server) time.Time {
	t.Helper()
	resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(s.HTTP) + "/ready")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestSetClock: the clock of the server that is under test can be set while it runs.
func TestSetClock(t *testing.T) {
	s := e2e.Start(t, e2e.Config{})
	for _, ahead := range []time.Duration{0, 3 * time.Hour, -10 * time.Minute, 0} {
		s.SetClock(ahead)
		if off := serverTime(t, s).Sub(time.Now().Add(ahead)).Abs(); off > e2e.Patience {
			t.Errorf("set ahead by %s the clock is off by %s", ahead, off)
		}
	}
}
